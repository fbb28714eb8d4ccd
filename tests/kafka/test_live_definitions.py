"""Segments edited while events flow, on the real broker: the closing members are those of the last definitions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.kafka.workers import START_MS, Feed, NewStage, Sent, Stage, replayed, until

pytestmark = pytest.mark.kafka

FIRST: dict[str, dict[str, object]] = {
    "visited": {"kind": "page_visit", "domain": "shop.example", "within": "1h"},
    "not-seen": {"kind": "page_visit", "within": "2h", "negate": True},
    "mailed": {"kind": "email", "action": "opened"},
}
EDITS: tuple[tuple[str, dict[str, object] | None], ...] = (
    ("spender", {"kind": "spend", "min": 100, "within": "5h"}),
    ("visited", {"kind": "page_visit", "domain": "shop.example", "within": "3h", "at_least": 2}),
    ("shoes", {"kind": "purchase_category", "category": "Shoes"}),
    ("mailed", None),
    ("gold", {"kind": "customer", "attribute": "tier", "operator": "equals", "value": "gold"}),
    ("not-seen", {"kind": "page_visit", "within": "4h", "at_most": 1}),
)


class Definitions:
    """What the test has put on the definitions topic."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.wanted: dict[str, dict[str, object]] = {}

    def put(self, segment_id: str, condition: dict[str, object]) -> None:
        self.wanted[segment_id] = condition
        document = self.document([segment_id])
        path = self.stage.folder / f"{segment_id}.yaml"
        path.write_text(yaml.safe_dump(document))
        self.stage.rollcall("segments", "apply", str(path))

    def delete(self, segment_id: str) -> None:
        del self.wanted[segment_id]
        self.stage.rollcall("segments", "delete", segment_id)

    def document(self, ids: list[str]) -> dict[str, object]:
        return {
            "segments": [{"id": each, "name": f"Name of {each}", "conditions": [self.wanted[each]]} for each in ids]
        }

    def file(self) -> Path:
        path = self.stage.folder / "last.yaml"
        path.write_text(yaml.safe_dump(self.document(sorted(self.wanted))))
        return path


def live_stage(new_stage: NewStage) -> tuple[Stage, Definitions]:
    """A stage whose workers follow a definitions topic of their own."""
    stage = new_stage()
    stage.settings |= {"segments": ""}
    return stage, Definitions(stage)


def closing_members(stage: Stage, definitions: Definitions) -> set[str]:
    """Who is in what, by replaying all of history with the last definitions."""
    members: set[str] = set()
    inputs = {topic: stage.read(topic) for topic in stage.topics}
    for partition in range(stage.partitions):
        changes, _ = replayed(
            definitions.file(), [(topic, partition, parts[partition]) for topic, parts in inputs.items()]
        )
        for change in changes:
            key = f"{change['customer_id']}|{change['segment_id']}"
            (members.add if change["type"] == "entered" else members.discard)(key)
    return members


@pytest.mark.parametrize("kill", [False, True])
def test_edits_in_a_running_stream_end_in_the_members_of_the_last_definitions(new_stage: NewStage, kill: bool) -> None:
    stage, definitions = live_stage(new_stage)
    feed = Feed(stage.topics, seed=21)
    stage.send(feed.records(1_500))
    for segment_id, first in FIRST.items():
        definitions.put(segment_id, first)
    worker = stage.start("worker")
    worker.wait_ready()
    for segment_id, condition in EDITS:
        stage.send(feed.records(400))
        if condition is None:
            definitions.delete(segment_id)
        else:
            definitions.put(segment_id, condition)
        if kill:
            worker.kill()
            worker.restart()
            worker.wait_ready()
    stage.send(feed.records(500))
    stage.wait_applied()
    stage.wait_settled(worker)
    until(
        lambda: 'rollcall_lag_records{partition="0"} 0.0' in worker.get("/metrics")[1], "the lag is told, and nothing"
    )
    assert worker.stop() == 0, worker.log_tail()
    assert set(stage.memberships()) == closing_members(stage, definitions)
    stage.check_memberships()
    reasons = {change["reason"] for part in stage.changes() for change in part}
    assert {"event", "deadline", "definition"} <= reasons


def test_what_is_invalid_on_the_topic_is_told_everywhere_and_the_last_valid_version_stays(new_stage: NewStage) -> None:
    stage, definitions = live_stage(new_stage)
    feed = Feed(stage.topics, seed=22)
    definitions.put("visited", FIRST["visited"])
    worker = stage.start("worker")
    worker.wait_ready()
    by_hand = [
        (b"visited", b'{"id": "visited", "name": "Visited", "version": 2, "conditions": [{"kind": "page_vist"}]}'),
        (b"visited", b"{broken"),
        (b"other", b'{"id": "another", "name": "Other", "version": 1, "conditions": [{"kind": "location"}]}'),
    ]
    stage.send(Sent(stage.definitions_topic, key.decode(), value, START_MS, 0) for key, value in by_hand)
    stage.wait_settled(worker)

    worker.wait_metric("rollcall_definitions_ignored_total", len(by_hand))
    worker.wait_metric("rollcall_definitions_unsettled", 1)
    assert [each["segment"] for each in worker.events("definition_ignored")] == ["visited", "visited", "other"]
    listing = json.loads(worker.get("/api/segments")[1])
    assert [(each["id"], each["version"]) for each in listing["segments"]] == [("visited", 1)]
    assert [(each["key"], each["reason"]) for each in listing["problems"]] == [
        ("visited", "invalid"),
        ("visited", "invalid"),
        ("other", "invalid"),
    ]
    status = json.loads(worker.get("/api/segments/visited")[1])["status"]
    assert (status["status"], status["settled"], len(status["problems"])) == ("active", False, 2)
    assert "conditions[0].kind" in status["problems"][0]

    stage.send(feed.records(500))
    stage.wait_applied()
    definitions.put("mailed", FIRST["mailed"])
    stage.wait_settled(worker)
    assert worker.metric("rollcall_definitions_unsettled") == 0, "the next change writes what is in force again"
    stage.send(feed.records(500))
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    assert set(stage.memberships()) == closing_members(stage, definitions)
    changes = [each for part in stage.changes() for each in part]
    assert {each["definition_version"] for each in changes if each["segment_id"] == "visited"} == {1, 2}
