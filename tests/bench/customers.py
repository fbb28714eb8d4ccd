"""What many customers cost: two million in state beside twenty thousand, and the bytes that one takes.

One event of each customer makes the state; then a day of events from all of them is measured. That day is short enough
that few of the deadlines which the first events left fall into it, whatever their number.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from conditions.times import DAY_MS
from deploy.kafka.broker import Broker
from state.changelog import CHECKPOINT_KEY
from state.customers import is_spill
from tests.bench.customer_bytes import bytes_in_cache
from tests.bench.documents import TEN, write_matched_documents
from tests.bench.events import SPAN_MS, START_MS, event, events, sent
from tests.bench.machine import say
from tests.bench.stages import new_stage, run_metered, time_start
from tests.bench.worker import say_run, say_start
from tests.kafka.workers import Sent, Stage, messages

EVENTS = 500_000
SIZES = (20_000, 2_000_000)
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
        rows = [of_customers(broker, folder, total, size) for size in sizes]
        ratio = rows[-1]["events_a_second"] / rows[0]["events_a_second"]
        cpu_ratio = rows[-1]["cpu_us_an_event"] / rows[0]["cpu_us_an_event"]
        say(f"{sizes[-1]:,} customers to {sizes[0]:,}: events/s", f"{ratio:.2f}")
        say(f"{sizes[-1]:,} customers to {sizes[0]:,}: CPU an event", f"{cpu_ratio:.2f}")
        segments = folder / "matched.json"
        write_matched_documents(segments, matched)
        sizes_of_one = [
            bytes_of_customers(broker, folder, "ten", TEN, bytes_customers),
            bytes_of_customers(broker, folder, "matched", segments, bytes_customers),
        ]
        return {"events": total, "customers": rows, "bytes": sizes_of_one}


def of_customers(broker: Broker, folder: Path, total: int, customers: int) -> dict[str, Any]:
    """Throughput on top of so many, then starts with and without their state."""
    what = f"{customers:,} customers"
    stage = new_stage(broker, folder, f"customers-{customers}")
    send_in_parts(stage, one_event_each(stage.topics[0], customers))
    made = run_metered(stage, customers)
    say(f"{what}: new customers/s", f"{customers / made.seconds:,.0f}")
    say(f"{what}: CPU µs a new customer", f"{made.cpu_seconds_to_last / customers * 1e6:.1f}")
    day = events(total, customers=customers, start_ms=START_MS, span_ms=DAY_MS)
    send_in_parts(stage, (sent(stage.topics[0], each) for each in day))
    run = run_metered(stage, total)
    say_run(what, run, total)
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
        "events_a_second": total / run.seconds,
        "cpu_us_an_event": run.cpu_seconds_to_last / total * 1e6,
        "run": run,
        "state_mib": state_mib,
        "start_with_state": local,
        "start_without": fresh,
    }


def one_event_each(topic: str, customers: int) -> Iterator[Sent]:
    """In the sixty days before the others."""
    chance = random.Random(0)
    for number in range(customers):
        time_ms = START_MS - SPAN_MS + int(number * SPAN_MS / customers)
        yield sent(topic, {**event(chance, time_ms), "customer_id": f"c{number}"})


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
