"""The demo's closing members against a few lines of plain Python over the same list, which share no code with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from datetime import date, timedelta
from pathlib import Path

import orjson
import pytest

DEMO = Path(__file__).resolve().parent.parent / "deploy" / "demo"
WHOLE_LIST = "CDNOW_LIST"  # the variable that names the file with all 69,659 purchases of the public list
END = date(1998, 7, 1)

Orders = dict[str, list[tuple[date, int]]]  # customer: day and cents


def orders_of(purchases: Path) -> Orders:
    orders: Orders = defaultdict(list)
    for line in purchases.read_text(encoding="ascii").splitlines()[1:]:
        customer, day, _, dollars = line.split()
        orders[customer].append((date.fromisoformat(day), round(float(dollars) * 100)))
    return orders


def members_by_hand(orders: Orders) -> dict[str, list[str]]:
    def last(days: int, customer: str) -> list[int]:
        return [cents for day, cents in orders[customer] if END - timedelta(days) < day <= END]

    return {
        "bought-twice-in-90-days": sorted(each for each in orders if len(last(90, each)) >= 2),
        "lapsed-180-days": sorted(each for each in orders if not last(180, each)),
        "spent-100-in-a-year": sorted(each for each in orders if sum(last(365, each)) >= 100_00),
        "valued": sorted(
            each for each in orders if len(last(365, each)) >= 5 or max(last(365, each), default=0) >= 200_00
        ),
    }


def rollcall(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([sys.executable, "-m", "streams.cli", *words], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done


def replayed(purchases: Path, state: Path) -> tuple[list[dict[str, object]], str]:
    """The changes of the whole list, and what was said at the end."""
    columns = ["--customer", "customer_id", "--date", "date", "--total", "dollar_value"]
    events = rollcall("convert", str(purchases), *columns).stdout
    segments = ["--segments", str(DEMO / "segments.yaml")]
    replay = ["replay", *segments, "--events", "-", "--until", f"{END}T00:00:00Z", "--state", str(state), "--members"]
    done = rollcall(*replay, given=events)
    return [orjson.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def closing_members(changes: list[dict[str, object]]) -> dict[str, list[str]]:
    members: dict[object, set[object]] = defaultdict(set)
    for change in changes:
        act = members[change["segment_id"]].add if change["type"] == "entered" else members[change["segment_id"]].remove
        act(change["customer_id"])
    return {str(segment): sorted(map(str, customers)) for segment, customers in members.items()}


def assert_members_are_right(purchases: Path, state: Path) -> dict[str, list[str]]:
    expected = members_by_hand(orders_of(purchases))
    changes, said = replayed(purchases, state)
    assert closing_members(changes) == expected
    for segment, customers in expected.items():
        assert orjson.loads(rollcall("members", segment, "--state", str(state), "--json").stdout) == customers
    sizes = {segment: len(customers) for segment, customers in expected.items()}
    assert orjson.loads(rollcall("members", "--state", str(state), "--json").stdout) == sizes
    table = [line.split()[:2] for line in said.splitlines()[-len(sizes) :]]
    assert table == [[segment, f"{size:,}"] for segment, size in sizes.items()]
    return expected


def test_the_demo_closes_with_the_members_that_plain_python_finds(tmp_path: Path) -> None:
    expected = assert_members_are_right(DEMO / "purchases.txt", tmp_path / "state")
    assert all(expected.values())


@pytest.mark.skipif(WHOLE_LIST not in os.environ, reason=f"{WHOLE_LIST} names no file with the whole public list")
def test_the_whole_public_list_closes_with_the_members_that_plain_python_finds(tmp_path: Path) -> None:
    purchases = Path(os.environ[WHOLE_LIST])
    orders = orders_of(purchases)
    assert (len(orders), sum(map(len, orders.values()))) == (23_570, 69_659)
    assert_members_are_right(purchases, tmp_path / "state")
