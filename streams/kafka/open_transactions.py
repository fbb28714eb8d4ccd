"""Who holds a partition's end: the writers of transactions that are still open there (KIP-664)."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, Int16, Int32, Int64

from streams.kafka.errors import NotPermitted, Refused, Unreachable, waited_ms
from streams.kafka.security import Connection
from streams.kafka.wire import STRING, message, table

TIMEOUT_MS = 10_000
NONE_OPEN = -1


class DescribeProducersResponseV0(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    SCHEMA = message(
        ("throttle_time_ms", Int32),
        (
            "topics",
            table(
                ("name", STRING),
                (
                    "partitions",
                    table(
                        ("partition_index", Int32),
                        ("error_code", Int16),
                        ("error_message", STRING),
                        (
                            "active_producers",
                            table(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("current_txn_start_offset", Int64),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    )


class DescribeProducersRequestV0(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 61
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = DescribeProducersResponseV0
    SCHEMA = message(("topics", table(("name", STRING), ("partition_indexes", CompactArray(Int32)))))


class DescribeProducersRequest(Request[DescribeProducersRequestV0]):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 61

    def __init__(self, topic: str, partition: int) -> None:
        self._topics: list[tuple[str, list[int], dict[int, bytes]]] = [(topic, [partition], {})]

    def build(self, request_struct_class: type[DescribeProducersRequestV0]) -> DescribeProducersRequestV0:
        return request_struct_class(self._topics, {})


class ListTransactionsResponseV0(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 66
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    SCHEMA = message(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("unknown_state_filters", CompactArray(STRING)),
        (
            "transaction_states",
            table(("transactional_id", STRING), ("producer_id", Int64), ("transaction_state", STRING)),
        ),
    )


class ListTransactionsRequestV0(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 66
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = ListTransactionsResponseV0
    SCHEMA = message(("state_filters", CompactArray(STRING)), ("producer_id_filters", CompactArray(Int64)))


class ListTransactionsRequest(Request[ListTransactionsRequestV0]):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 66

    def __init__(self, producer_ids: list[int]) -> None:
        self._producer_ids = producer_ids

    def build(self, request_struct_class: type[ListTransactionsRequestV0]) -> ListTransactionsRequestV0:
        return request_struct_class([], self._producer_ids, {})


async def open_writers(
    topic: str, partition: int, connection: Connection, *, timeout_ms: int = TIMEOUT_MS
) -> list[str]:
    """The transactional ids of the writers with an open transaction in this partition, sorted.

    Asks the brokers, so it names the right writer even where no committed record does. Needs Kafka 3.0, and ACLs to
    read the topic and to describe the transactional ids: ids it may not describe are left out. Raises Unreachable,
    NotPermitted or Refused.
    """
    admin = AIOKafkaAdminClient(**connection.arguments(), request_timeout_ms=timeout_ms)
    began_s = monotonic()
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            await admin.start()
            cluster = await admin.describe_cluster()
            producer_ids = await _open_producer_ids(admin, topic, partition)
            if not producer_ids:
                return []
            request = ListTransactionsRequest(producer_ids)
            answers = [await admin._send_request(request, broker["node_id"]) for broker in cluster["brokers"]]
    except (kafka.KafkaConnectionError, kafka.NodeNotReadyError, kafka.RequestTimedOutError, TimeoutError) as error:
        waited = waited_ms(began_s, timeout_ms)
        raise Unreachable(connection.bootstrap_servers, f"describing producers of {topic}", waited) from error
    except (kafka.IncompatibleBrokerVersion, NotImplementedError) as error:
        raise Refused(f"the broker cannot tell who writes to {topic}-{partition}; that needs Kafka 3.0") from error
    finally:
        await admin.close()
    for answer in answers:
        if answer.error_code:  # a coordinator that is still loading, most likely
            raise Refused(f"listing transactions: {kafka.for_code(answer.error_code).__name__}; try again in a moment")
    return sorted(name for answer in answers for name, *_ in answer.transaction_states)


async def _open_producer_ids(admin: AIOKafkaAdminClient, topic: str, partition: int) -> list[int]:
    leader = await _leader(admin, topic, partition)
    answer: Any = await admin._send_request(DescribeProducersRequest(topic, partition), leader)
    ((_, ((_, code, message, producers, _),), _),) = answer.topics
    if code == kafka.TopicAuthorizationFailedError.errno:
        raise NotPermitted(
            f"topic {topic}: this worker's Kafka user may not read it; grant it with `kafka-acls.sh --add "
            f"--allow-principal User:NAME --operation Read --topic {topic}`"
        )
    if code:
        raise Refused(f"{topic}-{partition}: {kafka.for_code(code).__name__}: {message or 'no reason given'}")
    return [producer_id for producer_id, *_, start, _ in producers if start != NONE_OPEN]


async def _leader(admin: AIOKafkaAdminClient, topic: str, partition: int) -> int:
    for found in await admin.describe_topics():
        for each in found["partitions"]:
            if found["topic"] == topic and each["partition"] == partition:
                return int(each["leader"])
    raise Refused(f"there is no partition {topic}-{partition}; `rollcall topics check` tells what is missing")
