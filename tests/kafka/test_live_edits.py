"""Random edits of segments in a running stream, with and without kills: the closing members are the oracle's."""

from __future__ import annotations

import heapq
import json
import os
import random
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any
from zlib import crc32

import pytest
from confluent_kafka import Message

from conditions.documents import parse_segments
from streams.kafka.definitions_topic import KafkaDefinitionsLog
from streams.kafka.security import Connection
from streams.segments_commands import apply_segments, delete_segment
from tests.kafka.workers import Feed, NewStage, Sent, Stage, until
from tests.oracle import replay

pytestmark = pytest.mark.kafka

SHORT_ROUNDS = 6
LONG_ROUNDS = int(os.environ.get("ROLLCALL_EDIT_ROUNDS", "60"))
RECORDS_A_ROUND = 250
HISTORY = 1_500
SEGMENT_IDS = [f"s{number}" for number in range(8)]

Document = dict[str, Any]


class Editor:
    """Creates, changes, renames and deletes segments at random, and knows what is wanted."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.wanted: dict[str, Document] = {}
        self._random = random.Random(seed)
        self._log = KafkaDefinitionsLog(stage.definitions_topic, Connection(stage.bootstrap_servers), stage.app_id)
        self._names = 0

    def edit(self) -> None:
        """One edit, or several that are written at once or one by one."""
        for _ in range(self._random.choice((1, 1, 2, 3))):
            self._edit_once()

    def _edit_once(self) -> None:
        chance = self._random
        there = sorted(self.wanted)
        dice = chance.random()
        if there and dice < 0.2:
            segment_id = chance.choice(there)
            del self.wanted[segment_id]
            delete_segment(self._log, segment_id, None)
            return
        if there and dice < 0.35:
            segment_id = chance.choice(there)
            documents = [self.wanted[segment_id] | {"name": self._name()}]
        else:
            ids = chance.sample(SEGMENT_IDS, chance.choice((1, 1, 3)))
            documents = [self._document(each) for each in ids]
        apply_segments(self._log, parse_segments({"segments": documents}), None, dry_run=False)
        self.wanted |= {each["id"]: each for each in documents}

    def _name(self) -> str:
        self._names += 1
        return f"Name {self._names}"

    def _document(self, segment_id: str) -> Document:
        chance = self._random
        conditions = [self._condition() for _ in range(chance.choice((1, 1, 2)))]
        return {
            "id": segment_id,
            "name": self._name(),
            "match": chance.choice(("all", "any")),
            "conditions": conditions,
        }

    def _condition(self) -> Document:
        chance = self._random
        event_based: list[Document] = [
            {"kind": "page_visit", **chance.choice(({}, {"domain": "shop.example"}, {"path": "/p1*"}))},
            {"kind": "email", "action": "opened", "campaign_id": f"k{chance.randrange(3)}"},
            {"kind": "purchase_category", "category": chance.choice(("Shoes", "Hats"))},
            {"kind": "transaction", "min": chance.randrange(10, 120)},
            {"kind": "app_screen", "screen": "cart"},
            {"kind": "location", "location_id": f"l{chance.randrange(3)}"},
            {"kind": "spend", "min": chance.randrange(20, 300)},
        ]
        standing: list[Document] = [
            {"kind": "customer", "attribute": "tier", "operator": "equals", "value": chance.choice(("gold", "silver"))},
            {"kind": "agreement", "channel": "newsletter"},
        ]
        condition = chance.choice([*event_based, *standing])
        if condition in event_based and chance.random() < 0.7:
            condition["within"] = f"{chance.choice((20, 60, 150, 400))}m"
        if condition in event_based and condition["kind"] != "spend":
            condition |= chance.choice(({}, {"at_least": chance.randint(2, 5)}, {"at_most": chance.randint(0, 2)}))
        return condition | ({"negate": True} if chance.random() < 0.25 else {})


@pytest.mark.parametrize(
    ("kills", "rounds", "seed"),
    [
        pytest.param(False, SHORT_ROUNDS, 1, id="short"),
        pytest.param(True, SHORT_ROUNDS, 2, id="short-kills"),
        pytest.param(False, LONG_ROUNDS, 3, id="long", marks=pytest.mark.slow),
        pytest.param(True, LONG_ROUNDS, 4, id="long-kills", marks=pytest.mark.slow),
    ],
)
def test_random_edits_in_a_running_stream_end_in_the_members_that_the_oracle_finds(
    new_stage: NewStage, kills: bool, rounds: int, seed: int
) -> None:
    # A small share lets backfills last, so that edits and kills come in their midst.
    stage = new_stage(topics=2, segments="segments: []\n", backfill_share="0.005", batch_records="100")
    stage.settings["segments"] = ""
    chance, editor, feed = random.Random(seed), Editor(stage, seed), Feed(stage.topics, seed=seed)
    stage.send(one_topic_a_customer(stage, feed.records(HISTORY)))
    editor.edit()
    workers = [stage.start("one"), stage.start("other")] if kills else [stage.start("one")]
    for _ in range(rounds):
        stage.send(one_topic_a_customer(stage, feed.records(RECORDS_A_ROUND)))
        editor.edit()
        if kills:
            kill_one(stage, chance)
    stage.send(one_topic_a_customer(stage, feed.records(RECORDS_A_ROUND)))
    stage.wait_applied()
    stage.wait_settled(*workers)
    for worker in workers:
        assert worker.stop() == 0, worker.log_tail()
    assert set(stage.memberships()) == expected_members(stage, editor)
    stage.check_memberships()
    stage.check_state()
    if kills and rounds > SHORT_ROUNDS:
        logs = b"".join(worker.log_file.read_bytes() for worker in workers)
        assert b'"definitions_resumed"' in logs, "no kill has hit a change in its midst"


def kill_one(stage: Stage, chance: random.Random) -> None:
    """At a random instant; mostly of one that is in the midst of a change."""
    aims, workers, end = chance.random() < 0.7, stage.workers, stage.definitions_end()
    if aims:
        until(
            lambda: any(each.is_redefining() or each.has_settled(end) for each in workers), "a worker takes the change"
        )
    instant_s = monotonic() + chance.choice((0.0, 0.2, 1.0)) * chance.random()
    until(lambda: monotonic() > instant_s, "the instant comes")
    able = [each for each in workers if each.is_redefining()] if aims else []
    worker = chance.choice(able or workers)
    worker.kill()
    worker.restart()


def one_topic_a_customer(stage: Stage, records: Iterator[Sent]) -> Iterator[Sent]:
    """Nobody knows afterwards in which order records of several topics were taken; of one customer it matters."""
    for record in records:
        yield record._replace(topic=stage.topics[crc32(record.key.encode()) % len(stage.topics)])


def expected_members(stage: Stage, editor: Editor) -> set[str]:
    """Who is in what by the last definitions over all of history, as `customer|segment`."""
    inputs = [stage.read(topic) for topic in stage.topics]
    document = {"segments": [*editor.wanted.values()]}
    expected: set[str] = set()
    for partition in range(stage.partitions):
        members = replay(document, lines_of([parts[partition] for parts in inputs])).members
        expected |= {f"{customer}|{segment_id}" for segment_id, each in members.items() for customer in each}
    return expected


def lines_of(logs: Sequence[Sequence[Message]]) -> list[bytes]:
    """The records of one partition number as lines of a file."""
    merged = heapq.merge(*logs, key=lambda record: record.timestamp()[1])
    return [line(bytes(each.value() or b""), each.timestamp()[1]) for each in merged]


def line(value: bytes, timestamp_ms: int) -> bytes:
    try:
        return json.dumps(json.loads(value) | {"received_at": timestamp_ms}).encode()
    except ValueError:
        return value
