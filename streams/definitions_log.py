"""The log that segment definitions live on: what its readers and writers may rely on, and a copy of it in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple, Protocol

from streams.kafka.errors import StreamsError
from streams.wall_time import wall_time_ms


class LogRecord(NamedTuple):
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None  # None: a tombstone


class TurnLost(StreamsError):
    """Another writer has begun a turn since; nothing was written."""


class LogReader(Protocol):
    position: int
    """The next offset to read. It may pass over offsets without records."""

    async def read(self) -> list[LogRecord]:
        """The next records in the order of the log; waits a moment if there are none, and may then return none."""

    async def end(self) -> int:
        """The position at which all is read that has been written by now."""


class WritingTurn(Protocol):
    async def append(self, records: Sequence[tuple[bytes, bytes | None]]) -> list[int]:
        """Write all of them or none, once in a turn; their offsets. Raises TurnLost, and other StreamsErrors."""


class DefinitionsLog(Protocol):
    """Raises StreamsError, from whichever method, where the log cannot be reached."""

    def reader(self, position: int) -> AbstractAsyncContextManager[LogReader]:
        """Reads on from the position."""

    def turn(self) -> AbstractAsyncContextManager[WritingTurn]:
        """A turn to write, which ends that of any other writer: what it would still write is refused.

        A reader that asks for the end within a turn is told of all that earlier turns have written.
        """


class MemoryDefinitionsLog:
    """A log in this process: for trying things out, and for tests. Whoever shares the object shares the log."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.end = 0
        self._turns = 0
        self._grown = asyncio.Condition()

    @asynccontextmanager
    async def reader(self, position: int) -> AsyncIterator[LogReader]:
        yield _MemoryReader(self, position)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[WritingTurn]:
        self._turns += 1
        yield _MemoryTurn(self, self._turns)

    async def write(self, records: Sequence[tuple[bytes | None, bytes | None]]) -> list[int]:
        """Append as somebody does who knows of no turns."""
        async with self._grown:
            offsets = list(range(self.end, self.end + len(records)))
            at_ms = wall_time_ms()
            self.records += [LogRecord(offset, at_ms, *each) for offset, each in zip(offsets, records, strict=True)]
            self.end += len(records)
            self._grown.notify_all()
        return offsets

    def compact(self) -> None:
        """Keep only the last record of each key, at its offset."""
        last = {record.key: record.offset for record in self.records}
        self.records = [record for record in self.records if last[record.key] == record.offset]

    def is_last(self, turn: int) -> bool:
        return turn == self._turns

    async def grown_beyond(self, position: int) -> None:
        async with self._grown:
            await self._grown.wait_for(lambda: self.end > position)


class _MemoryReader:
    def __init__(self, log: MemoryDefinitionsLog, position: int) -> None:
        self.position = position
        self._log = log

    async def read(self) -> list[LogRecord]:
        await self._log.grown_beyond(self.position)
        found = [record for record in self._log.records if record.offset >= self.position]
        self.position = self._log.end
        return found

    async def end(self) -> int:
        return self._log.end


class _MemoryTurn:
    def __init__(self, log: MemoryDefinitionsLog, number: int) -> None:
        self._log = log
        self._number = number

    async def append(self, records: Sequence[tuple[bytes, bytes | None]]) -> list[int]:
        if not self._log.is_last(self._number):
            raise TurnLost("another writer has begun a turn")
        return await self._log.write(records)
