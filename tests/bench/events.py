"""Seeded events of skewed customers: visits, mails, orders, screens and places, about 245 bytes each."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from conditions.times import DAY_MS, format_time, parse_time
from tests.kafka.workers import Sent

CUSTOMERS = 20_000
SPAN_MS = 60 * DAY_MS
START_MS = 1_760_000_000_000


def events(
    total: int, seed: int = 1, customers: int = CUSTOMERS, start_ms: int = START_MS, span_ms: int = SPAN_MS
) -> Iterator[dict[str, Any]]:
    """In order of time, spread over sixty days; the busiest hundredth of the customers makes a sixth of them."""
    chance = random.Random(seed)
    for number in range(total):
        time_ms = start_ms + int((number + chance.random()) * span_ms / total)
        yield event(chance, time_ms, customers)


def event(chance: random.Random, time_ms: int, customers: int = CUSTOMERS) -> dict[str, Any]:
    """An event of any of the customers at this time."""
    customer = f"c{int(customers * chance.random() ** 2.5)}"
    kind, properties = _body(chance)
    return {
        "event_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "type": kind,
        "customer_id": customer,
        "time": format_time(time_ms),
        "properties": properties,
    }


def sent(topic: str, event: dict[str, Any]) -> Sent:
    """The event as a record, with its own time as the record's."""
    return Sent(topic, event["customer_id"], orjson.dumps(event), parse_time(event["time"]))


def write_events(path: Path, total: int) -> int:
    """Write them as JSON lines, and answer how many bytes an event has on average."""
    with path.open("wb") as file:
        for each in events(total):
            file.write(orjson.dumps(each) + b"\n")
        return file.tell() // total


def _body(chance: random.Random) -> tuple[str, dict[str, Any]]:
    dice = chance.random()
    session = f"{chance.getrandbits(48):012x}"
    if dice < 0.70:
        url = f"https://d{chance.randrange(5)}.example/p{chance.randrange(200)}"
        if chance.random() < 0.3:
            url += f"?utm_source=s{chance.randrange(9)}&q={chance.randrange(1000)}"
        return "page.visit", {"url": url, "referrer": "https://search.example/", "session": session}
    if dice < 0.80:
        message = {"campaign_id": f"k{chance.randrange(50)}", "message_id": f"{chance.getrandbits(64):016x}"}
        return chance.choice(("email.opened", "email.clicked")), message | {"client": "webmail"}
    if dice < 0.90:
        return "purchase.order", _order(chance)
    if dice < 0.95:
        return "app.screen", {"screen": f"scr{chance.randrange(30)}", "app_version": "5.2.1", "session": session}
    place = f"loc{chance.randrange(20)}"
    return "location.visit", {"location_id": place, "source": "beacon", "accuracy_m": chance.randrange(50)}


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
    return {"order_id": f"{chance.getrandbits(48):012x}", "items": items, "total": total}
