"""The one broker of a test run, and what the tests on it share."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from deploy.kafka.broker import Broker, BrokerError
from streams.kafka.fencing import Membership
from streams.kafka.security import Connection
from streams.kafka.topics import TopicSpec, ensure_topics
from streams.kafka.transactions import FencedProducer, ProducerOptions
from tests.kafka.workers import NewStage, stages_on

PATIENCE_S = 30.0

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    running = Broker()
    try:
        running.start()
    except BrokerError as error:
        # A failure, not a skip: these tests are what the promise of exactly once rests on.
        pytest.fail(str(error), pytrace=False)
    yield running
    running.stop()


@pytest.fixture
def connection(broker: Broker) -> Connection:
    return Connection(broker.bootstrap_servers)


@pytest.fixture(scope="session")
def unique() -> Callable[[str], str]:
    """A name that no other test of any run uses."""
    return lambda stem: f"{stem}-{os.getpid()}-{next(_numbers)}"


NewTopic = Callable[..., Awaitable[str]]


@pytest.fixture
def new_topic(connection: Connection, unique: Callable[[str], str]) -> NewTopic:
    async def create(stem: str, partitions: int = 1, **configs: str) -> str:
        name = unique(stem)
        renamed = {key.replace("_", "."): value for key, value in configs.items()}
        await ensure_topics([TopicSpec(name, partitions, configs=renamed)], connection)
        return name

    return create


@pytest.fixture
def new_stage(broker: Broker, tmp_path: Path, unique: Callable[[str], str]) -> Iterator[NewStage]:
    with stages_on(broker.bootstrap_servers, tmp_path, unique) as make:
        yield make


NewProducer = Callable[..., Awaitable[FencedProducer]]


@pytest_asyncio.fixture
async def new_producer(connection: Connection, unique: Callable[[str], str]) -> AsyncIterator[NewProducer]:
    async with AsyncExitStack() as opened:

        async def start(
            transactional_id: str | None = None,
            options: ProducerOptions | None = None,
            on_step: Callable[[str], None] | None = None,
        ) -> FencedProducer:
            name = transactional_id or unique("writer")
            producer = FencedProducer(connection, name, options=options, on_step=on_step)
            opened.push_async_callback(producer.stop)
            await producer.start()
            return producer

        yield start


class SilentProducer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka ships no types
    """aiokafka's own, which can fall silent as one that was killed."""

    _closed: bool

    async def abandon(self) -> None:
        """Close without ending the transaction."""
        closed, self._closed = self._closed, True
        if not closed:
            await self._sender.close()
            await self.client.close()


OpenTransaction = Callable[..., Awaitable[SilentProducer]]


@pytest_asyncio.fixture
async def open_transaction(connection: Connection) -> AsyncIterator[OpenTransaction]:
    """Starts a writer that has written and then falls silent, as one that was killed there."""
    async with AsyncExitStack() as opened:

        async def start(transactional_id: str, topic: str, *values: bytes) -> SilentProducer:
            producer = SilentProducer(
                **connection.arguments(),
                transactional_id=transactional_id,
                max_batch_size=1_000_000,
                retry_backoff_ms=20,
                request_timeout_ms=10_000,
            )
            opened.push_async_callback(producer.abandon)
            await producer.start()
            await producer.begin_transaction()
            for value in values:
                await producer.send_and_wait(topic, value, partition=0)
            return producer

        yield start


NewMember = Callable[..., Awaitable[tuple[AIOKafkaConsumer, Membership]]]


@pytest_asyncio.fixture
async def join_group(connection: Connection) -> AsyncIterator[NewMember]:
    """A member of a group that has its partitions, and its membership as of now."""
    async with AsyncExitStack() as opened:

        async def join(group_id: str, topic: str) -> tuple[AIOKafkaConsumer, Membership]:
            consumer = AIOKafkaConsumer(
                topic,
                **connection.arguments(),
                group_id=group_id,
                enable_auto_commit=False,
                heartbeat_interval_ms=100,
                session_timeout_ms=6_000,
            )
            opened.push_async_callback(consumer.stop)
            await consumer.start()
            return consumer, current_membership(consumer, group_id)

        yield join


def current_membership(consumer: AIOKafkaConsumer, group_id: str) -> Membership:
    coordinator = consumer._coordinator
    return Membership(group_id, coordinator.generation, coordinator.member_id)


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = monotonic() + PATIENCE_S
    while not await condition():
        assert monotonic() < deadline, f"not in {PATIENCE_S} s: {what}"
        await asyncio.sleep(0.02)


async def committed_values(connection: Connection, topic: str, partitions: int = 1) -> list[bytes]:
    """All that a read_committed reader sees up to now, partition by partition."""
    places = [TopicPartition(topic, partition) for partition in range(partitions)]
    ends = await high_watermarks(connection, places)
    values: dict[TopicPartition, list[bytes]] = {place: [] for place in places}
    async with reader(connection, "read_committed") as consumer:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        deadline = monotonic() + PATIENCE_S
        while any([await consumer.position(place) < ends[place] for place in places]):
            assert monotonic() < deadline, f"no end of {topic}: is a transaction open?"
            for place, records in (await consumer.getmany(timeout_ms=20)).items():
                values[place] += [record.value for record in records]
    return [value for place in places for value in values[place]]


async def high_watermarks(connection: Connection, places: list[TopicPartition]) -> Mapping[TopicPartition, int]:
    async with reader(connection, "read_uncommitted") as consumer:
        ends: Mapping[TopicPartition, int] = await consumer.end_offsets(places)
        return ends


async def until_settled(connection: Connection, topic: str) -> None:
    """Wait for the end of all transactions on partition 0: the broker answers a commit before its marker is written."""
    place = TopicPartition(topic, 0)

    async def settled() -> bool:
        ends = await high_watermarks(connection, [place])
        return await last_stable_offset(connection, place) == ends[place]

    await until(settled, f"an end of the transactions on {topic}")


async def last_stable_offset(connection: Connection, place: TopicPartition) -> int:
    async with reader(connection, "read_committed") as consumer:
        return int((await consumer.end_offsets([place]))[place])


@asynccontextmanager
async def reader(connection: Connection, isolation_level: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **connection.arguments(), isolation_level=isolation_level, enable_auto_commit=False, fetch_max_wait_ms=50
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()
