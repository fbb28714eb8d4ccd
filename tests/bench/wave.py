"""Very many deadlines at one instant, while events flow: how long the wave takes, and what the events wait."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from conditions.times import DAY_MS, format_time, parse_time
from deploy.kafka.broker import Broker
from streams.wall_time import wall_time_ms
from tests.bench.live import RATE, WARM_UP_S, ChangesReader, Visible, feed, summarised
from tests.bench.machine import cpu_seconds, say
from tests.bench.stages import PATIENCE_S, new_stage
from tests.kafka.workers import Sent, Stage, until

CUSTOMERS = 100_000
WINDOW_MS = 7 * DAY_MS  # of segment s1, which the wave's visits enter
SECONDS_A_CUSTOMER = 1 / 2_000  # to send its visit and apply it, with much to spare
FLOW_BEFORE_S = 15
FLOW_AFTER_S = 20
SMALL: dict[str, Any] = {"customers": 500, "rate": 200, "before_s": 2, "after_s": 4}


def measure(
    customers: int = CUSTOMERS, rate: int = RATE, before_s: int = FLOW_BEFORE_S, after_s: int = FLOW_AFTER_S
) -> dict[str, Any]:
    """Print the figures as they come, and answer them."""
    with Broker(heap="1g") as broker, tempfile.TemporaryDirectory(prefix="rollcall-bench-") as folder:
        stage = new_stage(broker, Path(folder), "wave", clock="wall")
        try:
            figures = measure_wave(stage, customers, rate, before_s, after_s)
        finally:
            stage.close()
    say(f"{customers:,} deadlines at one instant: first emitted after, s", f"{figures['first_s']:.2f}")
    say("all emitted after, s", f"{figures['last_s']:.2f}")
    say(
        f"live events at {rate:,}/s before it, p50 / p99, ms", "{p50_ms:.0f} / {p99_ms:.0f}".format(**figures["before"])
    )
    say("live events until all are emitted, p50 / p99, ms", "{p50_ms:.0f} / {p99_ms:.0f}".format(**figures["during"]))
    say("CPU s of the worker for the wave and the events during it", f"{figures['cpu_s']:.1f}")
    return figures


def measure_wave(stage: Stage, customers: int, rate: int, before_s: int, after_s: int) -> dict[str, Any]:
    worker = stage.start("worker")
    worker.wait_ready()
    with ChangesReader(stage) as reader:
        instant_ms = wall_time_ms() + int((10 + before_s + customers * SECONDS_A_CUSTOMER) * 1000)
        stage.send(visits(stage.topics[0], customers, instant_ms - WINDOW_MS))
        until(lambda: len(reader) >= customers, "every customer of the wave has entered", PATIENCE_S)
        feed(stage, WARM_UP_S, seed=1, rate=rate)
        entered = len(reader)
        left_s = instant_ms / 1000 - time.time()
        assert left_s > before_s, f"too slow for the wave: {left_s:.0f} s are left of the {before_s} s before it"
        late_ms = feed(stage, left_s, seed=2, rate=rate)
        cpu_began = cpu_seconds(worker.process.pid)
        late_ms = max(late_ms, feed(stage, after_s, seed=3, rate=rate))
        until(lambda: wave_ends(reader.changes(since=entered), customers), "the wave is over", PATIENCE_S)
        cpu_s = cpu_seconds(worker.process.pid) - cpu_began
        stage.wait_applied()
    found = reader.changes(since=entered)
    wave = [each for each in found if each.change.reason == "deadline" and each.change.customer_id.startswith("w")]
    assert {parse_time(each.change.effective_at) for each in wave} == {instant_ms}, "they leave at the instant itself"
    assert len(wave) == len({each.change.customer_id for each in wave}) == customers, "each leaves once"
    first_ms, last_ms = min(each.read_ms for each in wave), max(each.read_ms for each in wave)
    return {
        "customers": customers,
        "rate": rate,
        "first_s": (first_ms - instant_ms) / 1000,
        "last_s": (last_ms - instant_ms) / 1000,
        "before": delays(found, instant_ms - before_s * 1000, instant_ms),
        "during": delays(found, instant_ms, last_ms),
        "worst_send_delay_ms": late_ms,
        "cpu_s": cpu_s,
    }


def visits(topic: str, customers: int, time_ms: int) -> Iterator[Sent]:
    """A visit of each, of long ago though it arrives now."""
    now_ms = wall_time_ms()
    for number in range(customers):
        customer = f"w{number}"
        fields = {
            "event_id": "1",
            "type": "page.visit",
            "customer_id": customer,
            "time": format_time(time_ms),
            "properties": {"url": "https://d0.example/p1"},
        }
        yield Sent(topic, customer, orjson.dumps(fields), now_ms)


def wave_ends(changes: list[Visible], customers: int) -> bool:
    return sum(each.change.reason == "deadline" for each in changes) >= customers


def delays(changes: list[Visible], from_ms: float, to_ms: float) -> dict[str, float]:
    """Of the changes whose event was sent in this stretch of time."""
    sent_then = [each for each in changes if each.change.cause is not None and from_ms <= each.sent_ms < to_ms]
    count, p50_ms, p99_ms, max_ms = summarised(sent_then)
    return {"changes": count, "p50_ms": p50_ms, "p99_ms": p99_ms, "max_ms": max_ms}
