"""The feed of `rollcall run`: what is sent, and when."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest

from conditions.events import Event
from conditions.times import HOUR_MS
from connectors.json_events import decode_line, decode_record
from streams.feeder import FeedError, Schedule, Survey, key_of, moved, survey

START_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z


def line(**fields: Any) -> bytes:
    return orjson.dumps({"event_id": "e1", "type": "sign_up", "customer_id": "anna", **fields})


def event_of(body: bytes) -> Event:
    event = decode_line(body, 0)
    assert isinstance(event, Event)
    return event


def test_a_survey_counts_lines_and_finds_when_the_feed_begins_and_ends(tmp_path: Path) -> None:
    lines = [line(time=START_MS + 5), line(time=START_MS + 9), b"no json", b"", line(time=START_MS), b"x" * 1_100_000]
    (tmp_path / "events.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    expected = Survey(events=3, invalid=2, too_large=1, first_ms=START_MS + 5, last_ms=START_MS + 9)
    assert survey(str(tmp_path / "events.gz")) == expected


def test_a_file_without_events_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"no json\n")
    with pytest.raises(FeedError, match="no valid event in it"):
        survey(str(tmp_path / "events"))


@pytest.mark.parametrize(
    "fields",
    [
        {"time": START_MS},
        {"time": "2024-01-01T01:00:00+01:00"},
        {"received_at": START_MS},
        {"time": START_MS + HOUR_MS, "received_at": START_MS},
    ],
)
def test_a_moved_line_is_the_same_event_at_another_time(fields: dict[str, Any]) -> None:
    before = event_of(line(**fields))
    body = moved(line(**fields), before, HOUR_MS)
    after = decode_record(body, b"anna", before.record_time_ms + HOUR_MS, 0, "events", 0)
    assert isinstance(after, Event)
    assert (after.time_ms, after.record_time_ms) == (START_MS + HOUR_MS, before.record_time_ms + HOUR_MS)
    assert (after.event_id, after.customer_id, after.type) == ("e1", "anna", "sign_up")


def test_a_moved_line_keeps_every_digit_of_its_properties() -> None:
    body = b'{"event_id":"e1","type":"a","customer_id":"anna","time":1704067200000,"properties":{"x":0.10,"y":1e400}}'
    assert b'"properties":{"x":0.10,"y":1e400}' in moved(body, Event("e1", "a", "anna", START_MS, START_MS, 0, {}), 1)


def test_a_line_that_is_not_moved_stays_as_it_is() -> None:
    assert moved(b" {...} ", Event("e1", "a", "anna", START_MS, START_MS, 0, {}), 0) == b" {...} "


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"customer_id": "anna"}', b"anna"),
        (b'{"customer_id": 7}', b"7"),
        (b'{"customer_id": null}', b""),
        (b'{"customer_id": ["a"]}', b""),
        (b"[]", b""),
        (b"no json", b""),
        (b"\xff", b""),
    ],
)
def test_an_invalid_line_goes_under_the_customer_it_names_as_far_as_it_does(body: bytes, key: bytes) -> None:
    assert key_of(body) == key


def test_the_schedule_spreads_the_file_over_its_span() -> None:
    found = Survey(events=2, first_ms=START_MS, last_ms=START_MS + 10 * HOUR_MS)
    schedule = Schedule(found, HOUR_MS / 1000)  # an hour a second
    assert schedule.due_s(START_MS) == 0
    assert schedule.due_s(START_MS + 10 * HOUR_MS) == 10
    assert schedule.record_ms(2.5) == START_MS + 5 * HOUR_MS // 2
    at_once = Schedule(found, None)
    assert at_once.due_s(START_MS + 10 * HOUR_MS) == 0
