"""What is read back comes in batches that are bounded by events and by bytes."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from state.redefinition import Erasures
from streams import backfill
from streams.backfill import BackfillReader
from streams.kafka.security import Connection
from streams.pace import Pace
from tests.streams.test_partition import visit_of

POLLED = 10


class Topic:
    """A double of aiokafka's consumer over the records of one topic, of which one poll brings a few."""

    def __init__(self, values: list[bytes]) -> None:
        self._values = values
        self._position = 0

    def assign(self, places: list[TopicPartition]) -> None:
        pass

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._position = offset

    async def beginning_offsets(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    async def position(self, place: TopicPartition) -> int:
        return self._position

    async def getmany(self, place: TopicPartition, **_: int) -> dict[TopicPartition, list[Any]]:
        return {place: list(self._polled())}

    def _polled(self) -> Iterator[Any]:
        for value in self._values[self._position : self._position + POLLED]:
            yield SimpleNamespace(value=value, key=b"anna", timestamp=1_000, offset=self._position)
            self._position += 1


@pytest.mark.parametrize(("most_bytes", "sizes"), [(1 << 30, [40, 40, 20]), (25_000, [30, 30, 30, 10]), (1, [10] * 10)])
async def test_events_come_in_batches_of_so_many_or_of_so_many_bytes(
    monkeypatch: pytest.MonkeyPatch, most_bytes: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(backfill, "BATCH_EVENTS", 40)
    monkeypatch.setattr(backfill, "BATCH_BYTES", most_bytes)
    values = [visit_of("anna", filler="x" * 1_000)] * 100
    reader = BackfillReader(0, {"visits": 100}, ["page.visit"], 5_000, Connection("nowhere:9092"), Pace(1.0))
    found = [batch async for batch in reader._spared(Topic(values), Erasures())]
    assert [len(batch) for batch in found] == sizes
    assert [event.offset for batch in found for event in batch] == list(range(100))
