"""Records of several topics in one order, against a merge that is written down as it is meant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from conditions.times import MAX_TIME_MS
from connectors.json_events import Encoded
from streams.buffers import Buffer, latest_ms, settle, take_in_order

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
