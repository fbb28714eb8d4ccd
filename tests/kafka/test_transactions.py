"""Transactions on a real broker: who may commit, what becomes visible, and what is known after trouble."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient

from deploy.kafka.broker import Broker
from streams.kafka.errors import CommitFailed, CommitUnknown, Fenced, RecordTooLarge, Refused, Unreachable
from streams.kafka.fencing import Membership
from streams.kafka.security import Connection
from streams.kafka.transactions import FencedProducer, Outgoing, ProducerOptions, end_transaction_of
from streams.kafka.writer import Record
from tests.kafka.conftest import (
    PATIENCE_S,
    NewMember,
    NewProducer,
    NewTopic,
    OpenTransaction,
    committed_values,
    current_membership,
    high_watermarks,
    last_stable_offset,
    reader,
    until,
    until_settled,
)

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]

Unique = Callable[[str], str]

SILENT_MS = 1_500  # a broker that does not answer for so long is silent; a busy one may take a good part of it


def record(value: bytes, key: bytes = b"key") -> Record:
    return (key, value, (), None)


class Stage:
    """An input topic with a group on it, and an output topic."""

    def __init__(self, connection: Connection, source: str, sink: str, membership: Membership) -> None:
        self.connection = connection
        self.source = source
        self.sink = sink
        self.membership = membership

    async def commit(self, producer: FencedProducer, value: bytes, offset: int = 1) -> dict[TopicPartition, int]:
        return await self.commit_as(self.membership, producer, value, offset)

    async def commit_as(
        self, membership: Membership, producer: FencedProducer, value: bytes, offset: int = 1
    ) -> dict[TopicPartition, int]:
        outgoing = [Outgoing(self.sink, 0, [record(value)])]
        offsets = {TopicPartition(self.source, 0): offset}
        return await producer.commit(
            outgoing, offsets, membership.group_id, membership.generation, membership.member_id
        )

    async def visible(self) -> list[bytes]:
        return await committed_values(self.connection, self.sink)

    async def stored_offset(self) -> int | None:
        admin = AIOKafkaAdminClient(**self.connection.arguments())
        await admin.start()
        try:
            stored = await admin.list_consumer_group_offsets(self.membership.group_id)
        finally:
            await admin.close()
        place = TopicPartition(self.source, 0)
        return stored[place].offset if place in stored else None


@pytest_asyncio.fixture
async def stage(connection: Connection, new_topic: NewTopic, join_group: NewMember, unique: Unique) -> Stage:
    source, sink = await new_topic("in"), await new_topic("out")
    _, membership = await join_group(unique("group"), source)
    return Stage(connection, source, sink, membership)


async def test_records_and_offsets_become_visible_together(stage: Stage, new_producer: NewProducer) -> None:
    steps: list[str] = []
    producer = await new_producer(on_step=steps.append)
    written = await stage.commit(producer, b"one", offset=7)
    assert written == {TopicPartition(stage.sink, 0): 0}
    assert await stage.visible() == [b"one"]
    assert await stage.stored_offset() == 7
    assert steps == ["produced", "offsets_sent", "commit_sent", "committed"]


async def test_a_commit_returns_the_last_offset_of_every_partition(
    stage: Stage, new_producer: NewProducer, new_topic: NewTopic, connection: Connection
) -> None:
    sink = await new_topic("wide", partitions=4)
    producer = await new_producer()
    places = [TopicPartition(sink, partition) for partition in range(4)]
    outgoing = [Outgoing(sink, place.partition, [record(b"%d" % number) for number in range(500)]) for place in places]
    member = stage.membership
    for round_number in range(2):
        written = await producer.commit(
            outgoing, {TopicPartition(stage.source, 0): 1}, member.group_id, member.generation, member.member_id
        )
        # The marker of the first transaction takes an offset too.
        assert written == dict.fromkeys(places, 499 + round_number * 501)
    assert await committed_values(connection, sink, 4) == [b"%d" % number for number in range(500)] * 8


async def test_records_of_many_batches_keep_their_order(stage: Stage, new_producer: NewProducer) -> None:
    producer = await new_producer()
    values = [b"%06d" % number + b"x" * 1000 for number in range(3000)]
    outgoing = [Outgoing(stage.sink, 0, [record(value) for value in part]) for part in (values[:1700], values[1700:])]
    member = stage.membership
    written = await producer.commit(
        outgoing, {TopicPartition(stage.source, 0): 1}, member.group_id, member.generation, member.member_id
    )
    assert written == {TopicPartition(stage.sink, 0): 2999}
    assert await stage.visible() == values


async def test_headers_timestamps_and_tombstones_arrive_as_given(
    stage: Stage, new_producer: NewProducer, connection: Connection
) -> None:
    producer = await new_producer()
    records: list[Record] = [(b"k", None, (), 1_700_000_000_123), (None, b"v", (("a", b"1"), ("b", None)), None)]
    member = stage.membership
    await producer.commit(
        [Outgoing(stage.sink, 0, records)],
        {TopicPartition(stage.source, 0): 1},
        member.group_id,
        member.generation,
        member.member_id,
    )
    async with reader(connection, "read_committed") as consumer:
        place = TopicPartition(stage.sink, 0)
        consumer.assign([place])
        consumer.seek(place, 0)
        first, second = [await consumer.getone() for _ in range(2)]
    assert (first.key, first.value, first.timestamp) == (b"k", None, 1_700_000_000_123)
    assert (second.key, second.value, second.headers) == (None, b"v", (("a", b"1"), ("b", None)))


async def test_nothing_to_write_and_no_offsets_is_no_transaction(stage: Stage, new_producer: NewProducer) -> None:
    steps: list[str] = []
    producer = await new_producer(on_step=steps.append)
    assert await producer.commit([], {}, "any", 1, "member") == {}
    assert await producer.commit([Outgoing(stage.sink, 0, [])], {}, "any", 1, "member") == {}
    assert steps == []


async def test_records_without_offsets_are_refused(stage: Stage, new_producer: NewProducer) -> None:
    producer = await new_producer()
    with pytest.raises(ValueError, match="nothing would fence"):
        await producer.commit([Outgoing(stage.sink, 0, [record(b"x")])], {}, "any", 1, "member")
    await stage.commit(producer, b"still fine")


async def test_offsets_without_records_are_stored(stage: Stage, new_producer: NewProducer) -> None:
    producer = await new_producer()
    member = stage.membership
    offsets = {TopicPartition(stage.source, 0): 42}
    assert await producer.commit([], offsets, member.group_id, member.generation, member.member_id) == {}

    async def stored() -> bool:  # the end of a transaction is written to its partitions after the answer
        return await stage.stored_offset() == 42

    await until(stored, "the offset is stored")


@pytest.mark.parametrize(("generation", "member_id"), [(-1, "member"), (1, "")])
async def test_a_worker_outside_its_group_is_refused_before_anything_is_sent(
    stage: Stage, new_producer: NewProducer, generation: int, member_id: str
) -> None:
    producer = await new_producer()
    with pytest.raises(Fenced, match="in no generation"):
        await stage.commit_as(Membership("group", generation, member_id), producer, b"x")
    assert await high_watermarks(stage.connection, [TopicPartition(stage.sink, 0)]) == {
        TopicPartition(stage.sink, 0): 0
    }


async def test_a_member_of_an_older_generation_commits_nothing(
    stage: Stage, new_producer: NewProducer, join_group: NewMember, unique: Unique
) -> None:
    group_id = unique("group")
    consumer, before = await join_group(group_id, stage.source)
    await asyncio.gather(join_group(group_id, stage.source), moved_on(consumer, before))
    producer = await new_producer()
    with pytest.raises(Fenced, match=f"generation {before.generation}") as caught:
        await stage.commit_as(before, producer, b"from the past")
    assert not caught.value.last_step
    assert await stage.visible() == []
    await assert_nothing_is_open(stage)

    await producer.reopen()
    await stage.commit_as(current_membership(consumer, group_id), producer, b"from now")
    assert await stage.visible() == [b"from now"]


async def test_a_member_the_group_does_not_know_commits_nothing(stage: Stage, new_producer: NewProducer) -> None:
    producer = await new_producer()
    stranger = Membership(stage.membership.group_id, stage.membership.generation, "stranger")
    with pytest.raises(Fenced, match="does not know this member"):
        await stage.commit_as(stranger, producer, b"x")
    assert await stage.visible() == []
    assert await stage.stored_offset() is None


async def test_after_an_error_the_producer_must_be_reopened(stage: Stage, new_producer: NewProducer) -> None:
    producer = await new_producer()
    stranger = Membership(stage.membership.group_id, stage.membership.generation, "stranger")
    with pytest.raises(Fenced):
        await stage.commit_as(stranger, producer, b"x")
    with pytest.raises(CommitFailed, match="reopen"):
        await stage.commit(producer, b"y")
    await producer.reopen()
    await stage.commit(producer, b"z")
    assert await stage.visible() == [b"z"]


async def test_the_older_of_two_producers_with_one_id_is_fenced(
    stage: Stage, new_producer: NewProducer, unique: Unique
) -> None:
    name = unique("twin")
    older = await new_producer(name)
    await stage.commit(older, b"older, before")
    newer = await new_producer(name)
    with pytest.raises(Fenced, match="newer producer"):
        await stage.commit(older, b"older, after")
    await stage.commit(newer, b"newer")
    assert await stage.visible() == [b"older, before", b"newer"]


async def test_a_producer_taken_over_within_a_transaction_is_fenced(
    stage: Stage, new_producer: NewProducer, unique: Unique, connection: Connection
) -> None:
    name = unique("taken")
    taken: list[asyncio.Task[None]] = []

    def take_over(step: str) -> None:
        if step == "produced":
            taken.append(asyncio.get_running_loop().create_task(end_transaction_of(name, connection)))

    producer = await new_producer(name, on_step=take_over)
    outcome: object = (await asyncio.gather(stage.commit(producer, b"x"), return_exceptions=True))[0]
    await taken[0]
    # The take-over races with the rest of the transaction; whoever wins, the log and the caller agree.
    visible = await stage.visible()
    if isinstance(outcome, dict):
        assert visible == [b"x"]
    elif isinstance(outcome, Fenced) and not outcome.last_step:
        assert visible == []
    else:
        assert isinstance(outcome, Fenced | CommitUnknown)
        assert visible in [[], [b"x"]]


async def test_two_commits_at_once_follow_each_other(stage: Stage, new_producer: NewProducer) -> None:
    steps: list[str] = []
    producer = await new_producer(on_step=steps.append)
    await asyncio.gather(stage.commit(producer, b"1"), stage.commit(producer, b"2"))
    assert steps == ["produced", "offsets_sent", "commit_sent", "committed"] * 2
    assert await stage.visible() == [b"1", b"2"]


async def test_a_record_over_the_limit_is_refused_with_topic_and_size(stage: Stage, new_producer: NewProducer) -> None:
    producer = await new_producer()
    with pytest.raises(RecordTooLarge, match=rf"{stage.sink}.*2,000,\d+ bytes.*max\.message\.bytes"):
        await stage.commit(producer, b"x" * 2_000_000)
    await producer.reopen()
    await stage.commit(producer, b"x")
    assert await stage.visible() == [b"x"]


async def test_a_batch_the_broker_finds_too_large_aborts_everything(
    stage: Stage, new_producer: NewProducer, new_topic: NewTopic
) -> None:
    narrow = await new_topic("narrow", max_message_bytes="2000")
    producer = await new_producer()
    member = stage.membership
    outgoing = [Outgoing(stage.sink, 0, [record(b"fine")]), Outgoing(narrow, 0, [record(b"x" * 5000)])]
    with pytest.raises(RecordTooLarge, match=narrow):
        await producer.commit(
            outgoing, {TopicPartition(stage.source, 0): 1}, member.group_id, member.generation, member.member_id
        )
    await assert_nothing_is_open(stage)
    assert await stage.visible() == []
    assert await stage.stored_offset() is None


async def test_a_missing_topic_or_partition_is_named_soon(stage: Stage, new_producer: NewProducer) -> None:
    producer = await new_producer()
    sink = stage.sink
    stage.sink = "no-such-topic"
    with pytest.raises(CommitFailed, match=r"no topic no-such-topic.*rollcall topics create"):
        await asyncio.wait_for(stage.commit(producer, b"x"), PATIENCE_S)
    await producer.reopen()
    member = stage.membership
    with pytest.raises(CommitFailed, match=f"{sink} has 1 partitions, but no partition 9"):
        await producer.commit(
            [Outgoing(sink, 9, [record(b"x")])],
            {TopicPartition(stage.source, 0): 1},
            member.group_id,
            member.generation,
            member.member_id,
        )


async def test_a_cancelled_commit_leaves_no_transaction_open(stage: Stage, new_producer: NewProducer) -> None:
    def cancel(step: str) -> None:
        if step == "produced":
            task.cancel()

    producer = await new_producer(on_step=cancel)
    task = asyncio.create_task(stage.commit(producer, b"cancelled"))
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_nothing_is_open(stage)
    assert await stage.visible() == []


async def test_an_error_of_the_step_hook_aborts(stage: Stage, new_producer: NewProducer) -> None:
    def fail(step: str) -> None:
        if step == "offsets_sent":
            raise RuntimeError("from the hook")

    producer = await new_producer(on_step=fail)
    with pytest.raises(RuntimeError, match="from the hook"):
        await stage.commit(producer, b"x")
    await assert_nothing_is_open(stage)
    assert await stage.visible() == []


@pytest.mark.parametrize("pause_at", ["produced", "offsets_sent", "commit_sent"])
async def test_a_silent_broker_leaves_all_or_nothing_and_reopening_settles_which(
    broker: Broker, stage: Stage, new_producer: NewProducer, pause_at: str
) -> None:
    steps_to_pause_at = {pause_at}

    def pause(step: str) -> None:
        if step in steps_to_pause_at:
            steps_to_pause_at.clear()
            broker.pause()

    options = ProducerOptions(step_timeout_ms=SILENT_MS, abort_timeout_ms=200)
    producer = await new_producer(options=options, on_step=pause)
    try:
        outcome: object = (await asyncio.gather(stage.commit(producer, b"once", offset=1), return_exceptions=True))[0]
    finally:
        broker.resume()
    # A broker frozen once the commit has been sent may have answered just before.
    expected = {"produced": CommitFailed, "offsets_sent": CommitUnknown, "commit_sent": CommitUnknown | dict}
    assert isinstance(outcome, expected[pause_at])
    await producer.reopen()
    await assert_nothing_is_open(stage)
    visible, offset = await stage.visible(), await stage.stored_offset()
    assert (visible, offset) in [([], None), ([b"once"], 1)]
    if isinstance(outcome, CommitFailed):
        assert visible == []
    await stage.commit(producer, b"next", offset=2)
    assert await stage.visible() == [*visible, b"next"]


async def test_a_broker_silent_while_records_are_written_fails_the_commit(
    broker: Broker, stage: Stage, new_producer: NewProducer
) -> None:
    producer = await new_producer(options=ProducerOptions(step_timeout_ms=SILENT_MS, abort_timeout_ms=200))
    await stage.commit(producer, b"before")
    broker.pause()
    try:
        with pytest.raises(CommitFailed, match="'produced' was not reached"):
            await stage.commit(producer, b"lost")
    finally:
        broker.resume()
    await producer.reopen()
    assert await stage.visible() == [b"before"]


@pytest.mark.slow
async def test_a_commit_after_a_broker_restart_works_once_reopened(
    broker: Broker, stage: Stage, new_producer: NewProducer
) -> None:
    producer = await new_producer()
    await stage.commit(producer, b"before")
    await asyncio.to_thread(broker.restart)
    await producer.reopen()

    async def committed() -> bool:
        try:
            await stage.commit(producer, b"after")
        except CommitFailed:  # the group's coordinator may still be loading
            await producer.reopen()
            return False
        return True

    await until(committed, "a commit on the restarted broker")
    assert await stage.visible() == [b"before", b"after"]


@pytest.mark.parametrize("step", ["produced", "offsets_sent", "commit_sent", "committed"])
async def test_a_writer_killed_at_a_step_leaves_all_or_nothing(
    stage: Stage, unique: Unique, connection: Connection, step: str
) -> None:
    name = unique("killed")
    member = stage.membership
    writer = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("killed_writer.py")),
        *(connection.bootstrap_servers, name, stage.source, stage.sink),
        *(member.group_id, str(member.generation), member.member_id, step),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert await writer.wait() == -signal.SIGKILL
    await end_transaction_of(name, connection)
    committed = step in {"commit_sent", "committed"}
    assert await stage.visible() == ([b"last words"] if committed else [])
    assert await stage.stored_offset() == (1 if committed else None)


async def test_ending_a_dead_writers_transaction_hides_its_records_for_good(
    stage: Stage, open_transaction: OpenTransaction, unique: Unique, connection: Connection
) -> None:
    name = unique("dead")
    await open_transaction(name, stage.sink, b"never seen")
    assert await last_stable_offset(connection, TopicPartition(stage.sink, 0)) == 0
    await end_transaction_of(name, connection)
    await assert_nothing_is_open(stage)
    assert await stage.visible() == []


async def test_stopping_after_an_unknown_commit_ends_the_transaction(
    broker: Broker, stage: Stage, new_producer: NewProducer
) -> None:
    def pause(step: str) -> None:
        if step == "produced":
            broker.pause()

    producer = await new_producer(options=ProducerOptions(step_timeout_ms=300, abort_timeout_ms=3_000), on_step=pause)
    commit = asyncio.create_task(stage.commit(producer, b"x"))
    await asyncio.wait([commit], timeout=0.6)
    broker.resume()
    with pytest.raises(CommitFailed):
        await commit
    await producer.stop()
    await assert_nothing_is_open(stage)


async def test_no_broker_is_said_with_address_and_settings() -> None:
    producer = FencedProducer(Connection("127.0.0.1:1"), "nobody", options=ProducerOptions(start_timeout_ms=2_000))
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1.*bootstrap_servers"):
        await producer.start()
    await producer.stop()


async def test_a_cluster_that_tells_of_no_broker_for_a_moment_counts_as_unreachable(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AIOKafkaClient, "get_random_node", lambda client: None)
    with pytest.raises(Unreachable):
        await FencedProducer(connection, "nobody-there").start()


async def test_a_transaction_timeout_the_broker_does_not_allow_is_named(connection: Connection) -> None:
    producer = FencedProducer(connection, "patient", options=ProducerOptions(transaction_timeout_ms=3_600_000))
    with pytest.raises(Refused, match=r"transaction_timeout_ms=3600000.*transaction\.max\.timeout\.ms"):
        await producer.start()


async def assert_nothing_is_open(stage: Stage) -> None:
    await until_settled(stage.connection, stage.sink)


async def moved_on(consumer: AIOKafkaConsumer, before: Membership) -> None:
    async def is_newer() -> bool:
        return current_membership(consumer, before.group_id).generation > before.generation

    await until(is_newer, "a newer generation")
