"""Reading back what the input topics of a partition still hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest

from streams.backfill import BackfillReader
from streams.kafka.security import Connection
from streams.pace import Pace
from tests.kafka.workers import START_MS, Feed, NewStage, Sent, Stage, visit

pytestmark = pytest.mark.kafka

VISITS = ["page.visit"]


async def read_back(
    stage: Stage, ends: Mapping[str, int], latest_ms: int = START_MS + 1_000_000
) -> tuple[list[str], BackfillReader]:
    """The ids of the events that a backfill folds, in their order."""
    reader = BackfillReader(0, ends, VISITS, latest_ms, Connection(stage.bootstrap_servers), Pace(1.0))
    events = [event async for batch in reader.batches() for event in batch]
    assert reader.progress == 1.0
    return [event.event_id for event in events], reader


def erasure(topic: str, customer: str, timestamp_ms: int, kind: str = "customer.delete") -> Sent:
    value = b'{"event_id":"x","type":"%s","customer_id":"%s"}' % (kind.encode(), customer.encode())
    return Sent(topic, customer, value, timestamp_ms)


def visits(topic: str, customer: str, names: Sequence[str], start_ms: int = START_MS) -> list[Sent]:
    return [visit(topic, customer, name, start_ms + at * 1_000) for at, name in enumerate(names)]


@pytest.mark.asyncio
async def test_events_come_up_to_the_end_but_for_those_that_were_erased(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1)
    [topic] = stage.topics
    stage.send(visits(topic, "ann", ["a1", "a2"]))
    stage.send(visits(topic, "bob", ["b1"]))
    stage.send([erasure(topic, "ann", START_MS + 5_000), erasure(topic, "bob", START_MS, "customer\\u002edelete")])
    stage.send(visits(topic, "ann", ["a3", "a4"]))
    found, reader = await read_back(stage, {topic: 6})
    assert found == ["a3"]
    assert reader.history_from_ms is None


@pytest.mark.asyncio
async def test_several_topics_come_in_the_order_of_their_timestamps(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1, topics=2)
    one, other = stage.topics
    stage.send(visits(one, "ann", [f"o{at}" for at in range(0, 6, 2)]))
    stage.send(visits(other, "ann", [f"o{at}" for at in range(1, 7, 2)], START_MS + 500))
    stage.send([erasure(other, "ann", START_MS + 1_200)])
    stage.send(visits(other, "ann", ["late"], START_MS))
    found, _ = await read_back(stage, {one: 3, other: 3})
    assert found == [f"o{at}" for at in range(6)]
    found, _ = await read_back(stage, {one: 3, other: 5})
    assert found == ["late"], "what stands behind the erasure in its topic comes after it, whatever its timestamp"


@pytest.mark.asyncio
async def test_where_a_topic_begins_that_has_lost_its_beginning_is_told(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1, topics=2)
    one, other = stage.topics
    stage.send(visits(one, "ann", ["a", "b", "c"]))
    stage.send(visits(other, "ann", ["d"]))
    stage.delete_records(one, 2)
    found, reader = await read_back(stage, {one: 3, other: 1})
    assert (found, reader.history_from_ms) == (["d", "c"], START_MS + 2_000)
    stage.delete_records(one, 3)
    found, reader = await read_back(stage, {one: 3, other: 1})
    assert (found, reader.history_from_ms) == (["d"], START_MS + 1_000_000)


@pytest.mark.asyncio
async def test_no_record_counts_as_later_than_the_clock_had_come(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1)
    [topic] = stage.topics
    stage.send(visits(topic, "ann", ["a"], START_MS + 60_000))
    reader = BackfillReader(0, {topic: 1}, VISITS, START_MS, Connection(stage.bootstrap_servers), Pace(1.0))
    [[event]] = [batch async for batch in reader.batches()]
    assert event.time_ms == START_MS


def test_what_the_topics_have_lost_is_told_in_the_status_after_a_restart_too(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1)
    [topic] = stage.topics
    feed = Feed(stage.topics, seed=31, mess=False)
    stage.send(feed.records(300))
    worker = stage.start("worker")
    stage.wait_applied()
    stage.delete_records(topic, 100)
    path = stage.folder / "more.yaml"
    path.write_text("""
segments:
  - {id: ever, name: Ever, conditions: [{kind: page_visit, path: /p1}]}
  - {id: lately, name: Lately, conditions: [{kind: page_visit, path: /p2, within: 1m}]}
""")
    stage.rollcall("segments", "apply", str(path))
    stage.wait_settled(worker)
    assert worker.stop() == 0, worker.log_tail()
    worker.restart()
    worker.wait_ready()
    status = {
        each: json.loads(worker.get(f"/api/segments/{each}")[1])["status"] for each in ("ever", "lately", "often")
    }
    assert {each["status"] for each in status.values()} == {"active"}
    assert status["ever"]["history_from"] is not None
    assert status["ever"]["history_from"].startswith("2025-10-09T"), "the record timestamp of offset 100"
    assert status["lately"]["history_from"] is None
    assert status["often"]["history_from"] is None


def test_what_the_topics_had_lost_before_the_first_start_is_told_too(new_stage: NewStage) -> None:
    segments = "segments: [{id: ever, name: Ever, conditions: [{kind: page_visit}]}]\n"
    stage = new_stage(partitions=1, segments=segments)
    stage.send(visits(stage.topics[0], "ann", ["a", "b", "c"]))
    stage.delete_records(stage.topics[0], 2)
    worker = stage.start("worker")
    stage.wait_applied()
    status = json.loads(worker.get("/api/segments/ever")[1])["status"]
    assert status["history_from"] == "2025-10-09T08:53:22.000Z", "the record timestamp of what is left"
    assert worker.stop() == 0, worker.log_tail()
