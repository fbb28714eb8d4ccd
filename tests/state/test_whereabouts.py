"""An error that nobody foresaw ends the engine, and names the records and the one that it came with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import state.engine
from conditions.definitions import compile_definitions
from conditions.documents import parse_segments
from conditions.events import Event, Rejected
from conditions.features import CountFeature
from conditions.index import PredicateIndex
from conditions.times import HOUR_MS
from connectors.json_events import decode_lines, decode_records
from state.engine import PartitionEngine
from state.memory_store import MemoryStore
from tests.streams.test_partition import visit_of

START_MS = 1_760_000_000_000
DOCUMENT = {"segments": [{"id": "s", "name": "s", "conditions": [{"kind": "page_visit", "within": "1h"}]}]}
CUSTOMERS = ("anna", "bert", "carl\n", "dora")


class BrokenError(Exception):
    """What nobody foresaw."""


def records_of(customers: tuple[str, ...], first: int = 10) -> list[Event | Rejected]:
    encoded = [
        (visit_of(customer, event_id=f"e-{customer}"), customer.encode(), START_MS, at)
        for at, customer in enumerate(customers, first)
    ]
    return [
        *decode_records([*encoded[:1], (b"no json", b"c", 1, 99)], "tracking", 3),
        *decode_records(encoded[1:], "beacons", 3),
    ]


def failing_for(customer: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """The work, which fails once it meets the customer."""

    def fail(*given: Any) -> Any:
        if any(customer in (getattr(each, "customer_id", None), getattr(each, "id", None)) for each in given):
            raise BrokenError
        return work(*given)

    return fail


@pytest.fixture
def engine() -> PartitionEngine:
    return PartitionEngine(MemoryStore(), compile_definitions(parse_segments(DOCUMENT)))


@pytest.mark.parametrize("owner", [PredicateIndex, CountFeature])
@pytest.mark.parametrize(
    ("customer", "place"),
    [("anna", "tracking-3 offset 10"), ("carl\n", "beacons-3 offset 12"), ("dora", "beacons-3 offset 13")],
)
def test_an_error_names_the_record_it_came_with_and_those_it_was_among(
    engine: PartitionEngine, monkeypatch: pytest.MonkeyPatch, owner: type, customer: str, place: str
) -> None:
    method = "match" if owner is PredicateIndex else "fold"
    monkeypatch.setattr(owner, method, failing_for(customer, getattr(owner, method)))
    with pytest.raises(BrokenError) as caught:
        engine.run(records_of(CUSTOMERS), START_MS)
    [note] = caught.value.__notes__
    event = f"event {f'e-{customer}'!a} of type page.visit, customer {customer!a}"
    among = "tracking-3 offsets 10 to 99, beacons-3 offsets 11 to 13"
    assert note == f"while applying {place}: {event}; among {among}"


def test_an_error_with_no_record_in_its_turn_names_those_it_was_among(
    engine: PartitionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.run(records_of(("anna",)), START_MS)
    monkeypatch.setattr(state.engine, "format_time", failing_for("", lambda _: BrokenError().args[0]))
    with pytest.raises(IndexError) as caught:
        engine.run(records_of(("bert",)), START_MS)
    assert caught.value.__notes__ == ["while applying tracking-3 offsets 10 to 99"]


def test_an_error_over_lines_of_a_file_names_the_line(engine: PartitionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountFeature, "fold", failing_for("bert", CountFeature.fold))
    lines = decode_lines([visit_of(each, time=START_MS) for each in ("anna", "bert", "carl")], range(3))
    with pytest.raises(BrokenError) as caught:
        engine.run(lines, START_MS)
    assert caught.value.__notes__ == [
        "while applying line 2: event '1' of type page.visit, customer 'bert'; among lines 1 to 3"
    ]


def test_an_error_at_a_deadline_names_the_customer(engine: PartitionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.run(records_of(CUSTOMERS), START_MS)
    engine.commit()
    monkeypatch.setattr(CountFeature, "expire", failing_for("bert", CountFeature.expire))
    with pytest.raises(BrokenError) as caught:
        engine.run((), START_MS, START_MS + HOUR_MS)
    assert caught.value.__notes__ == [f"at the deadline {START_MS + HOUR_MS} ms of customer 'bert'"]
