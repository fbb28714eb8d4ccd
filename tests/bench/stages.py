"""Workers on a real broker, as the parts of the benchmark need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from deploy.kafka.broker import Broker
from tests.bench.documents import TEN
from tests.bench.machine import total_cpu, wait_with_usage
from tests.bench.metered_worker import Meter
from tests.kafka.workers import Stage

PARTITIONS = 4
PATIENCE_S = 900.0
AS_SHIPPED = {"session_timeout": "10s", "transaction_timeout": "30s"}


def new_stage(
    broker: Broker, folder: Path, name: str, *, topic: str | None = None, segments: Path = TEN, **settings: str
) -> Stage:
    """A stage with its topics, in a folder of this name; `topic` is one that is there already, to read."""
    (folder / name).mkdir()
    text = segments.read_text(encoding="utf-8")
    options: dict[str, Any] = {"partitions": PARTITIONS, "segments": text, **AS_SHIPPED, **settings}
    stage = Stage(broker.bootstrap_servers, folder / name, name, **options)
    if topic is None:
        stage.create_inputs()
    else:
        stage.topics = [topic]
    # The broker's own time tells when a change was written.
    stage.create_outputs({"message.timestamp.type": "LogAppendTime"})
    return stage


class Run(msgspec.Struct, kw_only=True):
    """A worker's run over a number of records, from the first to the end of its process."""

    seconds_of_second_half: float
    cpu_seconds: float
    cpu_seconds_to_last: float
    start_cpu_seconds: float
    peak_mib: float
    first_record_at: float  # seconds since the epoch
    last_record_at: float


def run_metered(stage: Stage, total: int, name: str = "worker") -> Run:
    """Let one worker apply as many records as the topic holds, and end."""
    file = stage.folder / f"{name}.meter"
    worker = stage.start(name, module="tests.bench.metered_worker", bench_meter=str(file), bench_events=str(total))
    usage = wait_with_usage(worker.process)
    assert worker.process.returncode == 0, worker.log_tail()
    meter = msgspec.json.decode(file.read_bytes(), type=Meter)
    first, half, last = meter.first, meter.half, meter.last
    if first is None or half is None or last is None:
        raise AssertionError(f"{meter.applied} of {total} records were applied:\n{worker.log_tail()}")
    return Run(
        seconds_of_second_half=last.wall - half.wall,
        cpu_seconds=total_cpu(usage) - first.cpu,
        cpu_seconds_to_last=last.cpu - first.cpu,
        start_cpu_seconds=first.cpu,
        peak_mib=meter.peak_mib,
        first_record_at=first.wall,
        last_record_at=last.wall,
    )
