"""A worker dies or freezes at each step of a batch: another goes on, and what was emitted is as if nothing happened.

Most of the time of such a run is waiting, for session time-outs above all. So all runs start at once, some at a time,
and each test waits for its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from deploy.kafka.broker import Broker
from tests.kafka.crashing_worker import DURING_WRITE
from tests.kafka.workers import Feed, NewStage, Stage, WorkerProcess, stages_on, until

pytestmark = pytest.mark.kafka

AT_A_TIME = 4
STEPS = ["computed", "produced", "offsets_sent", "commit_sent", "committed", "before_write", DURING_WRITE, "written"]
FREEZING_STEPS = [step for step in STEPS if step != DURING_WRITE]
SIGNALS = ["SIGKILL", "SIGSTOP"]

Runs = dict[tuple[str, str], "Future[None]"]


@pytest.fixture(scope="module")
def runs(broker: Broker, tmp_path_factory: pytest.TempPathFactory, unique: Callable[[str], str]) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("kills")
    with (
        stages_on(broker.bootstrap_servers, folder, unique) as new_stage,
        ThreadPoolExecutor(AT_A_TIME) as pool,
    ):
        wanted = {
            **{("killed", step): partial(run_killed, new_stage, step) for step in STEPS},
            **{("frozen", step): partial(run_frozen, new_stage, step) for step in FREEZING_STEPS},
            **{("wave", signal_name): partial(run_wave, new_stage, signal_name) for signal_name in SIGNALS},
        }
        yield {name: pool.submit(run) for name, run in wanted.items()}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_lost_or_doubled_when_a_worker_is_killed(runs: Runs, step: str) -> None:
    runs["killed", step].result()


@pytest.mark.parametrize("step", FREEZING_STEPS)
def test_a_worker_frozen_past_its_session_emits_nothing_once_it_thaws(runs: Runs, step: str) -> None:
    runs["frozen", step].result()


@pytest.mark.parametrize("signal_name", SIGNALS)
def test_a_wave_of_deadlines_survives_the_end_of_its_worker(runs: Runs, signal_name: str) -> None:
    runs["wave", signal_name].result()


def run_killed(new_stage: NewStage, step: str) -> None:
    stage = new_stage(batch_records="150")
    feed = Feed(stage.topics, seed=len(step))
    stage.send(feed.records(500))
    doomed = stage.start("doomed", at=step, times=4)
    feed_until_hit(stage, feed, "doomed")
    assert doomed.exit_code() < 0
    heir = stage.start("heir")
    doomed.restart()
    stage.send(feed.records(500))
    stage.wait_applied()
    finish(stage, doomed, heir)


def run_frozen(new_stage: NewStage, step: str) -> None:
    stage = new_stage(batch_records="150")
    feed = Feed(stage.topics, seed=len(step) + 100)
    stage.send(feed.records(500))
    zombie = stage.start("zombie", at=step, times=4, signal_name="SIGSTOP")
    feed_until_hit(stage, feed, "zombie")
    heir = stage.start("heir")
    stage.send(feed.records(500))
    stage.wait_applied()
    zombie.thaw()
    zombie.wait_ready()
    stage.send(feed.records(500))
    stage.wait_applied()
    finish(stage, zombie, heir)


def run_wave(new_stage: NewStage, signal_name: str) -> None:
    stage = new_stage(partitions=1, batch_records="4000")
    feed = Feed(stage.topics, seed=7, customers=3_000, step_ms=20)
    stage.send(feed.records(6_000))
    stage.send([feed.late(hours=30)])
    # The wave needs several batches of their own after those of the events.
    victim = stage.start("victim", at="committed", times=4, signal_name=signal_name)
    until(stage.mark("victim").exists, "the wave has begun")
    heir = stage.start("heir")
    stage.wait_applied()
    victim.thaw()
    stage.send(feed.records(100))
    stage.wait_applied()
    finish(stage, *([heir] if signal_name == "SIGKILL" else [heir, victim]))
    assert sum(each["reason"] == "deadline" for part in stage.changes() for each in part) > 3_000


def feed_until_hit(stage: Stage, feed: Feed, name: str) -> None:
    """Feed in bits until the worker has reached its step."""

    def hit() -> bool:
        stage.send(feed.records(200))
        return stage.mark(name).exists()

    until(hit, f"{name} reaches its step")


def finish(stage: Stage, *workers: WorkerProcess) -> None:
    for worker in workers:
        assert worker.stop() == 0, worker.log_tail()
    stage.check()
