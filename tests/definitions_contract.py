"""What every log of definitions must do for those who follow and change them, written once.

A test module subclasses `DefinitionsContract` and gives the fixture `stage`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

import pytest

from conditions.definition_history import Applied, DefinitionRecord
from conditions.definition_plans import DefinitionConflict, DuplicateName, Outcome, StaleVersion, UnknownSegment
from conditions.documents import SegmentDocument, parse_segment
from streams.definitions import DefinitionsFollower, DefinitionsWriter, apply_start_file
from streams.definitions_log import DefinitionsLog, MemoryDefinitionsLog, TurnLost
from streams.kafka.errors import RestoreStuck

PATIENCE_S = 20.0


class Stage(Protocol):
    """An empty log, and what somebody can do to it who does not know the rules."""

    def log(self, app_id: str = "rollcall") -> DefinitionsLog: ...

    async def write(self, records: Sequence[tuple[bytes, bytes | None]]) -> None: ...


class MemoryStage:
    def __init__(self) -> None:
        self.shared = MemoryDefinitionsLog()

    def log(self, app_id: str = "rollcall") -> DefinitionsLog:
        return self.shared

    async def write(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        await self.shared.write(records)


def document(segment_id: str, name: str = "", **fields: Any) -> SegmentDocument:
    value = {"id": segment_id, "name": name or segment_id.upper(), "conditions": [{"kind": "app_screen"}], **fields}
    return parse_segment(value)


def by_hand(document: SegmentDocument) -> tuple[bytes, bytes | None]:
    return document.id.encode(), DefinitionRecord(document.id, document.version, document).encode()


def actions(outcomes: Sequence[Outcome]) -> list[tuple[str, str, int]]:
    return [(each.id, each.action, each.version) for each in outcomes]


def versions(follower: DefinitionsFollower) -> dict[str, int]:
    return {each.id: each.version for each in follower.snapshot().documents.values()}


class Started(AsyncExitStack):
    """Followers and writers that end with the block."""

    async def follower(self, stage: Stage, seen: list[Applied] | None = None) -> DefinitionsFollower:
        follower = DefinitionsFollower(stage.log(), None if seen is None else seen.append)
        await follower.start()
        self.push_async_callback(follower.stop)
        return follower

    async def writer(self, stage: Stage, app_id: str = "rollcall") -> DefinitionsWriter:
        log = stage.log(app_id)
        follower = DefinitionsFollower(log)
        await follower.start()
        self.push_async_callback(follower.stop)
        return DefinitionsWriter(log, follower)


class DefinitionsContract:
    """Subclasses define the fixture `stage`."""

    async def test_a_follower_sees_what_was_there_and_what_comes(self, stage: Stage) -> None:
        await stage.write([by_hand(document("a")), by_hand(document("b"))])
        async with Started() as started:
            seen: list[Applied] = []
            follower = await started.follower(stage, seen)
            assert versions(follower) == {"a": 1, "b": 1}
            writer = await started.writer(stage)
            assert actions(await writer.apply([document("a", "New")])) == [("a", "changed", 2)]
            assert (await writer.delete("b")).action == "deleted"
            await follower.wait_for(writer.follower.position, PATIENCE_S)
            assert versions(follower) == {"a": 2}
            assert [(each.id, each.change.kind) for each in seen] == [("a", "changed"), ("b", "deleted")]
            assert follower.history.position <= follower.position

    async def test_who_starts_later_comes_to_the_same(self, stage: Stage) -> None:
        async with Started() as started:
            writer = await started.writer(stage)
            for number in range(3):
                await writer.apply([document("a", f"A{number}"), document(f"b{number}")])
            await writer.delete("b1")
            later = await started.follower(stage)
            assert later.snapshot() == writer.follower.snapshot()
            assert versions(later) == {"a": 3, "b0": 1, "b2": 1}

    async def test_nothing_is_written_for_what_is_so_already(self, stage: Stage) -> None:
        async with Started() as started:
            writer = await started.writer(stage)
            assert actions(await writer.apply([document("a")], dry_run=True)) == [("a", "new", 1)]
            assert not len(writer.follower.history)
            await writer.apply([document("a", version=4)])
            position = writer.follower.position
            assert actions(await writer.apply([document("a", version=1)])) == [("a", "unchanged", 4)]
            assert writer.follower.position == position

    async def test_refusals_change_nothing(self, stage: Stage) -> None:
        async with Started() as started:
            writer = await started.writer(stage)
            await writer.apply([document("a", "Taken")])
            with pytest.raises(DuplicateName):
                await writer.apply([document("c"), document("b", "Taken")])
            with pytest.raises(StaleVersion):
                await writer.apply([document("a", "New")], 2)
            with pytest.raises(UnknownSegment):
                await writer.delete("b")
            assert versions(writer.follower) == {"a": 1}

    async def test_of_two_writers_who_expect_the_same_version_one_wins(self, stage: Stage) -> None:
        async with Started() as started:
            one, other = await started.writer(stage), await started.writer(stage)
            await one.apply([document("a")])
            results = await asyncio.gather(
                one.apply([document("a", "One's")], 1),
                other.apply([document("a", "Other's")], 1),
                return_exceptions=True,
            )
            [won] = [each for each in results if isinstance(each, list)]
            [lost] = [each for each in results if not isinstance(each, list)]
            assert actions(won) == [("a", "changed", 2)]
            assert isinstance(lost, StaleVersion | DefinitionConflict)
            assert versions(await started.follower(stage)) == {"a": 2}

    async def test_writers_of_different_segments_both_win(self, stage: Stage) -> None:
        async with Started() as started:
            writers = [await started.writer(stage) for _ in range(3)]
            await asyncio.gather(*(writer.apply([document(f"s{at}")]) for at, writer in enumerate(writers)))
            assert versions(await started.follower(stage)) == {"s0": 1, "s1": 1, "s2": 1}

    async def test_a_writer_that_slept_through_its_turn_writes_nothing(self, stage: Stage) -> None:
        log = stage.log()
        async with log.turn() as slept:
            async with stage.log().turn() as awake:
                await awake.append([(b"a", by_hand(document("a", "Awake"))[1])])
            with pytest.raises(TurnLost):
                await slept.append([(b"a", by_hand(document("a", "Asleep"))[1])])
        async with Started() as started:
            follower = await started.follower(stage)
            assert not follower.invalid_records
            assert follower.history.holder_of("Awake") == "a"

    async def test_what_somebody_wrote_by_hand_is_reported_and_mended_with_the_next_change(self, stage: Stage) -> None:
        async with Started() as started:
            writer = await started.writer(stage)
            await writer.apply([document("a"), document("b")])
            await stage.write([(b"a", b"no JSON"), by_hand(document("b", "Late")), (b"c", b"{}")])
            await writer.follower.catch_up()
            assert (versions(writer.follower), writer.follower.invalid_records) == ({"a": 1, "b": 1}, 3)
            assert actions(await writer.apply([document("d")])) == [("d", "new", 1)]
            await writer.follower.catch_up()
            assert versions(writer.follower) == {"a": 2, "b": 2, "d": 1}
            assert not writer.follower.history.unsettled

    async def test_the_start_file_counts_only_where_nothing_ever_was(self, stage: Stage) -> None:
        async with Started() as started:
            one, other = await started.writer(stage), await started.writer(stage)
            documents = [document("a", version=3), document("b")]
            await asyncio.gather(*(apply_start_file(writer, documents) for writer in (one, other)))
            await one.follower.catch_up()
            assert versions(one.follower) == {"a": 3, "b": 1}
            assert await apply_start_file(one, [document("c")]) == []
            await one.delete("a")
            await one.delete("b")
            assert await apply_start_file(other, documents) == []

    async def test_waiting_for_what_never_comes_ends(self, stage: Stage) -> None:
        async with Started() as started:
            follower = await started.follower(stage)
            with pytest.raises(RestoreStuck):
                await follower.wait_for(1_000_000, 0.01)

    async def test_a_follower_ends_with_what_its_callback_raises(self, stage: Stage) -> None:
        async def refuse() -> None:
            def raise_error(applied: Applied) -> None:
                raise LookupError(applied.id)

            follower = DefinitionsFollower(stage.log(), raise_error)
            await follower.start()
            try:
                await stage.write([by_hand(document("a"))])
                await follower.ended()
            finally:
                await follower.stop()

        with pytest.raises(LookupError, match="a"):
            await asyncio.wait_for(refuse(), PATIENCE_S)
