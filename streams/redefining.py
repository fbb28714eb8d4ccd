"""Taking changed segment definitions into one partition, step by step between batches of live events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from conditions.definition_history import DefinitionHistory
from state.engine import BatchResult
from state.live_engine import LiveEngine
from streams.backfill import BackfillReader, OldEvents
from streams.kafka.security import Connection

log = structlog.get_logger(__name__)

SCANNED_CUSTOMERS = 1_000
READ_AHEAD_BATCHES = 2
AGAIN_S = 1.0


class WantedDefinitions(Protocol):
    """What the definitions topic says, as far as it was read."""

    @property
    def history(self) -> DefinitionHistory: ...


class Redefining:
    """One partition's way to the definitions that are wanted. `step` is called between batches.

    Reading back takes at most `share` of the time: after a batch of one second it waits (1 - share) / share of one.
    """

    def __init__(self, number: int, engine: LiveEngine, connection: Connection, share: float) -> None:
        self._number = number
        self._engine = engine
        self._connection = connection
        self._share = share
        self._reading: asyncio.Task[None] | None = None
        self._reader: BackfillReader | None = None
        self._batches: asyncio.Queue[OldEvents | None] = asyncio.Queue(READ_AHEAD_BATCHES)
        self._not_before = 0.0
        self.folded = 0  # events read back so far

    def step(self, wanted: WantedDefinitions, ends: Mapping[str, int], now_ms: int) -> BatchResult | None:
        """The next thing to decide, or None where there is none just now. `ends` are the next offsets of the topics."""
        engine = self._engine
        redefinition = engine.redefinition
        if redefinition is None:
            return self._begin(wanted, ends)
        if redefinition.stage == "scan":
            return engine.scan(now_ms, SCANNED_CUSTOMERS)
        return self._read_back(redefinition.ends)

    def stop(self) -> None:
        """Read back no more; whoever goes on begins from the start of what the topics retain."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        self._batches = asyncio.Queue(READ_AHEAD_BATCHES)
        self.folded = 0

    @property
    def status(self) -> dict[str, Any]:
        """Where the partition is: which position of the topic is in force, and how far the next one has come."""
        redefinition = self._engine.redefinition
        status: dict[str, Any] = {"definitions": self._engine.marker.definitions}
        if redefinition is not None:
            status |= {"preparing": [each.id for each in redefinition.changed], "stage": redefinition.stage}
            total = sum(redefinition.ends.values())
            status |= {"scanned": redefinition.scanned, "read_back": self.folded, "to_read_back": total}
        return status

    def _begin(self, wanted: WantedDefinitions, ends: Mapping[str, int]) -> BatchResult | None:
        engine = self._engine
        history = wanted.history
        position = history.position
        if position <= engine.marker.definitions or not engine.can_begin():
            return None
        changed = engine.differences(history.snapshot().documents, lambda gone: _version(history, gone))
        if not changed:
            engine.marker.definitions = position
            return None
        log.info("definitions_change", partition=self._number, segments=len(changed), position=position)
        return engine.begin_redefinition(position, changed, ends)

    def _read_back(self, ends: Mapping[str, int]) -> BatchResult | None:
        if self._reading is None:
            self._reader = BackfillReader(self._number, ends, self._connection)
            self._reading = asyncio.create_task(self._fill(self._reader))
        if self._batches.empty() or time.monotonic() < self._not_before:
            return None
        batch = self._batches.get_nowait()
        if batch is None:
            assert self._reader is not None, "what ended had begun"
            history_from_ms = self._reader.history_from_ms
            self.stop()
            return self._engine.finish_backfill(history_from_ms)
        began = time.monotonic()
        result = self._engine.backfill(batch.events, batch.read)
        self.folded += len(batch.events)
        took_s = time.monotonic() - began
        self._not_before = time.monotonic() + took_s * (1 - self._share) / self._share
        return result

    async def _fill(self, reader: BackfillReader) -> None:
        """Read ahead; after trouble all over again, as folding an event twice changes nothing."""
        while True:
            try:
                async for batch in reader.batches():
                    await self._batches.put(batch)
                await self._batches.put(None)
                return
            except Exception as error:  # noqa: BLE001 - whatever Kafka does meanwhile, reading back begins again
                log.warning("backfill_again", partition=self._number, error=repr(error), again_in_s=AGAIN_S)
                await asyncio.sleep(AGAIN_S)


def _version(history: DefinitionHistory, segment_id: str) -> int:
    """The version under which the segment was deleted; what a tombstone deleted is not known any more."""
    definition = history.definition(segment_id)
    return 1 if definition is None else definition.version
