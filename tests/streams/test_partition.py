"""An open partition without Kafka: what it decides in one turn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from faust.types import TP

from conditions.changes import Change
from conditions.definitions import compile_definitions
from conditions.segments import SegmentCompiler
from connectors.segment_files import load_segments
from state.rocksdb_store import RocksdbStore
from streams.buffers import SLICE_RECORDS
from streams.kafka.security import Connection
from streams.pace import Pace
from streams.partition import (
    FEWEST_DEADLINES,
    MOST_DEADLINES,
    ORDERED_DEADLINES,
    Partition,
    RecordsMissing,
)
from streams.polling import LogEnd
from streams.redefining import Background
from streams.settings import load_settings

HOUR_MS = 3_600_000
START_MS = 1_760_000_000_000
TOPIC = "visits"


@pytest.fixture
def partition(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Partition]:
    """With the wall clock, or with the one that is the fixture's parameter."""
    path = tmp_path / "segments.yaml"
    path.write_text("segments: [{id: s, name: s, conditions: [{kind: page_visit, within: 1h}]}]\n")
    clock = getattr(request, "param", "wall")
    settings = load_settings({"topics": (TOPIC,), "clock": clock, "batch_records": 100_000})
    store = RocksdbStore.open(tmp_path / "state")
    definitions = compile_definitions(load_segments(path))
    background = Background(Connection("nowhere:9092"), Pace(settings.backfill_share), SegmentCompiler())
    opened = Partition(0, 1, "lineage", store, settings, background, definitions)
    yield opened
    opened.close()


event_clock = pytest.mark.parametrize("partition", ["event"], indirect=True)


class Log:
    """Hands a partition records, as fetches do."""

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self._written = 0

    def visit(self, customers: list[str], at_ms: int) -> None:
        for customer in customers:
            self.add(customer, visit_of(customer), at_ms)

    def add(self, customer: str, value: bytes, at_ms: int | None) -> None:
        record = (value, customer.encode(), at_ms, self._written)
        self._partition.receive(TOPIC, [record], self._written, at_ms or 0)
        self._written += 1

    def decide(self, partitions: int) -> list[Change]:
        """What the partition decides in one turn, and commits."""
        ends = {TP(TOPIC, 0): LogEnd(1, self._written, True, 0, 0)}
        result = self._partition.decide(ends, START_MS + 2 * HOUR_MS, partitions)
        if result is None:
            return []
        self._partition.engine.commit()
        return result.changes


def visit_of(customer: str, **more: object) -> bytes:
    fields = {
        "event_id": "1",
        "type": "page.visit",
        "customer_id": customer,
        "properties": {"url": "https://a.example/"},
        **more,
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
    partition.receive(TOPIC, [(visit_of("a"), b"a", START_MS, 0)], 0, START_MS)
    with pytest.raises(RecordsMissing, match="3 records were handed over, 1 arrived"):
        partition.receive(TOPIC, [(visit_of("a"), b"a", START_MS, 3)], 3, START_MS)
    assert partition.waiting == 1


@event_clock
def test_deadlines_before_a_record_without_a_timestamp_fire_before_it(partition: Partition) -> None:
    log = Log(partition)
    log.visit(["anna"], START_MS)
    log.add("bert", visit_of("bert", time=START_MS + 2 * HOUR_MS), -1)  # it takes its event's time
    changes = log.decide(1)
    assert [(each.customer_id, each.type) for each in changes] == [
        ("anna", "entered"),
        ("anna", "left"),
        ("bert", "entered"),
    ]


@event_clock
def test_an_invalid_record_does_not_move_the_clock(partition: Partition) -> None:
    log = Log(partition)
    log.visit(["anna"], START_MS)
    log.add("bert", b"no event", START_MS + 2 * HOUR_MS)
    assert kinds(log.decide(1)) == (1, 0)
    assert partition.engine.marker.clock_ms == START_MS


@event_clock
def test_with_the_event_clock_a_wave_of_any_size_fires_before_the_records_after_it(partition: Partition) -> None:
    log = Log(partition)
    customers = [f"c{number}" for number in range(ORDERED_DEADLINES + 100)]
    log.visit(customers, START_MS)
    assert kinds(log.decide(1)) == (len(customers), 0)
    log.visit(customers[: 2 * SLICE_RECORDS + 1], START_MS + 2 * HOUR_MS)
    changes: list[Change] = []
    while decided := log.decide(1):
        changes += decided
    assert [change.type for change in changes] == ["left"] * len(customers) + ["entered"] * (2 * SLICE_RECORDS + 1)
    assert partition.waiting == 0


def test_a_topic_is_full_with_so_many_bytes_however_few_its_records_are(partition: Partition) -> None:
    log = Log(partition)
    value = visit_of("anna", filler="x" * 1_000_000)
    for number in range(4):
        assert partition.full(3_500_000) == set(), number
        log.add("anna", value, START_MS)
    assert partition.full(3_500_000) == {TP(TOPIC, 0)}
    log.decide(1)
    assert (partition.waiting, partition.full(3_500_000)) == (0, set())


def test_an_error_that_nobody_foresaw_says_what_was_not_committed_and_how_to_go_on(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("state.engine.Computation._apply", fail)
    log = Log(partition)
    log.visit(["anna", "bert"], START_MS)
    with pytest.raises(ZeroDivisionError) as caught:
        log.decide(1)
    [applying, partition_and_way_out] = caught.value.__notes__
    assert "while applying visits-0 offset 0: event '1'" in applying
    assert "among visits-0 offsets 0 to 1" in applying
    assert "partition 0: nothing of its batch was committed" in partition_and_way_out
    page, heading = re.findall(r"(docs/\S+[.]md) .*`(.+)`", partition_and_way_out)[0]
    assert f"## {heading}\n" in (Path(__file__).parents[2] / page).read_text(encoding="utf-8")


def test_partitions_share_what_customers_may_take_in_memory(partition: Partition) -> None:
    log = Log(partition)
    log.visit([f"c{number}" for number in range(2_000)], START_MS)
    log.decide(1)
    whole = partition.engine._cache.size_bytes
    log.decide(1_000)  # nothing comes, but there are more partitions by now
    assert partition.engine._cache.size_bytes <= partition._customers_bytes // 1_000 < whole


def test_a_batch_takes_no_more_records_than_can_be_written_at_once(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.partition.MOST_WRITTEN_BYTES", 2_500_000)
    log = Log(partition)
    for number in range(5):
        log.add(f"c{number}", visit_of(f"c{number}", filler="x" * 1_000_000), START_MS)
    assert [kinds(log.decide(1)) for _ in range(4)] == [(2, 0), (2, 0), (1, 0), (0, 0)]
    assert partition.waiting == 0
