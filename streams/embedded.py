"""A Kafka to try Rollcall out on: librdkafka's mock cluster in this process, or a real broker as a child process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from confluent_kafka import KafkaException, Producer

from deploy.kafka.broker import Broker, BrokerError
from streams.application_topics import topic_specs
from streams.kafka.security import Connection
from streams.kafka.topics import ensure_topics
from streams.settings import Settings

BrokerKind = Literal["mock", "kafka"]

MOCK_PARTITIONS = 4  # of every topic that the mock cluster makes; it takes no other number
MOCK_PARTITION_BYTES = 5 * 1024 * 1024
MOCK_PARTITION_RECORDS = 100_000
METADATA_TIMEOUT_S = 20.0

BROKER_SETTINGS = {
    "log.retention.ms": "-1",  # the events' times may be years back
    "message.max.bytes": str(2 * 1024 * 1024),
}


class EmbeddedBrokerError(Exception):
    """The broker did not start; the message says what helps."""


@contextmanager
def embedded_broker(kind: BrokerKind) -> Iterator[str]:
    """The address of a broker that is up, and gone at the end with all that it held. Raises EmbeddedBrokerError."""
    if kind == "mock":
        yield from _mock_cluster()
        return
    try:
        broker = Broker(settings=BROKER_SETTINGS)
        broker.start()
    except BrokerError as error:
        raise EmbeddedBrokerError(f"{error}\nWithout Java and Maven: `--broker mock`") from error
    try:
        yield broker.bootstrap_servers
    finally:
        broker.stop()


def _mock_cluster() -> Iterator[str]:
    """The cluster lives as long as this producer. It holds at most MOCK_PARTITION_BYTES and _RECORDS a partition."""
    silent = logging.getLogger("rollcall.mock")
    silent.addHandler(logging.NullHandler())
    silent.propagate = False
    host = Producer({"test.mock.num.brokers": 1}, logger=silent)
    [broker] = host.list_topics(timeout=METADATA_TIMEOUT_S).brokers.values()
    yield f"{broker.host}:{broker.port}"
    del host


def make_topics(kind: BrokerKind, settings: Settings, partitions: int) -> None:
    """Every topic of the application; the mock cluster gives them MOCK_PARTITIONS whatever is asked for."""
    specs = topic_specs(settings, partitions, 1)
    if kind == "kafka":
        asyncio.run(ensure_topics(specs, Connection(settings.bootstrap_servers)))
        return
    client = Producer({"bootstrap.servers": settings.bootstrap_servers})
    for spec in specs:
        # It makes a topic when one is asked for by name, and has no request that makes one.
        try:
            client.list_topics(spec.name, timeout=METADATA_TIMEOUT_S)
        except KafkaException as error:
            raise EmbeddedBrokerError(f"topic {spec.name} cannot be made: {error}") from error
