"""Making topics, and checking that they fit together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from time import monotonic
from typing import Any

import msgspec
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streams.kafka.errors import NotPermitted, Refused, StreamsError, Unreachable, waited_ms
from streams.kafka.security import Connection

TIMEOUT_MS = 30_000
CHECKED_CONFIGS = ("cleanup.policy", "min.insync.replicas", "max.message.bytes")
USUAL_REPLICAS = 3
POLL_S = 0.05
DELETED_INPUT = (
    ". If it was deleted: what was counted of it cannot be told from what would come in a new one, so take it out of "
    "the topics, or begin anew with another app_id and output topics of its own"
)


class TopicSpec(msgspec.Struct, frozen=True):
    name: str
    partitions: int
    replication_factor: int | None = None  # None: three, or as many as there are brokers
    configs: Mapping[str, str] = {}


class TopicsReport(msgspec.Struct, frozen=True):
    created: list[str]
    existing: list[str]  # left as they are, whatever their partitions and settings
    unlike: Mapping[str, int] = {}  # the partitions of those existing ones that have not as many as were asked for


class Output(msgspec.Struct, frozen=True):
    """A topic this system writes."""

    name: str
    partitions: int | None = None  # exactly so many; None: at least as many as the inputs have
    compacted: bool = False


class Severity(StrEnum):
    ERROR = "error"  # the worker would stop or answer wrongly
    WARNING = "warning"  # it works, until it does not


class Problem(msgspec.Struct, frozen=True):
    # missing, input_partitions, repartitioned, partitions, not_compacted, replicas, message_size, idle_processes
    code: str
    severity: Severity
    topic: str
    message: str


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
    async with _admin(connection, timeout_ms, "creating topics") as admin:
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
    async with _admin(connection, timeout_ms, "describing topics") as admin:
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


def find_problems(
    inputs: Sequence[str],
    outputs: Sequence[Output],
    topics: Mapping[str, Topic],
    batch_bytes: int,
    processes: int = 1,
    made_with: int = 0,
) -> list[Problem]:
    """Everything about the topics that keeps a worker of so many processes from working, and what will hurt later.

    `topics` are those that exist, as they were found; `batch_bytes` is how much a worker sends at once, its
    `message_max_bytes`. `made_with` is how many partitions each input had when the state was made that the worker would
    go on with; 0: there is none, or it does not say.
    """
    counts = {name: topics[name].partitions for name in inputs if name in topics}
    wanted = made_with or max(counts.values(), default=0)
    present = [topics[output.name] for output in outputs if output.name in topics]
    return [
        *_missing(inputs, topics, wanted, DELETED_INPUT if made_with else ""),
        *_missing([output.name for output in outputs], topics, wanted),
        *(_repartitioned(counts, made_with) if made_with else _uneven_inputs(counts)),
        *(
            problem
            for output in outputs
            if output.name in topics
            for problem in _output_problems(output, topics[output.name], wanted)
        ),
        *(problem for name in topics for problem in _replica_problems(topics[name])),
        *_size_problems(present, batch_bytes),
        *_idle_processes(counts, processes),
    ]


def _missing(names: Iterable[str], topics: Mapping[str, Topic], wanted: int, more: str = "") -> list[Problem]:
    mend = f"`rollcall topics create --partitions {wanted or 'N'}` makes it{more}"
    return [
        Problem("missing", Severity.ERROR, name, f"topic {name} does not exist: {mend}")
        for name in names
        if name not in topics
    ]


def _repartitioned(counts: Mapping[str, int], made_with: int) -> list[Problem]:
    cause = {True: "partitions were probably added", False: "it was probably deleted and made anew with fewer"}
    return [
        Problem(
            "repartitioned",
            Severity.ERROR,
            name,
            f"topic {name} has {count} partitions, and had {made_with} when this application's state was made: "
            f"{cause[count > made_with]}. Customers are in other partitions then than what is remembered of them, and "
            "going on would begin their histories anew. Kafka takes no partition back, so stop what produces to it, "
            "make new topics, bring the records there and begin with another app_id: docs/topics.md says how",
        )
        for name, count in counts.items()
        if count != made_with
    ]


def _uneven_inputs(counts: Mapping[str, int]) -> list[Problem]:
    if len(set(counts.values())) < 2:
        return []
    most = max(counts.values())
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return [
        Problem(
            "input_partitions",
            Severity.ERROR,
            name,
            f"topic {name} has {count} partitions where another input has {most} ({listed}): one customer's events "
            "would reach different workers. Added partitions move customers, so create the topic anew: delete it, run "
            f"`rollcall topics create --partitions {most}`, and let its producers send again",
        )
        for name, count in counts.items()
        if count != most
    ]


def _output_problems(output: Output, topic: Topic, inputs_have: int) -> list[Problem]:
    found = []
    wanted = output.partitions or inputs_have
    if output.partitions is not None and topic.partitions != wanted:
        text = (
            f"topic {topic.name} has {topic.partitions} partitions, must have exactly {wanted}: delete it and run "
            "`rollcall topics create`"
        )
        found.append(Problem("partitions", Severity.ERROR, topic.name, text))
    elif topic.partitions < wanted:
        found.append(Problem("partitions", Severity.ERROR, topic.name, _too_few(topic, wanted)))
    policy = topic.configs.get("cleanup.policy", "compact")
    if output.compacted and policy != "compact":
        text = (
            f"topic {topic.name} has cleanup.policy={policy}, so Kafka deletes what must be kept: set it with "
            f"`kafka-configs.sh --alter --topic {topic.name} --add-config cleanup.policy=compact`, or delete the topic "
            f"and run `rollcall topics create --partitions {wanted or 'N'}`"
        )
        found.append(Problem("not_compacted", Severity.ERROR, topic.name, text))
    return found


def _too_few(topic: Topic, inputs_have: int) -> str:
    return (
        f"topic {topic.name} has {topic.partitions} partitions, the input topics have {inputs_have}. If partitions "
        "were added to the inputs: that moves customers away from what is remembered of them; docs/topics.md says what "
        f"to do. If nothing was processed yet: delete {topic.name} and run `rollcall topics create --partitions "
        f"{inputs_have}`"
    )


def _replica_problems(topic: Topic) -> list[Problem]:
    needed = int(topic.configs.get("min.insync.replicas", 1))
    if needed <= topic.replicas:
        return []
    text = (
        f"topic {topic.name} has min.insync.replicas={needed} and only {topic.replicas} replicas, so every write to it "
        f"is refused: lower the one, or delete the topic and run `rollcall topics create --replication-factor {needed}`"
    )
    return [Problem("replicas", Severity.ERROR, topic.name, text)]


def _size_problems(outputs: Sequence[Topic], batch_bytes: int) -> list[Problem]:
    key = "max.message.bytes"
    return [
        Problem(
            "message_size",
            Severity.WARNING,
            topic.name,
            f"topic {topic.name} takes batches of at most {limit:,} bytes, and a worker sends up to {batch_bytes:,} "
            "(message_max_bytes), so it may end at a large one: raise the limit with `kafka-configs.sh --alter "
            f"--topic {topic.name} --add-config {key}={batch_bytes}`, or lower --message-max-bytes",
        )
        for topic in outputs
        if (limit := int(topic.configs.get(key, batch_bytes))) < batch_bytes
    ]


def _idle_processes(counts: Mapping[str, int], processes: int) -> list[Problem]:
    most = max(counts, key=counts.__getitem__, default=None)
    if most is None or processes <= counts[most]:
        return []
    count = counts[most]
    text = (
        f"{processes} processes share the {count} partitions of {most}, so at least {processes - count} of them have "
        f"nothing to do: set --processes {count} or fewer"
    )
    return [Problem("idle_processes", Severity.WARNING, most, text)]


def _new_topic(spec: TopicSpec, brokers: int) -> NewTopic:
    factor = spec.replication_factor or min(USUAL_REPLICAS, brokers)
    return NewTopic(spec.name, spec.partitions, factor, topic_configs=dict(spec.configs))


def _creation_error(error: type[Exception], message: str | None, spec: TopicSpec, brokers: int) -> StreamsError:
    if issubclass(error, kafka.TopicAuthorizationFailedError | kafka.ClusterAuthorizationFailedError):
        return NotPermitted(
            f"topic {spec.name}: this Kafka user may not create it; grant it with `kafka-acls.sh --add "
            f"--allow-principal User:NAME --operation Create --operation Describe --topic {spec.name}`"
        )
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


@asynccontextmanager
async def _admin(connection: Connection, timeout_ms: int, what: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**connection.arguments(), request_timeout_ms=timeout_ms)
    began_s = monotonic()
    try:
        await admin.start()
        yield admin
    except (kafka.KafkaConnectionError, kafka.NodeNotReadyError, kafka.RequestTimedOutError, TimeoutError) as error:
        raise Unreachable(connection.bootstrap_servers, what, waited_ms(began_s, timeout_ms)) from error
    except kafka.KafkaError as error:
        if error.retriable:
            raise Unreachable(connection.bootstrap_servers, f"{what} ({error!r})") from error
        raise Refused(f"{what}: {error!r}") from error
    finally:
        await admin.close()
