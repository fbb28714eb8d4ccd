"""A worker that keeps its partitions but loses a transaction, its broker or its local state goes on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.kafka.broker import Broker
from streams.kafka.security import Connection
from streams.kafka.transactions import end_transaction_of
from tests.kafka.workers import Feed, NewStage, Stage, WorkerProcess, until

pytestmark = pytest.mark.kafka


def transactional_id(worker: WorkerProcess) -> str:
    [path] = worker.folder.glob("*.transactional-id")
    return path.read_text().strip()


def test_records_that_were_fetched_and_not_applied_are_fetched_again(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1, batch_records="50", session_timeout="30s")
    feed = Feed(stage.topics, seed=3)
    stage.send(feed.records(6_000))
    worker = stage.start("worker", at="computed", times=10, signal_name="SIGSTOP")
    until(stage.mark("worker").exists, "several batches are applied, and more were fetched")
    asyncio.run(end_transaction_of(transactional_id(worker), Connection(stage.bootstrap_servers)))
    worker.thaw()
    stage.wait_applied()
    assert worker.metric("rollcall_transaction_failures_total") == 1
    assert worker.stop() == 0, worker.log_tail()
    stage.check()


def test_a_broker_restart_in_the_midst_is_survived(new_stage: NewStage, broker: Broker) -> None:
    stage = new_stage(batch_records="100")
    feed = Feed(stage.topics, seed=4)
    worker = stage.start("worker")
    worker.wait_ready()
    stage.send(feed.records(3_000))
    broker.kill()
    broker.restart()
    stage.send(feed.records(500))
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check()


def test_a_worker_waits_for_a_broker_that_is_down_and_says_so_once(new_stage: NewStage, broker: Broker) -> None:
    stage = new_stage()
    feed = Feed(stage.topics, seed=5)
    stage.send(feed.records(300))
    broker.kill()
    try:
        worker = stage.start("worker")
        until(lambda: worker.events("starting_over"), "it says that Kafka does not answer")
        assert worker.get("/livez")[0] == 200
        status, reason = worker.get("/readyz")
        assert (status, reason) == (503, "not ready: Kafka does not answer yet\n")
    finally:
        broker.restart()
    stage.wait_applied()
    [said] = worker.events("starting_over")
    assert stage.bootstrap_servers in said["error"]
    assert worker.stop() == 0, worker.log_tail()
    stage.check()


def restart_with(new_stage: NewStage, hurt: Callable[[Stage, Path], None]) -> tuple[Stage, WorkerProcess]:
    """A stage whose one worker was stopped, had its state for partition 0 hurt, and has gone on since."""
    stage = new_stage(partitions=1)
    feed = Feed(stage.topics, seed=6)
    stage.send(feed.records(2_000))
    worker = stage.start("worker")
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    hurt(stage, worker.folder / "partition-0")
    stage.send(feed.records(300))
    worker.restart()
    worker.wait_ready()
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    return stage, worker


def wait_all_applied_again(stage: Stage, worker: WorkerProcess) -> None:
    """The group's offsets do not tell: they stand at the end from before."""
    until(lambda: worker.metric("rollcall_events_total") >= sum(stage.ends.values()), "all is applied again")


def restored_records(worker: WorkerProcess) -> int:
    return sum(each["records"] for each in worker.events("partition_restored"))


def test_a_restart_with_local_state_restores_nothing(new_stage: NewStage) -> None:
    stage, worker = restart_with(new_stage, lambda stage, folder: None)
    assert restored_records(worker) == 0
    stage.check()


def test_unreadable_local_state_is_moved_aside_and_restored(new_stage: NewStage) -> None:
    def hurt(stage: Stage, folder: Path) -> None:
        (folder / "CURRENT").write_text("nonsense\n")

    stage, worker = restart_with(new_stage, hurt)
    [said] = worker.events("state_moved_aside")
    assert Path(said["folder"]).is_dir()
    assert restored_records(worker) > 200
    stage.check()


def test_state_of_a_changelog_that_was_cut_off_is_moved_aside(new_stage: NewStage) -> None:
    """The changelog was made anew and is shorter than the state says, so all is computed again."""

    def hurt(stage: Stage, folder: Path) -> None:
        stage.delete_topics(*stage.outputs)
        stage.create_outputs()

    stage, worker = restart_with(new_stage, hurt)
    assert len(worker.events("state_moved_aside")) == 1
    stage.check()


def test_state_of_another_changelog_of_the_same_name_is_moved_aside(new_stage: NewStage) -> None:
    """The changelog was made anew and has grown past where the state ends, so offsets alone do not tell."""

    def hurt(stage: Stage, folder: Path) -> None:
        stage.delete_topics(*stage.outputs)
        stage.create_outputs()
        other = stage.start("other", batch_records="20")
        wait_all_applied_again(stage, other)
        assert other.stop() == 0, other.log_tail()

    stage, worker = restart_with(new_stage, hurt)
    assert len(worker.events("state_moved_aside")) == 1
    stage.check()


def test_records_deleted_under_a_worker_are_told_and_the_rest_is_applied(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1, session_timeout="60s")
    feed = Feed(stage.topics, seed=8, mess=False)
    worker = stage.start("worker")
    worker.wait_ready()
    stage.send(feed.records(500))
    stage.wait_applied()
    worker.freeze()
    # Whatever it had asked for is answered by the first of them: it cannot get past those that are deleted.
    stage.send(feed.records(1))
    stage.send(feed.records(999))
    stage.delete_records(stage.topics[0], before=1_200)
    worker.thaw()
    stage.send(feed.records(100))
    stage.wait_applied()
    [lost] = worker.events("records_lost")
    assert lost["from_offset"] in (500, 501)
    assert lost["to_offset"] == 1_200
    [told] = worker.events("starting_over")
    assert told["kind"] == "PositionLost"
    assert "the log no longer has it" in told["error"]
    worker.wait_metric("rollcall_events_total", lost["from_offset"] + 400)
    assert worker.stop() == 0, worker.log_tail()
    stage.check_memberships()
    stage.check_state()
