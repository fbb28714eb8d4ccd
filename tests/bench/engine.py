"""The engine by itself: `rollcall replay` on one core, with ten segments and with ten thousand others beside them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from tests.bench.documents import write_documents
from tests.bench.events import write_events
from tests.bench.machine import MAXRSS_UNITS_A_MIB, ROOT, total_cpu, wait_with_usage

EVENTS = 500_000
OTHERS = (0, 10_000)
RUNS = 3
PARTS = ("decode", "match", "fold", "write")
REPLAY = "from streams.cli import main; main()"
SMALL: dict[str, Any] = {"total": 2_000, "sizes": (0, 10), "runs": 1}


def measure(total: int = EVENTS, sizes: Sequence[int] = OTHERS, runs: int = RUNS) -> dict[str, Any]:
    """Print the figures as they come, and answer them; `sizes` are the others beside the ten."""
    report: dict[str, Any] = {"events": total, "runs": runs, "segments": []}
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as folder:
        events = Path(folder) / "events.ndjson"
        report["bytes_an_event"] = write_events(events, total)
        print(f"{total:,} events of {report['bytes_an_event']} bytes, median of {runs} runs, RocksDB state, one core\n")
        print(f"{'segments':>10} {'events/s':>10} {'CPU µs/event':>13} {'peak MiB':>9} {'start s':>8}", end="")
        print("".join(f" {part + ' µs':>10}" for part in PARTS))
        for others in sizes:
            segments = Path(folder) / f"segments-{others}.json"
            write_documents(segments, others)
            figures = measure_segments(segments, events, total, runs)
            report["segments"].append({"segments": others + 10, **figures})
            print(_row(others + 10, figures))
    first, last = report["segments"][0], report["segments"][-1]
    report["flatness"] = last["cpu_us_an_event"] / first["cpu_us_an_event"]
    print(
        f"\nCPU an event with {last['segments']:,} segments to that with {first['segments']}: {report['flatness']:.2f}"
    )
    return report


def _row(segments: int, figures: dict[str, Any]) -> str:
    row = f"{segments:>10,} {figures['events_a_second']:>10,.0f} {figures['cpu_us_an_event']:>13.1f}"
    row += f" {figures['peak_mib']:>9,.0f} {figures['start_seconds']:>8.1f}"
    return row + "".join(f" {figures['split_us'][part]:>10.1f}" for part in PARTS)


def measure_segments(segments: Path, events: Path, total: int, runs: int) -> dict[str, Any]:
    """Medians of whole runs, then the split of one more."""
    replays = [replay(segments, events, total) for _ in range(runs)]
    figures = {name: median(run[name] for run in replays) for name in replays[0]}
    start_cpu_s = start_cpu_seconds(segments, events.parent)
    return {
        "events_a_second": total / figures["replay_seconds"],
        "cpu_us_an_event": (figures["cpu_seconds"] - start_cpu_s) / total * 1e6,
        "peak_mib": figures["peak_mib"],
        "start_seconds": figures["start_seconds"],
        "split_us": _split(segments, events),
    }


def start_cpu_seconds(segments: Path, folder: Path) -> float:
    """What the interpreter, reading and compiling documents take: all that a replay of one event does."""
    file = folder / "one-event.ndjson"
    write_events(file, 1)
    return replay(segments, file, 1)["cpu_seconds"]


def replay(segments: Path, events: Path, total: int) -> dict[str, float]:
    """One run of the command in a process of its own, as the operating system accounts for it."""
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-", dir=events.parent) as folder:
        words = ["replay", "--segments", segments, "--events", events]
        words += ["--state", f"{folder}/state", "--output", f"{folder}/changes"]
        began = time.monotonic()
        process = subprocess.Popen(_pinned([sys.executable, "-c", REPLAY, *words]), cwd=ROOT, stderr=subprocess.PIPE)
        assert process.stderr is not None
        said = process.stderr.read().decode()
        usage = wait_with_usage(process)
        wall_seconds = time.monotonic() - began
    found = re.search(r"\(([0-9,]+) events/s\)", said)
    if process.returncode or found is None:
        raise RuntimeError(f"replay failed: {said}")
    replay_seconds = total / int(found[1].replace(",", ""))
    return {
        "replay_seconds": replay_seconds,
        "start_seconds": wall_seconds - replay_seconds,
        "cpu_seconds": total_cpu(usage),
        "peak_mib": usage.ru_maxrss / MAXRSS_UNITS_A_MIB,
    }


def _pinned(words: list[Any]) -> list[str]:
    """On one core, where the system can be told so."""
    pin = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if sys.platform == "linux" else []
    return [*pin, *map(str, words)]


def _split(segments: Path, events: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-", dir=events.parent) as folder:
        words = [sys.executable, "-m", "tests.bench.split", str(segments), str(events), folder]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    answer: dict[str, float] = msgspec.json.decode(done.stdout)
    return answer
