"""Reading back what a partition's topics still hold, up to where live events took over."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from heapq import heapify, heapreplace
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from conditions.events import CUSTOMER_DELETE, Event
from connectors.json_events import decode_record
from state.redefinition import Erasures, Place
from streams.kafka.errors import Unreachable
from streams.kafka.reading import open_consumer
from streams.kafka.security import Connection
from streams.pace import Pace
from streams.standstill import Standstill

POLL_MS = 200
FETCH_WAIT_MS = 100
POLL_RECORDS = 1_000
BATCH_EVENTS = 1_000
BATCH_BYTES = 16 << 20
ESCAPE = rb"\\u"  # JSON can write any letter so, those of the type too


async def history_from_ms(number: int, topics: Iterable[str], connection: Connection, now_ms: int) -> int | None:
    """What a partition that reads its topics from the start begins with; None where no topic has lost its beginning.

    Raises Unreachable.
    """
    places = [TopicPartition(topic, number) for topic in topics]
    try:
        async with _consumer(connection) as consumer:
            starts = await consumer.beginning_offsets(places)
            cut = [place for place in places if starts[place]]
            ends = await consumer.end_offsets(cut) if cut else {}
            sources = [_Source(place, 0, ends[place], now_ms, Pace(1.0)) for place in cut]
            for source in sources:
                consumer.assign([source.place])
                await source.rewind(consumer)
                await source.fill(consumer, _naming(()))
    except KafkaError as error:
        raise Unreachable(connection.bootstrap_servers, f"looking where the inputs begin ({error!r})") from error
    return max((each.lost_ms for each in sources if each.lost_ms is not None), default=None)


class BackfillReader:
    """Reads one partition number of some topics, from the start of what they retain to the given offsets.

    First all erasures are learned, then the events of the given types come that those have spared, in the order in
    which the partition merges its topics. `latest_ms` is the partition's clock at those offsets: no record counts as
    later. When a topic no longer has its beginning, `history_from_ms` says what the rest begins with. `on_step` is
    called with "erasures_read" while they are learned.
    """

    def __init__(
        self,
        number: int,
        ends: Mapping[str, int],
        event_types: Iterable[str],
        latest_ms: int,
        connection: Connection,
        pace: Pace,
        on_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._on_step = on_step
        self._sources = [
            _Source(TopicPartition(topic, number), order, end, latest_ms, pace)
            for order, (topic, end) in enumerate(ends.items())
        ]
        self._wanted = _naming(event_types)
        self._connection = connection
        self._passes_done = 0

    @property
    def history_from_ms(self) -> int | None:
        return max((each.lost_ms for each in self._sources if each.lost_ms is not None), default=None)

    @property
    def progress(self) -> float:
        """How much of the reading is done, 0 to 1."""
        total = sum(each.total for each in self._sources)
        read = sum(each.read for each in self._sources)
        return (self._passes_done + (read / total if total else 0.0)) / 2

    async def batches(self) -> AsyncIterator[list[Event]]:
        """The events, in batches. Raises aiokafka's errors: begin again then."""
        self._passes_done = 0
        async with _consumer(self._connection) as consumer:
            erasures = await self._learned(consumer)
            self._passes_done = 1
            async for batch in self._spared(consumer, erasures):
                yield batch

    async def _learned(self, consumer: AIOKafkaConsumer) -> Erasures:
        erasures, naming = Erasures(), _naming([CUSTOMER_DELETE])
        for source in self._sources:
            consumer.assign([source.place])  # its records alone are fetched
            await source.rewind(consumer)
            while await source.fill(consumer, naming):
                for place, event in source.decoded:
                    if event is not None:
                        erasures.learn(place, event)
                source.decoded.clear()
                self._on_step("erasures_read")
        return erasures

    async def _spared(self, consumer: AIOKafkaConsumer, erasures: Erasures) -> AsyncIterator[list[Event]]:
        consumer.assign([each.place for each in self._sources])
        for source in self._sources:
            await source.rewind(consumer)
        batch: list[Event] = []
        waiting = [source for source in self._sources if await source.fill(consumer, self._wanted)]
        while waiting:
            batch += [event for place, event in _merged(waiting) if erasures.spared(place, event)]
            if len(batch) >= BATCH_EVENTS or sum(each.filled_bytes for each in self._sources) >= BATCH_BYTES:
                yield batch
                batch = []
                for source in self._sources:
                    source.filled_bytes = 0
            waiting = [each for each in waiting if each.decoded or await each.fill(consumer, self._wanted)]
        if batch:
            yield batch


def _consumer(connection: Connection) -> AbstractAsyncContextManager[AIOKafkaConsumer]:
    return open_consumer(connection, "read_committed", auto_offset_reset="earliest", fetch_max_wait_ms=FETCH_WAIT_MS)


class _Source:
    """One topic's records, fetched as they are needed."""

    def __init__(self, place: TopicPartition, order: int, end: int, latest_ms: int, pace: Pace) -> None:
        self.place = place
        self.decoded: deque[tuple[Place, Event | None]] = deque()
        self.lost_ms: int | None = None  # nothing from before is there any more
        self.read = 0
        self.total = end
        self._order = order
        self._end = end
        self._latest_ms = latest_ms
        self._pace = pace
        self._start = 0
        self._newest_ms = -1
        self.filled_bytes = 0  # of what was decoded; set to 0 by whoever took it

    async def rewind(self, consumer: AIOKafkaConsumer) -> None:
        """Begin with the first record that the topic retains."""
        self._start = (await consumer.beginning_offsets([self.place]))[self.place]
        consumer.seek(self.place, self._start)
        self.decoded.clear()
        self.filled_bytes = 0
        self._newest_ms = -1
        self.read, self.total = 0, max(self._end - self._start, 0)
        if self._start:
            self.lost_ms = self._latest_ms  # unless a record shows up

    async def _fetch(self, consumer: AIOKafkaConsumer) -> list[Any]:
        """The next records; none once the end is reached."""
        standstill = Standstill(self.place, self._end)
        while (position := await consumer.position(self.place)) < self._end:
            standstill.note(position)
            self.read = position - self._start
            await self._pace.until_due()
            with self._pace.piece():
                got = await consumer.getmany(self.place, timeout_ms=0, max_records=POLL_RECORDS)  # which waits not
            if not got:
                got = await consumer.getmany(self.place, timeout_ms=POLL_MS, max_records=POLL_RECORDS)
            records = [each for each in got.get(self.place, ()) if each.offset < self._end]
            if records:
                return records
        self.read = self.total
        return []

    async def fill(self, consumer: AIOKafkaConsumer, wanted: re.Pattern[bytes]) -> bool:
        """Have more records, decoded where the pattern finds something; whether there were any before the end."""
        records = await self._fetch(consumer)
        with self._pace.piece():
            for place, record in zip(self._places(records), records, strict=True):
                value = record.value
                is_wanted = value is not None and wanted.search(value) is not None
                self.decoded.append((place, self._event(record) if is_wanted else None))
                self.filled_bytes += len(value) if is_wanted else 0
        return bool(records)

    def _places(self, records: Iterable[Any]) -> Iterator[Place]:
        """Where the records stand among those of all topics: merging never takes one before its topic's last."""
        for record in records:
            timestamp_ms = min(record.timestamp, self._latest_ms)
            if self._newest_ms < 0 and self._start:
                self.lost_ms = timestamp_ms
            self._newest_ms = max(self._newest_ms, timestamp_ms, 0)
            yield self._newest_ms, self._order, record.offset

    def _event(self, record: Any) -> Event | None:
        timestamp_ms, place = min(record.timestamp, self._latest_ms), self.place
        found = decode_record(record.value, record.key, timestamp_ms, record.offset, place.topic, place.partition)
        return found if isinstance(found, Event) else None


def _naming(event_types: Iterable[str]) -> re.Pattern[bytes]:
    """Finds every record of these types, and some others: most need not be decoded to see that they are neither."""
    return re.compile(b"|".join([ESCAPE, *(re.escape(each).encode() for each in event_types)]))


def _merged(sources: Sequence[_Source]) -> Iterator[tuple[Place, Event]]:
    """The valid events in order, until one of the sources has nothing decoded left. Each begins with something."""
    heads = [(source.decoded[0][0], source.decoded) for source in sources]
    heapify(heads)
    while True:
        decoded = heads[0][1]
        place, event = decoded.popleft()
        if event is not None:
            yield place, event
        if not decoded:
            return
        heapreplace(heads, (decoded[0][0], decoded))
