"""One partition on one worker: its topics' records merged into one order, its clock, and its engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heapreplace
from itertools import groupby
from operator import itemgetter
from typing import Any

from faust.types import TP

from conditions.definitions import Definitions
from conditions.events import Event, Rejected
from conditions.times import MAX_TIME_MS
from connectors.json_events import decode_records
from state.engine import BatchResult, PartitionEngine
from state.live_engine import LiveEngine
from state.rocksdb_store import RocksdbStore
from streams.answers import PartitionAnswers
from streams.changes_reader import ChangesReader
from streams.kafka.errors import StreamsError
from streams.polling import Fetched, LogEnd
from streams.redefining import Background, Redefining, WantedDefinitions
from streams.settings import Settings

MOST_DEADLINES = 4_000  # of waves, between two batches of live events; all partitions of a worker share them
FEWEST_DEADLINES = 50  # of one partition
ORDERED_DEADLINES = 1_000  # of one partition whose batches are cut at deadlines, and of few records
BUFFERED_BATCHES = 2  # of each topic, after which it is not fetched for a while
SLICE_RECORDS = 250  # decoded at a time

Buffered = tuple[int, int | None, Fetched]  # where it stands in the merged order, and the record with its timestamp


class RecordsMissing(StreamsError):
    """Fetched records got lost on their way here. Opening the partition again brings them back."""

    def __init__(self, topic: str, number: int, received: int, handed_over: int) -> None:
        super().__init__(f"{topic}-{number}: {handed_over} records were handed over, {received} arrived")


class Buffer:
    """Records of one topic that were fetched and not yet applied."""

    def __init__(self, topic: str, number: int) -> None:
        self.place = TP(topic, number)
        self.records: deque[Buffered] = deque()
        self.received = 0
        self._newest = -1

    def add(self, records: Iterable[Fetched], applied: int, now_ms: int | None) -> None:
        """Take what was neither applied nor received yet. With `now_ms`, one from the future counts as of now."""
        newest = max(self._newest, applied)
        latest_ms = MAX_TIME_MS if now_ms is None else now_ms
        for record in records:
            self.received += 1
            if record.offset <= newest:
                continue
            newest = record.offset
            timestamp_ms = record.timestamp
            if timestamp_ms is not None and timestamp_ms > latest_ms:
                timestamp_ms = latest_ms
            self.records.append((timestamp_ms or 0, timestamp_ms, record))
        self._newest = newest


Taken = tuple[Buffer, Buffered]


class Partition:
    """A partition that is open: restored, positioned, and decided batch by batch."""

    def __init__(
        self,
        number: int,
        epoch: int,
        lineage: str,
        store: RocksdbStore,
        settings: Settings,
        background: Background,
        definitions: Definitions | None,
    ) -> None:
        self.number = number
        self.epoch = epoch
        self.lineage = lineage
        self.store = store
        self.redefining: Redefining | None = None
        self._pace = background.pace
        self.engine = self._engine(definitions, settings, background)
        self.answers = PartitionAnswers(
            number, self.engine, lambda: ChangesReader(settings.changes_topic, number, background.connection)
        )
        self.buffers = {topic: Buffer(topic, number) for topic in settings.topics}
        self._batch_records = settings.batch_records
        self._wall_clock = settings.clock == "wall"
        self._grace_ms = settings.idle_grace_ms

    def _engine(self, definitions: Definitions | None, settings: Settings, background: Background) -> PartitionEngine:
        """An engine for these definitions; for None one that follows the definitions topic."""
        options: dict[str, Any] = {
            "strict_order": settings.clock == "event",
            "cached_customers": settings.cache_customers,
            "most_deadlines": ORDERED_DEADLINES,
        }
        if definitions is not None:
            return PartitionEngine(self.store, definitions, **options)
        engine = LiveEngine(self.store, background.compiler, begins_ms=background.begins_ms, **options)
        self.redefining = Redefining(self.number, engine, background)
        return engine

    def redefine(self, wanted: WantedDefinitions | None, now_ms: int) -> BatchResult | None:
        """Decide the next step towards the wanted definitions; None where there is none."""
        if self.redefining is None or wanted is None:
            return None
        applied = self.engine.marker.applied
        ends = {topic: applied[topic] + 1 for topic in self.buffers if topic in applied}
        return self.redefining.step(wanted, ends, now_ms)

    def close(self) -> None:
        """Stop what goes on in the background, and close the store."""
        self.answers.stop()
        if self.redefining is not None:
            self.redefining.stop()
        self.store.close()

    def reset(self, epoch: int, lineage: str) -> None:
        """Forget what was fetched and decided, and count fetches anew."""
        if self.redefining is not None:
            self.redefining.reset()
        self.epoch = epoch
        self.lineage = lineage
        self.engine.discard()
        self.answers.reopened()
        for topic in self.buffers:
            self.buffers[topic] = Buffer(topic, self.number)

    def commit(self, result: BatchResult) -> None:
        """Write the oldest decided batch, which is this one, to the local state."""
        self.engine.commit()
        self.answers.committed(result)

    def receive(self, topic: str, records: Iterable[Fetched], before: int, now_ms: int) -> None:
        """Take fetched records of one topic, in their order, the first `before` having come already.

        Raises RecordsMissing where they have not.
        """
        if before != self.buffers[topic].received:
            raise RecordsMissing(topic, self.number, self.buffers[topic].received, before)
        applied = self.engine.marker.applied.get(topic, -1)
        self.buffers[topic].add(records, applied, now_ms if self._wall_clock else None)

    def positions(self) -> dict[TP, int | None]:
        """The next offset to read of each topic; None: the log's start."""
        applied = self.engine.marker.applied
        return {
            buffer.place: applied[topic] + 1 if topic in applied else None for topic, buffer in self.buffers.items()
        }

    def lag(self, ends: dict[TP, LogEnd]) -> int:
        """Records in the logs that are not applied yet, as the newest fetch responses tell."""
        return self.waiting + sum(ends[buffer.place].behind for buffer in self.buffers.values() if buffer.place in ends)

    @property
    def waiting(self) -> int:
        """How many records are buffered."""
        return sum(len(buffer.records) for buffer in self.buffers.values())

    def full(self) -> set[TP]:
        """The topics that have enough buffered for now."""
        most = self._batch_records * BUFFERED_BATCHES
        return {buffer.place for buffer in self.buffers.values() if len(buffer.records) >= most}

    def decide(self, ends: dict[TP, LogEnd], now_ms: int, partitions: int = 1) -> BatchResult | None:
        """Decide the next batch of records and due deadlines; None where there is nothing to do.

        Of a wave it takes a bounded part, the smaller the more `partitions` take theirs in the same turn: whatever
        falls due, a live event waits for no more than two such turns.
        """
        at_end = {topic: self._reached(buffer, ends) for topic, buffer in self.buffers.items()}
        taken = self._merged(at_end)
        if self._wall_clock:
            self.engine.take_deadlines(max(FEWEST_DEADLINES, MOST_DEADLINES // partitions))
        else:
            self.engine.take_deadlines(max(ORDERED_DEADLINES, len(taken) // 2))
        clock_ms = self._clock_target(at_end, ends)
        if not taken and not self.engine.tick(max(clock_ms, self.engine.marker.clock_ms)):
            return None
        self._pace.note_live_work()
        result = self._decided(taken, now_ms, clock_ms)
        self._give_back(taken[result.consumed :])
        return result

    def _decided(self, taken: list[Taken], now_ms: int, clock_ms: int) -> BatchResult:
        """Decoded slice by slice: events that wait would push the customers out of the processor's cache."""
        batch = self.engine.begin(max(clock_ms, _latest_ms(taken)))
        for at in range(0, len(taken), SLICE_RECORDS):
            records = _decode(taken[at : at + SLICE_RECORDS], self.number)
            if batch.take(records, now_ms) < len(records):
                break
        batch.settle(now_ms, clock_ms)
        return self.engine.finish(batch)

    def _reached(self, buffer: Buffer, ends: dict[TP, LogEnd]) -> bool:
        """Whether the buffer holds all that its log had when the newest response was asked for."""
        end = ends.get(buffer.place)
        return end is not None and end.epoch == self.epoch and end.reached and end.delivered == buffer.received

    def _clock_target(self, at_end: dict[str, bool], ends: dict[TP, LogEnd]) -> int:
        """How far wall time moves the clock: while anything waits in a log or a buffer, not at all."""
        if not self._wall_clock or not all(at_end.values()):
            return 0
        if any(buffer.records for buffer in self.buffers.values()):
            return 0
        return min(ends[buffer.place].asked_ms for buffer in self.buffers.values()) - self._grace_ms

    def _merged(self, at_end: dict[str, bool]) -> list[Taken]:
        """Buffered records by timestamp, as far as no other topic can still bring an earlier one."""
        waiting = [topic for topic, buffer in self.buffers.items() if not buffer.records and not at_end[topic]]
        filled = [(buffer.records[0][0], order) for order, buffer in enumerate(self.buffers.values()) if buffer.records]
        if waiting or not filled:
            return []
        buffers = list(self.buffers.values())
        if len(filled) == 1:
            only = buffers[filled[0][1]]
            return [(only, only.records.popleft()) for _ in range(min(len(only.records), self._batch_records))]
        return self._merge(filled, buffers, at_end)

    def _merge(self, heads: list[tuple[int, int]], buffers: list[Buffer], at_end: dict[str, bool]) -> list[Taken]:
        merged: list[Taken] = []
        heapify(heads)
        while heads and len(merged) < self._batch_records:
            buffer = buffers[heads[0][1]]
            merged.append((buffer, buffer.records.popleft()))
            if buffer.records:
                heapreplace(heads, (buffer.records[0][0], heads[0][1]))
            elif at_end[buffer.place.topic]:
                heappop(heads)
            else:
                break
        return merged

    def _give_back(self, taken: list[Taken]) -> None:
        """Put records that did not fit the batch back where they came from."""
        for buffer, buffered in reversed(taken):
            buffer.records.appendleft(buffered)


def _latest_ms(taken: Sequence[Taken]) -> int:
    """A time that none of the records is beyond; one without a timestamp takes its event's, which may be any."""
    stamps = [-1 if timestamp_ms is None else timestamp_ms for _, (_, timestamp_ms, _) in taken]
    return MAX_TIME_MS if stamps and min(stamps) < 0 else max(stamps, default=0)


def _decode(taken: Sequence[Taken], number: int) -> list[Event | Rejected]:
    """The events of records of several topics, in their order."""
    decoded: list[Event | Rejected] = []
    for buffer, of_one in groupby(taken, key=itemgetter(0)):
        records = [(each.value, each.key, timestamp_ms, each.offset) for _, (_, timestamp_ms, each) in of_one]
        decoded += decode_records(records, buffer.place.topic, number)
    return decoded
