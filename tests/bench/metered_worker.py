"""`rollcall worker` with a meter: settings from the environment, as the command has, and two more of the meter's own.

`ROLLCALL_BENCH_METER` names the file for the figures. After `ROLLCALL_BENCH_EVENTS` records (0: never) the process ends
itself, as SIGTERM would. The meter looks once a poll and once a batch, never at an event.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from state.engine import BatchResult
from streams import service
from streams.metrics import Metrics
from streams.polling import Records
from streams.worker import Decided, Worker
from tests.bench.machine import peak_mib


class Note(msgspec.Struct):
    """The wall time, and the CPU time that the process had used by then."""

    wall: float
    cpu: float


class Meter(msgspec.Struct):
    """`first` is before the first record, `half` once that many are decided, `last` once the last is committed."""

    first: Note | None = None
    half: Note | None = None
    last: Note | None = None
    end: Note | None = None  # once everything is closed
    applied: int = 0
    decided: int = 0
    decided_at_half: int = 0  # half of them, and what else the turn had
    peak_mib: float = 0.0
    transaction_s: float = 0.0  # mean


METER = Meter()
AT_FIRST: list[Callable[[], None]] = []
AT_LAST: list[Callable[[], None]] = []


def total_events() -> int:
    """After how many to end; 0: never."""
    return int(os.environ["ROLLCALL_BENCH_EVENTS"])


def note() -> Note:
    return Note(time.time(), time.process_time())


class MeteredWorker(Worker):
    async def receive(self, records: Records) -> None:
        if METER.first is None:
            METER.first = note()
            for call in AT_FIRST:
                call()
        await super().receive(records)

    async def _decide(self) -> list[Decided]:
        decided = await super()._decide()
        METER.decided += sum(each.result.consumed for each in decided)
        if METER.half is None and 0 < total_events() <= 2 * METER.decided:
            METER.half = note()
            METER.decided_at_half = METER.decided
        return decided


class MeteredMetrics(Metrics):
    def count(self, result: BatchResult) -> None:
        super().count(result)
        METER.applied += result.consumed
        if METER.last is None and 0 < total_events() <= METER.applied:
            METER.last = note()
            for call in AT_LAST:
                call()
            METER.transaction_s = self.mean_transaction_s()
            os.kill(os.getpid(), signal.SIGTERM)

    def mean_transaction_s(self) -> float:
        total, count = (
            self.registry.get_sample_value(f"rollcall_transaction_seconds_{part}") or 0.0 for part in ("sum", "count")
        )
        return total / max(1.0, count)


def main() -> None:
    from streams.cli import main as command

    vars(service).update(Worker=MeteredWorker, Metrics=MeteredMetrics)  # for the life of this process, which measures
    sys.argv = ["rollcall", "worker"]
    try:
        command()
    finally:
        METER.end = note()
        METER.peak_mib = peak_mib(os.getpid())
        Path(os.environ["ROLLCALL_BENCH_METER"]).write_bytes(msgspec.json.encode(METER))


if __name__ == "__main__":
    main()
