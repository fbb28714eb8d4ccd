"""Topics that get more partitions, or go, under a running or a stopped application: it ends, and says what happened."""

from __future__ import annotations

import pytest

from tests.kafka.workers import Feed, NewStage, Stage, WorkerProcess, until

pytestmark = pytest.mark.kafka

LASTING = "40s"  # a worker of a busy machine that lost its place in the group would start over


def with_state(new_stage: NewStage, topics: int = 1) -> tuple[Stage, WorkerProcess]:
    """A stage of two partitions whose worker runs, and has applied events."""
    stage = new_stage(partitions=2, topics=topics, session_timeout=LASTING)
    stage.send(Feed(stage.topics, seed=31).records(300))
    worker = stage.start("worker")
    stage.wait_applied()
    return stage, worker


def require_end(worker: WorkerProcess, *said: str) -> None:
    """It has ended with these words, tried nothing twice, and blamed no broker."""
    assert worker.exit_code() == 1
    for each in said:
        assert each in worker.log(), worker.log_tail()
    assert not worker.events("starting_over"), worker.log_tail()
    assert "Traceback" not in worker.log()


def grown(topic: str) -> str:
    return f"topic {topic} has 4 partitions, and had 2 when this application's state was made: partitions were probably"


def test_state_made_with_fewer_partitions_is_refused_also_by_a_worker_that_has_none(new_stage: NewStage) -> None:
    stage, worker = with_state(new_stage)
    assert worker.stop() == 0, worker.log_tail()
    changes = stage.changes()
    stage.add_partitions(4, *stage.topics, *stage.outputs)

    worker.restart()
    require_end(worker, grown(stage.topics[0]), "docs/topics.md")
    require_end(stage.start("other"), grown(stage.topics[0]))

    checked = stage.run("topics", "check")
    assert (checked.returncode, grown(stage.topics[0]) in checked.stdout) == (1, True)
    assert stage.changes() == [*changes, [], []]


def test_a_partition_that_never_had_a_record_learns_from_the_others(new_stage: NewStage) -> None:
    stage = new_stage(partitions=4, session_timeout=LASTING)
    stage.send(each._replace(partition=3) for each in Feed(stage.topics, seed=32).records(50))
    worker = stage.start("worker")
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.add_partitions(5, *stage.topics, *stage.outputs)
    worker.restart()
    require_end(worker, f"topic {stage.topics[0]} has 5 partitions, and had 4 when")


def test_workers_end_when_all_topics_get_more_partitions(new_stage: NewStage) -> None:
    stage, worker = with_state(new_stage)
    other = stage.start("other")
    until(lambda: other.is_ready() and worker.is_ready(), "both are ready")
    stage.add_partitions(4, *stage.outputs, *stage.topics)
    require_end(worker, grown(stage.topics[0]))
    require_end(other, grown(stage.topics[0]))


def test_a_worker_ends_when_one_of_several_inputs_gets_more_partitions(new_stage: NewStage) -> None:
    stage, worker = with_state(new_stage, topics=2)
    stage.add_partitions(4, stage.topics[1])
    require_end(worker, grown(stage.topics[1]))
    assert f"topic {stage.topics[0]} has" not in worker.log()


def test_without_state_too_a_worker_ends_when_one_of_several_inputs_gets_more_partitions(new_stage: NewStage) -> None:
    stage = new_stage(partitions=2, topics=2, session_timeout=LASTING)
    worker = stage.start("worker")
    worker.wait_ready()
    stage.add_partitions(4, stage.topics[1])
    narrow, wide = stage.topics
    require_end(worker, f"topic {narrow} has 2 partitions where another input has 4 ({narrow} 2, {wide} 4)")


@pytest.mark.parametrize("topics", [1, 2])
def test_a_worker_ends_when_an_input_is_deleted(new_stage: NewStage, topics: int) -> None:
    stage, worker = with_state(new_stage, topics)
    stage.delete_topics(stage.topics[-1])
    require_end(worker, f"topic {stage.topics[-1]} does not exist", "If it was deleted")


@pytest.mark.parametrize("which", ["changes_topic", "changelog"])
def test_a_worker_ends_when_a_topic_that_it_writes_is_deleted(new_stage: NewStage, which: str) -> None:
    stage, worker = with_state(new_stage)
    stage.delete_topics(getattr(stage, which))
    stage.send(Feed(stage.topics, seed=34, customers=9).records(300))
    assert worker.exit_code() == 1
    assert f"topic {getattr(stage, which)} does not exist: `rollcall topics create --partitions 2`" in worker.log()


def test_a_definitions_topic_that_is_deleted_is_told_and_events_go_on(new_stage: NewStage) -> None:
    stage, worker = with_state(new_stage)
    stage.delete_topics(stage.definitions_topic)
    until(lambda: worker.events("definitions_unreachable"), "it says that the topic is gone")
    [said] = worker.events("definitions_unreachable")
    assert f"there is no topic {stage.definitions_topic} any more: it was probably deleted" in said["error"]
    assert "rollcall topics create" in said["error"]
    stage.send(Feed(stage.topics, seed=33).records(100))
    stage.wait_applied()
    assert worker.is_ready()
    assert worker.stop() == 0, worker.log_tail()
