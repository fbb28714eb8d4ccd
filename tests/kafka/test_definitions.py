"""Following and changing definitions on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from deploy.kafka.broker import Broker
from streams.definitions import DefinitionsFollower
from streams.definitions_log import DefinitionsLog
from streams.kafka.definitions_topic import KafkaDefinitionsLog
from streams.kafka.errors import RecordTooLarge, Refused, Unreachable
from streams.kafka.security import Connection
from streams.segments_commands import list_segments
from tests.definitions_contract import DefinitionsContract, Stage, Started, by_hand, document, versions
from tests.kafka.conftest import NewTopic, SilentProducer, until

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]


class KafkaStage:
    def __init__(self, connection: Connection, topic: str) -> None:
        self.connection = connection
        self.topic = topic

    def log(self, app_id: str = "rollcall") -> DefinitionsLog:
        return KafkaDefinitionsLog(self.topic, self.connection, app_id, message_max_bytes=10_000)

    async def write(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        producer = AIOKafkaProducer(**self.connection.arguments(), linger_ms=0)
        await producer.start()
        try:
            for key, value in records:
                await producer.send_and_wait(self.topic, value, key=key, partition=0)
        finally:
            await producer.stop()


@pytest_asyncio.fixture
async def stage(connection: Connection, new_topic: NewTopic) -> KafkaStage:
    return KafkaStage(connection, await new_topic("definitions", cleanup_policy="compact"))


class TestOnKafka(DefinitionsContract):
    @pytest_asyncio.fixture
    async def stage(self, connection: Connection, new_topic: NewTopic) -> Stage:
        return KafkaStage(connection, await new_topic("definitions", cleanup_policy="compact"))


async def test_what_is_left_of_a_killed_writer_holds_up_nobody(stage: KafkaStage) -> None:
    killed = SilentProducer(
        **stage.connection.arguments(),
        transactional_id=f"rollcall-{stage.topic}-writer",
        retry_backoff_ms=20,
        request_timeout_ms=10_000,
    )
    await killed.start()
    await killed.begin_transaction()
    key, value = by_hand(document("a", "Never"))
    await killed.send_and_wait(stage.topic, value, key=key, partition=0)
    await killed.abandon()
    async with Started() as started:
        writer = await started.writer(stage)
        assert versions(writer.follower) == {}
        await writer.apply([document("a")])
        assert versions(writer.follower) == {"a": 1}


async def test_writers_of_other_applications_exclude_nobody_and_still_one_wins(stage: KafkaStage) -> None:
    async with Started() as started:
        writers = [await started.writer(stage, app_id) for app_id in ("one", "other")]
        results = await asyncio.gather(
            *(writer.apply([document("a", f"Of {at}")], 0) for at, writer in enumerate(writers)),
            return_exceptions=True,
        )
        assert sum(isinstance(each, list) for each in results) == 1
        follower = await started.follower(stage)
        assert versions(follower) == {"a": 1}


async def test_segments_come_in_many_batches_and_all_at_once(stage: KafkaStage) -> None:
    documents = [document(f"s{number:04}") for number in range(3_000)]
    async with Started() as started:
        writer = await started.writer(stage)
        await writer.apply(documents)
        follower = await started.follower(stage)
        assert len(follower.history) == 3_000
    rows = await asyncio.to_thread(list_segments, stage.log())
    assert [row["id"] for row in rows.value] == [each.id for each in documents]


async def test_a_document_beyond_the_limit_is_refused_with_its_size(stage: KafkaStage) -> None:
    values = [f"value {number}" for number in range(2_000)]
    condition = {"kind": "customer", "attribute": "city", "operator": "in", "value": values}
    async with Started() as started:
        writer = await started.writer(stage)
        with pytest.raises(RecordTooLarge, match="10,000"):
            await writer.apply([document("a", conditions=[condition])])
        await writer.apply([document("a")])


async def test_a_log_that_compaction_has_thinned_reads_as_before(connection: Connection, new_topic: NewTopic) -> None:
    settings = {"segment_ms": "100", "min_cleanable_dirty_ratio": "0.001", "max_compaction_lag_ms": "100"}
    stage = KafkaStage(connection, await new_topic("definitions", cleanup_policy="compact", **settings))
    async with Started() as started:
        writer = await started.writer(stage)
        for number in range(5):
            await writer.apply([document("a", f"A{number}"), document("b", f"B{number}")])
        before = writer.follower.snapshot()

        async def is_the_same() -> bool:
            await writer.apply([document("tick", f"Tick {writer.follower.history.next_version('tick')}")])
            later = DefinitionsFollower(stage.log())
            await later.start()
            await later.stop()
            assert later.snapshot() == writer.follower.snapshot()
            assert {key: later.snapshot().documents[key] for key in ("a", "b")} == before.documents
            known = later.history.definition("a")
            return known is not None and len(known.changes) < 5

        await until(is_the_same, "compaction of the definitions")


async def test_a_missing_topic_and_a_missing_broker_are_said(
    connection: Connection, unique: Callable[[str], str], broker: Broker
) -> None:
    with pytest.raises(Refused, match="rollcall topics create"):
        await DefinitionsFollower(KafkaDefinitionsLog(unique("none"), connection, "app")).start()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        await DefinitionsFollower(KafkaDefinitionsLog("any", Connection("127.0.0.1:1"), "app")).start()
