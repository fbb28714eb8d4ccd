"""Throughput of one and of two worker processes on one backlog.

The workers join, are stopped in their tracks, and go on once the backlog is there: so neither the rebalance nor the
sending is in the figure.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.kafka.broker import Broker
from tests.bench.events import events, sent
from tests.bench.machine import cpu_seconds, say
from tests.bench.stages import PARTITIONS, PATIENCE_S, new_stage
from tests.kafka.workers import WorkerProcess, until

EVENTS = 500_000
COUNTS = (1, 2)
SMALL: dict[str, Any] = {"total": 2_000}


def measure(total: int = EVENTS, counts: Sequence[int] = COUNTS) -> dict[str, Any]:
    """Print the figures as they come, and answer them."""
    with Broker(heap="1g") as broker, tempfile.TemporaryDirectory(prefix="rollcall-bench-") as folder:
        rows = [of_processes(broker, Path(folder), total, count) for count in counts]
    for row in rows[1:]:
        ratio = row["events_a_second"] / rows[0]["events_a_second"]
        say(f"{row['processes']} processes to {rows[0]['processes']}, events/s", f"{ratio:.2f}")
    return {"events": total, "processes": rows}


def of_processes(broker: Broker, folder: Path, total: int, count: int) -> dict[str, Any]:
    stage = new_stage(broker, folder, f"processes-{count}", session_timeout="120s")
    workers = [stage.start(f"worker-{number}") for number in range(count)]
    try:
        until(lambda: all(is_settled(worker, PARTITIONS // count) for worker in workers), "each has its partitions")
        for worker in workers:
            worker.freeze()
        stage.send(sent(stage.topics[0], each) for each in events(total))
        cpu_began = sum(cpu_seconds(worker.process.pid) for worker in workers)
        began = time.monotonic()
        for worker in workers:
            worker.thaw()
        stage.wait_applied(PATIENCE_S)
        seconds = time.monotonic() - began
        cpu = sum(cpu_seconds(worker.process.pid) for worker in workers) - cpu_began
    finally:
        stage.close()
    say(f"{count} process(es), events/s", f"{total / seconds:,.0f}")
    say(f"{count} process(es), CPU s a million events", f"{cpu / total * 1e6:.1f}")
    return {"processes": count, "events_a_second": total / seconds, "cpu_s_per_m": cpu / total * 1e6}


def is_settled(worker: WorkerProcess, partitions: int) -> bool:
    """Whether it is ready with so many partitions."""
    assigned = worker.events("partitions_assigned")
    return bool(assigned) and len(assigned[-1]["partitions"]) == partitions and worker.is_ready()
