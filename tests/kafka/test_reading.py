"""Consumers without a group: what their errors mean, and that each of them ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import errors as kafka

from streams.kafka import reading
from streams.kafka.errors import NotPermitted, Unreachable
from streams.kafka.reading import explained, open_consumer
from streams.kafka.security import Connection
from streams.subscribe import NOT_CONNECTED

NOWHERE = Connection("nowhere:9092")


def test_a_topic_that_may_not_be_read_is_named_in_the_command_that_grants_it() -> None:
    # As aiokafka raises it: with the topic's name, and not a set of names.
    with pytest.raises(NotPermitted, match="--topic orders`"), explained(NOWHERE, "reading", ["orders"], 30_000):
        raise kafka.TopicAuthorizationFailedError("orders")


def test_errors_that_are_none_of_a_missing_answer_stay_as_they_are() -> None:
    reading_orders = NOWHERE, "reading", ["orders"], 30_000, NOT_CONNECTED
    with pytest.raises(kafka.OffsetOutOfRangeError), explained(*reading_orders):
        raise kafka.OffsetOutOfRangeError
    with (
        pytest.raises(Unreachable, match="did not answer; gave up after less than a second"),
        explained(*reading_orders),
    ):
        raise kafka.KafkaConnectionError


async def test_a_consumer_that_does_not_end_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        def __init__(self, **_: Any) -> None: ...

        async def start(self) -> None: ...

        async def stop(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(reading, "AIOKafkaConsumer", Endless)
    monkeypatch.setattr(reading, "STOP_TIMEOUT_S", 0.0)
    async with asyncio.timeout(30), open_consumer(NOWHERE, "read_committed"):
        pass
