"""That the answers of a job that only looks at events can be told from Rollcall's changes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from conditions.changes import Change
from conditions.definitions import compile_definitions
from conditions.events import Event
from conditions.times import DAY_MS, format_time
from connectors.json_events import decode_records
from connectors.segment_files import load_segments
from state.engine import PartitionEngine
from state.memory_store import MemoryStore
from tests.bench.documents import TEN
from tests.bench.peers import Arrival, PeersError, answers_at_events, arrivals_in_order, check_folder
from tests.kafka.workers import START_MS, Sent, visit

SHOP = "https://d0.example/p1"
OTHER = "https://d2.example/p1"


def changes_of(records: list[Sent]) -> list[Change]:
    encoded = [(each.value, each.key.encode(), each.timestamp_ms, number) for number, each in enumerate(records)]
    events = decode_records(encoded, "events", 0)
    assert all(isinstance(each, Event) for each in events)
    return PartitionEngine(MemoryStore(), compile_definitions(load_segments(TEN))).run(events, 0).changes


def test_a_deadline_is_answered_at_the_customers_next_event() -> None:
    times = [START_MS, START_MS + 8 * DAY_MS]
    changes = changes_of([visit("events", "a", "1", times[0], SHOP), visit("events", "a", "2", times[1], OTHER)])
    assert [(each.segment_id, each.type, each.reason) for each in changes] == [
        ("s1", "entered", "event"),
        ("s1", "left", "deadline"),
    ]
    assert changes[1].effective_at == format_time(START_MS + 7 * DAY_MS)
    assert answers_at_events(changes, {"a": [(times[0], 0), (times[1], 1)]}) == Counter(
        [("a", "s1", "entered", format_time(times[0])), ("a", "s1", "left", format_time(times[1]))]
    )


def test_what_an_event_takes_back_was_never_answered() -> None:
    times = [START_MS, START_MS + 8 * DAY_MS]
    changes = changes_of([visit("events", "a", str(n), at_ms, SHOP) for n, at_ms in enumerate(times)])
    assert [each.type for each in changes] == ["entered", "left", "entered"]
    assert answers_at_events(changes, {"a": [(times[0], 0), (times[1], 1)]}) == Counter(
        [("a", "s1", "entered", format_time(times[0]))]
    )


def test_a_deadline_after_the_last_event_is_not_answered() -> None:
    late_ms = START_MS + 8 * DAY_MS
    changes = changes_of([visit("events", "a", "1", START_MS, SHOP), visit("events", "b", "1", late_ms, OTHER)])
    assert [(each.customer_id, each.type) for each in changes] == [("a", "entered"), ("a", "left")]
    assert answers_at_events(changes, {"a": [(START_MS, 0)], "b": [(late_ms, 1)]}) == Counter(
        [("a", "s1", "entered", format_time(START_MS))]
    )


def test_a_folder_that_is_not_set_up_is_refused_with_all_that_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "bench.py").touch()
    with pytest.raises(PeersError, match=r"lacks gen\.py, .*classes/KStreamsPeer\.class, libs: set it up"):
        check_folder(tmp_path, ["kstreams-eos"])


def test_a_peer_that_is_unknown_is_named_beside_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(PeersError, match=r"no such peer: spark; there are kstreams"):
        check_folder(tmp_path, ["spark"])


def test_a_folder_with_another_job_is_refused(tmp_path: Path) -> None:
    for name in ("bench.py", "gen.py", "segments.py", "limit_peer.py", "venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "membership.yaml").write_text("segments: []")
    with pytest.raises(PeersError, match="does not hold the segments of"):
        check_folder(tmp_path, ["limit-getmany"])


def test_a_topic_that_holds_the_events_once_and_in_order_is_taken() -> None:
    records = [Arrival(0, 0, 10, "a"), Arrival(1, 0, 5, "b"), Arrival(0, 1, 10, "a")]
    assert arrivals_in_order(records, 3) == {"a": [(10, 0), (10, 1)], "b": [(5, 0)]}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([Arrival(0, 0, 10, "a"), Arrival(0, 1, 9, "b")], "partition 0 is out of order at offset 1"),
        ([Arrival(0, 0, 10, "a"), Arrival(0, 1, 10, "a"), Arrival(0, 2, 11, "a")], "there are 3, not 2"),
    ],
)
def test_a_topic_to_which_events_were_sent_twice_or_in_disorder_is_refused(
    records: list[Arrival], message: str
) -> None:
    with pytest.raises(PeersError, match=message):
        arrivals_in_order(records, 2)
