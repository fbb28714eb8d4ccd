"""What a worker does on a real broker: throughput, latency, restore, start and takeover. Prints one line a figure."""

from __future__ import annotations

import os
import random
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import quantiles
from typing import Any

import msgspec
from confluent_kafka import Consumer, TopicPartition

from connectors.changes import decode_change
from deploy.kafka.broker import Broker
from tests.kafka.workers import Sent, Stage, WorkerProcess, closing, until

SEGMENTS = Path(__file__).with_name("worker_segments.yaml")
PARTITIONS = 4
EVENTS = 500_000
CUSTOMERS = 20_000
SPAN_MS = 60 * 86_400_000
START_MS = 1_760_000_000_000
LATENCY_RATE = 2_000
LATENCY_S = 20
PATIENCE_S = 600.0

encode = msgspec.json.Encoder().encode


def main() -> None:
    with Broker(heap="1g") as broker, tempfile.TemporaryDirectory(prefix="rollcall-bench-") as folder:
        throughput(broker, Path(folder))
        latency(broker, Path(folder))
        takeover(broker, Path(folder), standby_replicas=0)
        takeover(broker, Path(folder), standby_replicas=1)


def say(what: str, figure: str) -> None:
    print(f"{what:<58} {figure:>16}", flush=True)


# -- events -----------------------------------------------------------------------------------------------------------


def events(topic: str, total: int, seed: int = 1) -> Iterator[Sent]:
    """Seeded events of skewed customers, over sixty days: visits, mails, orders, screens and places."""
    chance = random.Random(seed)
    for number in range(total):
        at_ms = START_MS + int((number + chance.random()) * SPAN_MS / total)
        customer = f"c{int(CUSTOMERS * chance.random() ** 2.5)}"
        kind, properties = _body(chance)
        fields = {
            "event_id": f"{chance.getrandbits(128):032x}",
            "type": kind,
            "customer_id": customer,
            "time": at_ms,
            "properties": properties,
        }
        yield Sent(topic, customer, encode(fields), at_ms)


def _body(chance: random.Random) -> tuple[str, dict[str, Any]]:
    dice = chance.random()
    if dice < 0.70:
        url = f"https://d{chance.randrange(5)}.example/p{chance.randrange(200)}"
        if chance.random() < 0.3:
            url += f"?utm_source=s{chance.randrange(9)}&q={chance.randrange(1000)}"
        session = f"{chance.getrandbits(48):012x}"
        return "page.visit", {"url": url, "referrer": "https://search.example/", "session": session}
    if dice < 0.80:
        message = {"campaign_id": f"k{chance.randrange(50)}", "message_id": f"{chance.getrandbits(64):016x}"}
        return chance.choice(("email.opened", "email.clicked")), message
    if dice < 0.90:
        return "purchase.order", _order(chance)
    if dice < 0.95:
        return "app.screen", {"screen": f"scr{chance.randrange(30)}", "app_version": "5.2.1"}
    return "location.visit", {"location_id": f"loc{chance.randrange(20)}", "accuracy_m": chance.randrange(50)}


def _order(chance: random.Random) -> dict[str, Any]:
    items: list[dict[str, Any]] = [
        {
            "product_id": f"pr{chance.randrange(500)}",
            "category": f"cat{chance.randrange(20)}",
            "price": round(chance.uniform(1, 200), 2),
            "quantity": chance.randint(1, 3),
        }
        for _ in range(chance.randint(1, 3))
    ]
    total = round(sum(item["price"] * item["quantity"] for item in items), 2)
    return {"order_id": f"{chance.getrandbits(48):012x}", "total": total, "items": items}


# -- figures ----------------------------------------------------------------------------------------------------------


def new_stage(broker: Broker, folder: Path, name: str, **settings: str) -> Stage:
    (folder / name).mkdir()
    text = SEGMENTS.read_text(encoding="utf-8")
    options: dict[str, Any] = {"partitions": PARTITIONS, "segments": text, **settings}
    stage = Stage(broker.bootstrap_servers, folder / name, name, **options)
    stage.create_topics()
    return stage


def throughput(broker: Broker, folder: Path) -> None:
    """A backlog of events, then starts with and without what it left."""
    stage = new_stage(broker, folder, "throughput", session_timeout="10s")
    stage.send(events(stage.topics[0], EVENTS))
    worker = stage.start("worker")
    worker.wait_ready()
    began, cpu_began = time.monotonic(), cpu_seconds(worker)
    stage.wait_applied(PATIENCE_S)
    seconds, cpu = time.monotonic() - began, cpu_seconds(worker) - cpu_began
    say("throughput, events/s", f"{EVENTS / seconds:,.0f}")
    say("CPU seconds of the worker per million events", f"{cpu * 1e6 / EVENTS:.1f}")
    say("seconds a transaction, mean", f"{mean_transaction(worker):.3f}")
    say("memory of the worker, MiB", f"{memory_mib(worker):,.0f}")
    worker.stop()
    start_again(stage, worker, "with local state")
    fresh = stage.start("fresh")
    fresh.wait_ready()
    restored = fresh.events("partition_restored")
    rate = sum(each["records"] for each in restored) / max(each["seconds"] for each in restored)
    say("restore without local state, records/s", f"{rate:,.0f}")
    say("restore without local state, s", f"{max(each['seconds'] for each in restored):.2f}")
    fresh.stop()
    stage.close()


def start_again(stage: Stage, worker: WorkerProcess, how: str) -> None:
    began = time.monotonic()
    worker.restart()
    until(lambda: worker.events("partitions_assigned"), "partitions are assigned")
    assigned = time.monotonic()
    worker.wait_ready()
    say(f"start {how}: ready after assignment, s", f"{time.monotonic() - assigned:.2f}")
    say(f"start {how}: ready after start of the process, s", f"{time.monotonic() - began:.2f}")
    assert worker.stop() == 0, worker.log_tail()


def latency(broker: Broker, folder: Path) -> None:
    """From sending an event to reading its change, at a steady rate: each event here makes one change."""
    stage = new_stage(broker, folder, "latency", clock="wall")
    stage.segments_file.write_text(
        "segments: [{id: s, name: s, conditions: [{kind: app_screen, screen: x}]}]\n", encoding="utf-8"
    )
    worker = stage.start("worker")
    worker.wait_ready()
    seen: dict[str, float] = {}
    stop = threading.Event()
    reader = threading.Thread(target=read_changes, args=(stage, seen, stop))
    reader.start()
    cpu_began = cpu_seconds(worker)
    sent = feed_steadily(stage)
    until(lambda: len(seen) >= len(sent), "all changes are read")
    cpu = cpu_seconds(worker) - cpu_began
    stop.set()
    reader.join()
    delays_ms = [(seen[customer] - at) * 1000 for customer, at in sent.items()]
    cuts = quantiles(delays_ms, n=100)
    say(f"from send to visible change at {LATENCY_RATE:,}/s, p50, ms", f"{cuts[49]:.0f}")
    say(f"from send to visible change at {LATENCY_RATE:,}/s, p99, ms", f"{cuts[98]:.0f}")
    say(f"CPU share of the worker at {LATENCY_RATE:,}/s, %", f"{cpu / LATENCY_S * 100:.0f}")
    worker.stop()
    stage.close()


def feed_steadily(stage: Stage) -> dict[str, float]:
    """When each customer's event was handed to the producer."""
    producer = stage.producer(**{"linger.ms": 1})
    sent: dict[str, float] = {}
    began, pause = time.monotonic(), threading.Event()
    for number in count():
        due = began + number / LATENCY_RATE
        if due > began + LATENCY_S:
            break
        while (wait := due - time.monotonic()) > 0:
            pause.wait(wait)
        customer = f"c{number}"
        fields = {"event_id": "1", "type": "app.screen", "customer_id": customer, "properties": {"screen": "x"}}
        sent[customer] = time.monotonic()
        producer.produce(stage.topics[0], encode(fields), customer, number % PARTITIONS)
        producer.poll(0)
    producer.flush(30)
    return sent


def read_changes(stage: Stage, seen: dict[str, float], stop: threading.Event) -> None:
    options = {
        "bootstrap.servers": stage.bootstrap_servers,
        "group.id": "latency",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 10,
    }
    with closing(Consumer(options)) as consumer:
        consumer.assign([TopicPartition(stage.changes_topic, number, 0) for number in range(PARTITIONS)])
        while not stop.is_set():
            for message in consumer.consume(1_000, timeout=0.01):
                if message.error() is None:
                    seen[decode_change(bytes(message.value() or b"")).customer_id] = time.monotonic()


def takeover(broker: Broker, folder: Path, *, standby_replicas: int) -> None:
    """One of two workers is killed: how long until the other has applied what came meanwhile."""
    name = "standby" if standby_replicas else "takeover"
    stage = new_stage(broker, folder, name, standby_replicas=str(standby_replicas), session_timeout="6s")
    stage.send(events(stage.topics[0], EVENTS // 5))
    doomed, heir = stage.start("doomed"), stage.start("heir")
    stage.wait_applied(PATIENCE_S)
    for worker in (doomed, heir):
        worker.wait_ready()
    before = len(heir.events("partition_restored"))
    doomed.kill()
    began = time.monotonic()
    stage.send(events(stage.topics[0], 1_000, seed=2))
    stage.wait_applied()
    how = "with" if standby_replicas else "without"
    say(f"takeover {how} a standby (session time-out 6 s), s", f"{time.monotonic() - began:.1f}")
    restored = heir.events("partition_restored")[before:]
    say(f"takeover {how} a standby, records restored", f"{sum(each['records'] for each in restored):,}")
    heir.stop()
    stage.close()


# -- of a process -----------------------------------------------------------------------------------------------------


def cpu_seconds(worker: WorkerProcess) -> float:
    """User and system time so far; where the system tells it of a living process."""
    try:
        fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(worker: WorkerProcess) -> float:
    try:
        pages = int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * resource.getpagesize() / (1 << 20)


def mean_transaction(worker: WorkerProcess) -> float:
    total = worker.metric("rollcall_transaction_seconds_sum")
    return total / max(1.0, worker.metric("rollcall_transaction_seconds_count"))


Figure = Callable[[Broker, Path], None]

if __name__ == "__main__":
    main()
