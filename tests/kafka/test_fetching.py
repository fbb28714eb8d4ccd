"""How often a broker is asked for records, and what is taken of its answers."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.fetching import FETCH_EVERY_S, AskingFetcher, FetchedRecords


class Clock:
    """Stands for `time` and `asyncio`: time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("streams.kafka.fetching.time", clock)
    monkeypatch.setattr("streams.kafka.fetching.asyncio", clock)
    return clock


@pytest.fixture
def asked(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Which broker was asked, and when."""
    asked: list[tuple[int, float]] = []

    async def ask(_self: Fetcher, _assignment: Any, node_id: int, _request: Any) -> bool:
        asked.append((node_id, clock.now))
        return True

    monkeypatch.setattr(Fetcher, "_proc_fetch_request", ask)
    return asked


def ask_in_turn(clock: Clock, brokers: list[int], every_s: float) -> None:
    fetcher = object.__new__(AskingFetcher)
    fetcher.asked_ms, fetcher.asked_at = {}, {}

    async def run() -> None:
        for broker in brokers:
            await fetcher._proc_fetch_request(None, broker, SimpleNamespace(topics=[]))
            clock.now += every_s

    asyncio.run(run())


def test_a_broker_that_answers_at_once_is_not_asked_again_at_once(clock: Clock, asked: list[tuple[int, float]]) -> None:
    ask_in_turn(clock, [1, 1, 1], every_s=0.001)
    assert [at for _, at in asked] == pytest.approx([1_000, 1_000 + FETCH_EVERY_S, 1_000 + 2 * FETCH_EVERY_S])


def test_a_broker_that_took_its_time_is_asked_again_at_once(clock: Clock, asked: list[tuple[int, float]]) -> None:
    ask_in_turn(clock, [1, 1], every_s=0.2)
    assert [at for _, at in asked] == pytest.approx([1_000, 1_000.2])


def test_each_broker_is_asked_at_a_pace_of_its_own(clock: Clock, asked: list[tuple[int, float]]) -> None:
    ask_in_turn(clock, [1, 2, 3], every_s=0)
    assert asked == [(1, 1_000), (2, 1_000), (3, 1_000)]


class LogBatch(NamedTuple):
    """A batch of the log. `gap` offsets before it hold nothing; `writer` wrote it in a transaction."""

    gap: int
    size: int
    writer: int | None
    compression: int


batches = st.lists(
    st.builds(
        LogBatch, st.integers(0, 2), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 2)), st.integers(0, 4)
    ),
    max_size=5,
)


def encoded(log: list[LogBatch]) -> bytes:
    whole, offset = bytearray(), 0
    for gap, size, writer, compression in log:
        offset += gap
        builder = DefaultRecordBatchBuilder(2, compression, int(writer is not None), writer or -1, 0, 0, 1 << 20)
        for number in range(size):
            value = None if number == 3 else f"{offset + number}".encode()
            builder.append(number, 1_000 + offset + number, b"key", value, [])
        batch = builder.build()
        batch[:8] = offset.to_bytes(8, "big")
        whole += batch
        offset += size
    return bytes(whole)


def fetched(log: list[LogBatch], start: int = 0, aborted: Sequence[tuple[int, int]] = ()) -> PartitionRecords:
    place = SimpleNamespace(topic="t", partition=0)
    return PartitionRecords(place, MemoryRecords(encoded(log)), aborted, start, None, None, True, READ_COMMITTED)


def taken_whole(records: PartitionRecords) -> Any:
    records.__class__ = FetchedRecords
    records.take_whole()
    return records


@given(
    log=batches, start=st.integers(0, 12), aborted=st.lists(st.tuples(st.integers(1, 2), st.integers(0, 9)), max_size=2)
)
def test_what_is_taken_at_once_are_the_records_that_aiokafka_reads_one_by_one(
    log: list[LogBatch], start: int, aborted: list[tuple[int, int]]
) -> None:
    plain, whole = fetched(log, start, aborted), taken_whole(fetched(log, start, aborted))
    wanted = [(each.value, each.key, each.timestamp, each.offset) for each in plain]
    assert list(chain.from_iterable(whole)) == wanted
    assert whole.next_fetch_offset == plain.next_fetch_offset


def test_of_a_response_with_a_damaged_batch_nothing_is_taken_and_all_is_fetched_again() -> None:
    log = encoded([LogBatch(0, 3, None, 0), LogBatch(0, 2, None, 0)])
    damaged = log[:-1] + bytes([log[-1] ^ 1])
    place = SimpleNamespace(topic="t", partition=0)
    records = taken_whole(PartitionRecords(place, MemoryRecords(damaged), (), 1, None, None, True, READ_COMMITTED))
    with pytest.raises(CorruptRecordException):
        next(records)
    assert records.next_fetch_offset == 1


def test_a_response_is_let_go_once_its_records_are_taken() -> None:
    records = taken_whole(fetched([LogBatch(0, 3, None, 0)]))
    response = weakref.ref(records)
    gc.disable()
    try:
        assert len(list(records)) == 1
        del records
        assert response() is None, "a cycle keeps it, megabytes, until garbage is collected"
    finally:
        gc.enable()
