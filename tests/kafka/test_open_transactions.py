"""Who holds a partition's end, on a real broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streams.kafka.errors import Refused, Unreachable
from streams.kafka.open_transactions import open_writers
from streams.kafka.security import Connection
from streams.kafka.transactions import end_transaction_of
from tests.kafka.conftest import NewTopic, OpenTransaction

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio]


async def test_only_writers_with_an_open_transaction_in_the_partition_are_named(
    connection: Connection, new_topic: NewTopic, open_transaction: OpenTransaction, unique: Callable[[str], str]
) -> None:
    topic, elsewhere = await new_topic("log"), await new_topic("log")
    done, other, *open_ones = (unique(stem) for stem in ("done", "other", "open", "open"))
    await (await open_transaction(done, topic, b"committed")).commit_transaction()
    await open_transaction(other, elsewhere, b"open, but not here")
    assert await open_writers(topic, 0, connection) == []

    for writer in open_ones:
        await open_transaction(writer, topic, b"open")
    assert await open_writers(topic, 0, connection) == sorted(open_ones)

    for writer in open_ones:
        await end_transaction_of(writer, connection)
    assert await open_writers(topic, 0, connection) == []


async def test_a_missing_partition_is_named(connection: Connection, new_topic: NewTopic) -> None:
    topic = await new_topic("log")
    with pytest.raises(Refused, match=f"no partition {topic}-5"):
        await open_writers(topic, 5, connection)


async def test_no_broker_is_said() -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        await open_writers("log", 0, Connection("127.0.0.1:1"))
