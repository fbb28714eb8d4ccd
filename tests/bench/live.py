"""Events at a steady rate, and when the changes they cause can be read."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from statistics import quantiles
from types import TracebackType
from typing import NamedTuple

import msgspec
from confluent_kafka import Consumer, TopicPartition

from conditions.changes import Change
from conditions.times import parse_time
from connectors.changes import decode_change
from streams.wall_time import wall_time_ms
from tests.bench.events import event, sent
from tests.bench.machine import cpu_seconds
from tests.kafka.workers import Sent, Stage, WorkerProcess, closing, until

RATE = 2_000  # events a second
WARM_UP_S = 5
SETTLE_S = 10.0


class Visible(NamedTuple):
    """A change, and the wall time at which a read-committed reader had it."""

    read_ms: float
    change: Change

    @property
    def sent_ms(self) -> int:
        """Just before the deciding event was sent, rounded down."""
        assert self.change.cause is not None, "a deadline was never sent"
        return parse_time(self.change.cause.event_time)


class ChangesReader:
    """Reads the stage's changes from the start, in a thread of its own, for as long as its block lasts."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._found: list[tuple[float, bytes]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> ChangesReader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def __len__(self) -> int:
        return len(self._found)

    def changes(self, since: int = 0) -> list[Visible]:
        """All but the first `since`, decoded only now."""
        return [Visible(read_ms, decode_change(value)) for read_ms, value in self._found[since:]]

    def _read(self) -> None:
        options = {
            "bootstrap.servers": self._stage.bootstrap_servers,
            "group.id": "latency",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
        }
        with closing(Consumer(options)) as consumer:
            topic = self._stage.changes_topic
            consumer.assign([TopicPartition(topic, number, 0) for number in range(self._stage.partitions)])
            while not self._stop.is_set():
                message = consumer.poll(0.1)  # at once when there is one; consume() would wait for more
                if message is not None and message.error() is None:
                    self._found.append((time.time() * 1000, bytes(message.value() or b"")))


class Latency(msgspec.Struct, kw_only=True):
    """From send to visible change, of all changes that the events of one steady flow caused."""

    changes: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    worst_send_delay_ms: float  # how far the sender itself fell behind
    cpu_s_per_m: float  # of the worker, ten idle seconds after the flow included


def summarised(changes: list[Visible]) -> tuple[int, float, float, float]:
    """How many there are, and the median, 99th percentile and maximum of their delays."""
    delays_ms = [each.read_ms - each.sent_ms for each in changes if each.change.cause is not None]
    cuts = quantiles(delays_ms, n=100)
    return len(delays_ms), cuts[49], cuts[98], max(delays_ms)


def measure_latency(stage: Stage, worker: WorkerProcess, seconds: int, rate: int = RATE) -> Latency:
    """Of a worker that is ready."""
    with ChangesReader(stage) as reader:
        feed(stage, WARM_UP_S, seed=1, rate=rate)
        until(lambda: len(reader), "the first change is read")
        pause(SETTLE_S)
        warm, cpu_began = len(reader), cpu_seconds(worker.process.pid)
        late_ms = feed(stage, seconds, seed=2, rate=rate)
        pause(SETTLE_S)
        cpu = cpu_seconds(worker.process.pid) - cpu_began
        stage.wait_applied()
    changes, p50_ms, p99_ms, max_ms = summarised(reader.changes(since=warm))
    return Latency(
        changes=changes,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        max_ms=max_ms,
        worst_send_delay_ms=late_ms,
        cpu_s_per_m=cpu / (seconds * rate) * 1e6,
    )


def feed(stage: Stage, seconds: float, seed: int, rate: int = RATE) -> float:
    """Send events of now, each at its moment; answers by how many ms one was sent late at worst."""
    chance, late_s = random.Random(seed), 0.0
    began, waiting = time.monotonic(), threading.Event()

    def due_events() -> Iterator[Sent]:
        nonlocal late_s
        for number in range(int(seconds * rate)):
            while (wait_s := began + number / rate - time.monotonic()) > 0:
                waiting.wait(wait_s)
            late_s = max(late_s, -wait_s)
            yield sent(stage.topics[0], event(chance, wall_time_ms()))

    stage.send(due_events(), stage.producer(**{"linger.ms": 0}))
    return late_s * 1000


def pause(seconds: float) -> None:
    """Let a stretch of time pass that is itself part of what is measured."""
    threading.Event().wait(seconds)
