"""aiokafka's fetcher, made to ask each broker less often, and to hand over a batch of the log as one object."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords

from connectors.json_events import Encoded
from streams.wall_time import wall_time_ms

# A broker answers as soon as it has one record, and each answer costs the same. What comes meanwhile waits for the
# transaction under way in any case.
FETCH_EVERY_S = 0.012

_fields_of_record = attrgetter("value", "key", "timestamp", "offset")


class WholeBatch:
    """A batch of the log that stands for one record: the last one, whose `records` are all from `start` on.

    aiokafka's own objects cost as much to make, one by one, as their events to decode.
    """

    def __init__(self, batch: Any, start: int) -> None:
        self._batch = batch
        self._start = start
        self.offset = -1
        self.records: list[Encoded] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[WholeBatch]:
        records: list[Encoded] = list(map(_fields_of_record, self._batch))
        if records and records[0][-1] < self._start:
            records = [record for record in records if record[-1] >= self._start]
        if records:
            self.records, self.offset = records, records[-1][-1]
            yield self


class WholeBatches:
    """aiokafka's records of one partition, batch by batch."""

    def __init__(self, records: Any, fetched: PartitionRecords) -> None:
        self._records = records
        # A cycle would keep the whole response, megabytes, until garbage is collected.
        self._fetched = weakref.proxy(fetched)

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> WholeBatch:
        return WholeBatch(self._records.next_batch(), self._fetched.next_fetch_offset)


class FetchedBatches(PartitionRecords):  # type: ignore[misc]  # aiokafka ships no types
    """What was fetched of one partition; each of its items is all that a batch of the log holds."""

    def take_whole(self) -> None:
        """Called before the first record is taken."""
        self._records: Any = WholeBatches(self._records, self)

    def _consumer_record(self, tp: Any, record: WholeBatch) -> list[Encoded]:
        return record.records


class AskingFetcher(Fetcher):  # type: ignore[misc]  # aiokafka ships no types
    """Asks each broker at most once in FETCH_EVERY_S, and notes when the request was sent whose response last told a
    partition's high watermark.

    The response's own time would not do: after the process was stopped it may have waited long in the socket, and the
    log have grown since.
    """

    asked_ms: dict[Any, int]
    asked_at: dict[int, float]  # by broker, monotonic

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: Any) -> Any:
        await asyncio.sleep(self.asked_at.get(node_id, 0) + FETCH_EVERY_S - time.monotonic())
        self.asked_at[node_id] = time.monotonic()
        sent_ms = wall_time_ms()
        # Only what this request asks for: others may be asked of other brokers at the same time.
        states = {
            TopicPartition(topic, partition): assignment.state_value(TopicPartition(topic, partition))
            for topic, partitions in request.topics
            for partition, *_ in partitions
        }
        for state in states.values():
            state.timestamp = None  # aiokafka writes the time of a response that had no error here
        answer = await super()._proc_fetch_request(assignment, node_id, request)
        for place, state in states.items():
            if state.timestamp is not None:
                self.asked_ms[place] = sent_ms
                self._lighten(place)
        return answer

    def _lighten(self, place: TopicPartition) -> None:
        found = self._records.get(place)
        if isinstance(found, FetchResult) and found._partition_records is not None:
            found._partition_records.__class__ = FetchedBatches
            found._partition_records.take_whole()
