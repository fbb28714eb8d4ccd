"""What more segments cost: a worker on a real broker and the engine alone, with ten segments and with many beside them.

The events match the ten as often in every run, and the others never, so any difference is what their number costs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.kafka.broker import Broker
from tests.bench.documents import write_default_documents, write_documents
from tests.bench.engine import replay, start_cpu_seconds
from tests.bench.events import events, sent, write_events
from tests.bench.loading import measure_loading
from tests.bench.machine import say
from tests.bench.stages import Run, new_stage, run_metered
from tests.kafka.workers import Stage

EVENTS = 600_000
FEW = 1_000  # events, of a run that is nearly all start
SIZES = (10, 1_000, 10_000, 100_000)
RUNS = 3
DEFAULTS = 3_000  # segments that hold for a customer with nothing known
DEFAULTS_CUSTOMERS = 200
DEFAULTS_EVENTS = 20_000
SMALL: dict[str, Any] = {"total": 2_000, "sizes": (10, 50), "runs": 1, "defaults": 20, "defaults_events": 500}
COLUMNS = (
    ("segments", "segments", 0),
    ("worker_us", "worker µs/event", 1),
    ("worker_ratio", "to the first", 2),
    ("engine_us", "engine µs/event", 1),
    ("engine_ratio", "to the first", 2),
    ("read_s", "read s", 2),
    ("compile_s", "compile s", 2),
    ("definitions_mib", "definitions MiB", 0),
    ("start_cpu_s", "worker's start s", 1),
    ("peak_mib", "worker peak MiB", 0),
)


def measure(
    total: int = EVENTS,
    sizes: Sequence[int] = SIZES,
    runs: int = RUNS,
    defaults: int = DEFAULTS,
    defaults_events: int = DEFAULTS_EVENTS,
) -> dict[str, Any]:
    """Print the figures as they come, and answer them."""
    with Broker(heap="1g") as broker, tempfile.TemporaryDirectory(prefix="rollcall-bench-") as name:
        folder = Path(name)
        rows = by_number_of_segments(broker, folder, total, sizes, runs)
        return {
            "events": total,
            "runs": runs,
            "segments": rows,
            "true_by_default": true_by_default(broker, folder, defaults, defaults_events),
        }


def by_number_of_segments(
    broker: Broker, folder: Path, total: int, sizes: Sequence[int], runs: int
) -> list[dict[str, Any]]:
    """The sizes take turns, so that what else the machine does meanwhile falls on all of them."""
    filled = new_stage(broker, folder, "filled")
    filled.send(sent(filled.topics[0], each) for each in events(total))
    few = new_stage(broker, folder, "few")
    few.send(sent(few.topics[0], each) for each in events(FEW))
    file = folder / "events.ndjson"
    write_events(file, total)
    documents = {size: folder / f"segments-{size}.json" for size in sizes}
    for size, segments in documents.items():
        write_documents(segments, size - 10)
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for number in range(runs):
        for size, segments in documents.items():
            stage = new_stage(broker, folder, f"scale-{size}-{number}", topic=filled.topics[0], segments=segments)
            found[size].append(one_round(stage, file, total))
    starts = {
        size: run_metered(new_stage(broker, folder, f"few-{size}", topic=few.topics[0], segments=segments), FEW)
        for size, segments in documents.items()
    }
    rows = [row(size, documents[size], found[size], starts[size]) for size in sizes]
    for each in rows:
        each |= {f"{who}_ratio": each[f"{who}_us"] / rows[0][f"{who}_us"] for who in ("worker", "engine")}
    say_rows(rows, total, runs)
    return rows


def one_round(stage: Stage, file: Path, total: int) -> dict[str, float]:
    run = run_metered(stage, total)
    # What taking the definitions costs comes before the first record and after. With 100,000 segments it is more than
    # all events, so that a difference to a run of a few would be lost in the noise; by the second half it is over.
    worker_s = run.cpu_seconds_of_second_half / max(1, run.events_of_second_half)
    return {
        "worker_us": worker_s * 1e6,
        "engine_us": engine_us(stage.segments_file, file, total),
        "peak_mib": run.peak_mib,
    }


def engine_us(segments: Path, file: Path, total: int) -> float:
    """Without the start, which is measured beside it: with many segments it takes longer than the events."""
    cpu_s = replay(segments, file, total)["cpu_seconds"]
    return float(cpu_s - start_cpu_seconds(segments, file.parent)) / total * 1e6


def row(size: int, segments: Path, rounds: list[dict[str, float]], start: Run) -> dict[str, Any]:
    """The least of each figure: what else the machine does only ever adds."""
    loading = measure_loading(segments)
    return {
        "segments": size,
        "start_cpu_s": start.start_cpu_seconds + start.cpu_seconds_to_last,
        **{name: min(each[name] for each in rounds) for name in rounds[0]},
        **{name: getattr(loading, name) for name in loading.__struct_fields__},
    }


def say_rows(rows: list[dict[str, Any]], total: int, runs: int) -> None:
    print(f"{total:,} events; CPU µs an event, the least of {runs} runs\n")
    print("| " + " | ".join(title for _, title, _ in COLUMNS) + " |")
    print("| ---: " * len(COLUMNS) + "|")
    for each in rows:
        print("| " + " | ".join(f"{each[name]:,.{digits}f}" for name, _, digits in COLUMNS) + " |", flush=True)


def true_by_default(broker: Broker, folder: Path, count: int, total: int) -> dict[str, Any]:
    """Each new customer enters all of the segments at once."""
    segments = folder / "segments-default.json"
    write_default_documents(segments, count)
    stage = new_stage(broker, folder, "default", segments=segments)
    stage.send(sent(stage.topics[0], each) for each in events(total, customers=DEFAULTS_CUSTOMERS))
    run = run_metered(stage, total)
    entered = sum(len(part) for part in stage.read(stage.changes_topic))
    print()
    say(f"{count:,} segments true by default: changes of {DEFAULTS_CUSTOMERS} new customers", f"{entered:,}")
    say("CPU µs a change", f"{run.cpu_seconds_to_last / entered * 1e6:.1f}")
    say("peak memory, MiB", f"{run.peak_mib:,.0f}")
    return {"segments": count, "events": total, "changes": entered, "run": run}
