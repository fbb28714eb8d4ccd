"""How much a worker decides while a transaction waits, and who comes next: on a clock that the test moves."""

from __future__ import annotations

from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest

from state.engine import BatchResult, Marker
from state.store import WriteSet
from streams.metrics import Metrics
from streams.polling import Membership
from streams.settings import load_settings
from streams.worker import LONG_TURN_S, TRANSACTION_BYTES, Worker

QUICK_S = LONG_TURN_S / 100
SLOW_S = LONG_TURN_S * 0.6


class Clock:
    """Stands for `time`: it passes only while a partition decides."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return int(self.now_s * 1e9)


class DecidingPartition:
    """A double of `streams.partition.Partition` that takes its time to decide."""

    def __init__(self, clock: Clock, step_s: float, decide_s: float, written_bytes: int = 0) -> None:
        self._clock = clock
        self._step_s, self._decide_s = step_s, decide_s
        self._written_bytes = written_bytes

    def redefine(self, *_: Any) -> BatchResult | None:
        self._clock.now_s += self._step_s
        return decided(0) if self._step_s else None

    def decide(self, *_: Any) -> BatchResult:
        self._clock.now_s += self._decide_s
        return decided(self._written_bytes)


def decided(written_bytes: int) -> BatchResult:
    return BatchResult([], [], WriteSet(customers=[(b"", bytes(written_bytes))]), Marker(), 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("streams.worker.time", clock)
    return clock


def worker_of(partitions: list[DecidingPartition]) -> Worker:
    worker = Worker(load_settings(), Mock(), Mock(), Metrics())
    worker.thread = Mock(ends={})
    worker._partitions = dict(enumerate(partitions))  # type: ignore[arg-type]  # doubles of partitions
    return worker


async def turns(worker: Worker, count: int) -> list[list[int]]:
    """The numbers of the partitions that had their turn in each of these."""
    numbers = {id(each): number for number, each in worker._partitions.items()}
    return [[numbers[id(each.partition)] for each in await worker._decide()] for _ in range(count)]


async def test_a_turn_that_takes_long_ends_early_and_the_next_begins_with_those_it_left_out(clock: Clock) -> None:
    worker = worker_of([DecidingPartition(clock, 0.0, SLOW_S) for _ in range(5)])
    assert await turns(worker, 4) == [[0, 1], [2, 3], [4, 0], [1, 2]]


async def test_one_partition_that_takes_long_alone_has_its_turn_and_leaves_the_others_theirs(clock: Clock) -> None:
    partitions = [DecidingPartition(clock, 0.0, QUICK_S) for _ in range(4)]
    partitions[1] = DecidingPartition(clock, 0.0, 2 * LONG_TURN_S)
    assert await turns(worker_of(partitions), 3) == [[0, 1], [2, 3, 0, 1], [2, 3, 0, 1]]


async def test_steps_towards_changed_definitions_count_as_time_of_the_turn(clock: Clock) -> None:
    worker = worker_of([DecidingPartition(clock, 2 * SLOW_S, QUICK_S) for _ in range(3)])
    assert await turns(worker, 3) == [[0, 0], [1, 1], [2, 2]], "each a step and a batch"


async def test_a_turn_that_is_quick_takes_all(clock: Clock) -> None:
    worker = worker_of([DecidingPartition(clock, 0.0, QUICK_S) for _ in range(5)])
    assert await turns(worker, 2) == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize(
    ("written_bytes", "expected"),
    [
        (1_000, [[0, 1, 2], [0, 1, 2]]),
        (TRANSACTION_BYTES // 2, [[0, 1], [2, 0], [1, 2]]),
        (TRANSACTION_BYTES, [[0], [1], [2], [0]]),
    ],
)
async def test_a_turn_ends_once_there_is_enough_to_write_and_the_others_come_first_in_the_next(
    clock: Clock, written_bytes: int, expected: list[list[int]]
) -> None:
    worker = worker_of([DecidingPartition(clock, 0.0, QUICK_S, written_bytes) for _ in range(3)])
    assert await turns(worker, len(expected)) == expected


def worker_that_begins_early(redefining: Mock | None = None) -> tuple[Worker, Mock]:
    """With its producer. Its one partition has records that come to nothing; the step before came to something."""
    partition = Mock(waiting=3, full=Mock(return_value=set()), redefining=redefining)
    partition.redefine.return_value = partition.decide.return_value = None
    worker = worker_of([partition])
    worker._producer = producer = Mock(withdraw=AsyncMock())
    worker._membership = Membership(1, "member", frozenset({0}), frozenset())
    worker._decides = True
    return worker, producer


async def test_a_step_that_comes_to_nothing_withdraws_what_began_early_and_the_next_does_not_begin_early() -> None:
    worker, producer = worker_that_begins_early()
    await worker._step()
    assert producer.method_calls == [call.begin_early([0], worker._settings.app_id), call.withdraw()]
    producer.reset_mock()
    await worker._step()
    assert producer.method_calls == [call.withdraw()]


async def test_no_transaction_begins_early_while_changed_definitions_are_taken_which_may_take_longer_than_it_may() -> (
    None
):
    redefining = Mock()
    worker, producer = worker_that_begins_early(redefining)
    worker._wanted = wanted = Mock()
    for is_behind in (True, False):
        redefining.is_behind.return_value = is_behind
        worker._decides = True
        await worker._step()
        redefining.is_behind.assert_called_with(wanted)
    assert producer.method_calls == [call.withdraw(), call.begin_early([0], worker._settings.app_id), call.withdraw()]
