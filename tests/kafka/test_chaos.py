"""Workers are killed, frozen, stopped and added, and the broker restarted, at random; the outcome stays exact."""

from __future__ import annotations

import os
import random
from time import monotonic

import pytest

from deploy.kafka.broker import Broker
from tests.kafka.workers import Feed, NewStage, Stage, WorkerProcess, until

pytestmark = pytest.mark.kafka

SHORT_S = 60.0
LONG_S = float(os.environ.get("ROLLCALL_CHAOS_S", "600"))
PARTITIONS = 3
MOST_WORKERS = 5
RECORDS_A_ROUND = 100
ROUND_S = 0.2


@pytest.mark.parametrize(
    ("seconds", "seed"),
    [pytest.param(SHORT_S, 1, id="short"), pytest.param(LONG_S, 2, id="long", marks=pytest.mark.slow)],
)
def test_chaos_loses_nothing_and_doubles_nothing(
    new_stage: NewStage, broker: Broker, seconds: float, seed: int
) -> None:
    stage = new_stage(partitions=PARTITIONS, batch_records="200")
    chaos = Chaos(stage, broker, seed)
    deadline = monotonic() + seconds
    while monotonic() < deadline:
        round_ends = monotonic() + ROUND_S
        stage.send(chaos.feed.records(RECORDS_A_ROUND))
        chaos.hurt()
        until(lambda round_ends=round_ends: monotonic() > round_ends, "the next round begins")  # type: ignore[misc]  # a lambda's default
    chaos.heal()
    stage.wait_applied()
    for worker in stage.workers:
        worker.wait_ready()
    for worker in stage.workers:
        assert worker.stop() == 0, worker.log_tail()
    stage.check()


class Chaos:
    """Hurts something about every second."""

    def __init__(self, stage: Stage, broker: Broker, seed: int) -> None:
        self.feed = Feed(stage.topics, seed=seed)
        self._stage = stage
        self._broker = broker
        self._random = random.Random(seed)
        self._frozen: dict[WorkerProcess, float] = {}
        self._next_at = monotonic()
        for number in range(3):
            stage.start(f"worker{number}")

    def hurt(self) -> None:
        """Do the next harm, if it is time for it; give the frozen and the dead another chance."""
        now = monotonic()
        for worker in [worker for worker, until_s in self._frozen.items() if until_s < now]:
            del self._frozen[worker]
            worker.thaw()
        if now < self._next_at:
            return
        self._next_at = now + self._random.uniform(0.3, 2.5)
        harm = self._random.choices(
            [self._kill, self._terminate, self._freeze, self._add, self._revive, self._restart_broker],
            [4, 3, 4, 1, 8, 1],
        )[0]
        harm()

    def heal(self) -> None:
        """Let all that exist run."""
        for worker in self._frozen:
            worker.thaw()
        self._frozen.clear()
        for worker in self._stage.workers:
            if not worker.alive:
                worker.restart()

    def _pick(self) -> WorkerProcess | None:
        able = [each for each in self._stage.workers if each.alive and each not in self._frozen]
        return self._random.choice(able) if able else None

    def _kill(self) -> None:
        worker = self._pick()
        if worker is not None:
            worker.kill()

    def _terminate(self) -> None:
        worker = self._pick()
        if worker is not None and worker.events("worker_started"):
            assert worker.stop() == 0, worker.log_tail()

    def _freeze(self) -> None:
        worker = self._pick()
        if worker is not None:
            worker.freeze()
            self._frozen[worker] = monotonic() + self._random.uniform(0.5, 7.0)

    def _add(self) -> None:
        if len(self._stage.workers) < MOST_WORKERS:
            self._stage.start(f"worker{len(self._stage.workers)}")

    def _revive(self) -> None:
        for worker in self._stage.workers:
            if not worker.alive:
                assert worker.process.returncode in {0, -9}, worker.log_tail()
                worker.restart()

    def _restart_broker(self) -> None:
        if self._random.random() < 0.5:
            self._broker.kill()
        self._broker.restart()
