"""Restoring from a changelog on a real broker: what is passed on, where it ends, and what is said in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from deploy.kafka.broker import Broker
from state.changelog import Checkpoint, changelog_records
from state.engine import Marker
from state.memory_store import MemoryStore
from state.parts import PartWriter
from state.store import WriteSet
from streams.application_topics import look_at_topics
from streams.kafka.changelog import (
    TAIL_OFFSETS,
    ChangelogBatch,
    Restored,
    RestoreOptions,
    newest_values,
    restore,
)
from streams.kafka.errors import ChangelogGone, Refused, RestoreStuck, Unreachable
from streams.kafka.security import Connection
from streams.kafka.topics import TopicSpec, ensure_topics
from streams.kafka.transactions import end_transaction_of
from streams.settings import load_settings
from streams.topic_problems import Output
from tests.kafka.conftest import PATIENCE_S, NewTopic, OpenTransaction, high_watermarks, until_settled

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]

Unique = Callable[[str], str]


class Restoration:
    """Restores one partition and keeps what it was told."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self.connection = connection
        self.topic = topic
        self.batches: list[ChangelogBatch] = []
        self.stalls = 0

    async def run(self, from_offset: int | None = None, options: RestoreOptions | None = None) -> Restored:
        return await restore(
            self.topic, 0, from_offset, self.take, self.stalled, connection=self.connection, options=options
        )

    async def take(self, batch: ChangelogBatch) -> None:
        self.batches.append(batch)

    async def stalled(self) -> None:
        self.stalls += 1

    @property
    def values(self) -> list[bytes | None]:
        return [value for batch in self.batches for _, value in batch.records]


@pytest.fixture
def transactional_id(unique: Unique) -> str:
    return unique("writer")


async def write(producer: AIOKafkaProducer, topic: str, values: Sequence[bytes]) -> None:
    batch = producer.create_batch()
    for value in values:
        assert batch.append(key=b"key", value=value, timestamp=None) is not None
    await (await producer.send_batch(batch, topic, partition=0))


Committed = Callable[..., Awaitable[None]]


@pytest.fixture
def write_committed(connection: Connection, open_transaction: OpenTransaction) -> Committed:
    async def committed(transactional_id: str, topic: str, *values: bytes) -> None:
        producer = await open_transaction(transactional_id, topic, *values)
        await producer.commit_transaction()
        await until_settled(connection, topic)

    return committed


async def end_offset(connection: Connection, topic: str) -> int:
    place = TopicPartition(topic, 0)
    return (await high_watermarks(connection, [place]))[place]


async def test_committed_records_are_passed_on_in_order_up_to_the_end(
    connection: Connection, new_topic: NewTopic, transactional_id: str, open_transaction: OpenTransaction
) -> None:
    topic = await new_topic("log", cleanup_policy="compact")
    producer = await open_transaction(transactional_id, topic)
    await write(producer, topic, [b"a", b"b"])
    await producer.commit_transaction()
    for number in range(3):
        await producer.begin_transaction()
        await write(producer, topic, [b"aborted %d" % number] * 5)
        await producer.abort_transaction()
    await producer.begin_transaction()
    await write(producer, topic, [b"c"])
    await producer.commit_transaction()
    await until_settled(connection, topic)

    restoration = Restoration(connection, topic)
    restored = await restoration.run(options=RestoreOptions(stalled_after_ms=60_000))
    assert restoration.values == [b"a", b"b", b"c"]
    assert (restored.records, restored.position) == (3, await end_offset(connection, topic))
    assert restored.position == 2 + 3 * 5 + 1 + 5  # records, aborted ones, and five markers
    assert restoration.stalls == 0


async def test_a_log_that_ends_in_aborted_transactions_is_read_to_its_end(
    connection: Connection, new_topic: NewTopic, transactional_id: str, open_transaction: OpenTransaction
) -> None:
    topic = await new_topic("log")
    producer = await open_transaction(transactional_id, topic, b"aborted")
    await producer.abort_transaction()
    await until_settled(connection, topic)
    restoration = Restoration(connection, topic)
    assert (await restoration.run()).position == 2
    assert restoration.batches == []


async def test_restoring_goes_on_where_the_local_state_ends(
    connection: Connection, new_topic: NewTopic, transactional_id: str, write_committed: Committed
) -> None:
    topic = await new_topic("log")
    await write_committed(transactional_id, topic, b"0", b"1", b"2")
    restoration = Restoration(connection, topic)
    assert (await restoration.run(2)).position == 4
    assert restoration.values == [b"2"]
    # What a state saved right behind its own last record finds: nothing but the marker.
    assert (await restoration.run(3)).records == 0
    assert (await restoration.run(4)).records == 0


async def test_an_empty_log_is_restored_at_once(connection: Connection, new_topic: NewTopic) -> None:
    restored = await Restoration(connection, await new_topic("log")).run()
    assert (restored.position, restored.records) == (0, 0)


async def test_progress_rises_to_the_total_and_positions_can_be_restored_from(
    connection: Connection, new_topic: NewTopic, transactional_id: str, open_transaction: OpenTransaction
) -> None:
    topic = await new_topic("log")
    producer = await open_transaction(transactional_id, topic)
    values = [b"%d" % number for number in range(1000)]
    await write(producer, topic, values)
    await producer.commit_transaction()
    await until_settled(connection, topic)
    restoration = Restoration(connection, topic)
    await restoration.run(options=RestoreOptions(batch_records=300))
    assert [len(batch.records) for batch in restoration.batches] == [300, 300, 300, 100]
    assert [batch.done for batch in restoration.batches[:3]] == [300, 600, 900]
    assert restoration.batches[-1].done == restoration.batches[-1].total == 1001

    rest = Restoration(connection, topic)
    await rest.run(restoration.batches[1].position)
    assert rest.values == values[600:]


async def test_an_open_transaction_stalls_until_its_writer_is_ended(
    connection: Connection,
    new_topic: NewTopic,
    transactional_id: str,
    write_committed: Committed,
    open_transaction: OpenTransaction,
) -> None:
    topic = await new_topic("log")
    await write_committed(transactional_id + "-before", topic, b"kept")
    await open_transaction(transactional_id, topic, b"open")

    class Ending(Restoration):
        async def stalled(self) -> None:
            await super().stalled()
            await end_transaction_of(transactional_id, connection)

    restoration = Ending(connection, topic)
    restored = await asyncio.wait_for(restoration.run(), PATIENCE_S)
    assert restoration.stalls == 1
    assert restoration.values == [b"kept"]
    assert restored.position == await end_offset(connection, topic) == 4


async def test_what_an_open_transaction_commits_while_we_wait_is_restored(
    connection: Connection, new_topic: NewTopic, transactional_id: str, open_transaction: OpenTransaction
) -> None:
    topic = await new_topic("log")
    slow = await open_transaction(transactional_id, topic, b"late")

    class Waiting(Restoration):
        async def stalled(self) -> None:
            await super().stalled()
            await slow.commit_transaction()

    restoration = Waiting(connection, topic)
    await restoration.run(options=RestoreOptions(stalled_after_ms=100))
    assert restoration.values == [b"late"]


async def test_no_end_to_a_stall_is_an_error_with_numbers(
    connection: Connection, new_topic: NewTopic, transactional_id: str, open_transaction: OpenTransaction
) -> None:
    topic = await new_topic("log")
    await open_transaction(transactional_id, topic, b"open")
    restoration = Restoration(connection, topic)
    with pytest.raises(RestoreStuck, match=f"{topic}-0: restoring stands at offset 0 of 1"):
        await restoration.run(options=RestoreOptions(stalled_after_ms=50, stuck_after_ms=300))
    assert restoration.stalls == 1


async def test_a_state_ahead_of_the_log_is_told_the_log_is_gone(
    connection: Connection, new_topic: NewTopic, transactional_id: str, write_committed: Committed
) -> None:
    topic = await new_topic("log")
    await write_committed(transactional_id, topic, b"0")
    with pytest.raises(ChangelogGone, match="created anew") as caught:
        await Restoration(connection, topic).run(5)
    assert (caught.value.from_offset, caught.value.start_offset, caught.value.end_offset) == (5, 0, 2)


async def test_a_state_behind_the_start_of_the_log_is_told_the_log_is_gone(
    connection: Connection, new_topic: NewTopic, transactional_id: str, write_committed: Committed
) -> None:
    topic = await new_topic("log", cleanup_policy="delete")
    await write_committed(transactional_id, topic, b"0", b"1", b"2")
    await delete_records(connection, topic, before=2)
    with pytest.raises(ChangelogGone, match=r"cleanup\.policy") as caught:
        await Restoration(connection, topic).run(1)
    assert (caught.value.from_offset, caught.value.start_offset, caught.value.end_offset) == (1, 2, 4)

    restoration = Restoration(connection, topic)
    await restoration.run(None)
    assert restoration.values == [b"2"]


async def test_a_log_whose_start_moves_past_us_while_restoring_is_gone(
    connection: Connection, new_topic: NewTopic, transactional_id: str, open_transaction: OpenTransaction
) -> None:
    topic = await new_topic("log", cleanup_policy="delete")
    producer = await open_transaction(transactional_id, topic)
    for _ in range(40):
        await write(producer, topic, [b"x" * 100_000] * 9)
    await producer.commit_transaction()
    await until_settled(connection, topic)

    class Deleting(Restoration):
        async def take(self, batch: ChangelogBatch) -> None:
            await delete_records(connection, topic, before=350)

    with pytest.raises(ChangelogGone):
        await Deleting(connection, topic).run(options=RestoreOptions(batch_records=1))


async def test_partitions_restore_side_by_side(
    connection: Connection, new_topic: NewTopic, unique: Unique, write_committed: Committed
) -> None:
    topics = [await new_topic("log") for _ in range(3)]
    for number, topic in enumerate(topics):
        await write_committed(unique("writer"), topic, b"%d" % number)
    restorations = [Restoration(connection, topic) for topic in topics]
    await asyncio.gather(*(restoration.run() for restoration in restorations))
    assert [restoration.values for restoration in restorations] == [[b"0"], [b"1"], [b"2"]]


async def test_an_error_of_a_callback_ends_restoring(
    connection: Connection, new_topic: NewTopic, transactional_id: str, write_committed: Committed
) -> None:
    topic = await new_topic("log")
    await write_committed(transactional_id, topic, b"0")

    class Failing(Restoration):
        async def take(self, batch: ChangelogBatch) -> None:
            raise LookupError("disk full")

    with pytest.raises(LookupError, match="disk full"):
        await Failing(connection, topic).run()


async def test_the_newest_value_of_a_key_is_found_far_from_the_end_and_only_if_it_is_committed(
    connection: Connection, new_topic: NewTopic, open_transaction: OpenTransaction, write_committed: Committed
) -> None:
    topic = await new_topic("log", 2)
    first = await open_transaction("first", topic)
    await write(first, topic, [b"old", b"newest"])
    await first.commit_transaction()
    await write_committed("others", topic, *[b"%d" % number for number in range(3 * TAIL_OFFSETS)])
    aborted = await open_transaction("aborted", topic)
    await write(aborted, topic, [b"aborted"])
    await aborted.abort_transaction()
    await until_settled(connection, topic)
    await write(await open_transaction("open", topic), topic, [b"open"])
    assert [value async for value in newest_values(topic, b"key", connection)] == [b"newest"]
    assert [value async for value in newest_values(topic, b"another", connection)] == []


async def test_with_how_many_partitions_state_was_made_is_known_from_a_checkpoint_larger_than_a_record(
    connection: Connection, unique: Unique, open_transaction: OpenTransaction
) -> None:
    settings = load_settings({"app_id": unique("app"), "topics": (unique("in"),)})
    topics = [TopicSpec(settings.topics[0], 1), TopicSpec(settings.changelog_topic, 1)]
    await ensure_topics(topics, connection)
    parts = PartWriter(MemoryStore(), 500)
    producer = await open_transaction(unique("writer"), settings.changelog_topic)
    for inputs in (200, 100):
        applied = {f"{number}{'-long-name' * 9}": number for number in range(inputs)}
        checkpoint = Checkpoint(Marker(applied=applied), "writer", "definitions", "lineage", partitions=2)
        for key, value in changelog_records(WriteSet(), checkpoint, parts):
            assert len(value or b"") <= 500
            await producer.send_and_wait(settings.changelog_topic, value, key, partition=0)
    await producer.commit_transaction()
    await until_settled(connection, settings.changelog_topic)
    findings = await look_at_topics(settings, connection, [Output(settings.changelog_topic)])
    [problem] = [each for each in findings.problems if each.code == "repartitioned"]
    assert f"topic {settings.topics[0]} has 1 partitions, and had 2 when" in problem.message


async def test_a_missing_topic_is_named(connection: Connection) -> None:
    with pytest.raises(Refused, match="no topic no-such-log; make it with `rollcall topics create`"):
        await Restoration(connection, "no-such-log").run()


async def test_no_broker_is_said(unique: Unique) -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 did not answer"):
        await Restoration(Connection("127.0.0.1:1"), unique("log")).run()


async def test_a_broker_that_falls_silent_is_waited_for(
    broker: Broker,
    connection: Connection,
    new_topic: NewTopic,
    transactional_id: str,
    open_transaction: OpenTransaction,
) -> None:
    topic = await new_topic("log")
    producer = await open_transaction(transactional_id, topic)
    await write(producer, topic, [b"%d" % number for number in range(100)])
    await producer.commit_transaction()
    await until_settled(connection, topic)
    resumed: list[asyncio.TimerHandle] = []

    class Pausing(Restoration):
        async def take(self, batch: ChangelogBatch) -> None:
            await super().take(batch)
            if not resumed:
                broker.pause()
                resumed.append(asyncio.get_running_loop().call_later(0.3, broker.resume))

    restoration = Pausing(connection, topic)
    await restoration.run(options=RestoreOptions(batch_records=10, fetch_max_bytes=100))
    assert len(restoration.values) == 100


async def delete_records(connection: Connection, topic: str, *, before: int) -> None:
    admin = AIOKafkaAdminClient(**connection.arguments())
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before)})
    finally:
        await admin.close()
