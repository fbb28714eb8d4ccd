"""A backlog of large records: a worker holds its share of them, and a poll, and applies all."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.kafka.workers import START_MS, NewStage, Sent, Stage

pytestmark = pytest.mark.kafka

RECORDS = 150
RECORD_BYTES = 100_000
TOPICS = 2
SHARE_BYTES = 1_000_000  # of each topic
POLL_BYTES = 2 << 20


def large_visits(stage: Stage) -> Iterator[Sent]:
    for number in range(RECORDS):
        properties = {"url": "https://shop.example/", "filler": "x" * RECORD_BYTES}
        customer = f"c{number % 10}"
        fields = {"event_id": str(number), "type": "page.visit", "customer_id": customer, "properties": properties}
        yield Sent(stage.topics[number % TOPICS], customer, json.dumps(fields).encode(), START_MS + number * 1_000)


def test_of_a_backlog_of_large_records_a_worker_holds_its_share_and_applies_all(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1, topics=TOPICS)
    stage.send(large_visits(stage))
    measures = stage.folder / "measures.json"
    stage.settings |= {
        "test_buffered_bytes": str(TOPICS * SHARE_BYTES),
        "test_records": str(RECORDS),
        "test_measures": str(measures),
    }
    worker = stage.start("worker", module="tests.kafka.measuring_worker")
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check()
    found = json.loads(measures.read_text())
    # While one poll is handed over the next may be under way.
    assert SHARE_BYTES <= found["most_bytes"] <= TOPICS * (SHARE_BYTES + 2 * POLL_BYTES) < RECORDS * RECORD_BYTES
    assert found["times_full"] > 1
