"""Taking changed segment definitions into one partition, step by step between batches of live events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import structlog

from conditions.definition_history import Definition, DefinitionHistory
from conditions.events import Event
from conditions.segments import SegmentCompiler
from conditions.times import format_time
from state.engine import BatchResult
from state.live_engine import LiveEngine
from state.redefinition import Redefinition
from streams.backfill import BackfillReader
from streams.kafka.security import Connection
from streams.pace import Pace

log = structlog.get_logger(__name__)

SCANNED_CUSTOMERS = 1_000
SCANNED_QUESTIONS = 20_000  # one is one customer and one changed segment
READ_AHEAD_BATCHES = 2
AGAIN_S = 1.0
LONGEST_PAUSE_S = 30.0
SHOWN_SEGMENTS = 20


class WantedDefinitions(Protocol):
    """What the definitions topic says, as far as it was read."""

    @property
    def history(self) -> DefinitionHistory: ...


class Standing(msgspec.Struct):
    """How far one partition has come with one segment's newest definition."""

    stage: Literal["waiting", "backfill", "scan", "active"]
    progress: float  # of the stage, 0 to 1
    history_from_ms: int | None  # nothing from before counts, though the segment asks for it: the topics have lost it


STAGE_SHARES = {"waiting": (0.0, 0.0), "backfill": (0.0, 0.5), "scan": (0.5, 0.5), "active": (1.0, 0.0)}


def standing_value(standing: Standing) -> dict[str, Any]:
    """The standing as workers tell it, each other too."""
    history_from = None if standing.history_from_ms is None else format_time(standing.history_from_ms)
    return {"stage": standing.stage, "progress": round(standing.progress, 3), "history_from": history_from}


def whole_standing(partitions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far a segment's newest definition has come in all of these partitions, of `standing_value`."""
    shares = [(*STAGE_SHARES[each["stage"]], each["progress"]) for each in partitions]
    progress = sum(start + share * done for start, share, done in shares)
    begins = [each["history_from"] for each in partitions if each["history_from"] is not None]
    return {
        "status": "active" if all(each["stage"] == "active" for each in partitions) else "preparing",
        "progress": round(progress / len(partitions), 3) if partitions else 1.0,
        "history_from": max(begins, default=None),
    }


class Background(NamedTuple):
    """What all partitions of a worker use, and where the topics of one begin."""

    connection: Connection
    pace: Pace
    compiler: SegmentCompiler
    begins_ms: int | None = None  # where a new partition's topics begin, if they have lost their beginning


class Redefining:
    """One partition's way to the definitions that are wanted. `step` is called between batches."""

    def __init__(self, number: int, engine: LiveEngine, background: Background) -> None:
        self._number = number
        self._engine = engine
        self._connection, self._pace = background.connection, background.pace
        self._reading: asyncio.Task[None] | None = None
        self._reader: BackfillReader | None = None
        self._batches: asyncio.Queue[list[Event] | None] = asyncio.Queue(READ_AHEAD_BATCHES)
        self._unfolded: list[Event] = []  # of the batch whose turn it is
        self._is_read_back = False
        self._compared = False  # whether every segment has been compared with the history, once
        self._noted = 0  # the redefinition that was begun or resumed here

    def step(self, wanted: WantedDefinitions, ends: Mapping[str, int], now_ms: int) -> BatchResult | None:
        """The next thing to decide, or None where there is none just now. `ends` are the next offsets of the topics."""
        engine = self._engine
        redefinition = engine.redefinition
        if redefinition is None:
            return self._begin(wanted, ends)
        if redefinition.number != self._noted:
            self._noted = redefinition.number
            log.info("definitions_resumed", partition=self._number, stage=redefinition.stage)
        if not self._pace.is_due():
            return None
        if redefinition.stage == "backfill":
            return self._read_back(redefinition)
        with self._pace.piece():
            return engine.scan(now_ms, SCANNED_CUSTOMERS, SCANNED_QUESTIONS)

    def reset(self) -> None:
        """Begin anew with what the engine has taken from its store."""
        self._compared, self._noted = False, 0
        self.stop()

    def stop(self) -> None:
        """Read back no more; whoever goes on begins from the start of what the topics retain."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = self._reader = None
        self._is_read_back = False
        self._unfolded = []
        self._batches = asyncio.Queue(READ_AHEAD_BATCHES)

    def is_behind(self, wanted: WantedDefinitions) -> bool:
        """Whether what is wanted is not in force yet, for every customer."""
        return self._engine.redefinition is not None or wanted.history.position > self._engine.marker.definitions

    def standing(self, definition: Definition) -> Standing:
        """How far the partition has come with this definition of a segment."""
        engine = self._engine
        redefinition = engine.redefinition
        history_from_ms = engine.history_from_ms(definition.id)
        if redefinition is None or all(each.id != definition.id for each in redefinition.changed):
            is_there = engine.marker.definitions > definition.offset
            return Standing("active" if is_there else "waiting", float(is_there), history_from_ms)
        if redefinition.position <= definition.offset:
            return Standing("waiting", 0.0, history_from_ms)
        if redefinition.stage == "scan":
            return Standing(
                "scan", redefinition.scanned / max(engine.marker.customers, redefinition.scanned, 1), history_from_ms
            )
        return Standing("backfill", 0.0 if self._reader is None else self._reader.progress, history_from_ms)

    def _begin(self, wanted: WantedDefinitions, ends: Mapping[str, int]) -> BatchResult | None:
        engine = self._engine
        history = wanted.history
        position = history.position
        if position <= engine.marker.definitions or not engine.can_begin():
            return None
        changed = engine.differences(self._candidates(history), history.document, lambda gone: _version(history, gone))
        self._compared = True
        if not changed:
            engine.marker.definitions = position
            return None
        self._noted = position
        log.info("definitions_change", partition=self._number, segments=len(changed), position=position)
        try:
            return engine.begin_redefinition(position, changed, ends)
        except Exception as error:
            error.add_note(f"taking changed definitions of {', '.join(each.id for each in changed[:SHOWN_SEGMENTS])}")
            raise

    def _candidates(self, history: DefinitionHistory) -> Iterable[str]:
        """The segments that may differ from what is wanted."""
        if self._compared:
            return history.changed_since(self._engine.marker.definitions)
        # Of a segment that was deleted while nobody had the partition, the topic may tell nothing any more.
        return {each.id for each in history.definitions()} | self._engine.definitions.segments.keys()

    def _read_back(self, redefinition: Redefinition) -> BatchResult | None:
        if self._reading is None:
            self._reader = BackfillReader(
                self._number,
                redefinition.ends,
                self._engine.backfilled_types,
                redefinition.began_ms,
                self._connection,
                self._pace,
            )
            self._reading = asyncio.create_task(self._fill(self._reader))
        if self._is_read_back:
            return self._finish()
        if not self._unfolded:
            if self._batches.empty():
                return None
            events = self._batches.get_nowait()
            if events is None:
                self._is_read_back = True
                return self._finish()
            self._unfolded = events
        with self._pace.piece():
            result = self._engine.backfill(self._unfolded)
        del self._unfolded[: result.consumed]
        return result

    def _finish(self) -> BatchResult | None:
        """Let the new segments come into force, once nothing is overdue that the old ones owe."""
        if self._engine.is_owing:
            return None
        assert self._reader is not None, "what ended had begun"
        history_from_ms = self._reader.history_from_ms
        log.info("backfill_read", partition=self._number, history_from_ms=history_from_ms)
        self.stop()
        return self._engine.finish_backfill(history_from_ms)

    async def _fill(self, reader: BackfillReader) -> None:
        """Read ahead; after trouble all over again, as folding an event twice changes nothing."""
        again_s = AGAIN_S
        while True:
            try:
                async for batch in reader.batches():
                    await self._batches.put(batch)
                await self._batches.put(None)
                return
            except Exception as error:  # noqa: BLE001 - whatever Kafka does meanwhile, reading back begins again
                log.warning("backfill_again", partition=self._number, error=repr(error), again_in_s=again_s)
                await asyncio.sleep(again_s)
                again_s = min(2 * again_s, LONGEST_PAUSE_S)


def _version(history: DefinitionHistory, segment_id: str) -> int | None:
    """The version under which the segment was deleted; what a tombstone deleted may not be known any more."""
    definition = history.definition(segment_id)
    return None if definition is None else definition.version
