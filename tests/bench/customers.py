"""What many customers cost: two million in state beside twenty thousand, and the bytes that one takes.

One event of each customer makes the state. Then two times as many events are measured: an hour of them from the same
customers whatever is in state, so that only the state differs; and a day of them from all that are in state, of whom
hardly any comes twice where they are many.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from conditions.times import DAY_MS, HOUR_MS
from deploy.kafka.broker import Broker
from state.changelog import CHECKPOINT_KEY
from state.customers import is_spill
from tests.bench.customer_bytes import bytes_in_cache
from tests.bench.documents import TEN, write_matched_documents
from tests.bench.events import SPAN_MS, START_MS, event, events, sent
from tests.bench.machine import say
from tests.bench.stages import ends_of, new_stage, run_metered, time_start
from tests.bench.worker import say_run, say_start
from tests.kafka.workers import Sent, Stage, messages

EVENTS = 500_000
SIZES = (20_000, 2_000_000)
STRIDE = 7_919  # a prime: who is next to whom in time is not so by number
MATCHED = 1_000  # segments of the second measurement of bytes
BYTES_CUSTOMERS = 20_000
SENT_AT_ONCE = 200_000
SMALL: dict[str, Any] = {"total": 1_000, "sizes": (100, 1_000), "matched": 20, "bytes_customers": 200}


def measure(
    total: int = EVENTS,
    sizes: Sequence[int] = SIZES,
    matched: int = MATCHED,
    bytes_customers: int = BYTES_CUSTOMERS,
) -> dict[str, Any]:
    """Print the figures as they come, and answer them."""
    with Broker(heap="1g") as broker, tempfile.TemporaryDirectory(prefix="rollcall-bench-") as name:
        folder = Path(name)
        rows = [of_customers(broker, folder, total, size, sizes[0]) for size in sizes]
        for whose in ("of_the_same", "of_all"):
            few, many = rows[0][whose], rows[-1][whose]
            what = f"{sizes[-1]:,} customers to {sizes[0]:,}, events {whose.replace('_', ' ')}"
            say(f"{what}: events/s", f"{many['events_a_second'] / few['events_a_second']:.2f}")
            say(f"{what}: CPU an event", f"{many['cpu_us_an_event'] / few['cpu_us_an_event']:.2f}")
        segments = folder / "matched.json"
        write_matched_documents(segments, matched)
        sizes_of_one = [
            bytes_of_customers(broker, folder, "ten", TEN, bytes_customers),
            bytes_of_customers(broker, folder, "matched", segments, bytes_customers),
        ]
        return {"events": total, "customers": rows, "bytes": sizes_of_one}


def of_customers(broker: Broker, folder: Path, total: int, customers: int, busy: int) -> dict[str, Any]:
    """Throughput on top of so many, then starts with and without their state. `busy` of them are always the same."""
    what = f"{customers:,} customers"
    stage = new_stage(broker, folder, f"customers-{customers}")
    send_in_parts(stage, one_event_each(stage.topics[0], customers))
    made = run_metered(stage, customers)
    say(f"{what}: new customers/s", f"{customers / made.seconds:,.0f}")
    say(f"{what}: CPU µs a new customer", f"{made.cpu_seconds_to_last / customers * 1e6:.1f}")
    hour = events(total, seed=1, customers=busy, start_ms=START_MS, span_ms=HOUR_MS)
    of_the_same = of_events(stage, hour, total, f"{what}, events of {busy:,}")
    day = events(total, seed=2, customers=customers, start_ms=START_MS + HOUR_MS, span_ms=DAY_MS)
    of_all = of_events(stage, day, total, f"{what}, events of all")
    state_mib = sum(each.stat().st_size for each in stage.folder.glob("worker/partition-*/*")) / (1 << 20)
    say(f"{what}: local state, MiB", f"{state_mib:,.0f}")
    local = time_start(stage, "worker")
    say_start(f"with {what}", local)
    fresh = time_start(stage, "fresh")
    say_start(f"without state of {what}", fresh)
    return {
        "customers": customers,
        "new_customers_a_second": customers / made.seconds,
        "cpu_us_a_new_customer": made.cpu_seconds_to_last / customers * 1e6,
        "of_the_same": of_the_same,
        "of_all": of_all,
        "state_mib": state_mib,
        "start_with_state": local,
        "start_without": fresh,
    }


def of_events(stage: Stage, records: Iterator[dict[str, Any]], total: int, what: str) -> dict[str, Any]:
    """Throughput of so many events on top of what the stage's worker has."""
    send_in_parts(stage, (sent(stage.topics[0], each) for each in records))
    before = ends_of(stage.bootstrap_servers, stage.changes_topic)
    run = run_metered(stage, total)
    after = ends_of(stage.bootstrap_servers, stage.changes_topic)
    changes = (sum(after.values()) - sum(before.values())) / total
    say_run(what, run, total)
    say(f"{what}, changes an event", f"{changes:.2f}")
    return {
        "changes_an_event": changes,
        "events_a_second": total / run.seconds,
        "cpu_us_an_event": run.cpu_seconds_to_last / total * 1e6,
        "run": run,
    }


def one_event_each(topic: str, customers: int) -> Iterator[Sent]:
    """In the sixty days before the others."""
    chance = random.Random(0)
    for place in range(customers):
        time_ms = START_MS - SPAN_MS + int(place * SPAN_MS / customers)
        yield sent(topic, {**event(chance, time_ms), "customer_id": f"c{place * STRIDE % customers}"})


def send_in_parts(stage: Stage, records: Iterator[Sent]) -> None:
    """Wait for the broker now and then, as the producer's queue does not hold millions."""
    while part := list(islice(records, SENT_AT_ONCE)):
        stage.send(part)


def bytes_of_customers(broker: Broker, folder: Path, name: str, segments: Path, customers: int) -> dict[str, Any]:
    """After 25 events a customer."""
    stage = new_stage(broker, folder, f"bytes-{name}", segments=segments)
    total = customers * 25
    stage.send(sent(stage.topics[0], each) for each in events(total, customers=customers))
    run_metered(stage, total)
    stores = sorted(stage.folder.glob("worker/partition-*"))
    found, record_bytes = changelog_records(stage)
    local_bytes = sum(each.stat().st_size for store in stores for each in store.glob("*.sst"))
    figures = {
        "segments": name,
        "customers": found,
        "changelog_bytes": record_bytes / found,
        "rocksdb_bytes": local_bytes / found,
        "cache_bytes": bytes_in_cache(stores, customers),
    }
    how = "ten segments" if segments == TEN else "segments that the events match"
    for place in ("changelog", "rocksdb", "cache"):
        say(f"{how}: bytes a customer, {place}", f"{figures[f'{place}_bytes']:,.0f}")
    return figures


def changelog_records(stage: Stage) -> tuple[int, int]:
    """How many customers it has, and the bytes of all their newest keys and values."""
    newest: dict[bytes, int] = {}
    for message in messages(stage.bootstrap_servers, stage.changelog):
        key, value = bytes(message.key() or b""), message.value()
        newest[key] = 0 if value is None else len(key) + len(value)
    kept = {key: size for key, size in newest.items() if size and key != CHECKPOINT_KEY}
    return sum(not is_spill(key) for key in kept), sum(kept.values())
