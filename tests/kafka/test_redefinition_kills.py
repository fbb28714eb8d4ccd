"""A worker dies at each step of taking changed segments: another goes on, and each change comes once.

No event comes meanwhile, so that every change is known: up to the edit those of the old segments, then who differs
between the two, then those of the new ones. As in `test_kills` all runs start at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import yaml

from conditions.documents import parse_segments
from deploy.kafka.broker import Broker
from streams.kafka.definitions_topic import KafkaDefinitionsLog
from streams.kafka.security import Connection
from streams.segments_commands import apply_segments, delete_segment
from tests.kafka.test_live_edits import line
from tests.kafka.workers import Feed, NewStage, Sent, Stage, stages_on, until
from tests.oracle import replay

pytestmark = pytest.mark.kafka

AT_A_TIME = 5
BEFORE, AFTER = 2_900, 200  # records; they are folded in two batches, and their customers asked in two steps
CUSTOMERS = 2_200


class Step(NamedTuple):
    """Where to die, and at which stage another worker finds the redefinition: None where it never was committed."""

    name: str
    times: int
    found_at: str | None


STEPS = [
    Step("definitions_begun", 2, None),  # first with those of the start file
    Step("erasures_read", 2, "backfill"),
    Step("history_folded", 2, "backfill"),
    Step("definitions_in_force", 1, "backfill"),
    Step("customers_scanned", 2, "scan"),
]

KEPT = {"id": "not-seen", "name": "Not seen", "conditions": [{"kind": "page_visit", "within": "2h", "negate": True}]}
GONE = {"id": "mailed", "name": "Opened the mail", "conditions": [{"kind": "email", "action": "opened"}]}
VISITED = {"kind": "page_visit", "domain": "shop.example", "within": "1h"}
OLD = [KEPT, GONE, {"id": "visited", "name": "Visited", "conditions": [VISITED]}]
EDITED = [
    {"id": "visited", "name": "Visited", "conditions": [VISITED | {"within": "3h", "at_least": 2}]},
    {"id": "spender", "name": "Spender", "conditions": [{"kind": "spend", "min": 100, "within": "2h"}]},
    {
        "id": "gold",
        "name": "Gold or a rare page",
        "match": "any",
        "conditions": [
            {"kind": "customer", "attribute": "tier", "operator": "equals", "value": "gold"},
            {"kind": "page_visit", "path": "/p7"},
        ],
    },
]

Brief = tuple[str, str, str, str]


class Story(NamedTuple):
    """What is sent before and after the edit, and what must come of it by the oracle."""

    before: list[Sent]
    after: list[Sent]
    first: list[Brief]
    by_the_edit: list[Brief]
    last: list[Brief]
    members: set[str]


def told() -> Story:
    feed = Feed(["any"], seed=61, customers=CUSTOMERS, step_ms=4_000)
    before, after = list(feed.records(BEFORE)), list(feed.records(AFTER))
    lines = [line(each.value, each.timestamp_ms) for each in [*before, *after]]
    old, new = ({"segments": [*segments]} for segments in (OLD, [KEPT, *EDITED]))
    was, becomes, ends = replay(old, lines[:BEFORE]), replay(new, lines[:BEFORE]), replay(new, lines)
    left = keys(was.members) - keys(becomes.members)
    entered = keys(becomes.members) - keys(was.members)
    differs = [(*each, "left", "definition") for each in left] + [(*each, "entered", "definition") for each in entered]
    return Story(
        before,
        after,
        brief(was.changes),
        sorted(differs),
        brief(ends.changes[len(becomes.changes) :]),
        {"|".join(each) for each in keys(ends.members)},
    )


def keys(members: dict[str, set[str]]) -> set[tuple[str, str]]:
    return {(customer, segment) for segment, customers in members.items() for customer in customers}


def brief(changes: Sequence[dict[str, Any]]) -> list[Brief]:
    return [(each["customer_id"], each["segment_id"], each["type"], each["reason"]) for each in changes]


Runs = dict[Step, "Future[None]"]


@pytest.fixture(scope="module")
def runs(broker: Broker, tmp_path_factory: pytest.TempPathFactory, unique: Callable[[str], str]) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("redefinitions")
    story = told()
    with (
        stages_on(broker.bootstrap_servers, folder, unique) as new_stage,
        ThreadPoolExecutor(AT_A_TIME) as pool,
    ):
        yield {step: pool.submit(run, new_stage, story, step) for step in STEPS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.name}-{step.times}")
def test_segments_are_changed_once_when_the_worker_dies_in_the_midst_of_it(runs: Runs, step: Step) -> None:
    runs[step].result()


def run(new_stage: NewStage, story: Story, step: Step) -> None:
    stage = new_stage(partitions=1, segments=yaml.safe_dump({"segments": OLD}))
    log = KafkaDefinitionsLog(stage.definitions_topic, Connection(stage.bootstrap_servers), stage.app_id)
    send(stage, story.before)
    doomed = stage.start("doomed", at=step.name, times=step.times)
    stage.wait_applied()
    apply_segments(log, parse_segments({"segments": EDITED}), None, dry_run=False)
    delete_segment(log, "mailed", None)
    until(stage.mark("doomed").exists, f"{step} comes")
    assert doomed.exit_code() < 0
    heir = stage.start("heir")
    stage.wait_settled(heir)
    send(stage, story.after)
    stage.wait_applied()
    assert heir.stop() == 0, heir.log_tail()
    resumed = [each["stage"] for each in heir.events("definitions_resumed")]
    assert resumed == ([] if step.found_at is None else [step.found_at])
    check(stage, story)


def send(stage: Stage, records: Sequence[Sent]) -> None:
    stage.send(each._replace(topic=stage.topics[0]) for each in records)


def check(stage: Stage, story: Story) -> None:
    [changes] = stage.changes()
    assert [each["sequence"] for each in changes] == list(range(1, len(changes) + 1))
    found, edited = brief(changes), len(story.first) + len(story.by_the_edit)
    assert found[: len(story.first)] == story.first
    assert sorted(found[len(story.first) : edited]) == story.by_the_edit
    assert found[edited:] == story.last
    assert set(stage.memberships()) == story.members
    stage.check_memberships()
    stage.check_state()
