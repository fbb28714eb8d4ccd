"""Records of several topics in one order, against a merge that is written down as it is meant."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from conditions.times import MAX_TIME_MS
from connectors.json_events import Encoded
from streams.buffers import (
    SAMPLED_RECORDS,
    SLICE_BYTES,
    SLICE_RECORDS,
    Buffer,
    decoded,
    latest_ms,
    settle,
    take_in_order,
    within,
)
from streams.metrics import Metrics
from streams.settings import load_settings
from streams.worker import BUFFERED_BYTES, Worker

TOPICS = ("visits", "orders", "mails")
Times = st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=8)


def records_of(topic: str, times: list[int | None]) -> list[Encoded]:
    return [(topic.encode(), b"", at_ms, offset) for offset, at_ms in enumerate(times)]


def expected(logs: dict[str, list[Encoded]], at_end: dict[str, bool], most: int) -> list[Encoded]:
    """The earliest next record of all again and again, the first topic's among equals, while every topic has one."""
    left = {topic: list(records) for topic, records in logs.items()}
    merged: list[Encoded] = []
    while len(merged) < most and all(records or at_end[topic] for topic, records in left.items()):
        heads = [(records[0][2] or 0, place, records) for place, records in enumerate(left.values()) if records]
        if not heads:
            break
        merged.append(min(heads, key=lambda head: head[:2])[2].pop(0))
    return merged


@given(
    logs=st.fixed_dictionaries(dict.fromkeys(TOPICS, Times)),
    at_end=st.fixed_dictionaries(dict.fromkeys(TOPICS, st.booleans())),
    most=st.integers(1, 12),
    fitting=st.lists(st.integers(0, 12), min_size=1),
)
def test_records_come_by_time_as_far_as_no_topic_can_bring_an_earlier_one_and_what_does_not_fit_comes_again(
    logs: dict[str, list[int | None]], at_end: dict[str, bool], most: int, fitting: list[int]
) -> None:
    waiting = {topic: records_of(topic, logs[topic]) for topic in TOPICS}
    buffers = {topic: Buffer(topic, 0) for topic in TOPICS}
    for topic, records in waiting.items():
        buffers[topic].add(records, -1, None)
    for consumed in fitting:
        wanted = expected(waiting, at_end, most)
        runs = take_in_order(buffers, at_end, most)
        assert [record for _, records in runs for record in records] == wanted
        settle(buffers, runs, min(consumed, len(wanted)))
        for record in wanted[:consumed]:
            waiting[(record[0] or b"").decode()].remove(record)
        assert {topic: len(buffer) for topic, buffer in buffers.items()} == {
            topic: len(records) for topic, records in waiting.items()
        }


def test_what_was_received_or_applied_before_is_not_taken_again() -> None:
    buffer = Buffer("visits", 0)
    buffer.add(records_of("visits", [1, 2, 3]), 0, None)
    buffer.add(records_of("visits", [1, 2, 3, 4]), 0, None)
    assert [record[-1] for record in buffer.take(9)] == [1, 2, 3]
    assert buffer.received == 7


def test_a_record_from_the_future_counts_as_of_now_where_wall_time_is_the_clock() -> None:
    buffer = Buffer("visits", 0)
    buffer.add(records_of("visits", [1, 9, None]), -1, 5)
    assert [record[2] for record in buffer.take(9)] == [1, 5, None]


def test_a_record_from_after_the_year_9999_counts_as_of_its_last_instant() -> None:
    buffer = Buffer("visits", 0)
    buffer.add(records_of("visits", [1, MAX_TIME_MS + 1]), -1, None)
    assert [record[2] for record in buffer.take(9)] == [1, MAX_TIME_MS]


def test_a_record_without_a_timestamp_may_be_of_any_time() -> None:
    buffer = Buffer("visits", 0)
    assert latest_ms([(buffer, records_of("visits", [3, 7]))]) == 7
    assert latest_ms([(buffer, records_of("visits", [3, None]))]) > 10**14
    assert latest_ms([]) == 0


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 9), st.integers(0, 9)), max_size=9
    )
)
def test_the_bytes_of_a_buffer_are_those_it_holds_and_what_came_with_them(
    polls: list[tuple[list[int], int, int]],
) -> None:
    buffer, held, offset = Buffer("visits", 0), list[tuple[int, int]](), 0
    for number, (sizes, taken, given_back) in enumerate(polls):
        buffer.add([(b"v" * size, b"key", 1, offset + at) for at, size in enumerate(sizes)], -1, None)
        offset += len(sizes)
        held += [(number, size + 3) for size in sizes]
        found = len(buffer.take(taken))
        kept = min(given_back, found)
        buffer.give_back(kept)
        buffer.forget_taken()
        held = held[found - kept :]
        begun = {number for number, _ in held}
        came_with_them = sum(size + 3 for number, (sizes, *_) in enumerate(polls) if number in begun for size in sizes)
        assert sum(size for _, size in held) <= buffer.size_bytes == came_with_them


@pytest.mark.parametrize(("size", "expected"), [(100, [SLICE_RECORDS, 50]), (SLICE_BYTES // 10, [10] * 30)])
def test_fewer_records_are_decoded_at_a_time_where_they_are_large(size: int, expected: list[int]) -> None:
    buffer = Buffer("visits", 0)
    buffer.add([(b"v" * size, None, 1, at) for at in range(SLICE_RECORDS + 50)], -1, None)
    assert [len(slice_) for slice_ in decoded([(buffer, buffer.take(1_000))], 0)] == expected


@pytest.mark.parametrize("count", [2 * SAMPLED_RECORDS - 1, 4_000])
def test_of_many_records_a_sample_tells_the_bytes(count: int) -> None:
    sizes = [100_000 if at % 7 == 3 else 10 for at in range(count)]
    buffer = Buffer("visits", 0)
    buffer.add([(b"v" * size, b"", 1, at) for at, size in enumerate(sizes)], -1, None)
    if count < 2 * SAMPLED_RECORDS:
        assert buffer.size_bytes == sum(sizes)
    else:
        assert 0.7 * sum(sizes) < buffer.size_bytes < 1.4 * sum(sizes)


def test_records_without_key_and_value_take_no_bytes() -> None:
    buffer = Buffer("visits", 0)
    buffer.add([(None, None, 1, 0), (None, None, 1, 1)], -1, None)
    assert (buffer.size_bytes, buffer.slice_records) == (0, SLICE_RECORDS)


class Fed:
    """A double of an open partition that notes how many bytes a topic of it may hold."""

    def __init__(self) -> None:
        self.share_bytes = 0

    def full(self, most_bytes: int) -> set[TP]:
        self.share_bytes = most_bytes
        return set()


@pytest.mark.parametrize(("partitions", "topics"), [(1, 1), (4, 3), (100, 5)])
def test_the_topics_of_a_workers_partitions_share_one_bound(partitions: int, topics: int) -> None:
    worker: Any = Worker(load_settings({"topics": tuple(map(str, range(topics)))}), Mock(), Mock(), Metrics())
    worker.thread = SimpleNamespace(paused=None)
    worker._partitions = {number: Fed() for number in range(partitions)}
    worker._pause_full()
    shares = [each.share_bytes for each in worker._partitions.values()]
    assert BUFFERED_BYTES - partitions * topics < sum(shares) * topics <= BUFFERED_BYTES
    assert worker.thread.paused == frozenset()


@given(
    logs=st.fixed_dictionaries(dict.fromkeys(TOPICS, Times)),
    sizes=st.lists(st.integers(0, 40), min_size=1),
    most_bytes=st.integers(0, 200),
)
def test_records_that_are_too_many_bytes_for_one_batch_come_again(
    logs: dict[str, list[int | None]], sizes: list[int], most_bytes: int
) -> None:
    at_end = dict.fromkeys(TOPICS, True)
    buffers = {topic: Buffer(topic, 0) for topic in TOPICS}
    for topic, times in logs.items():
        lines = [b"x" * sizes[at % len(sizes)] for at in range(len(times))]
        records: list[Encoded] = [
            (line, b"", *record[2:]) for line, record in zip(lines, records_of(topic, times), strict=True)
        ]
        buffers[topic].add(records, -1, None)
    waiting = sum(map(len, buffers.values()))
    order = expected({topic: buffer._records[:] for topic, buffer in buffers.items()}, at_end, waiting)

    came: list[Encoded] = []
    while len(came) < waiting:
        runs = within(take_in_order(buffers, at_end, 1_000), most_bytes)
        found = [record for _, records in runs for record in records]
        came += found
        assert len(came) + sum(map(len, buffers.values())) == waiting
        assert len(found) == 1 or sum(len(record[0] or b"") for record in found) <= most_bytes
        settle(buffers, runs, len(found))

    assert came == order
