"""An open partition without Kafka: what it decides in one turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from faust.types import TP

from conditions.changes import Change
from conditions.definitions import compile_definitions
from connectors.segment_files import load_segments
from state.rocksdb_store import RocksdbStore
from streams.kafka.security import Connection
from streams.pace import Pace
from streams.partition import FEWEST_DEADLINES, MOST_DEADLINES, Partition, RecordsMissing
from streams.polling import Fetched, LogEnd
from streams.redefining import Background
from streams.settings import load_settings

HOUR_MS = 3_600_000
START_MS = 1_760_000_000_000
TOPIC = "visits"


@pytest.fixture
def partition(tmp_path: Path) -> Iterator[Partition]:
    path = tmp_path / "segments.yaml"
    path.write_text("segments: [{id: s, name: s, conditions: [{kind: page_visit, within: 1h}]}]\n")
    settings = load_settings({"topics": (TOPIC,), "clock": "wall", "batch_records": 100_000})
    store = RocksdbStore.open(tmp_path / "state")
    definitions = compile_definitions(load_segments(path))
    background = Background(Connection("nowhere:9092"), Pace(settings.backfill_share))
    opened = Partition(0, 1, "lineage", store, settings, background, definitions)
    yield opened
    opened.close()


class Log:
    """Hands a partition records, as fetches do."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._written = 0

    def visit(self, customers: list[str], at_ms: int) -> None:
        first = self._written
        records = [
            Fetched(first + place, at_ms, customer.encode(), visit_of(customer))
            for place, customer in enumerate(customers)
        ]
        self._partition.receive(TOPIC, records, first, at_ms)
        self._written += len(records)

    def decide(self, partitions: int) -> list[Change]:
        """What the partition decides in one turn, and commits."""
        ends = {TP(TOPIC, 0): LogEnd(1, self._written, True, 0, 0)}
        result = self._partition.decide(ends, START_MS + 2 * HOUR_MS, partitions)
        if result is None:
            return []
        self._partition.engine.commit()
        return result.changes


def visit_of(customer: str) -> bytes:
    fields = {
        "event_id": "1",
        "type": "page.visit",
        "customer_id": customer,
        "properties": {"url": "https://a.example/"},
    }
    return orjson.dumps(fields)


def kinds(changes: list[Change]) -> tuple[int, int]:
    """How many entered, and how many left."""
    entered = sum(change.type == "entered" for change in changes)
    return entered, len(changes) - entered


def test_partitions_share_what_is_taken_of_their_waves_in_one_turn(partition: Partition) -> None:
    log = Log(partition)
    customers = [f"c{number}" for number in range(250)]
    log.visit(customers, START_MS)
    assert kinds(log.decide(1)) == (250, 0)
    log.visit(["live"], START_MS + 2 * HOUR_MS)
    assert kinds(log.decide(MOST_DEADLINES // 100)) == (1, 100), "the live event waited for the wave"
    assert kinds(log.decide(MOST_DEADLINES // 100)) == (0, 100)
    assert kinds(log.decide(MOST_DEADLINES)) == (0, FEWEST_DEADLINES)
    assert log.decide(1) == []


def test_a_customer_of_a_wave_leaves_before_its_own_event(partition: Partition) -> None:
    log = Log(partition)
    log.visit([f"c{number}" for number in range(200)], START_MS)
    log.decide(1)
    log.visit(["c199"], START_MS + 2 * HOUR_MS)
    changes = log.decide(MOST_DEADLINES // 100)
    assert [change.type for change in changes if change.customer_id == "c199"] == ["left", "entered"]


def test_a_poll_that_got_lost_is_noticed_by_the_next_one(partition: Partition) -> None:
    partition.receive(TOPIC, [Fetched(0, START_MS, b"a", visit_of("a"))], 0, START_MS)
    with pytest.raises(RecordsMissing, match="3 records were handed over, 1 arrived"):
        partition.receive(TOPIC, [Fetched(3, START_MS, b"a", visit_of("a"))], 3, START_MS)
    assert partition.waiting == 1
