"""Reading back what a partition's topics still hold, up to where live events took over."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from heapq import heappop, heappush

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from conditions.events import CUSTOMER_DELETE, Event
from connectors.json_events import record_decoder
from state.redefinition import Erasures
from streams.kafka.security import Connection

POLL_MS = 200
POLL_RECORDS = 2_000
BATCH_EVENTS = 1_000
DELETE_TYPE = CUSTOMER_DELETE.encode()


class OldEvents(msgspec.Struct):
    """Events from before live ones took over, erased ones left out, and how far each topic was read."""

    events: list[Event]
    read: dict[str, int]


class BackfillReader:
    """Reads one partition number of some topics, from the start of what they retain to the given offsets.

    First all erasures are learned, then the events come that those have spared; both times in the order in which the
    partition merges its topics. `history_from_ms` is set when a topic no longer has its beginning.
    """

    def __init__(self, number: int, ends: Mapping[str, int], connection: Connection) -> None:
        self._places = {TopicPartition(topic, number): end for topic, end in ends.items()}
        self._connection = connection
        self.history_from_ms: int | None = None

    async def batches(self) -> AsyncIterator[OldEvents]:
        """The events, in batches. Raises aiokafka's errors: begin again then."""
        erasures = Erasures()
        async for place, event in self._merged(only_erasures=True):
            erasures.learn(place, event)
        batch = OldEvents([], {})
        async for place, event in self._merged(only_erasures=False):
            if erasures.spared(place, event):
                batch.events.append(event)
            batch.read[event.topic or ""] = event.offset + 1
            if len(batch.events) >= BATCH_EVENTS:
                yield batch
                batch = OldEvents([], {})
        yield batch

    async def _merged(self, *, only_erasures: bool) -> AsyncIterator[tuple[int, Event]]:
        """The valid events with their place in the merged order, which counts all records."""
        consumer = AIOKafkaConsumer(
            **self._connection.arguments(),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        )
        await consumer.start()
        try:
            consumer.assign(list(self._places))
            sources = [await self._source(consumer, tp, end, only_erasures) for tp, end in self._places.items()]
            async for found in _merge(sources):
                yield found
        finally:
            await consumer.stop()

    async def _source(self, consumer: AIOKafkaConsumer, tp: TopicPartition, end: int, only_erasures: bool) -> _Source:
        start = (await consumer.beginning_offsets([tp]))[tp]
        consumer.seek(tp, start)
        source = _Source(consumer, tp, end, only_erasures)
        await source.fill()
        if start > 0 and source.first_ms is not None:
            self.history_from_ms = max(self.history_from_ms or 0, source.first_ms)
        return source


class _Source:
    """One topic's records, fetched as they are needed."""

    def __init__(self, consumer: AIOKafkaConsumer, tp: TopicPartition, end: int, only_erasures: bool) -> None:
        self._consumer = consumer
        self._tp = tp
        self._end = end
        self._only_erasures = only_erasures
        self._decode = record_decoder(tp.topic, tp.partition)
        self.records: deque[tuple[int, Event | None]] = deque()
        self.first_ms: int | None = None

    async def fill(self) -> bool:
        """Have a record, unless the end is reached; whether there is one."""
        while not self.records and await self._consumer.position(self._tp) < self._end:
            got = await self._consumer.getmany(self._tp, timeout_ms=POLL_MS, max_records=POLL_RECORDS)
            for record in got.get(self._tp, ()):
                if record.offset < self._end:
                    self._add(record.value, record.key, record.timestamp, record.offset)
        return bool(self.records)

    def _add(self, value: bytes | None, key: bytes | None, timestamp_ms: int, offset: int) -> None:
        self.first_ms = timestamp_ms if self.first_ms is None else self.first_ms
        if self._only_erasures and (value is None or DELETE_TYPE not in value):
            self.records.append((timestamp_ms, None))
            return
        event = self._decode(value, key, timestamp_ms, offset)
        self.records.append((timestamp_ms, event if isinstance(event, Event) else None))


async def _merge(sources: list[_Source]) -> AsyncIterator[tuple[int, Event]]:
    """By timestamp, as live records are merged."""
    heads: list[tuple[int, int]] = []
    for order, source in enumerate(sources):
        if source.records:
            heappush(heads, (source.records[0][0], order))
    place = 0
    while heads:
        _, order = heappop(heads)
        _, event = sources[order].records.popleft()
        place += 1
        if event is not None:
            yield place, event
        if await sources[order].fill():
            heappush(heads, (sources[order].records[0][0], order))
