"""Making topics, and reading how they are set up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import Any

import msgspec
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streams.kafka.admin import open_admin
from streams.kafka.errors import NotPermitted, Refused, StreamsError
from streams.kafka.security import Connection

TIMEOUT_MS = 30_000
CHECKED_CONFIGS = ("cleanup.policy", "min.insync.replicas", "max.message.bytes")
USUAL_REPLICAS = 3
POLL_S = 0.05


class TopicSpec(msgspec.Struct, frozen=True):
    name: str
    partitions: int
    replication_factor: int | None = None  # None: three, or as many as there are brokers
    configs: Mapping[str, str] = {}


class TopicsReport(msgspec.Struct, frozen=True):
    created: list[str]
    existing: list[str]  # left as they are, whatever their partitions and settings
    unlike: Mapping[str, int] = {}  # the partitions of those existing ones that have not as many as were asked for


class Topic(msgspec.Struct, frozen=True):
    name: str
    partitions: int
    replicas: int  # of the partition that has the fewest
    configs: Mapping[str, str]


async def ensure_topics(
    specs: Sequence[TopicSpec], connection: Connection, *, timeout_ms: int = TIMEOUT_MS
) -> TopicsReport:
    """Create the topics that are missing and wait until they can be written. Existing ones are not touched.

    May be called again and by several at once. Raises Refused, naming the topic, when Kafka will not create one.
    """
    async with open_admin(connection, timeout_ms, "creating topics") as admin:
        brokers = len((await admin.describe_cluster())["brokers"])
        answer = await admin.create_topics([_new_topic(spec, brokers) for spec in specs])
        created: list[str] = []
        existing: list[str] = []
        for name, code, message in answer.topic_errors:
            error = kafka.for_code(code)
            if error not in {kafka.NoError, kafka.TopicAlreadyExistsError}:
                raise _creation_error(error, message, next(spec for spec in specs if spec.name == name), brokers)
            (created if error is kafka.NoError else existing).append(name)
        counts = await _until_led(admin, [spec.name for spec in specs], timeout_ms)
    asked = {spec.name: spec.partitions for spec in specs}
    return TopicsReport(created, existing, {name: counts[name] for name in existing if counts[name] != asked[name]})


async def describe_topics(
    names: Iterable[str], connection: Connection, *, timeout_ms: int = TIMEOUT_MS
) -> dict[str, Topic]:
    """Those of the topics that exist, with the settings that matter here."""
    wanted = set(names)
    async with open_admin(connection, timeout_ms, "describing topics") as admin:
        # All topics are asked for: naming a missing one may create it.
        found = {each["topic"]: each for each in await admin.describe_topics() if each["topic"] in wanted}
        configs = await _configs(admin, found)
    return {
        name: Topic(
            name,
            len(each["partitions"]),
            min((len(partition["replicas"]) for partition in each["partitions"]), default=0),
            configs.get(name, {}),
        )
        for name, each in found.items()
    }


def _new_topic(spec: TopicSpec, brokers: int) -> NewTopic:
    factor = spec.replication_factor or min(USUAL_REPLICAS, brokers)
    return NewTopic(spec.name, spec.partitions, factor, topic_configs=dict(spec.configs))


def _creation_error(error: type[Exception], message: str | None, spec: TopicSpec, brokers: int) -> StreamsError:
    if issubclass(error, kafka.TopicAuthorizationFailedError | kafka.ClusterAuthorizationFailedError):
        acl = f"--operation Create --operation Describe --topic {spec.name}"
        return NotPermitted(f"topic {spec.name}: this Kafka user may not create it", acl)
    if issubclass(error, kafka.InvalidReplicationFactorError):
        return Refused(
            f"topic {spec.name}: {spec.replication_factor} replicas on {brokers} brokers: "
            f"`rollcall topics create --replication-factor {brokers}`"
        )
    return Refused(f"topic {spec.name} cannot be created: {error.__name__}: {message or 'no reason given'}")


async def _until_led(admin: AIOKafkaAdminClient, names: list[str], timeout_ms: int) -> dict[str, int]:
    """A topic that was just created cannot be written before each of its partitions has a leader.

    The number of each one's partitions.
    """
    deadline = monotonic() + timeout_ms / 1000
    counts: dict[str, int] = {}
    while names:
        topics = await admin.describe_topics(names)
        counts |= {each["topic"]: len(each["partitions"]) for each in topics}
        names = [each["topic"] for each in topics if not _is_led(each)]
        if names and monotonic() > deadline:
            raise Refused(f"topics without a leader after {timeout_ms} ms: {', '.join(names)}; are all brokers up?")
        if names:
            await asyncio.sleep(POLL_S)
    return counts


def _is_led(topic: Mapping[str, Any]) -> bool:
    partitions = topic["partitions"]
    return not topic["error_code"] and bool(partitions) and all(each["leader"] >= 0 for each in partitions)


async def _configs(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    wanted = dict.fromkeys(CHECKED_CONFIGS)
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, wanted) for name in names]
    if not resources:
        return {}
    try:
        answers = await admin.describe_configs(resources)
    except kafka.IncompatibleBrokerVersion:
        # Every Kafka since 0.11 offers the request; librdkafka's mock cluster does not: its topics have no settings.
        return {}
    return {
        name: {entry[0]: entry[1] for entry in entries}
        for answer in answers
        for _, _, _, name, entries in answer.resources
    }
