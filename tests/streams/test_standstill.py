"""Whoever reads up to an offset that a hanging transaction keeps back says so, and goes on once it is ended."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from aiokafka import TopicPartition
from structlog.typing import EventDict

from streams.backfill import _Source
from streams.changes_reader import _slice
from streams.pace import Pace
from streams.standstill import SAID_EVERY_S, Standstill

PLACE = TopicPartition("purchases", 3)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


class HeldBack:
    """A double of a consumer that comes to 7, and to 9 once each of the waits is over; a minute passes in each."""

    def __init__(self, clock: Clock, waits: int) -> None:
        self._clock = clock
        self._waits = waits
        self._position = 7

    def seek(self, place: TopicPartition, offset: int) -> None:
        pass

    async def position(self, place: TopicPartition) -> int:
        return self._position

    async def getmany(self, place: TopicPartition, *, timeout_ms: int, max_records: int) -> dict[Any, Any]:
        if timeout_ms:
            self._clock.now_s += SAID_EVERY_S
            self._waits -= 1
        if not self._waits:
            self._position = 9
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("streams.standstill.time", clock)
    return clock


def said(log: list[EventDict]) -> list[tuple[Any, ...]]:
    return [tuple(each[key] for key in ("event", "topic", "partition", "position", "end", "for_s")) for each in log]


STANDS = ("reading_stands_still", "purchases", 3, 7, 9)


async def test_reading_back_for_a_segment_says_that_it_stands_still(clock: Clock) -> None:
    consumer: Any = HeldBack(clock, waits=3)
    source = _Source(PLACE, 0, 9, 0, Pace(1.0))
    with structlog.testing.capture_logs() as log:
        assert await source._fetch(consumer) == []
    assert said(log) == [(*STANDS, 60.0), (*STANDS, 120.0)]


async def test_reading_changes_back_says_that_it_stands_still(clock: Clock) -> None:
    consumer: Any = HeldBack(clock, waits=3)
    with structlog.testing.capture_logs() as log:
        assert await _slice(consumer, PLACE, 0, 9, 0.0) == []
    assert said(log) == [(*STANDS, 60.0), (*STANDS, 120.0)]


def test_a_standstill_is_said_after_a_while_once_a_minute_and_never_while_reading_moves(clock: Clock) -> None:
    standstill = Standstill(PLACE, 100)
    with structlog.testing.capture_logs() as log:
        for position in range(5):
            standstill.note(position)
            clock.now_s += SAID_EVERY_S * 2
        assert log == []
        standstill.note(5)
        for _ in range(9):
            clock.now_s += SAID_EVERY_S / 3
            standstill.note(5)
    assert [each["for_s"] for each in log] == [60.0, 120.0, 180.0]
    assert "find-hanging --topic purchases --partition 3" in log[0]["mend"]
