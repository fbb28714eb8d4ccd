"""Several worker processes of one command, on a real broker: they share the work, and begin and end together."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kafka.workers import Feed, NewStage, Stage, WorkerProcess, until

pytestmark = pytest.mark.kafka

PROCESSES = 2


def started(new_stage: NewStage, seed: int) -> tuple[Stage, Feed, WorkerProcess]:
    """A stage, a feed of nothing yet, and the command, all of whose processes are ready."""
    stage = new_stage(batch_records="100", processes=str(PROCESSES))
    worker = stage.start("worker")
    wait_ready(worker)
    return stage, Feed(stage.topics, seed=seed), worker


def wait_ready(worker: WorkerProcess) -> None:
    """Until each process has a partition and is ready."""

    def ready() -> bool:
        assert worker.alive, worker.log_tail()
        return set(partitions(worker)) == set(range(PROCESSES)) and all(
            len(held) == 1 and worker.get("/readyz", process)[0] == 200 for process, held in partitions(worker).items()
        )

    until(ready, f"each process is ready with a partition; the log is {worker.log_file}")


def partitions(worker: WorkerProcess) -> dict[int, list[int]]:
    """What each process was assigned last."""
    return {each["process"]: each["partitions"] for each in worker.events("partitions_assigned")}


def pids(worker: WorkerProcess) -> list[int]:
    [started] = worker.events("processes_started")
    found: list[int] = started["pids"]
    return found


def all_ended(processes: list[int]) -> bool:
    words = ["ps", "-o", "stat=", "-p", ",".join(map(str, processes))]
    states = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    return all(state.startswith("Z") for state in states)


def members(folder: Path) -> dict[str, int]:
    words = [sys.executable, "-m", "streams.cli", "members", "--state", str(folder), "--json"]
    found: dict[str, int] = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return found


def test_two_processes_share_the_partitions_and_end_in_order(new_stage: NewStage) -> None:
    stage = new_stage(batch_records="200", processes=str(PROCESSES))
    feed = Feed(stage.topics, seed=41)
    stage.send(feed.records(2_000))
    worker = stage.start("worker")
    wait_ready(worker)
    stage.send(feed.records(4_000))
    stage.wait_applied()
    assert sorted(each for held in partitions(worker).values() for each in held) == [0, 1]
    children = pids(worker)
    assert worker.stop() == 0, worker.log_tail()
    assert all_ended(children)
    assert {each["process"] for each in worker.events("worker_stopped")} == {0, 1}
    assert worker.events("processes_stopped")[0]["exit_codes"] == [0, 0]
    stage.check()
    sizes = members(worker.folder)
    assert sum(sizes.values()) == len(stage.memberships())


def test_a_second_life_finds_the_state_and_the_transactional_ids_of_the_first(new_stage: NewStage) -> None:
    stage, feed, worker = started(new_stage, seed=42)
    stage.send(feed.records(1_000))
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    identities = {each: each.read_text() for each in worker.folder.glob("process-?/*.transactional-id")}
    assert len(set(identities.values())) == PROCESSES
    worker.restart()
    stage.send(feed.records(1_000))
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    assert identities == {each: each.read_text() for each in worker.folder.glob("process-?/*.transactional-id")}
    assert sorted(each.name for each in worker.folder.iterdir()) == ["process-0", "process-1"]
    stage.check()


def test_a_process_that_is_killed_ends_the_others_and_its_exit_code_is_told(new_stage: NewStage) -> None:
    stage, feed, worker = started(new_stage, seed=43)
    stage.send(feed.records(3_000))
    children = pids(worker)
    subprocess.run(["kill", "-9", str(children[1])], check=True)
    assert worker.exit_code() == 128 + signal.SIGKILL, worker.log_tail()
    assert all_ended(children)
    [ended] = worker.events("process_ended")
    assert ended["process"] == 1
    assert ended["message"] == "ended by signal SIGKILL: out of memory?; the others are stopped too"
    assert worker.events("processes_stopped")[0]["exit_codes"] == [0, 137]
    worker.restart()
    stage.send(feed.records(500))
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check()


def test_no_process_outlives_a_command_that_is_killed(new_stage: NewStage) -> None:
    stage, feed, worker = started(new_stage, seed=44)
    stage.send(feed.records(3_000))
    children = pids(worker)
    worker.kill()
    until(lambda: all_ended(children), "the processes have ended")
    worker.restart()
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check()


def test_what_one_process_refuses_ends_all_with_its_exit_code(new_stage: NewStage) -> None:
    stage = new_stage(processes=str(PROCESSES))
    stage.delete_topics(stage.changes_topic)
    worker = stage.start("worker")
    assert worker.exit_code() == 1
    assert f"rollcall: topic {stage.changes_topic} does not exist: `rollcall topics create" in worker.log()
    [ended] = worker.events("process_ended")
    assert ended["message"].startswith("ended by itself with exit code 1, for the reason it has given above")


def test_more_processes_than_partitions_work_and_are_warned_of(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1, processes=str(PROCESSES))
    worker = stage.start("worker")
    stage.send(Feed(stage.topics, seed=45).records(500))
    stage.wait_applied()
    until(lambda: len(worker.events("topic_problem")) == PROCESSES, "each process has warned")
    assert {each["code"] for each in worker.events("topic_problem")} == {"idle_processes"}
    assert worker.stop() == 0, worker.log_tail()
    stage.check()
