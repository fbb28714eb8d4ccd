"""One partition on one worker: its topics' records merged into one order, its clock, and its engine."""

from __future__ import annotations

from typing import Any

from faust.types import TP

from conditions.definitions import Definitions
from connectors.json_events import Encoded
from state.engine import MOST_WRITTEN_BYTES, BatchResult, PartitionEngine
from state.live_engine import LiveEngine
from state.rocksdb_store import RocksdbStore
from streams.answers import PartitionAnswers
from streams.buffers import Buffer, Run, decoded, latest_ms, settle, take_in_order, within
from streams.changes_reader import ChangesReader
from streams.kafka.errors import StreamsError
from streams.outgoing import part_writer
from streams.polling import LogEnd
from streams.redefining import Background, Redefining, WantedDefinitions
from streams.settings import Settings

MOST_DEADLINES = 2_000  # of waves, between two batches of live events; all partitions of a worker share them
FEWEST_DEADLINES = 50  # of one partition
ORDERED_DEADLINES = 1_000  # of one partition whose batches are cut at deadlines, and of few records
WAY_OUT = "docs/events-and-changes.md says how to go on, under `When a record ends the worker`"


class RecordsMissing(StreamsError):
    """Fetched records got lost on their way here. Opening the partition again brings them back."""

    def __init__(self, topic: str, number: int, received: int, handed_over: int) -> None:
        super().__init__(f"{topic}-{number}: {handed_over} records were handed over, {received} arrived")


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
        self.parts = part_writer(store, settings)
        self.redefining: Redefining | None = None
        self._pace = background.pace
        self.engine = self._engine(definitions, settings, background)
        self.answers = PartitionAnswers(
            number, self.engine, lambda: ChangesReader(settings.changes_topic, number, background.connection)
        )
        self.buffers = {topic: Buffer(topic, number) for topic in settings.topics}
        self._batch_records = settings.batch_records
        self._customers_bytes = settings.customers_bytes
        self._wall_clock = settings.clock == "wall"
        self._grace_ms = settings.idle_grace_ms

    def _engine(self, definitions: Definitions | None, settings: Settings, background: Background) -> PartitionEngine:
        """An engine for these definitions; for None one that follows the definitions topic."""
        options: dict[str, Any] = {
            "strict_order": settings.clock == "event",
            "cache_bytes": settings.customers_bytes,
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
        try:
            return self.redefining.step(wanted, ends, now_ms)
        except Exception as error:
            error.add_note(
                f"partition {self.number}, on the way to the definitions up to position {wanted.history.position}. "
                f"{WAY_OUT}"
            )
            raise

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
        self.parts.reload()
        self.engine.discard()
        self.answers.reopened()
        for topic in self.buffers:
            self.buffers[topic] = Buffer(topic, self.number)

    def commit(self, result: BatchResult) -> None:
        """Write the oldest decided batch, which is this one, to the local state."""
        self.engine.commit()
        self.answers.committed(result)

    def receive(self, topic: str, records: list[Encoded], before: int, now_ms: int) -> None:
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
        return sum(map(len, self.buffers.values()))

    def full(self, most_bytes: int) -> set[TP]:
        """The topics that have enough buffered for now: the records of a batch, or so many bytes."""
        return {
            buffer.place
            for buffer in self.buffers.values()
            if len(buffer) >= self._batch_records or buffer.size_bytes >= most_bytes
        }

    def decide(self, ends: dict[TP, LogEnd], now_ms: int, partitions: int = 1) -> BatchResult | None:
        """Decide the next batch of records and due deadlines; None where there is nothing to do.

        Of a wave it takes a bounded part, the smaller the more `partitions` take theirs in the same turn: whatever
        falls due, a live event waits for no more than two such turns. Those partitions share what customers may take in
        memory.
        """
        self.engine.bound_cache(self._customers_bytes // partitions)
        at_end = {topic: self._reached(buffer, ends) for topic, buffer in self.buffers.items()}
        runs = within(take_in_order(self.buffers, at_end, self._batch_records), MOST_WRITTEN_BYTES)
        if self._wall_clock:
            self.engine.take_deadlines(max(FEWEST_DEADLINES, MOST_DEADLINES // partitions))
        else:
            self.engine.take_deadlines(max(ORDERED_DEADLINES, sum(len(records) for _, records in runs) // 2))
        clock_ms = self._clock_target(at_end, ends)
        if not runs and not self.engine.tick(max(clock_ms, self.engine.marker.clock_ms)):
            return None
        self._pace.note_live_work()
        try:
            result = self._decided(runs, now_ms, clock_ms)
        except Exception as error:
            error.add_note(f"partition {self.number}: nothing of its batch was committed. {WAY_OUT}")
            raise
        settle(self.buffers, runs, result.consumed)
        return result

    def _decided(self, runs: list[Run], now_ms: int, clock_ms: int) -> BatchResult:
        """Decoded slice by slice: events that wait would push the customers out of the processor's cache."""
        batch = self.engine.begin(max(clock_ms, latest_ms(runs)))
        for records in decoded(runs, self.number):
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
        if self.waiting:
            return 0
        return min(ends[buffer.place].asked_ms for buffer in self.buffers.values()) - self._grace_ms
