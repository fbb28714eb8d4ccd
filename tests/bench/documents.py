"""The ten segments of every measurement, and any number of others: hardly matched, matched, or true by default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import yaml

TEN = Path(__file__).with_name("worker_segments.yaml")

# Other hosts, paths, campaigns, products … than the events name, so that only finding out takes time.
OTHERS: tuple[Callable[[int], dict[str, Any]], ...] = (
    lambda n: {"kind": "page_visit", "domain": f"host{n}.example"},
    lambda n: {"kind": "page_visit", "path": f"/other/{n}"},
    lambda n: {"kind": "page_visit", "domain": "d1.example", "path": f"/other/{n}/*"},
    lambda n: {"kind": "page_visit", "url": f"https://d2.example/p1?campaign={n}", "query": "exact"},
    lambda n: {"kind": "referral", "domain": f"host{n}.example", "subdomains": True},
    lambda n: {"kind": "email", "action": "opened", "campaign_id": f"other-{n}"},
    lambda n: {"kind": "purchase_category", "category": f"other-{n}"},
    lambda n: {"kind": "purchase_product", "product_id": f"other-{n}"},
    lambda n: {"kind": "purchase_price", "product_id": f"other-{n}", "min": n % 100, "max": n % 100 + 50},
    lambda n: {"kind": "transaction", "min": 10_000 + n, "max": 20_000 + n},
    lambda n: {"kind": "app_screen", "screen": f"other-{n}"},
    lambda n: {"kind": "location", "location_id": f"other-{n}"},
    lambda n: {"kind": "customer", "attribute": "plan", "operator": "equals", "value": f"other-{n}"},
    lambda n: {
        "kind": "event",
        "type": "purchase.order",
        "where": [{"property": "coupon", "operator": "equals", "value": f"other-{n}"}],
    },
)
WINDOWS = (None, "1d", "7d", "30d")


def write_documents(path: Path, others: int) -> None:
    """The ten and so many others, as JSON."""
    documents = yaml.safe_load(TEN.read_text(encoding="utf-8"))["segments"]
    documents += [_other(number) for number in range(others)]
    path.write_bytes(msgspec.json.encode({"segments": documents}))


def write_matched_documents(path: Path, count: int) -> None:
    """So many segments of pages and campaigns that the events do name, over all windows: most customers are in some."""
    questions = [{"kind": "page_visit", "path": f"/p{n}"} for n in range(200)]
    questions += [{"kind": "email", "action": "opened", "campaign_id": f"k{n}"} for n in range(50)]
    documents = []
    for number in range(count):
        condition: dict[str, Any] = dict(questions[number % len(questions)])
        within = WINDOWS[number // len(questions) % len(WINDOWS)]
        documents.append(_document(f"matched-{number}", condition, within))
    path.write_bytes(msgspec.json.encode({"segments": documents}))


def write_default_documents(path: Path, count: int) -> None:
    """So many segments that are true of a customer with nothing known: nobody has visited their hosts."""
    documents = [
        _document(f"never-{number}", {"kind": "page_visit", "domain": f"host{number}.example", "negate": True}, "30d")
        for number in range(count)
    ]
    path.write_bytes(msgspec.json.encode({"segments": documents}))


def _other(number: int) -> dict[str, Any]:
    condition = OTHERS[number % len(OTHERS)](number)
    within = WINDOWS[number // len(OTHERS) % len(WINDOWS)]
    return _document(f"other-{number}", condition, None if condition["kind"] == "customer" else within)


def _document(segment_id: str, condition: dict[str, Any], within: str | None) -> dict[str, Any]:
    if within is not None:
        condition = {**condition, "within": within}
    return {"id": segment_id, "name": segment_id, "conditions": [condition]}
