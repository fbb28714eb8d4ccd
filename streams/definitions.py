"""Segment definitions that live on a topic: following them, and changing them.

What a record does is `conditions/definition_history.py`; what has to be written is `conditions/definition_plans.py`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress

import structlog

from conditions.definition_history import Applied, DefinitionHistory, DefinitionRecord, DefinitionsSnapshot, Ignored
from conditions.definition_plans import (
    DefinitionConflict,
    DefinitionRefused,
    Outcome,
    Plan,
    plan_deletion,
    plan_documents,
    plan_mending,
)
from conditions.documents import SegmentDocument
from conditions.unforeseen import noted
from streams.definitions_log import DefinitionsLog, LogReader, LogRecord, TurnLost
from streams.kafka.errors import RestoreStuck, StreamsError
from streams.trouble import Trouble

log = structlog.get_logger(__name__)

PATIENCE_S = 30.0
"""How long to wait for records that are in the log: an open transaction of somebody else may stand before them."""
TURNS = 20
LONGEST_TURN_PAUSE_S = 0.3

OnChange = Callable[[Applied], None]
OnIgnored = Callable[[Ignored], None]


def log_ignored(ignored: Ignored) -> None:
    """Tell of a record that somebody ought to look at."""
    errors = [str(each) for each in ignored.errors]
    more = {"exception": ignored.trace} if ignored.trace else {}
    log.warning(
        "definition_ignored",
        segment=ignored.key,
        offset=ignored.offset,
        reason=ignored.reason,
        errors=errors,
        **more,
    )


class DefinitionsFollower:
    """Reads the whole log of definitions, and then each record soon after it was written.

    The history belongs to the event loop that `start` runs in: look at it there, between two awaits. `on_change` is
    called for each record that counts and comes after `start` has read to the end, `on_ignored` for each that is
    ignored and no mere repetition; whatever they raise ends the follower, see `ended`.
    """

    def __init__(
        self,
        definitions_log: DefinitionsLog,
        on_change: OnChange | None = None,
        on_ignored: OnIgnored = log_ignored,
    ) -> None:
        self.history = DefinitionHistory()
        self.position = 0
        """All records below it are applied. At least `history.position`, which is behind the last record."""
        self._log = definitions_log
        self._on_change = on_change
        self._on_ignored = on_ignored
        self._moved = asyncio.Condition()
        self._reader: LogReader | None = None
        self._opened = AsyncExitStack()  # closes the reader
        self._following: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read all that is there by now, then go on in the background. May be called again after it has raised.

        Raises StreamsError where the log cannot be reached.
        """
        try:
            reader = await self._opened.enter_async_context(self._log.reader(self.position))
            await self._read_to(reader, await reader.end())
        except BaseException:
            await self._opened.aclose()
            raise
        self._reader = reader
        self._following = asyncio.create_task(self._follow(reader), name="definitions-follower")

    async def stop(self) -> None:
        """End following. What has been read stays. May be called twice."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        self._reader = None
        await self._opened.aclose()

    async def ended(self) -> None:
        """Wait until following ends by itself, which no trouble with Kafka makes it do. Raises what ended it."""
        assert self._following is not None, "the follower runs only between start and stop"
        await asyncio.shield(self._following)

    # -- what is known ------------------------------------------------------------------------------------------------

    @property
    def invalid_records(self) -> int:
        """How many records were ignored as invalid or stale, or for their name, since the start."""
        return sum(count for reason, count in self.history.ignored.items() if reason != "repeated")

    def snapshot(self) -> DefinitionsSnapshot:
        return self.history.snapshot()

    async def wait_for(self, position: int, timeout_s: float = PATIENCE_S) -> None:
        """Return once all records below the position are applied. Raises RestoreStuck after the time."""
        try:
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(lambda: self.position >= position)
        except TimeoutError:
            raise RestoreStuck("the definitions topic", 0, self.position, position, round(timeout_s * 1000)) from None

    async def catch_up(self, timeout_s: float = PATIENCE_S) -> None:
        """Return once all that is in the log by now is applied. Raises StreamsError."""
        reader = self._reader
        if reader is not None:
            await self.wait_for(await reader.end(), timeout_s)
            return
        async with self._log.reader(self.position) as other:  # while the follower's own one is in trouble
            end = await other.end()
        await self.wait_for(end, timeout_s)

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _read_to(self, reader: LogReader, end: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while reader.position < end:
            records = await reader.read()
            if records:
                deadline = time.monotonic() + PATIENCE_S
            elif reader.position < end and time.monotonic() > deadline:
                raise RestoreStuck("the definitions topic", 0, reader.position, end, round(PATIENCE_S * 1000))
            await self._apply(records, reader.position, None)

    async def _follow(self, reader: LogReader) -> None:
        trouble = Trouble("definitions_unreachable", "definitions_reachable")
        while True:
            try:
                self._reader = reader
                while True:
                    await self._apply(await reader.read(), reader.position, self._on_change)
                    trouble.over()
            except StreamsError as error:
                trouble.note(error)
            finally:
                self._reader = None
                await self._opened.aclose()
            reader = await self._reopened(trouble)

    async def _reopened(self, trouble: Trouble) -> LogReader:
        while True:
            await asyncio.sleep(trouble.pause_s)
            try:
                return await self._opened.enter_async_context(self._log.reader(self.position))
            except StreamsError as error:
                trouble.note(error)

    async def _apply(self, records: Sequence[LogRecord], position: int, on_change: OnChange | None) -> None:
        for record in records:
            self._apply_one(record, on_change)
        if position > self.position:
            async with self._moved:
                self.position = position
                self._moved.notify_all()

    def _apply_one(self, record: LogRecord, on_change: OnChange | None) -> None:
        with noted(lambda: f"at offset {record.offset} of the definitions topic, key {record.key!a}"):
            found = self.history.apply(record.key, record.value, record.offset, record.timestamp_ms)
            if isinstance(found, Applied) and on_change is not None:
                on_change(found)
            elif isinstance(found, Ignored) and found.reason != "repeated":
                self._on_ignored(found)


class DefinitionsWriter:
    """Changes definitions, each call as a whole: all of its records are written, or none.

    `follower` runs, and follows the same log. What raises DefinitionRefused has changed nothing, but for
    DefinitionConflict of several segments, where some may have been written.
    """

    def __init__(self, definitions_log: DefinitionsLog, follower: DefinitionsFollower) -> None:
        self.follower = follower
        self._log = definitions_log
        self._lock = asyncio.Lock()

    async def apply(
        self, documents: Sequence[SegmentDocument], expect_version: int | None = None, *, dry_run: bool = False
    ) -> list[Outcome]:
        """Bring the documents into force; what is said of each, in their order. See `plan_documents`.

        With `expect_version` the version in force must be this one; 0: the segment must not be there. Raises
        DefinitionRefused, DefinitionConflict where another writer has come in between, and StreamsError.
        """
        return await self._change(lambda: plan_documents(self._history, documents, expect_version), dry_run)

    async def delete(self, segment_id: str, expect_version: int | None = None, *, dry_run: bool = False) -> Outcome:
        """Delete the segment; its versions count on if it comes back. Raises as `apply` does, and UnknownSegment."""
        [outcome] = await self._change(lambda: plan_deletion(self._history, segment_id, expect_version), dry_run)
        return outcome

    async def apply_to_empty(self, documents: Sequence[SegmentDocument]) -> list[Outcome]:
        """Bring the documents into force if no segment was ever defined; else do nothing, and say nothing."""
        nothing = Plan([], [], {})
        try:
            return await self._change(
                lambda: plan_documents(self._history, documents) if self._history.is_empty else nothing, False
            )
        except DefinitionConflict:
            return []  # it is not empty any more

    @property
    def _history(self) -> DefinitionHistory:
        return self.follower.history

    async def _change(self, make_plan: Callable[[], Plan], dry_run: bool) -> list[Outcome]:
        async with self._lock:
            await self.follower.catch_up()
            first = make_plan()
            if dry_run or not first.records:
                return first.outcomes
            for _ in range(TURNS):
                with suppress(TurnLost):
                    return await self._turn(make_plan, first)
                # Two who begin at the same moment end each other's turn: let one of them be first.
                await asyncio.sleep(random.uniform(0, LONGEST_TURN_PAUSE_S))  # noqa: S311 - spreads writers, guards nothing
        raise DefinitionConflict(first.bases)

    async def _turn(self, make_plan: Callable[[], Plan], first: Plan) -> list[Outcome]:
        async with self._log.turn() as turn:
            # 1. Nobody else writes now, so what is read is what the records will follow.
            await self.follower.catch_up()
            plan = make_plan()
            if not plan.records:
                return plan.outcomes
            if not plan.as_before(first):
                raise DefinitionConflict([each for each, base in plan.bases.items() if first.bases.get(each) != base])
            # 2. All or nothing, and with it what somebody who wrote by hand has left to mend.
            records = [*plan.records, *plan_mending(self._history, plan.records)]
            offsets = await turn.append([(record.id.encode(), record.encode()) for record in records])
        # 3. It counts once it is read; somebody who knows of no turns may have written the same version before.
        await self.follower.wait_for(offsets[-1] + 1)
        lost = [
            each.id
            for each, offset in zip(plan.records, offsets, strict=False)
            if not _counts(self._history, each, offset)
        ]
        if lost:
            raise DefinitionConflict(lost)
        return plan.outcomes


def _counts(history: DefinitionHistory, record: DefinitionRecord, offset: int) -> bool:
    known = history.definition(record.id)
    if known is None:
        return False
    is_in_force = (known.version, known.document) == (record.version, record.document)
    return is_in_force or any(change.offset == offset for change in known.changes)


async def apply_start_file(writer: DefinitionsWriter, documents: Sequence[SegmentDocument]) -> list[Outcome]:
    """Bring the documents of the start file into force, if no segment was ever defined on the topic.

    What was done; nothing where there are definitions, also where all of them have been deleted since. Any number of
    workers may call it at once.
    """
    outcomes = await writer.apply_to_empty(documents)
    if outcomes:
        log.info("start_file_applied", segments=len(outcomes))
    return outcomes


__all__ = [
    "DefinitionConflict",
    "DefinitionRefused",
    "DefinitionsFollower",
    "DefinitionsWriter",
    "apply_start_file",
]
