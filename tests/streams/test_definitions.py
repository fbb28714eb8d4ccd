"""Following and changing definitions over the log in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from conditions.definition_plans import DefinitionConflict
from streams.definitions import DefinitionsFollower, DefinitionsWriter
from streams.definitions_log import LogReader, LogRecord, MemoryDefinitionsLog, WritingTurn
from streams.kafka.errors import Unreachable
from tests.definitions_contract import DefinitionsContract, MemoryStage, Stage, Started, by_hand, document, versions

PATIENCE_S = 60.0


class TestInMemory(DefinitionsContract):
    @pytest.fixture
    def stage(self) -> Stage:
        return MemoryStage()


async def test_a_compacted_log_reads_as_before() -> None:
    stage = MemoryStage()
    async with Started() as started:
        writer = await started.writer(stage)
        for number in range(4):
            await writer.apply([document("a", f"A{number}"), document("b", f"B{number}")])
        await writer.delete("b")
        stage.shared.compact()
        assert len(stage.shared.records) == 2
        later = await started.follower(stage)
        assert later.snapshot() == writer.follower.snapshot()
        assert later.history.next_version("b") == 6


class FailingLog(MemoryDefinitionsLog):
    """A log that cannot be reached for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.refused = asyncio.Event()  # a reader

    @asynccontextmanager
    async def reader(self, position: int) -> AsyncIterator[LogReader]:
        if self.is_down:
            self.refused.set()
            raise Unreachable("nowhere:9092", "reading")
        async with super().reader(position) as reader:
            yield _FailingReader(self, reader)


class _FailingReader:
    def __init__(self, log: FailingLog, reader: LogReader) -> None:
        self.position = reader.position
        self._log = log
        self._reader = reader

    async def read(self) -> list[LogRecord]:
        found = await self._reader.read()
        if self._log.is_down:
            raise Unreachable("nowhere:9092", "reading")
        self.position = self._reader.position
        return found

    async def end(self) -> int:
        return await self._reader.end()


async def test_a_follower_waits_until_the_log_is_back_and_misses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    log = FailingLog()
    follower = DefinitionsFollower(log)
    await follower.start()
    log.is_down = True
    await log.write([by_hand(document("a")), by_hand(document("b"))])
    await asyncio.wait_for(log.refused.wait(), PATIENCE_S)
    with pytest.raises(Unreachable):
        await follower.catch_up()
    assert "definitions_unreachable" in capsys.readouterr().out
    log.is_down = False
    await follower.wait_for(2, PATIENCE_S)
    assert versions(follower) == {"a": 1, "b": 1}
    await follower.stop()


async def test_a_start_that_fails_can_be_repeated() -> None:
    log = FailingLog()
    await log.write([by_hand(document("a"))])
    log.is_down = True
    follower = DefinitionsFollower(log)
    with pytest.raises(Unreachable):
        await follower.start()
    log.is_down = False
    await follower.start()
    assert versions(follower) == {"a": 1}
    await follower.stop()


class IntrudedLog(MemoryDefinitionsLog):
    """Somebody who knows of no turns writes just before whoever has one."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[WritingTurn]:
        async with super().turn() as turn:
            yield _IntrudedTurn(self, turn)


class _IntrudedTurn:
    def __init__(self, log: MemoryDefinitionsLog, turn: WritingTurn) -> None:
        self._log = log
        self._turn = turn

    async def append(self, records: Sequence[tuple[bytes, bytes | None]]) -> list[int]:
        await self._log.write([by_hand(document("a", "Intruder"))])
        return await self._turn.append(records)


async def test_a_record_that_lost_is_a_conflict() -> None:
    log = IntrudedLog()
    follower = DefinitionsFollower(log)
    await follower.start()
    with pytest.raises(DefinitionConflict, match="just changed a"):
        await DefinitionsWriter(log, follower).apply([document("a", "Mine"), document("b")])
    assert versions(follower) == {"a": 1, "b": 1}
    assert follower.history.holder_of("Intruder") == "a"
    await follower.stop()
