"""Segments edited while events flow, on the real broker: the closing members are those of the last definitions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.kafka.workers import Feed, NewStage, Stage, WorkerProcess, replayed, until

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
        self.topic = stage.settings["definitions_topic"]

    def put(self, segment_id: str, condition: dict[str, object]) -> None:
        self.wanted[segment_id] = condition
        document = self.document([segment_id])
        path = self.stage.folder / f"{segment_id}.yaml"
        path.write_text(yaml.safe_dump(document))
        self.rollcall("apply", str(path))

    def delete(self, segment_id: str) -> None:
        del self.wanted[segment_id]
        self.rollcall("delete", segment_id)

    def document(self, ids: list[str]) -> dict[str, object]:
        return {
            "segments": [{"id": each, "name": f"Name of {each}", "conditions": [self.wanted[each]]} for each in ids]
        }

    def file(self) -> Path:
        path = self.stage.folder / "last.yaml"
        path.write_text(yaml.safe_dump(self.document(sorted(self.wanted))))
        return path

    def rollcall(self, *words: str) -> None:
        settings = {"bootstrap-servers": self.stage.bootstrap_servers, "definitions-topic": self.topic}
        flags = [f"--{name}={value}" for name, value in {**settings, "app-id": self.stage.app_id}.items()]
        command = [sys.executable, "-c", "from streams.cli import main; main()", "segments", *words, *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr


def live_stage(new_stage: NewStage) -> tuple[Stage, Definitions]:
    """A stage whose workers follow a definitions topic of their own."""
    stage = new_stage()
    topic = f"{stage.app_id}-definitions"
    stage.settings |= {"definitions_topic": topic, "segments": ""}
    admin = AdminClient({"bootstrap.servers": stage.bootstrap_servers})
    for made in admin.create_topics([NewTopic(topic, 1, 1, config={"cleanup.policy": "compact"})]).values():
        made.result()
    return stage, Definitions(stage)


def settled(worker: WorkerProcess, ids: list[str]) -> bool:
    """Whether every partition of the worker has the newest definitions in force, for every customer."""
    [status, *_] = [json.loads(worker.get(f"/api/segments/{each}")[1])["status"] for each in ids]
    partitions = status["partitions"].values()
    return bool(partitions) and all(
        "stage" not in each and each["definitions"] >= status["wanted"] for each in partitions
    )


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
    until(lambda: settled(worker, sorted(definitions.wanted)), "the last definitions are in force")
    until(
        lambda: 'rollcall_lag_records{partition="0"} 0.0' in worker.get("/metrics")[1], "the lag is told, and nothing"
    )
    assert worker.stop() == 0, worker.log_tail()
    assert set(stage.memberships()) == closing_members(stage, definitions)
    stage.check_memberships()
    reasons = {change["reason"] for part in stage.changes() for change in part}
    assert {"event", "deadline", "definition"} <= reasons
