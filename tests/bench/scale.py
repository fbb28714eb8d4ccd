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
from tests.bench.engine import measure_segments
from tests.bench.events import events, sent, write_events
from tests.bench.loading import measure_loading
from tests.bench.machine import say
from tests.bench.stages import new_stage, run_metered

EVENTS = 300_000
SIZES = (10, 1_000, 10_000, 100_000)
RUNS = 2
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
    print(f"{total:,} events; CPU µs an event, the lowest of {runs} runs\n")
    print("| " + " | ".join(title for _, title, _ in COLUMNS) + " |")
    print("| ---: " * len(COLUMNS) + "|", flush=True)
    filled = new_stage(broker, folder, "filled")
    filled.send(sent(filled.topics[0], each) for each in events(total))
    file = folder / "events.ndjson"
    write_events(file, total)
    rows: list[dict[str, Any]] = []
    for size in sizes:
        segments = folder / f"segments-{size}.json"
        write_documents(segments, size - 10)
        row: dict[str, Any] = {"segments": size, **of_worker(broker, segments, filled.topics[0], total, runs)}
        row["engine_us"] = measure_segments(segments, file, total, runs)["cpu_us_an_event"]
        loading = measure_loading(segments)
        row |= {name: getattr(loading, name) for name in loading.__struct_fields__}
        first = rows[0] if rows else row
        row |= {f"{who}_ratio": row[f"{who}_us"] / first[f"{who}_us"] for who in ("worker", "engine")}
        rows.append(row)
        print("| " + " | ".join(f"{row[name]:,.{digits}f}" for name, _, digits in COLUMNS) + " |", flush=True)
    return rows


def of_worker(broker: Broker, segments: Path, topic: str, total: int, runs: int) -> dict[str, Any]:
    """The run that took least CPU, as what else the machine does only ever adds to it."""
    folder = segments.parent
    found = [
        run_metered(new_stage(broker, folder, f"{segments.stem}-{number}", topic=topic, segments=segments), total)
        for number in range(runs)
    ]
    best = min(found, key=lambda run: run.cpu_seconds_to_last)
    return {
        "worker_us": best.cpu_seconds_to_last / total * 1e6,
        "worker_events_a_second": total / best.seconds,
        "start_cpu_s": best.start_cpu_seconds,
        "peak_mib": best.peak_mib,
    }


def true_by_default(broker: Broker, folder: Path, count: int, total: int) -> dict[str, Any]:
    """Each new customer enters all of the segments at once; after that an event costs what it did before."""
    segments = folder / "segments-default.json"
    write_default_documents(segments, count)
    stage = new_stage(broker, folder, "default", segments=segments)
    stage.send(sent(stage.topics[0], each) for each in events(total, customers=DEFAULTS_CUSTOMERS))
    run = run_metered(stage, total)
    entered = sum(len(part) for part in stage.read(stage.changes_topic))
    print()
    say(f"{count:,} segments true by default: changes of {DEFAULTS_CUSTOMERS} new customers", f"{entered:,}")
    say("CPU µs a change", f"{run.cpu_seconds_to_last / entered * 1e6:.1f}")
    say("CPU µs an event once all are known", f"{run.cpu_seconds_of_second_half / (total / 2) * 1e6:.1f}")
    say("peak memory, MiB", f"{run.peak_mib:,.0f}")
    return {"segments": count, "events": total, "changes": entered, "run": run}
