"""Segments that change: what reading back costs and does to live events, and what an edit costs among many segments."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import msgspec

from conditions.definition_history import DefinitionHistory, DefinitionRecord
from conditions.documents import SegmentDocument, encode_segment, parse_segments
from conditions.segments import SegmentCompiler
from connectors.segment_files import load_segments
from deploy.kafka.broker import Broker
from state.live_engine import LiveEngine
from state.memory_store import MemoryStore
from state.redefinition import segment_key
from state.store import WriteSet
from streams.kafka.definitions_topic import KafkaDefinitionsLog
from streams.kafka.security import Connection
from streams.memory import tune_memory
from streams.segments_commands import apply_segments
from streams.wall_time import wall_time_ms
from tests.bench.documents import write_documents
from tests.bench.events import events, sent
from tests.bench.live import ChangesReader, Visible, pause, summarised
from tests.bench.machine import cpu_seconds, memory_mib
from tests.bench.stages import PARTITIONS, PATIENCE_S, new_stage
from tests.kafka.workers import Stage, WorkerProcess, until

LIVE_RATE = 1_000
EDITS = 50

LIVE = {"kind": "app_screen", "screen": "x"}
KEPT = {"kind": "page_visit", "domain": "d1.example", "within": "30d", "at_least": 3}
FIRST: dict[str, dict[str, Any]] = {"live": LIVE, "visitors": KEPT}
NEW = {"kind": "purchase_category", "category": "cat3", "at_least": 2}
NEW_WHEN_IDLE = {"kind": "location", "location_id": "loc7", "at_least": 2}
ON_KEPT = {"kind": "page_visit", "domain": "d1.example", "within": "7d"}

encode = msgspec.json.Encoder().encode


SMALL: dict[str, Any] = {"total": 2_000, "many": 40, "baseline_s": 2}


def measure(total: int = 1_000_000, many: int = 10_000, baseline_s: int = 20) -> dict[str, Any]:
    """Print the figures as they come, and answer them by what they are called."""
    figures = Figures()
    edits_among_many(figures, many)
    partitions_with_many(figures, many)
    with Broker(heap="1g") as broker, tempfile.TemporaryDirectory(prefix="rollcall-bench-") as folder:
        reading_back(figures, broker, Path(folder), total, baseline_s)
        starting_with_many(figures, broker, Path(folder), many)
    return figures


class Figures(dict[str, float]):
    """By what they are called; each is printed as it comes."""

    def add(self, what: str, value: float, form: str = ",.0f") -> None:
        print(f"{what:<75} {value:>12{form}}", flush=True)
        self[what] = value


def document(conditions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"segments": [{"id": each, "name": each, "conditions": [conditions[each]]} for each in conditions]}


def new_definitions_stage(broker: Broker, folder: Path, name: str, segments: dict[str, Any], **settings: str) -> Stage:
    path = folder / f"{name}.json"
    path.write_bytes(msgspec.json.encode(segments))
    return new_stage(broker, folder, name, segments=path, **settings)


def apply(stage: Stage, segments: dict[str, Any]) -> None:
    log = KafkaDefinitionsLog(stage.definitions_topic, Connection(stage.bootstrap_servers), stage.app_id)
    apply_segments(log, parse_segments(segments), None, dry_run=False)


# -- reading back -----------------------------------------------------------------------------------------------------


def reading_back(figures: Figures, broker: Broker, folder: Path, total: int, baseline_s: int) -> None:
    """Events that were applied; then segments that need them again, with live events and without."""
    stage = new_definitions_stage(broker, folder, "reading", document(FIRST), clock="wall")
    stage.send(sent(stage.topics[0], each) for each in events(total))
    worker = stage.start("worker")
    stage.wait_applied(PATIENCE_S)
    with Live(stage) as live:
        with live.period(figures, "without a change"):
            pause(baseline_s)
        with live.period(figures, "while a segment is read back and asked about"):
            seconds = time_active(stage, worker, "new", NEW)
    figures.add("read back for a new feature, live events beside it, events/s", total / seconds["backfill"])
    figures.add("then asking all customers, s", seconds["scan"], ".1f")
    seconds = time_active(stage, worker, "kept", ON_KEPT)
    figures.add("a segment on a feature kept already: in force after, s", sum(seconds.values()), ".2f")
    began, cpu_began = len(worker.events("backfill_read")), cpu_seconds(worker.process.pid)
    seconds = time_active(stage, worker, "idle", NEW_WHEN_IDLE)
    cpu = cpu_seconds(worker.process.pid) - cpu_began
    figures.add("read back for a new feature, nothing beside it, events/s", total / seconds["backfill"])
    figures.add("CPU seconds a million events read back and asked about", cpu / total * 1e6, ".1f")
    assert began == PARTITIONS, "what is kept already needs no reading back"
    assert worker.stop() == 0, worker.log_tail()
    stage.close()


def time_active(stage: Stage, worker: WorkerProcess, segment_id: str, condition: dict[str, Any]) -> dict[str, float]:
    """Apply a segment; the seconds until it is read back everywhere, and from then on until it is active."""
    apply(stage, document({segment_id: condition}))
    began = time.monotonic()

    def stages() -> set[str]:
        status, body = worker.get(f"/api/segments/{segment_id}")
        if status != 200:
            return {"waiting"}
        return {each["stage"] for each in json.loads(body)["status"]["partitions"].values()}

    until(lambda: not stages() & {"waiting", "backfill"}, f"{segment_id} is read back", PATIENCE_S)
    read = time.monotonic()
    until(lambda: stages() == {"active"}, f"{segment_id} is active", PATIENCE_S)
    return {"backfill": read - began, "scan": time.monotonic() - read}


class Live:
    """Events at a steady rate, each of which makes one change, and when each change was read."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._sent = 0
        self._stop = threading.Event()
        self._reader = ChangesReader(stage)
        self._feeder = threading.Thread(target=self._feed)

    def __enter__(self) -> Live:
        self._reader.__enter__()
        self._feeder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._feeder.join()
        self._reader.__exit__(kind, error, trace)

    @contextmanager
    def period(self, figures: Figures, what: str) -> Iterator[None]:
        """Tell of the latency of the events that were sent in the block."""
        first, since = self._sent, len(self._reader)
        yield
        names = {f"live{number}" for number in range(first, self._sent)}

        def changes() -> list[Visible]:
            return [each for each in self._reader.changes(since) if each.change.customer_id in names]

        until(lambda: len(changes()) == len(names), "all changes are read", PATIENCE_S)
        _, p50_ms, p99_ms, _ = summarised(changes())
        figures.add(f"from send to visible change {what}, p50, ms", p50_ms)
        figures.add(f"from send to visible change {what}, p99, ms", p99_ms)

    def _feed(self) -> None:
        producer = self._stage.producer(**{"linger.ms": 0})
        began, waiting = time.monotonic(), threading.Event()
        for number in count():
            while (wait := began + number / LIVE_RATE - time.monotonic()) > 0:
                waiting.wait(wait)
            if self._stop.is_set():
                break
            customer = f"live{number}"
            fields: dict[str, Any] = {
                "event_id": "1",
                "type": "app.screen",
                "customer_id": customer,
                "properties": {"screen": "x"},
            }
            fields["time"] = wall_time_ms()
            producer.produce(self._stage.topics[0], encode(fields), customer, number % PARTITIONS)
            producer.poll(0)
            self._sent = number + 1
        producer.flush(30)


# -- many segments ----------------------------------------------------------------------------------------------------


def starting_with_many(figures: Figures, broker: Broker, folder: Path, many: int) -> None:
    stage = new_definitions_stage(broker, folder, "many", {})
    write_documents(stage.segments_file, many - 10)
    worker = stage.start("worker")
    began = time.monotonic()
    worker.wait_ready()
    figures.add(f"first start with a file of {many:,} segments: ready after, s", time.monotonic() - began, ".1f")
    stage.wait_settled(worker)
    assert worker.stop() == 0, worker.log_tail()
    worker.restart(segments="")
    began = time.monotonic()
    worker.wait_ready()
    figures.add(f"start with {many:,} segments on the topic: ready after, s", time.monotonic() - began, ".1f")
    figures.add("CPU seconds of that start", cpu_seconds(worker.process.pid), ".1f")
    seconds = time_active(stage, worker, "one-more", KEPT)
    figures.add(f"one edit among {many:,} segments: in force after, s", sum(seconds.values()), ".2f")
    assert worker.stop() == 0, worker.log_tail()
    stage.close()


def edits_among_many(figures: Figures, many: int) -> None:
    """What one edit costs in the definitions' history and in one partition without customers."""
    for total in sorted({20, max(20, many // 10), many}):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "segments.json"
            write_documents(path, total - 10)
            documents = load_segments(path)
        figures.add(f"one edit among {total:,} segments, CPU µs a partition", edit_us(documents))


def partitions_with_many(figures: Figures, many: int) -> None:
    """What it costs to load the segments of a worker's first partition, and of each further one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "segments.json"
        write_documents(path, many - 10)
        documents = load_segments(path)
    tune_memory()
    compiler, store = SegmentCompiler(), MemoryStore()
    store.write(WriteSet(meta=[(segment_key(each.id), encode_segment(each)) for each in documents]))
    loaded = []
    for which in ("first", "next"):
        began, began_mib = time.process_time(), memory_mib(os.getpid())
        loaded.append(LiveEngine(store, compiler))
        figures.add(f"{many:,} segments in the {which} partition, CPU s", time.process_time() - began, ".2f")
        figures.add(f"{many:,} segments in the {which} partition, MiB", memory_mib(os.getpid()) - began_mib)


def edit_us(documents: list[SegmentDocument]) -> float:
    history, engine = DefinitionHistory(), LiveEngine(MemoryStore(), SegmentCompiler())
    for offset, each in enumerate(documents):
        take(history, each, offset)
    update(engine, history, [each.id for each in documents])
    spent = []
    for edit in range(EDITS):
        offset = len(documents) + edit
        conditions = documents[10 + edit % 10].conditions
        changed = msgspec.structs.replace(documents[edit % 2], conditions=conditions, version=edit + 2)
        began = time.process_time_ns()
        take(history, changed, offset)
        update(engine, history, history.changed_since(engine.marker.definitions))
        spent.append((time.process_time_ns() - began) / 1000)
    return median(spent)


def take(history: DefinitionHistory, each: SegmentDocument, offset: int) -> None:
    history.apply(each.id.encode(), DefinitionRecord(each.id, each.version, each).encode(), offset, 0)


def update(engine: LiveEngine, history: DefinitionHistory, segment_ids: list[str]) -> None:
    changed = engine.differences(segment_ids, history.document, lambda _: None)
    assert changed, "an edit changes something"
    engine.begin_redefinition(history.position, changed, {})
    engine.commit()
