"""What a worker does on a real broker: throughput, latency, starts and takeover."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from deploy.kafka.broker import Broker
from tests.bench.events import events, sent
from tests.bench.live import RATE, measure_latency
from tests.bench.machine import say
from tests.bench.stages import PATIENCE_S, Run, Start, new_stage, run_metered, time_start
from tests.kafka.workers import Stage

EVENTS = 500_000
LATENCY_S = 20
SMALL: dict[str, Any] = {"total": 2_000, "latency_s": 2, "rate": 200}


def measure(total: int = EVENTS, latency_s: int = LATENCY_S, rate: int = RATE) -> dict[str, Any]:
    """Print the figures as they come, and answer them."""
    with Broker(heap="1g") as broker, tempfile.TemporaryDirectory(prefix="rollcall-bench-") as folder:
        return {
            "throughput": throughput(broker, Path(folder), total),
            "latency": latency(broker, Path(folder), latency_s, rate),
            "takeover": takeover(broker, Path(folder), total // 5, standby_replicas=0),
            "takeover_with_standby": takeover(broker, Path(folder), total // 5, standby_replicas=1),
        }


def fill(stage: Stage, total: int, seed: int = 1) -> None:
    """Send the seeded events, and wait until they are in the log."""
    stage.send(sent(stage.topics[0], each) for each in events(total, seed))


def throughput(broker: Broker, folder: Path, total: int) -> dict[str, Any]:
    """A backlog of events, then starts with and without what it left."""
    stage = new_stage(broker, folder, "throughput")
    fill(stage, total)
    run = run_metered(stage, total)
    say_run("throughput", run, total)
    local = time_start(stage, "worker")
    say_start("with local state", local)
    fresh = time_start(stage, "fresh")
    say_start("without local state", fresh)
    return {"events": total, "run": run, "start_with_state": local, "start_without": fresh}


def say_run(what: str, run: Run, total: int) -> None:
    say(f"{what}, events/s", f"{total / run.seconds:,.0f}")
    say(f"{what}, CPU s a million events (to the end of the process)", f"{run.cpu_seconds * 1e6 / total:.1f}")
    say(f"{what}, seconds a transaction, mean", f"{run.transaction_s:.3f}")
    say(f"{what}, peak memory, MiB", f"{run.peak_mib:,.0f}")


def say_start(how: str, start: Start) -> None:
    say(f"start {how}: ready after start of the process, s", f"{start.ready_seconds:.2f}")
    say(f"start {how}: ready after assignment, s", f"{start.ready_after_assignment_seconds:.2f}")
    say(f"start {how}: records restored", f"{start.restored_records:,}")
    if start.restored_records:
        rate = start.restored_records / max(start.restore_seconds, 0.01)
        say(f"start {how}: records/s restored", f"{rate:,.0f}")
    say(f"start {how}: memory once ready, MiB", f"{start.mib:,.0f}")


def latency(broker: Broker, folder: Path, seconds: int, rate: int) -> dict[str, Any]:
    stage = new_stage(broker, folder, "latency", clock="wall")
    worker = stage.start("worker")
    try:
        worker.wait_ready()
        found = measure_latency(stage, worker, seconds, rate)
    finally:
        stage.close()
    say(f"from send to visible change at {rate:,}/s, p50 / p99, ms", f"{found.p50_ms:.0f} / {found.p99_ms:.0f}")
    say(f"CPU s a million events at {rate:,}/s", f"{found.cpu_s_per_m:.0f}")
    figures: dict[str, Any] = msgspec.to_builtins(found)
    return figures


def takeover(broker: Broker, folder: Path, total: int, *, standby_replicas: int) -> dict[str, Any]:
    """One of two workers is killed: how long until the other has applied what came meanwhile."""
    name = "standby" if standby_replicas else "takeover"
    stage = new_stage(broker, folder, name, standby_replicas=str(standby_replicas), session_timeout="6s")
    fill(stage, total)
    doomed, heir = stage.start("doomed"), stage.start("heir")
    try:
        stage.wait_applied(PATIENCE_S)
        for worker in (doomed, heir):
            worker.wait_ready()
        before = len(heir.events("partition_restored"))
        doomed.kill()
        began = time.monotonic()
        fill(stage, total // 100, seed=2)
        stage.wait_applied()
        seconds = time.monotonic() - began
        restored = heir.events("partition_restored")[before:]
        assert heir.stop() == 0, heir.log_tail()
    finally:
        stage.close()
    how = "with" if standby_replicas else "without"
    records = sum(each["records"] for each in restored)
    say(f"takeover {how} a standby (session time-out 6 s), s", f"{seconds:.1f}")
    say(f"takeover {how} a standby, records restored", f"{records:,}")
    return {"seconds": seconds, "records_restored": records}
