"""Open partitions without Kafka: engines over a store in memory, and what a worker knows of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from conditions.changes import Change
from conditions.documents import SegmentDocument
from conditions.segments import SegmentCompiler
from connectors.json_events import decode_lines
from state.engine import BatchResult
from state.live_engine import LiveEngine
from state.memory_store import MemoryStore
from streams.answers import PartitionAnswers
from streams.changes_reader import Take


class MemoryChanges:
    """A changes topic's partition, read back as from Kafka."""

    def __init__(self, changes: list[Change], slice_changes: int = 3) -> None:
        self._changes = changes
        self._slice = slice_changes

    async def read_backwards(self, since_ms: int, take: Take) -> None:
        log = list(self._changes)
        while log and take(log[-self._slice :]):
            del log[-self._slice :]


class OwnedPartition:
    """One partition: events in, committed at once, and what can be asked of it."""

    def __init__(self, number: int = 0) -> None:
        self.store = MemoryStore()
        self.engine = LiveEngine(self.store, SegmentCompiler())
        self.changes: list[Change] = []
        self.answers = PartitionAnswers(number, self.engine, lambda: MemoryChanges(self.changes))
        self._line = 0
        self._position = 0

    def define(self, *documents: SegmentDocument) -> None:
        """Bring these segments into force, and no others, for every customer."""
        self._position += 1
        wanted = {each.id: each for each in documents}
        ids = wanted.keys() | self.engine.definitions.segments.keys()
        changed = self.engine.differences(ids, wanted.get, lambda _: 1)
        self.commit(self.engine.begin_redefinition(self._position, changed, {}))
        while self.engine.redefinition is not None:
            if self.engine.redefinition.stage == "backfill":
                self.commit(self.engine.finish_backfill(None))
            else:
                self.commit(self.engine.scan(0, 2, 100))

    def apply(self, lines: Sequence[bytes], now_ms: int = 0) -> None:
        events = decode_lines(lines, range(self._line, self._line + len(lines)))
        self._line += len(lines)
        self.commit(self.engine.run(events, now_ms))

    def commit(self, result: BatchResult) -> None:
        self.engine.commit()
        self.answers.committed(result)
        self.changes += result.changes


class Owned:
    """What a worker with these partitions knows: a double of `streams.worker.Worker` as the web server sees it."""

    def __init__(
        self,
        *partitions: OwnedPartition,
        assigned: frozenset[int] | None = None,
        owners: Mapping[int, str] | None = None,
    ) -> None:
        self.answers = {each.answers.number: each.answers for each in partitions}
        self.assigned_partitions: frozenset[int] | None = assigned or frozenset(self.answers)
        self.owners = dict.fromkeys(self.answers, "http://here.example") if owners is None else owners


class AnsweringWorker(Owned):
    """A double of `streams.worker.Worker` as all of the web server sees it."""

    ready = True
    stuck_s = 0.0

    def observe(self) -> None:
        pass
