"""Segments that change: what reading back costs and does to live events, and what an edit costs among many segments."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import msgspec

from conditions.definition_history import DefinitionHistory, DefinitionRecord
from conditions.documents import SegmentDocument, parse_segments
from connectors.segment_files import load_segments
from deploy.kafka.broker import Broker
from state.live_engine import LiveEngine
from state.memory_store import MemoryStore
from streams.kafka.definitions_topic import KafkaDefinitionsLog
from streams.kafka.security import Connection
from streams.segments_commands import apply_segments
from tests.bench.documents import write_documents
from tests.bench.worker import PARTITIONS, cpu_seconds, events, read_changes, say
from tests.kafka.workers import Stage, WorkerProcess, until

EVENTS = 1_000_000
LIVE_RATE = 1_000
BASELINE_S = 20
MANY_SEGMENTS = 10_000
EDITS = 50
PATIENCE_S = 900.0

LIVE = {"kind": "app_screen", "screen": "x"}
KEPT = {"kind": "page_visit", "domain": "d1.example", "within": "30d", "at_least": 3}
FIRST: dict[str, dict[str, Any]] = {"live": LIVE, "visitors": KEPT}
NEW = {"kind": "purchase_category", "category": "cat3", "at_least": 2}
NEW_WHEN_IDLE = {"kind": "location", "location_id": "loc7", "at_least": 2}
ON_KEPT = {"kind": "page_visit", "domain": "d1.example", "within": "7d"}

encode = msgspec.json.Encoder().encode


def main() -> None:
    edits_among_many()
    with Broker(heap="1g") as broker, tempfile.TemporaryDirectory(prefix="rollcall-bench-") as folder:
        reading_back(broker, Path(folder))
        starting_with_many(broker, Path(folder))


def document(conditions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"segments": [{"id": each, "name": each, "conditions": [conditions[each]]} for each in conditions]}


def new_stage(broker: Broker, folder: Path, name: str, segments: dict[str, Any], **settings: str) -> Stage:
    (folder / name).mkdir()
    options: dict[str, Any] = {"partitions": PARTITIONS, "segments": json.dumps(segments), **settings}
    stage = Stage(broker.bootstrap_servers, folder / name, name, **options)
    stage.create_topics()
    return stage


def apply(stage: Stage, segments: dict[str, Any]) -> None:
    log = KafkaDefinitionsLog(stage.definitions_topic, Connection(stage.bootstrap_servers), stage.app_id)
    apply_segments(log, parse_segments(segments), None, dry_run=False)


# -- reading back -----------------------------------------------------------------------------------------------------


def reading_back(broker: Broker, folder: Path) -> None:
    """A million events that were applied; then segments that need them again, with live events and without."""
    stage = new_stage(broker, folder, "reading", document(FIRST), clock="wall", session_timeout="10s")
    stage.send(events(stage.topics[0], EVENTS))
    worker = stage.start("worker")
    stage.wait_applied(PATIENCE_S)
    with Live(stage) as live:
        with live.period("without a change"):
            until(live.lasts(BASELINE_S), "the baseline is measured")
        with live.period("while a segment is read back and asked about"):
            seconds = time_active(stage, worker, "new", NEW)
    say("read back for a new feature, live events beside it, events/s", f"{EVENTS / seconds['backfill']:,.0f}")
    say("then asking all customers, s", f"{seconds['scan']:.1f}")
    seconds = time_active(stage, worker, "kept", ON_KEPT)
    say("a segment on a feature kept already: in force after, s", f"{seconds['backfill'] + seconds['scan']:.2f}")
    began, cpu_began = len(worker.events("backfill_read")), cpu_seconds(worker)
    seconds = time_active(stage, worker, "idle", NEW_WHEN_IDLE)
    say("read back for a new feature, nothing beside it, events/s", f"{EVENTS / seconds['backfill']:,.0f}")
    say("CPU seconds a million events read back and asked about", f"{cpu_seconds(worker) - cpu_began:.1f}")
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
        self._sent: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._stop = threading.Event()
        self._stop_reading = threading.Event()
        self._threads = [
            threading.Thread(target=self._feed),
            threading.Thread(target=read_changes, args=(stage, self._seen, self._stop_reading)),
        ]

    def __enter__(self) -> Live:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads[0].join()
        self._stop_reading.set()
        self._threads[1].join()

    def lasts(self, seconds: float) -> Callable[[], bool]:
        end = time.monotonic() + seconds
        return lambda: time.monotonic() > end

    @contextmanager
    def period(self, what: str) -> Iterator[None]:
        """Tell of the latency of the events that were sent in the block."""
        first = len(self._sent)
        yield
        names = [f"live{number}" for number in range(first, len(self._sent))]
        until(lambda: all(each in self._seen for each in names), "all changes are read", PATIENCE_S)
        cuts = quantiles([(self._seen[each] - self._sent[each]) * 1000 for each in names], n=100)
        say(f"from send to visible change {what}, p50, ms", f"{cuts[49]:.0f}")
        say(f"from send to visible change {what}, p99, ms", f"{cuts[98]:.0f}")

    def _feed(self) -> None:
        producer = self._stage.producer(**{"linger.ms": 1})
        began, pause = time.monotonic(), threading.Event()
        for number in count():
            while (wait := began + number / LIVE_RATE - time.monotonic()) > 0:
                pause.wait(wait)
            if self._stop.is_set():
                break
            customer = f"live{number}"
            fields = {"event_id": "1", "type": "app.screen", "customer_id": customer, "properties": {"screen": "x"}}
            self._sent[customer] = time.monotonic()
            producer.produce(self._stage.topics[0], encode(fields), customer, number % PARTITIONS)
            producer.poll(0)
        producer.flush(30)


# -- many segments ----------------------------------------------------------------------------------------------------


def starting_with_many(broker: Broker, folder: Path) -> None:
    stage = new_stage(broker, folder, "many", {}, session_timeout="10s")
    write_documents(stage.segments_file, MANY_SEGMENTS - 10)
    worker = stage.start("worker")
    began = time.monotonic()
    worker.wait_ready()
    say(f"first start with a file of {MANY_SEGMENTS:,} segments: ready after, s", f"{time.monotonic() - began:.1f}")
    stage.wait_settled(worker)
    assert worker.stop() == 0, worker.log_tail()
    stage.settings["segments"] = ""
    worker.restart(segments="")
    began = time.monotonic()
    worker.wait_ready()
    say(f"start with {MANY_SEGMENTS:,} segments on the topic: ready after, s", f"{time.monotonic() - began:.1f}")
    say("CPU seconds of that start", f"{cpu_seconds(worker):.1f}")
    seconds = time_active(stage, worker, "one-more", KEPT)
    say(f"one edit among {MANY_SEGMENTS:,} segments: in force after, s", f"{seconds['backfill'] + seconds['scan']:.2f}")
    assert worker.stop() == 0, worker.log_tail()
    stage.close()


def edits_among_many() -> None:
    """What one edit costs in the definitions' history and in one partition without customers."""
    for total in (20, 1_000, MANY_SEGMENTS):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "segments.json"
            write_documents(path, total - 10)
            documents = load_segments(path)
        say(f"one edit among {total:,} segments, CPU µs a partition", f"{edit_us(documents):,.0f}")


def edit_us(documents: list[SegmentDocument]) -> float:
    history, engine = DefinitionHistory(), LiveEngine(MemoryStore())
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


if __name__ == "__main__":
    main()
