"""What the docs say under "When a record ends the worker", word for word: nothing but the record is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Message

from tests.kafka.failing_worker import BROKEN, POISON
from tests.kafka.workers import Feed, NewStage, Sent, Stage, WorkerProcess, messages, replayed, visit

pytestmark = pytest.mark.kafka

NAMED = re.compile(
    r"^while applying (?P<topic>\S+)-(?P<partition>\d+) offset (?P<offset>\d+): event '(?P<event>.+)' of type \S+, "
    r"customer '(?P<customer>.+)'; among .+$",
    re.MULTILINE,
)
VISITED = {"id": "visited", "name": "Visited", "conditions": [{"kind": "page_visit", "within": "30m"}]}
TRAP = {"id": BROKEN, "name": "Broken", "conditions": [{"kind": "app_screen", "screen": "trap"}]}


class Place:
    """The record that the lines below the traceback name."""

    def __init__(self, worker: WorkerProcess) -> None:
        assert worker.exit_code() == 1
        [found] = NAMED.finditer(worker.log())
        self.topic, self.partition, self.offset = found["topic"], int(found["partition"]), int(found["offset"])
        self.event_id = found["event"]

    def is_at(self, record: Message) -> bool:
        return (record.topic(), record.partition(), record.offset()) == (self.topic, self.partition, self.offset)


def start(stage: Stage, defect: str, batch_records: str = "2000") -> WorkerProcess:
    """A life of the one worker, whose defect nobody has mended."""
    module = "tests.kafka.failing_worker"
    return stage.start("worker", module=module, test_fails_at=defect, batch_records=batch_records)


def with_poison(stage: Stage, feed: Feed, before: int, after: int) -> Iterator[Sent]:
    yield from feed.records(before)
    yield visit(stage.topics[1], "c7", POISON, feed.clock_ms)
    yield from feed.records(after)


def logs_of(stage: Stage) -> list[list[tuple[str, int, Sequence[Message]]]]:
    """What the input topics hold, by partition."""
    inputs = {topic: stage.read(topic) for topic in stage.topics}
    return [[(topic, number, parts[number]) for topic, parts in inputs.items()] for number in range(stage.partitions)]


def brief(changes: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """All but what of a record's place tells."""
    return [tuple(each[name] for name in ("change_id", "sequence", "conditions", "cause")) for each in changes]


def write(path: Path, *segments: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"segments": segments}))
    return path


def test_a_record_that_ends_the_worker_is_deleted_and_all_others_are_applied(new_stage: NewStage) -> None:
    stage = new_stage(topics=2)
    stage.send(with_poison(stage, Feed(stage.topics, seed=71), 80, 300))
    place = Place(start(stage, "applying"))
    assert place.event_id == POISON
    assert stage.committed().get((place.topic, place.partition), 0) <= place.offset, "nothing of its batch is committed"
    record = next(each for each in messages(stage.bootstrap_servers, place.topic) if place.is_at(each))
    assert json.loads(record.value() or b"")["event_id"] == POISON

    again = Place(start(stage, "applying", batch_records="1"))
    assert (again.topic, again.partition, again.offset) == (place.topic, place.partition, place.offset)
    assert stage.committed()[place.topic, place.partition] == place.offset, "all before it is committed"
    logs = logs_of(stage)
    stage.delete_records(place.topic, place.offset + 1, place.partition)

    worker = start(stage, "applying")
    stage.wait_applied()
    [lost] = worker.events("records_lost")
    assert (lost["topic"], lost["partition"]) == (place.topic, place.partition)
    assert (lost["from_offset"], lost["to_offset"]) == (place.offset, place.offset + 1)
    assert worker.stop() == 0, worker.log_tail()
    spared = [
        [(topic, number, [each for each in part if not place.is_at(each)]) for topic, number, part in of_partition]
        for of_partition in logs
    ]
    wanted = [replayed(stage.segments_file, of_partition)[0] for of_partition in spared]
    assert stage.changes() == wanted
    stage.check_memberships()
    stage.check_state()


def test_a_segment_that_ends_the_worker_is_deleted_and_all_records_are_applied(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1, segments=yaml.safe_dump({"segments": [VISITED, TRAP]}))
    [topic] = stage.topics
    feed = Feed(stage.topics, seed=72)
    stage.send(feed.records(100))
    worker = start(stage, "asking")
    stage.wait_applied()
    trap = {"event_id": "t", "type": "app.screen", "customer_id": "c7", "properties": {"screen": "trap"}}
    stage.send([Sent(topic, "c7", json.dumps(trap).encode(), feed.clock_ms), *feed.records(200)])
    assert Place(worker).event_id == "t"
    assert re.findall(r'File ".*/(conditions)/', worker.log())

    stage.rollcall("segments", "delete", BROKEN)
    worker = start(stage, "asking")
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    [wanted], [found] = [replayed(write(stage.folder / "left.yaml", VISITED), *logs_of(stage))[0]], stage.changes()
    assert found == wanted
    stage.check_memberships()
    stage.check_state()


def test_a_record_that_fails_as_it_is_read_back_for_a_segment_is_deleted_at_once(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1, topics=2, segments=yaml.safe_dump({"segments": [VISITED]}))
    feed = Feed(stage.topics, seed=73)
    stage.send(with_poison(stage, feed, 80, 100))
    worker = start(stage, "reading-back")
    stage.wait_applied()
    new = {
        "id": "shop",
        "name": "Shop",
        "conditions": [{"kind": "page_visit", "domain": "shop.example", "at_least": 2}],
    }
    stage.rollcall("segments", "apply", str(write(stage.folder / "new.yaml", new)))
    place = Place(worker)
    assert place.event_id == POISON
    assert "partition 0, on the way to the definitions up to position" in worker.log()
    stage.delete_records(place.topic, place.offset + 1)

    worker = start(stage, "reading-back")
    stage.wait_settled(worker)
    assert not worker.events("records_lost"), "all was applied before"
    told = json.loads(worker.get("/api/segments/shop")[1])["status"]
    assert told["history_from"] is not None
    stage.send(feed.records(100))
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check_memberships()
    stage.check_state()
