"""Who owns what: topics of one partition number stay together, copies are warm, and surplus workers wait."""

from __future__ import annotations

import pytest

from state.changelog import read_position
from state.rocksdb_store import RocksdbStore
from state.store import StateError
from tests.kafka.workers import Feed, NewStage, Stage, WorkerProcess, until

pytestmark = pytest.mark.kafka


def test_five_topics_are_merged_by_time_whoever_owns_the_partition(new_stage: NewStage) -> None:
    stage = new_stage(partitions=3, topics=5, batch_records="40")
    feed = Feed(stage.topics, seed=11)
    # All is there before the first worker starts, so that the order by timestamps is the only right one.
    stage.send(feed.records(12_000))
    first = stage.start("first")
    first.wait_ready()
    second = stage.start("second")
    until(lambda: second.events("partition_restored"), "the second has got a partition")
    first.kill()
    third = stage.start("third")
    until(lambda: third.events("partition_restored"), "the third has got a partition")
    assert second.stop() == 0, second.log_tail()
    stage.wait_applied()
    assert third.stop() == 0, third.log_tail()
    stage.check()


def test_more_workers_than_partitions_wait_and_take_over(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1)
    feed = Feed(stage.topics, seed=12)
    workers = [stage.start(f"worker{number}") for number in range(3)]
    for worker in workers:
        worker.wait_ready()
    until(lambda: len([each for each in workers if owns(each)]) == 1, "one of them owns the partition")
    for _ in range(2):
        stage.send(feed.records(300))
        stage.wait_applied()
        [owner] = [each for each in workers if each.alive and owns(each)]
        owner.kill()
        until(lambda: any(each.alive and owns(each) for each in workers), "another one owns the partition")
    stage.send(feed.records(300))
    stage.wait_applied()
    [last] = [each for each in workers if each.alive]
    assert last.stop() == 0, last.log_tail()
    stage.check()


def owns(worker: WorkerProcess) -> bool:
    return bool([*worker.events("partitions_assigned"), {"partitions": []}][-2:][0]["partitions"])


def test_a_standby_takes_over_without_a_full_restore(new_stage: NewStage) -> None:
    stage = new_stage(standby_replicas="1")
    feed = Feed(stage.topics, seed=13, customers=2_000)
    owner, heir = stage.start("owner"), stage.start("heir")
    for worker in (owner, heir):
        worker.wait_ready()
    stage.send(feed.records(10_000))
    stage.wait_applied()
    until(lambda: follows(stage, heir), "the copies have caught up")
    owner.kill()
    stage.send(feed.records(300))
    stage.wait_applied()
    taken_over = heir.events("partition_restored")[-stage.partitions :]
    assert {each["partition"] for each in taken_over} == {0, 1}
    assert sum(each["records"] for each in taken_over) < 100
    assert heir.stop() == 0, heir.log_tail()
    stage.check()


def follows(stage: Stage, worker: WorkerProcess) -> bool:
    """Whether all partitions' local states of the worker stand at the end of the changelog."""
    ends = [records[-1].offset() for records in stage.read(stage.changelog)]
    for number, end in enumerate(ends):
        try:
            store = RocksdbStore.open_read_only(worker.folder / f"partition-{number}")
        except StateError:
            return False
        position = read_position(store)
        store.close()
        if position is None or position.offset <= (end or 0):
            return False
    return True
