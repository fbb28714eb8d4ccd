"""How a worker starts, refuses to start, ends and fails: exit codes and words that name what mends it."""

from __future__ import annotations

import signal
import socket

import pytest
from confluent_kafka import Consumer, ConsumerGroupState

from deploy.kafka.broker import Broker
from tests.kafka.workers import SEGMENTS, START_MS, Feed, NewStage, Sent, Stage, closing, header, until

pytestmark = pytest.mark.kafka


def test_sigterm_in_the_midst_ends_in_order_and_loses_nothing(new_stage: NewStage) -> None:
    stage = new_stage(batch_records="50")
    feed = Feed(stage.topics, seed=21)
    stage.send(feed.records(6_000))
    worker = stage.start("worker", at="written", times=5, signal_name="SIGTERM")
    until(stage.mark("worker").exists, "it is at work")
    assert worker.exit_code() == 0, worker.log_tail()
    assert worker.events("worker_stopped"), worker.log_tail()
    worker.restart()
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check()


def test_sigterm_ends_a_worker_whose_broker_is_silent(new_stage: NewStage, broker: Broker) -> None:
    stage = new_stage()
    feed = Feed(stage.topics, seed=22)
    worker = stage.start("worker")
    worker.wait_ready()
    stage.send(feed.records(500))
    stage.wait_applied()
    broker.pause()
    try:
        worker.send(signal.SIGTERM)
        until(lambda: worker.get("/readyz") == (503, "not ready: stopping\n"), "it says that it stops")
        assert worker.exit_code() == 0, worker.log_tail()
    finally:
        broker.resume()
    stage.send(feed.records(300))
    worker.restart()
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check()


def test_sigterm_ends_a_worker_that_waits_to_join_its_group(new_stage: NewStage) -> None:
    stage = new_stage(session_timeout="10m")
    silent = stage.start("silent")
    silent.wait_ready()
    silent.freeze()  # the group waits for it, so that nobody else gets in
    worker = stage.start("worker")
    until(lambda: stage.group_state() is ConsumerGroupState.PREPARING_REBALANCING, "it waits for the group")
    assert worker.stop() == 0, worker.log_tail()
    assert "Traceback" not in worker.log()


@pytest.mark.parametrize("step", ["computed", "produced", "written"])
def test_a_defect_ends_the_process_with_its_reason(new_stage: NewStage, step: str) -> None:
    stage = new_stage()
    stage.send(Feed(stage.topics, seed=23).records(200))
    worker = stage.start("worker", at=step, signal_name="RAISE")
    assert worker.exit_code() == 1
    assert "a defect, on purpose" in worker.log()


def test_missing_topics_are_refused_with_the_command_that_makes_them(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.delete_topics(stage.changes_topic)
    worker = stage.start("worker")
    assert worker.exit_code() == 1
    assert f"rollcall: topic {stage.changes_topic} does not exist: `rollcall topics create" in worker.log()


def test_a_changed_segments_file_is_told_and_waits_for_the_command_that_applies_it(new_stage: NewStage) -> None:
    stage = new_stage()
    feed = Feed(stage.topics, seed=24)
    stage.send(feed.records(500))
    worker = stage.start("worker")
    stage.wait_applied()
    assert not worker.events("segments_file_differs")
    assert worker.stop() == 0, worker.log_tail()

    stage.segments_file.write_text(SEGMENTS.replace("name: Shoes", "name: Two pairs of shoes"))
    worker.restart()
    worker.wait_ready()
    [said] = worker.events("segments_file_differs")
    assert said["segments"] == ["shoes"]
    assert f"`rollcall segments apply {stage.segments_file}`" in said["mend"]
    stage.send(feed.records(500))
    stage.wait_applied()
    assert shoe_names(stage) == {"Shoes"}

    stage.rollcall("segments", "apply", str(stage.segments_file))
    stage.wait_settled(worker)
    stage.send(feed.records(500))
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    assert shoe_names(stage) == {"Shoes", "Two pairs of shoes"}


def shoe_names(stage: Stage) -> set[str]:
    return {each["segment_name"] for part in stage.changes() for each in part if each["segment_id"] == "shoes"}


def test_a_missing_definitions_topic_is_refused_with_the_command_that_makes_it(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.delete_topics(stage.definitions_topic)
    worker = stage.start("worker")
    assert worker.exit_code() == 1
    assert f"rollcall: topic {stage.definitions_topic} does not exist: `rollcall topics create" in worker.log()


def test_a_definitions_topic_made_anew_is_refused(new_stage: NewStage) -> None:
    stage = new_stage()
    stage.send(Feed(stage.topics, seed=28).records(300))
    worker = stage.start("worker")
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.delete_topics(stage.definitions_topic)
    stage.create_definitions()
    worker.restart(segments="")
    assert worker.exit_code() == 1
    assert "it was probably deleted and created anew. Rebuild the state" in worker.log()


def test_state_of_a_worker_with_fixed_segments_is_refused_with_the_command_that_rebuilds(new_stage: NewStage) -> None:
    stage = new_stage()
    feed = Feed(stage.topics, seed=27)
    stage.send(feed.records(300))
    worker = stage.start("worker", command_name="fixed-worker")
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    worker.restart()
    assert worker.exit_code() == 1
    assert "by a worker whose segments were fixed, this is one that follows the definitions topic" in worker.log()
    assert f"`rollcall worker --app-id {stage.app_id}-2" in worker.log()


def test_poison_goes_to_the_dead_letters_and_the_rest_goes_on(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1)
    poison = [b"\xff\xfe", b"{broken", b"[1]", b'{"event_id": 7}']
    feed = Feed(stage.topics, seed=25, mess=False)
    for each in poison:
        stage.send([Sent(stage.topics[0], "c1", each, START_MS), *feed.records(20)])
    worker = stage.start("worker")
    stage.wait_applied()
    worker.wait_metric("rollcall_dead_letters_total", len(poison))
    assert worker.stop() == 0, worker.log_tail()
    [letters] = stage.read(stage.dead_letters_topic)
    assert [each.value() for each in letters] == poison
    assert [header(each, "rollcall.error.code") for each in letters] == [
        "not_utf8",
        "not_json",
        "not_object",
        "missing",
    ]
    assert [header(each, "rollcall.error.offset") for each in letters] == ["0", "21", "42", "63"]
    assert header(letters[3], "rollcall.error.path") == "type"
    stage.check()


def test_a_session_timeout_that_the_broker_does_not_take_is_refused_with_its_limits(new_stage: NewStage) -> None:
    worker = new_stage().start("worker", session_timeout="2h")
    assert worker.exit_code() == 1
    assert "does not take a session_timeout of 7,200,000 ms" in worker.log()
    assert "group.max.session.timeout.ms" in worker.log()
    assert "Traceback" not in worker.log()


def test_a_group_of_another_application_is_refused_with_what_mends_it(new_stage: NewStage) -> None:
    stage = new_stage()
    other = {"group.id": stage.app_id, "partition.assignment.strategy": "range"}
    with closing(Consumer({"bootstrap.servers": stage.bootstrap_servers, **other})) as consumer:
        consumer.subscribe(stage.topics)
        until(lambda: consumer.poll(0) or consumer.assignment(), "the other application is in the group")
        worker = stage.start("worker")
        assert worker.exit_code() == 1
    assert f"group {stage.app_id} is in use by another application" in worker.log()
    assert "choose another --app-id" in worker.log()


def test_a_taken_port_is_named_with_the_flag(new_stage: NewStage) -> None:
    stage = new_stage()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        worker = stage.start("worker", web_port=str(taken.getsockname()[1]))
        assert worker.exit_code() == 1
    assert "choose another --web-port" in worker.log()


def test_a_folder_in_use_is_refused(new_stage: NewStage) -> None:
    stage = new_stage()
    worker = stage.start("worker")
    worker.wait_ready()
    second = stage.start("second", data_dir=str(worker.folder))
    assert second.exit_code() == 1
    assert "is in use by another worker: give each worker its own --data-dir" in second.log()
    assert worker.is_ready()


def test_an_input_topic_made_anew_is_refused(new_stage: NewStage) -> None:
    stage = new_stage()
    feed = Feed(stage.topics, seed=26)
    stage.send(feed.records(500))
    worker = stage.start("worker")
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.delete_topics(*stage.topics)
    stage.create_inputs()
    worker.restart()
    assert worker.exit_code() == 1
    assert "it was probably deleted and created anew" in worker.log()
