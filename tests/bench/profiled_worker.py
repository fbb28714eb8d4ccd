"""A metered worker that samples where its CPU time goes; `ROLLCALL_BENCH_PROFILE` names the file for the seconds.

A timer of the process's CPU time interrupts the main thread. What each Python thread has used since the last sample, by
its own clock, counts for the place it is at; what the process has used beyond that are RocksDB's own threads.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

import msgspec

from tests.bench import metered_worker
from tests.bench.machine import ROOT

EVERY_S = 0.001
BACKGROUND = "RocksDB's threads"
FETCH = "fetch"
REST = "rest"

# The innermost frame that is named here decides: a helper that is not counts for its caller. Function "" is any.
STAGES: dict[tuple[str, str], str] = {
    ("connectors/json_events.py", ""): "decode",
    ("connectors/payloads.py", ""): "decode",
    ("streams/buffers.py", "decoded"): "decode",
    ("conditions/index.py", ""): "match",
    ("state/engine.py", "_match_all"): "match",
    ("conditions/features.py", ""): "fold",
    ("state/engine.py", "_apply"): "fold",
    ("state/engine.py", "apply_all"): "fold",
    ("state/engine.py", "_fold_all"): "fold",
    ("state/engine.py", "note_taken"): "fold",
    ("state/engine.py", "_update"): "fold",
    ("conditions/segments.py", ""): "evaluate",
    ("conditions/changes.py", ""): "evaluate",
    ("state/engine.py", "_decide"): "evaluate",
    ("state/engine.py", "_changes"): "evaluate",
    ("state/engine.py", "_complete"): "evaluate",
    ("state/engine.py", "_welcome"): "evaluate",
    ("state/engine.py", "_readers"): "evaluate",
    ("state/engine.py", "_in_order"): "evaluate",
    ("state/engine.py", "_cause"): "evaluate",
    ("state/engine.py", "_fire"): "deadlines",
    ("state/engine.py", "_fire_wave"): "deadlines",
    ("state/engine.py", "_await"): "deadlines",
    ("state/engine.py", "_write_deadline"): "customers' records",
    ("state/engine.py", "result"): "customers' records",
    ("state/cache.py", ""): "customers' records",
    ("state/customers.py", ""): "customers' records",
    ("state/overlay.py", ""): "customers' records",
    ("state/changelog.py", ""): "encode",
    ("state/parts.py", ""): "encode",
    ("streams/outgoing.py", ""): "encode",
    ("connectors/changes.py", ""): "encode",
    ("connectors/dead_letters.py", ""): "encode",
    ("streams/kafka/fetching.py", ""): FETCH,
    ("streams/kafka", ""): "transaction",
    ("aiokafka", ""): "transaction",
    ("state/rocksdb_store.py", ""): "RocksDB",
    ("streams/polling.py", ""): FETCH,
    ("faust", ""): FETCH,
    ("mode", ""): FETCH,
}


class Sampler:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._main = threading.main_thread().ident
        self._used: dict[int, float] = {}
        self._process_used = 0.0
        self._python_used = 0.0
        self._stages: dict[tuple[str, str], str | None] = {}

    def start(self) -> None:
        self._take_times()
        self._process_used, self._python_used = time.process_time(), 0.0
        signal.signal(signal.SIGPROF, self._on_sample)
        signal.siginterrupt(signal.SIGPROF, False)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        process = time.process_time() - self._process_used
        self.seconds[BACKGROUND] = max(0.0, process - self._python_used)
        Path(os.environ["ROLLCALL_BENCH_PROFILE"]).write_bytes(msgspec.json.encode(self.seconds))

    def _on_sample(self, number: int, frame: FrameType | None) -> None:
        for thread, used in self._take_times().items():
            stage = self._stage_of(frame) if thread == self._main else FETCH  # the other thread is the consumer's
            self.seconds[stage] += used
            self._python_used += used

    def _take_times(self) -> dict[int, float]:
        """What each Python thread has used since the last call."""
        passed: dict[int, float] = {}
        for thread in threading.enumerate():
            if thread.ident is None:
                continue
            now = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
            passed[thread.ident] = now - self._used.get(thread.ident, now)
            self._used[thread.ident] = now
        return passed

    def _stage_of(self, frame: FrameType | None) -> str:
        while frame is not None:
            code = frame.f_code
            key = code.co_filename, code.co_name
            if key not in self._stages:
                self._stages[key] = stage_of(*key)
            stage = self._stages[key]
            if stage is not None:
                return stage
            frame = frame.f_back
        return REST


def stage_of(filename: str, function: str) -> str | None:
    """The stage that a function belongs to, or None for a helper."""
    path = Path(filename)
    place = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else filename
    package = place.rpartition("/site-packages/")[2].partition("/")[0]
    for name in (place, place.rpartition("/")[0], package):
        for key in ((name, function), (name, "")):
            if key in STAGES:
                return STAGES[key]
    return None


def main() -> None:
    sampler = Sampler()
    metered_worker.AT_FIRST.append(sampler.start)
    metered_worker.AT_LAST.append(sampler.stop)
    metered_worker.main()


if __name__ == "__main__":
    main()
