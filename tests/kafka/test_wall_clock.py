"""With the wall clock: time moves with no event, and never past a record that waits somewhere on its way."""

from __future__ import annotations

from typing import Any

import pytest

from conditions.times import parse_time
from deploy.kafka.broker import Broker
from streams.wall_time import wall_time_ms
from tests.kafka.workers import NewStage, Stage, WorkerProcess, until, visit

pytestmark = pytest.mark.kafka

WINDOW_MS = 4_000
SEGMENTS = """
segments:
  - {id: here, name: Here, conditions: [{kind: page_visit, within: 4s}]}
"""


def wall_stage(new_stage: NewStage, topics: int = 1) -> tuple[Stage, WorkerProcess]:
    """A stage with one worker that is ready and keeps its place in the group whatever happens to it."""
    stage = new_stage(
        partitions=1, topics=topics, segments=SEGMENTS, clock="wall", idle_grace="500ms", session_timeout="40s"
    )
    worker = stage.start("worker")
    worker.wait_ready()
    return stage, worker


def changes_of(stage: Stage, customer: str) -> list[tuple[str, int, str]]:
    """Type, instant and reason of each change of the customer."""
    found: list[dict[str, Any]] = [each for part in stage.changes() for each in part]
    mine = [each for each in found if each["customer_id"] == customer]
    return [(each["type"], parse_time(each["effective_at"]), each["reason"]) for each in mine]


def wait_left(stage: Stage, customer: str) -> None:
    until(lambda: changes_of(stage, customer)[-1:] and changes_of(stage, customer)[-1][0] == "left", "it has left")


def wait_past(instant_ms: int) -> None:
    until(lambda: wall_time_ms() > instant_ms, "time passes")


def test_a_customer_leaves_at_the_exact_instant_without_an_event(new_stage: NewStage) -> None:
    stage, _ = wall_stage(new_stage)
    at_ms = wall_time_ms()
    stage.send([visit(stage.topics[0], "c1", "one", at_ms)])
    wait_left(stage, "c1")
    assert changes_of(stage, "c1") == [("entered", at_ms, "event"), ("left", at_ms + WINDOW_MS, "deadline")]


def test_a_record_from_the_future_does_not_drag_time_along(new_stage: NewStage) -> None:
    stage, _ = wall_stage(new_stage)
    at_ms = wall_time_ms()
    stage.send([visit(stage.topics[0], "c1", "one", at_ms), visit(stage.topics[0], "ahead", "two", at_ms + 3_600_000)])
    wait_left(stage, "c1")
    assert wall_time_ms() >= at_ms + WINDOW_MS, "it left before its time"
    assert changes_of(stage, "c1") == [("entered", at_ms, "event"), ("left", at_ms + WINDOW_MS, "deadline")]
    [(kind, entered_ms, _), *_] = changes_of(stage, "ahead")
    assert kind == "entered"
    assert entered_ms <= wall_time_ms()


def test_a_stopped_worker_does_not_miss_what_came_meanwhile(new_stage: NewStage, broker: Broker) -> None:
    stage, worker = wall_stage(new_stage)
    first_ms = wall_time_ms()
    stage.send([visit(stage.topics[0], "c1", "one", first_ms)])
    stage.wait_applied()
    worker.freeze()
    wait_past(wall_time_ms() + 1_000)  # the answer to its last request, "nothing new", now waits in its socket
    renewed_ms = wall_time_ms()
    stage.send([visit(stage.topics[0], "c1", "two", renewed_ms)])
    wait_past(first_ms + WINDOW_MS + 3_000)
    broker.pause()
    try:
        worker.thaw()
        wait_past(wall_time_ms() + 1_500)  # that answer is all it has
    finally:
        broker.resume()
    wait_left(stage, "c1")
    assert changes_of(stage, "c1") == [("entered", first_ms, "event"), ("left", renewed_ms + WINDOW_MS, "deadline")]


def test_a_stalled_broker_does_not_let_time_pass(new_stage: NewStage, broker: Broker) -> None:
    stage, _ = wall_stage(new_stage)
    first_ms = wall_time_ms()
    stage.send([visit(stage.topics[0], "c1", "one", first_ms)])
    stage.wait_applied()
    producer = stage.producer()
    producer.list_topics(timeout=10)
    broker.pause()
    try:
        renewed_ms = wall_time_ms()
        renewal = visit(stage.topics[0], "c1", "two", renewed_ms)
        producer.produce(renewal.topic, renewal.value, renewal.key, 0, timestamp=renewal.timestamp_ms)
        wait_past(first_ms + WINDOW_MS + 3_000)
    finally:
        broker.resume()
    producer.flush(30)
    wait_left(stage, "c1")
    assert changes_of(stage, "c1") == [("entered", first_ms, "event"), ("left", renewed_ms + WINDOW_MS, "deadline")]


def test_a_topic_that_is_not_read_to_its_end_holds_time_back(new_stage: NewStage) -> None:
    stage, _ = wall_stage(new_stage, topics=2)
    first_ms = wall_time_ms()
    stage.send([visit(stage.topics[0], "c1", "one", first_ms)])
    producer = stage.producer(**{"transactional.id": f"{stage.app_id}-feeder"})
    producer.init_transactions(30)
    producer.begin_transaction()
    renewed_ms = wall_time_ms()
    stage.send([visit(stage.topics[1], "c1", "two", renewed_ms)], producer)
    wait_past(first_ms + WINDOW_MS + 3_000)
    assert [kind for kind, _, _ in changes_of(stage, "c1")] in ([], ["entered"])
    producer.commit_transaction(30)
    wait_left(stage, "c1")
    assert changes_of(stage, "c1") == [("entered", first_ms, "event"), ("left", renewed_ms + WINDOW_MS, "deadline")]
