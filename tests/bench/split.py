"""Where the time of an event goes, measured inside one process; `tests.bench.engine` runs it in one of its own.

The clock is read once for each slice of the input, never for an event. Matching is timed in a loop of its own, over
events just decoded, as inside the engine it cannot be told from folding without slowing both down.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from conditions.changes import Change
from conditions.definitions import Definitions, compile_definitions
from conditions.events import Event, Rejected
from connectors.changes import change_lines
from connectors.json_events import decode_lines
from connectors.lines import LineBatch, open_lines, read_batches
from connectors.segment_files import load_segments
from state.engine import Batch, PartitionEngine
from state.rocksdb_store import RocksdbStore
from streams.memory import collect_garbage, tune_memory
from streams.replay import CHUNK_BYTES, MOST_DEADLINES, Reach

Records = list[Event | Rejected]


class Stopwatch:
    """CPU seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, what: str, work: Callable[..., Any], *given: Any) -> Any:
        began = time.process_time()
        answer = work(*given)
        self.seconds[what] += time.process_time() - began
        return answer


def split(segments: Path, events: Path, folder: Path) -> dict[str, float]:
    """CPU microseconds an event: decode, match, fold (the rest of deciding) and write."""
    definitions = compile_definitions(load_segments(segments))
    store = RocksdbStore.open(folder / "state")
    engine = PartitionEngine(store, definitions, most_deadlines=MOST_DEADLINES)
    tune_memory()
    watch = Stopwatch()
    total = 0
    try:
        with open_lines(str(events)) as stream, (folder / "changes").open("wb") as output:
            total = _replay(engine, definitions, watch, stream, output)
    finally:
        store.close()
    watch.seconds["fold"] -= watch.seconds["match"]
    return {what: seconds / total * 1e6 for what, seconds in watch.seconds.items()}


def _replay(
    engine: PartitionEngine, definitions: Definitions, watch: Stopwatch, stream: BinaryIO, output: BinaryIO
) -> int:
    slices = read_batches(stream, chunk_bytes=CHUNK_BYTES)
    reach, batch = Reach(engine), None
    total = 0
    while records := watch.timed("decode", _decoded, slices):
        total += len(records)
        watch.timed("match", _match, definitions, records)
        while records:
            batch = batch or watch.timed("fold", reach.begin, records)
            taken = watch.timed("fold", batch.take, records, 0)
            watch.timed("write", _write, output, batch.outcome()[0])
            if taken < len(records) or batch.is_full:
                watch.timed("write", _commit, engine, reach, batch)
                batch = None
            records = records[taken or _after_wave(engine, watch, output, records) :]
        watch.timed("fold", collect_garbage)
    if batch is not None:
        watch.timed("write", _commit, engine, reach, batch)
    return total


def _after_wave(engine: PartitionEngine, watch: Stopwatch, output: BinaryIO, records: Records) -> int:
    """Fire what a batch holds of the deadlines that stand before the first record; how many records came after."""
    result = watch.timed("fold", engine.run, records, 0)
    watch.timed("write", _write, output, result.changes)
    watch.timed("write", engine.commit)
    return int(result.consumed)


def _decoded(slices: Iterator[LineBatch]) -> Records:
    """The next slice; none is empty but the last."""
    lines = next(slices, None)
    return decode_lines(lines.lines, lines.offsets) if lines else []


def _write(output: BinaryIO, changes: list[Change]) -> None:
    output.write(change_lines(changes))


def _match(definitions: Definitions, records: Records) -> None:
    indexes = definitions.indexes
    for event in records:
        if isinstance(event, Event):
            index = indexes.get(event.type)
            if index is not None:
                index.match(event)


def _commit(engine: PartitionEngine, reach: Reach, batch: Batch) -> None:
    reach.finish(batch)
    engine.commit()


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(split(*map(Path, sys.argv[1:]))).decode())
