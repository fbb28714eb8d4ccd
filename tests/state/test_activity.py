"""Entered and left of the last hour and day, from changes as they are committed and from older ones read back."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal

import pytest

from conditions.changes import Change
from conditions.times import DAY_MS, HOUR_MS, MINUTE_MS, format_time, parse_time
from state import activity as module
from state.activity import LAST_DAY, LAST_HOUR, Activity, Window

NOW_MS = 1_790_000_000_000


def change(sequence: int, decided_ms: int, kind: Literal["entered", "left"] = "entered", segment: str = "a") -> Change:
    at = format_time(decided_ms)
    customer = f"c{sequence % 3}"
    return Change(f"id{sequence}", kind, segment, segment, 1, customer, sequence, at, at, None, "deadline", None, [])


def timeline(seed: int, count: int, span_ms: int) -> list[Change]:
    chance = random.Random(seed)
    times = sorted(NOW_MS - chance.randrange(span_ms) for _ in range(count))
    return [
        change(number, at_ms, chance.choice(("entered", "left")), chance.choice("ab"))
        for number, at_ms in enumerate(times, start=1)
    ]


def since(changes: Sequence[Change], from_ms: int, segment: str) -> tuple[int, int]:
    """What is to be found, by looking at every change."""
    found = [each.type for each in changes if each.segment_id == segment and each.decided_at >= format_time(from_ms)]
    return found.count("entered"), found.count("left")


def read_back_in_slices(activity: Activity, older: Sequence[Change], size: Callable[[], int]) -> None:
    end, goes_on = len(older), True
    while end and goes_on:
        start = max(0, end - size())
        goes_on = activity.read_back(older[start:end])
        end = start


@pytest.mark.parametrize("seed", range(40))
def test_live_and_older_changes_add_up_to_those_of_the_window(seed: int) -> None:
    chance = random.Random(seed)
    changes = timeline(seed, 300, chance.choice((2 * HOUR_MS, 30 * HOUR_MS, 4 * DAY_MS)))
    began = chance.randrange(len(changes))
    activity = Activity(began, NOW_MS - 2 * DAY_MS if not began else parsed(changes[began - 1]))
    # What is read back is in the log beside changes that were told as they were committed.
    live, log = changes[began:], changes[: chance.randrange(began, len(changes) + 1)]
    for each in live[: len(live) // 2]:
        activity.committed([each])
    read_back_in_slices(activity, log, lambda: chance.randrange(1, 60))
    for each in live[len(live) // 2 :]:
        activity.committed([each])
    assert activity.counted_from_ms is None
    for window in (LAST_HOUR, LAST_DAY):
        for segment in "ab":
            expected = since(changes, window.from_ms(NOW_MS), segment)
            assert activity.total(segment, window, NOW_MS) == expected


def parsed(each: Change) -> int:
    return parse_time(each.decided_at)


def test_a_window_begins_no_later_than_it_says() -> None:
    for window in (LAST_HOUR, LAST_DAY):
        late_by_ms = NOW_MS - window.length_ms - window.from_ms(NOW_MS)
        assert 0 <= late_by_ms < window.width_ms
    assert (LAST_HOUR.length_ms, LAST_DAY.length_ms) == (HOUR_MS, DAY_MS)
    assert Window(HOUR_MS, MINUTE_MS).slots == 61


def test_it_says_from_when_on_nothing_is_missing() -> None:
    activity = Activity(100, NOW_MS)
    assert (activity.counted_from_ms, activity.looked_back_to_ms) == (NOW_MS, NOW_MS)
    assert activity.read_back([change(99, NOW_MS - 2000), change(100, NOW_MS - 1000)])
    # Number 98 may have been decided in the same millisecond as 99.
    assert (activity.counted_from_ms, activity.looked_back_to_ms) == (NOW_MS - 1999, NOW_MS - 1999)
    assert activity.read_back([change(number, NOW_MS - 3000) for number in range(2, 99)])
    assert not activity.read_back([change(1, NOW_MS - 4000)])
    assert (activity.counted_from_ms, activity.looked_back_to_ms) == (None, None)


def test_a_partition_without_changes_misses_none() -> None:
    assert Activity(0, NOW_MS).counted_from_ms is None


def test_changes_that_were_numbered_before_a_rebuild_do_not_count() -> None:
    activity = Activity(2, NOW_MS)
    before = [change(number, NOW_MS - 5000) for number in (1, 2, 3)]
    assert not activity.read_back([*before, change(1, NOW_MS - 500), change(2, NOW_MS - 400)])
    assert activity.total("a", LAST_HOUR, NOW_MS) == (2, 0)
    assert activity.counted_from_ms is None


def test_the_newest_changes_of_a_customer_come_newest_first() -> None:
    activity = Activity(4, NOW_MS)
    activity.read_back([change(number, NOW_MS - 10_000 + number) for number in (1, 2, 3, 4)])
    activity.committed([change(7, NOW_MS, "left", "b"), change(10, NOW_MS)])
    assert [each.sequence for each in activity.last_changes("c1", None, 10)] == [10, 7, 4, 1]
    assert [each.sequence for each in activity.last_changes("c1", None, 2)] == [10, 7]
    assert [each.sequence for each in activity.last_changes("c1", ["b"], 10)] == [7]
    assert activity.looked_back_to_ms is None


def test_only_so_many_changes_are_kept_and_it_says_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_CHANGES", 5)
    activity = Activity(3, NOW_MS)
    activity.read_back([change(number, NOW_MS - 10_000 + number) for number in (1, 2, 3)])
    assert (activity.looked_back_to_ms, activity.counted_from_ms) == (None, None)
    activity.committed([change(number, NOW_MS + number) for number in (4, 5, 6, 7)])
    assert [each.sequence for each in activity.last_changes("c1", None, 10)] == [7, 4]
    assert (activity.looked_back_to_ms, activity.counted_from_ms) == (NOW_MS - 10_000 + 3 + 1, None)
