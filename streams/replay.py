"""`rollcall replay`: a file of events in, membership changes out, through the engine that the worker runs.

The whole file is one partition with the event clock. With a state folder a run can be stopped anywhere and started anew
with the same command: each batch writes its output first and then, in one write to the store, the customers' state,
how far the input was read and how long the output files are.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from conditions.changes import Change
from conditions.definitions import compile_definitions
from conditions.documents import SegmentDocument
from conditions.events import Event, Rejected
from conditions.times import HOUR_MS
from connectors.changes import change_lines
from connectors.dead_letters import dead_letter_line
from connectors.json_events import decode_lines
from connectors.lines import STANDARD, LineBatch, open_lines, read_batches, skip_to
from state.definitions_record import require_segments
from state.engine import Batch, BatchResult, PartitionEngine, latest_ms
from state.store import Store
from streams.memory import collect_garbage
from streams.wall_time import wall_time_ms

POSITION_KEY = b"replay"
CHUNK_BYTES = 64 << 10  # of input at once: its events stay in the processor's cache from reading to deciding
MOST_DEADLINES = 20_000  # read at a time, at the beginning of each batch
MOST_INPUT_BYTES = 256 << 20  # of one batch: what its customers are written with is in memory until it ends
LEAST_SPAN_MS = HOUR_MS  # of a batch whose deadlines are read


class Position(msgspec.Struct):
    """Where a replay stands; it is part of every batch's write."""

    input_bytes: int = 0  # of the uncompressed input, up to the last batch of lines that is wholly applied
    input_lines: int = 0
    output_bytes: int = 0
    dead_letter_bytes: int = 0


class Totals(msgspec.Struct):
    """What a run has done so far."""

    events: int = 0
    rejected: int = 0
    changes: int = 0
    customers: int = 0
    input_bytes: int = 0
    seconds: float = 0.0


class ReplayError(Exception):
    """The replay cannot start or go on; the message says what mends it."""


class Output:
    """Bytes to a file that may be continued, or to a stream that may not: standard output for `-`."""

    def __init__(self, path: str | None, stream: BinaryIO, committed_bytes: int) -> None:
        if path == STANDARD:
            path, stream = None, sys.stdout.buffer
        self._name = path or ("standard error" if stream is sys.stderr.buffer else "standard output")
        self.length_bytes = committed_bytes
        self._file = stream if path is None else _continue_file(Path(path), committed_bytes)

    def write(self, data: bytes) -> None:
        """Append, and hand over to the operating system: what was written survives this process."""
        if data:
            with _named(self._name):
                self._file.write(data)
                self._file.flush()
            self.length_bytes += len(data)

    def close(self) -> None:
        if self._file not in (sys.stdout.buffer, sys.stderr.buffer):
            self._file.flush()
            if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                os.fsync(self._file.fileno())
            self._file.close()


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Lets errors of the operating system say which file they are about, where they do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = name
        raise


def _continue_file(path: Path, committed_bytes: int) -> BinaryIO:
    """Open for appending after the committed bytes; what a stopped run wrote beyond them is cut off.

    Devices and pipes keep nothing to check or to cut off: what comes is appended.
    """
    if committed_bytes == 0 or (path.exists() and not path.is_file()):
        return path.open("wb")
    length = path.stat().st_size if path.exists() else 0
    if length < committed_bytes:
        raise ReplayError(
            f"{path} holds {length} bytes, but the state has written {committed_bytes}: it was changed or removed. "
            "Put it back, or start anew with an empty --state folder"
        )
    file = path.open("r+b")
    file.truncate(committed_bytes)
    file.seek(committed_bytes)
    return file


class Replay:
    """One run over one input. `run` may be called once."""

    def __init__(
        self,
        segments: list[SegmentDocument],
        store: Store,
        *,
        output: str | None = None,
        dead_letters: str | None = None,
        progress: Callable[[Totals], None] = lambda _: None,
    ) -> None:
        require_segments(
            store,
            segments,
            "Use the documents of the first run, or rebuild: the same command with an empty --state folder",
        )
        self._store = store
        self._engine = PartitionEngine(store, compile_definitions(segments), most_deadlines=MOST_DEADLINES)
        self._batch: Batch | None = None
        found = store.get_meta(POSITION_KEY)
        self._position = Position() if found is None else msgspec.msgpack.decode(found, type=Position)
        self._output = Output(output, sys.stdout.buffer, self._position.output_bytes)
        self._dead_letters = Output(dead_letters, sys.stderr.buffer, self._position.dead_letter_bytes)
        self._progress = progress
        self._begun_bytes = 0  # of the input, when the batch was begun
        self._reach = Reach(self._engine)
        self._totals = Totals()

    def run(self, events: str, until_ms: int | None = None) -> Totals:
        """Apply the rest of the file (`-` is standard input), then move the clock to `until_ms`.

        Raises OSError, StateError and ReplayError; what was committed before stays.
        """
        started = time.monotonic()
        with _named("standard input" if events == STANDARD else events), open_lines(events) as stream:
            for batch in self._batches(stream, events):
                applied = self._engine.marker.applied.get("", -1)
                offsets = batch.offsets
                known = bisect_right(offsets, applied)
                self._apply(decode_lines(batch.lines[known:], offsets[known:]), batch)
                self._totals.seconds = time.monotonic() - started
                self._progress(self._totals)
                collect_garbage()
            self._finish()
        while until_ms is not None and self._engine.is_behind(until_ms):
            result = self._engine.run((), wall_time_ms(), until_ms)
            self._write(result.changes, result.rejected, 0)
            self._commit(result)
        self._totals.seconds = time.monotonic() - started
        self._totals.customers = self._engine.marker.customers
        return self._totals

    def close(self) -> None:
        """Close the output files; the store is the caller's."""
        self._output.close()
        self._dead_letters.close()

    def _batches(self, stream: BinaryIO, name: str) -> Iterator[LineBatch]:
        start = self._position
        try:
            skip_to(stream, start.input_bytes)
        except ValueError as error:
            raise ReplayError(
                f"{name} ends before line {start.input_lines}, up to which the state has applied it: another file? "
                "Use the file of the first run, or an empty --state folder"
            ) from error
        return read_batches(stream, position=start.input_bytes, line_count=start.input_lines, chunk_bytes=CHUNK_BYTES)

    def _apply(self, records: list[Event | Rejected], lines: LineBatch) -> None:
        while records:
            taken = self._take(records) or self._take_after_wave(records)
            records = records[taken:]
        position = self._position
        position.input_bytes, position.input_lines = lines.position, lines.line_count
        self._totals.input_bytes = lines.position
        if self._batch is not None and (self._batch.is_full or lines.position - self._begun_bytes >= MOST_INPUT_BYTES):
            self._finish()

    def _take(self, records: list[Event | Rejected]) -> int:
        if self._batch is None:
            self._batch = self._reach.begin(records)
            self._begun_bytes = self._position.input_bytes
        taken = self._batch.take(records, wall_time_ms())
        self._write(*self._batch.outcome(), taken)
        if taken < len(records):
            self._finish()
        return taken

    def _take_after_wave(self, records: list[Event | Rejected]) -> int:
        """Fire what a batch holds of a wave of deadlines that stands before the first record."""
        result = self._engine.run(records, wall_time_ms())
        self._write(result.changes, result.rejected, result.consumed)
        self._commit(result)
        return result.consumed

    def _finish(self) -> None:
        if self._batch is not None:
            batch, self._batch = self._batch, None
            self._commit(self._reach.finish(batch))

    def _write(self, changes: list[Change], rejected: list[Rejected], taken: int) -> None:
        self._output.write(change_lines(changes))
        self._dead_letters.write(b"".join(map(dead_letter_line, rejected)))
        totals = self._totals
        totals.events += taken - len(rejected)
        totals.rejected += len(rejected)
        totals.changes += len(changes)

    def _commit(self, result: BatchResult) -> None:
        """Output was written first: after a crash between the two it is cut back and written again."""
        position = self._position
        position.output_bytes = self._output.length_bytes
        position.dead_letter_bytes = self._dead_letters.length_bytes
        result.writes.meta.append((POSITION_KEY, msgspec.msgpack.encode(position)))
        self._engine.commit()
        self._totals.customers = result.marker.customers


class Reach:
    """How far ahead of its first records a batch may come: twice as far as the one before it came.

    Deadlines that are further away are not read.
    """

    def __init__(self, engine: PartitionEngine) -> None:
        self._engine = engine
        self._begun_ms = 0  # the clock when the batch was begun
        self._span_ms = LEAST_SPAN_MS

    def begin(self, records: list[Event | Rejected]) -> Batch:
        """Begin a batch of the engine with these records."""
        self._begun_ms = self._engine.marker.clock_ms
        return self._engine.begin(latest_ms(records) + self._span_ms)

    def finish(self, batch: Batch) -> BatchResult:
        """The end of the batch that was begun last."""
        result = self._engine.finish(batch)
        self._span_ms = max(LEAST_SPAN_MS, 2 * (result.marker.clock_ms - self._begun_ms))
        return result
