"""Workers on a real broker, as the parts of the benchmark need them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, TopicPartition

from deploy.kafka.broker import Broker
from tests.bench.documents import TEN
from tests.bench.machine import memory_mib, total_cpu, wait_with_usage
from tests.bench.metered_worker import Meter
from tests.kafka.workers import PATIENCE_S as ANSWER_PATIENCE_S
from tests.kafka.workers import Stage, closing, until

METERED = "tests.bench.metered_worker"
PARTITIONS = 4
PATIENCE_S = 900.0
AS_SHIPPED = {"session_timeout": "10s", "transaction_timeout": "30s"}


def new_stage(
    broker: Broker, folder: Path, name: str, *, topic: str | None = None, segments: Path = TEN, **settings: str
) -> Stage:
    """A stage with its topics, in a folder of this name; `topic` is one that is there already, to read."""
    (folder / name).mkdir()
    options: dict[str, Any] = {"partitions": PARTITIONS, **AS_SHIPPED, **settings}
    stage = Stage(broker.bootstrap_servers, folder / name, name, **options)
    stage.segments_file = segments
    if topic is None:
        stage.create_inputs()
    else:
        stage.topics = [topic]
    # The broker's own time tells when a change was written.
    stage.create_outputs({"message.timestamp.type": "LogAppendTime"})
    stage.create_definitions()
    return stage


def ends_of(bootstrap_servers: str, topic: str) -> dict[tuple[str, int], int]:
    """The offset after the last record of each partition, also of one whose transaction has only just committed."""
    # Others are told the end of what has its transaction's marker, which the broker writes only after its answer.
    options = {"bootstrap.servers": bootstrap_servers, "group.id": "ends", "isolation.level": "read_uncommitted"}
    with closing(Consumer(options)) as consumer:
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        return {
            (topic, each.partition): consumer.get_watermark_offsets(each, timeout=ANSWER_PATIENCE_S)[1]
            for each in places
        }


class Run(msgspec.Struct, kw_only=True):
    """A worker's run over a number of records, from the first to the end of its process."""

    seconds: float  # up to the last record
    events_of_second_half: int  # as far as turns go
    seconds_of_second_half: float
    cpu_seconds: float
    cpu_seconds_to_last: float
    cpu_seconds_of_second_half: float
    start_cpu_seconds: float
    peak_mib: float
    transaction_s: float  # mean
    first_record_at: float  # seconds since the epoch
    last_record_at: float


def run_metered(stage: Stage, total: int, name: str = "worker", module: str = METERED, **settings: Any) -> Run:
    """Let one worker apply as many records as are to come, and end."""
    file = stage.folder / f"{name}.meter"
    worker = stage.start(name, module=module, bench_meter=str(file), bench_events=str(total), **settings)
    usage = wait_with_usage(worker.process)
    assert worker.process.returncode == 0, worker.log_tail()
    meter = msgspec.json.decode(file.read_bytes(), type=Meter)
    first, half, last = meter.first, meter.half, meter.last
    if first is None or half is None or last is None:
        raise AssertionError(f"{meter.applied} of {total} records were applied:\n{worker.log_tail()}")
    return Run(
        seconds=last.wall - first.wall,
        events_of_second_half=total - meter.decided_at_half,
        seconds_of_second_half=last.wall - half.wall,
        cpu_seconds=total_cpu(usage) - first.cpu,
        cpu_seconds_to_last=last.cpu - first.cpu,
        cpu_seconds_of_second_half=last.cpu - half.cpu,
        start_cpu_seconds=first.cpu,
        peak_mib=meter.peak_mib,
        transaction_s=meter.transaction_s,
        first_record_at=first.wall,
        last_record_at=last.wall,
    )


class SharedRun(msgspec.Struct, kw_only=True):
    """What several workers took together, from the first record of any."""

    cpu_seconds: float  # to the end of their processes
    start_cpu_seconds: float
    peak_mib: float  # of all, one after the other
    first_record_at: float  # seconds since the epoch


def run_workers(stage: Stage, count: int, **settings: Any) -> SharedRun:
    """Let so many workers share what is in the topics, and end them once all of it is applied."""
    files = [stage.folder / f"worker-{number}.meter" for number in range(count)]
    workers = [
        stage.start(file.stem, module=METERED, bench_meter=str(file), bench_events="0", **settings) for file in files
    ]
    try:
        stage.wait_applied(PATIENCE_S)
    finally:
        codes = [worker.stop() for worker in workers]
    assert not any(codes), "\n".join(worker.log_tail() for worker in workers)
    meters = [msgspec.json.decode(file.read_bytes(), type=Meter) for file in files]
    at_work = [(meter.first, meter.end) for meter in meters if meter.first is not None and meter.end is not None]
    return SharedRun(
        cpu_seconds=sum(end.cpu - first.cpu for first, end in at_work),
        start_cpu_seconds=sum(first.cpu for first, _ in at_work),
        peak_mib=sum(meter.peak_mib for meter in meters),
        first_record_at=min(first.wall for first, _ in at_work),
    )


class Start(msgspec.Struct, kw_only=True):
    """How a plain worker came up, as it says itself."""

    ready_seconds: float  # from the start of the process
    ready_after_assignment_seconds: float
    restored_records: int
    restore_seconds: float  # of the slowest partition
    mib: float


def time_start(stage: Stage, name: str, **settings: Any) -> Start:
    """Start a worker, see it ready, and stop it."""
    began = time.monotonic()
    worker = stage.start(name, **settings)
    until(lambda: worker.events("partitions_assigned"), "partitions are assigned", PATIENCE_S)
    assigned = time.monotonic()
    until(worker.is_ready, "the worker is ready", PATIENCE_S)
    ready = time.monotonic()
    restored = worker.events("partition_restored")
    mib = memory_mib(worker.process.pid)
    assert worker.stop() == 0, worker.log_tail()
    return Start(
        ready_seconds=ready - began,
        ready_after_assignment_seconds=ready - assigned,
        restored_records=sum(each["records"] for each in restored),
        restore_seconds=max(each["seconds"] for each in restored),
        mib=mib,
    )
