"""Reading topics without a consumer group: a consumer for the length of a block, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from time import monotonic
from typing import Any, Literal, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka

from streams.kafka.errors import Unreachable, may_not_read, waited_ms, with_cause
from streams.kafka.security import Connection

STOP_TIMEOUT_S = 5.0

IsolationLevel: TypeAlias = Literal["read_committed", "read_uncommitted"]


@asynccontextmanager
async def open_consumer(
    connection: Connection, isolation_level: IsolationLevel, **options: Any
) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer that has started and reads what it is assigned, until the end of the block.

    `options` are aiokafka's, and so are the errors. Unless they say otherwise, it is one of these to read from an
    offset that the log does not hold.
    """
    arguments = {"auto_offset_reset": "none"} | options | connection.arguments()
    consumer = AIOKafkaConsumer(isolation_level=isolation_level, enable_auto_commit=False, **arguments)
    try:
        await consumer.start()
        yield consumer
    finally:
        # aiokafka's do not always end, once they were assigned twice or in the turn in which they were assigned.
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await consumer.stop()


def read_from(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    """Assign these partitions to the consumer, each to be read from its offset."""
    consumer.assign(list(offsets))
    for place, offset in offsets.items():
        consumer.seek(place, offset)


async def is_before(consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]) -> bool:
    """Whether it has not come to the end of each of these partitions: transaction markers take offsets too."""
    return any([await consumer.position(place) < end for place, end in ends.items()])


@contextmanager
def explained(
    connection: Connection,
    what: str,
    topics: Collection[str],
    timeout_ms: int,
    unanswered: tuple[type[Exception], ...] = (kafka.KafkaError, TimeoutError),
) -> Iterator[None]:
    """Raises NotPermitted where these topics may not be read, and Unreachable for the errors that are `unanswered`."""
    began_s = monotonic()
    try:
        yield
    except kafka.TopicAuthorizationFailedError as error:
        raise may_not_read(topics) from error
    except unanswered as error:
        waited = waited_ms(began_s, timeout_ms)
        raise Unreachable(connection.bootstrap_servers, with_cause(what, error), waited) from error
