"""Topics on a real broker: created once, checked, and sampled for customers in two places."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer

from streams.application_topics import chosen_partitions, misfits
from streams.kafka.errors import Refused, Unreachable
from streams.kafka.keys import crc32_partition, find_split_customers, murmur2_partition
from streams.kafka.security import Connection
from streams.kafka.topics import Topic, TopicSpec, TopicsReport, describe_topics, ensure_topics
from streams.settings import load_settings
from streams.topic_problems import Output, Problem, Severity, find_problems
from tests.kafka.conftest import PATIENCE_S, NewTopic
from tests.kafka.workers import Feed, NewStage, Stage

pytestmark = pytest.mark.kafka

Unique = Callable[[str], str]


@pytest.mark.asyncio
async def test_topics_are_created_once_with_their_settings(connection: Connection, unique: Unique) -> None:
    events, state = unique("events"), unique("state")
    specs = [TopicSpec(events, 3), TopicSpec(state, 2, 1, {"cleanup.policy": "compact", "max.message.bytes": "5000"})]
    assert await ensure_topics(specs, connection) == TopicsReport([events, state], [])
    assert await ensure_topics(specs, connection) == TopicsReport([], [events, state])
    more = [TopicSpec(events, 7), TopicSpec(unique("third"), 1)]
    assert await ensure_topics(more, connection) == TopicsReport([more[1].name], [events], {events: 3})

    topics = await describe_topics([events, state, "no-such-topic"], connection)
    assert set(topics) == {events, state}
    assert (topics[events].partitions, topics[events].configs["cleanup.policy"]) == (3, "delete")
    assert topics[state] == Topic(
        state, 2, 1, {"cleanup.policy": "compact", "min.insync.replicas": "1", "max.message.bytes": "5000"}
    )


@pytest.mark.asyncio
async def test_too_many_replicas_are_refused_with_the_number_that_fits(connection: Connection, unique: Unique) -> None:
    with pytest.raises(Refused, match=r"3 replicas on 1 brokers.*--replication-factor 1"):
        await ensure_topics([TopicSpec(unique("wide"), 1, 3)], connection)


@pytest.mark.asyncio
async def test_a_setting_the_broker_does_not_know_is_refused_by_name(connection: Connection, unique: Unique) -> None:
    with pytest.raises(Refused, match=r"no\.such\.setting"):
        await ensure_topics([TopicSpec(unique("odd"), 1, 1, {"no.such.setting": "1"})], connection)


@pytest.mark.asyncio
async def test_no_broker_is_said() -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        await ensure_topics([], Connection("127.0.0.1:1"))


@pytest.mark.asyncio
async def test_topics_that_fit_have_no_problems(connection: Connection, new_topic: NewTopic) -> None:
    inputs = [await new_topic("in", 2), await new_topic("in", 2)]
    outputs = [
        Output(await new_topic("changes", 3)),
        Output(await new_topic("memberships", 2, cleanup_policy="compact"), compacted=True),
        Output(await new_topic("definitions", 1, cleanup_policy="compact"), partitions=1, compacted=True),
    ]
    assert await problems_of(inputs, outputs, connection) == []


@pytest.mark.asyncio
async def test_every_kind_of_problem_is_found_at_once(connection: Connection, new_topic: NewTopic) -> None:
    narrow, wide = await new_topic("in", 2), await new_topic("in", 4)
    changes = await new_topic("changes", 3)
    memberships = await new_topic("memberships", 4)
    definitions = await new_topic("definitions", 2, cleanup_policy="compact")
    unwritable = await new_topic("unwritable", 4, min_insync_replicas="2")
    outputs = [
        Output(changes),
        Output(memberships, compacted=True),
        Output(definitions, partitions=1, compacted=True),
        Output(unwritable),
        Output("no-such-topic"),
    ]
    problems = await problems_of([narrow, wide], outputs, connection, batch_bytes=2_000_000)
    assert {(each.code, each.topic) for each in problems} == {
        ("missing", "no-such-topic"),
        ("input_partitions", narrow),
        ("partitions", changes),
        ("not_compacted", memberships),
        ("partitions", definitions),
        ("replicas", unwritable),
        *(("message_size", name) for name in (changes, memberships, definitions, unwritable)),
    }
    assert {each.code for each in problems if each.severity is Severity.WARNING} == {"message_size"}
    text = {each.code: each.message for each in problems if each.topic != definitions}
    assert "rollcall topics create --partitions 4" in text["missing"]
    assert f"{narrow} has 2 partitions where another input has 4" in text["input_partitions"]
    assert f"{changes} has 3 partitions, the input topics have 4" in text["partitions"]
    assert "that moves customers away from what is remembered of them" in text["partitions"]
    assert "cleanup.policy=delete" in text["not_compacted"]
    assert "min.insync.replicas=2 and only 1 replicas" in text["replicas"]
    assert "max.message.bytes=2000000" in text["message_size"]


async def problems_of(
    inputs: list[str], outputs: list[Output], connection: Connection, batch_bytes: int = 1_000_000
) -> list[Problem]:
    topics = await describe_topics([*inputs, *(output.name for output in outputs)], connection)
    return find_problems(inputs, outputs, topics, batch_bytes)


def test_making_topics_that_exist_with_another_number_of_partitions_fails_and_says_so(new_stage: NewStage) -> None:
    stage = new_stage(partitions=2)
    stage.delete_topics(stage.changes_topic)
    done = stage.run("topics", "create", "--partitions", "3")
    assert done.returncode == 1
    assert f"created   {stage.changes_topic}" in done.stdout
    assert f"{stage.topics[0]} has 2" in done.stderr
    assert stage.changes_topic not in done.stderr
    assert stage.definitions_topic not in done.stderr
    assert "--partitions 3" in done.stderr


def test_without_a_number_missing_topics_get_as_many_partitions_as_the_others_have(new_stage: NewStage) -> None:
    stage = new_stage(topics=2, partitions=3)
    stage.delete_topics(stage.topics[1], stage.changes_topic)
    done = stage.run("topics", "create")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"rollcall: 3 partitions, as of {stage.topics[0]}; --partitions N asks for another number\n"
    assert f"created   {stage.changes_topic}" in done.stdout
    counts = {name: topic.partitions for name, topic in described(stage).items()}
    assert counts == {stage.topics[0]: 3, stage.topics[1]: 3, stage.changes_topic: 3, stage.definitions_topic: 1}

    stage.delete_topics(*stage.topics)
    done = stage.run("topics", "create")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"rollcall: 3 partitions, as of {stage.changes_topic}, ")
    assert described(stage)[stage.topics[0]].partitions == 3


def described(stage: Stage) -> dict[str, Topic]:
    names = [*stage.topics, stage.changes_topic, stage.definitions_topic]
    return asyncio.run(describe_topics(names, Connection(stage.bootstrap_servers)))


def test_the_inputs_number_counts_before_that_of_the_outputs_and_the_largest_of_several() -> None:
    counts = {"in": 3, "other": 12, "out": 24}
    assert chosen_partitions(["in", "other", "gone"], ["out"], counts) == (12, ["other"])
    assert chosen_partitions(["gone"], ["out", "gone too"], counts) == (24, ["out"])
    assert chosen_partitions(["gone"], ["gone too"], counts) == (6, ())


def test_an_output_may_have_more_partitions_than_the_inputs_and_nothing_else_may() -> None:
    settings = load_settings({"topics": ("in", "other")})
    unlike = {"other": 3, settings.changes_topic: 12, settings.dead_letters_topic: 4, settings.definitions_topic: 8}
    assert misfits(settings, unlike, 6) == {
        "other": 3,
        settings.dead_letters_topic: 4,
        settings.definitions_topic: 8,
    }


@pytest.mark.parametrize(
    ("key", "hashed"), [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)]
)
def test_murmur2_places_keys_as_java_does(key: bytes, hashed: int) -> None:
    # The hashes are those of Kafka's own UtilsTest.
    assert murmur2_partition(key, 1000) == (hashed & 0x7FFFFFFF) % 1000


@pytest.mark.asyncio
async def test_topics_fed_by_java_like_producers_are_fine(connection: Connection, new_topic: NewTopic) -> None:
    topics = [await new_topic("in", 4), await new_topic("in", 4)]
    for topic in topics:
        await feed_by_murmur2(connection, topic, range(100))
    report = await find_split_customers(topics, connection)
    assert (report.keys, report.split, report.misplaced) == (100, 0, [])
    assert report.messages() == []


@pytest.mark.asyncio
async def test_customers_split_between_two_kinds_of_producers_are_found(
    connection: Connection, new_topic: NewTopic
) -> None:
    by_murmur2, by_crc32 = await new_topic("java", 4), await new_topic("librdkafka", 4)
    await feed_by_murmur2(connection, by_murmur2, range(200))
    feed_by_librdkafka(connection, by_crc32, range(100, 300))
    report = await find_split_customers([by_murmur2, by_crc32], connection)

    shared = [key(number) for number in range(100, 200)]
    split = [each for each in shared if murmur2_partition(each, 4) != crc32_partition(each, 4)]
    assert (report.keys, report.split) == (300, len(split))
    assert report.examples[0].customer.encode() == min(split)
    assert report.examples[0].places == [
        (by_murmur2, murmur2_partition(min(split), 4)),
        (by_crc32, crc32_partition(min(split), 4)),
    ]
    (misplaced,) = report.misplaced
    assert (misplaced.topic, misplaced.sampled) == (by_crc32, 200)
    assert misplaced.misplaced == misplaced.crc32 > 100
    first, second = report.messages()
    assert f"topic {by_crc32}: {misplaced.misplaced} of 200" in first
    assert "partitioner=murmur2_random" in first
    assert f"{len(split)} of 300 sampled customers" in second


@pytest.mark.asyncio
async def test_a_customer_split_within_one_topic_is_found(connection: Connection, new_topic: NewTopic) -> None:
    topic = await new_topic("mixed", 4)
    await feed_by_murmur2(connection, topic, range(20))
    feed_by_librdkafka(connection, topic, range(20))
    report = await find_split_customers([topic], connection)
    assert report.split == sum(murmur2_partition(key(n), 4) != crc32_partition(key(n), 4) for n in range(20)) > 0


@pytest.mark.asyncio
async def test_a_sample_takes_the_newest_records(connection: Connection, new_topic: NewTopic) -> None:
    topic = await new_topic("long", 1)
    await feed_by_murmur2(connection, topic, range(50))
    assert (await find_split_customers([topic], connection, sample=10)).keys == 10


@pytest.mark.asyncio
@pytest.mark.parametrize("filled", [0, 1])
async def test_topics_without_records_are_checked_at_once(new_stage: NewStage, filled: int) -> None:
    stage = new_stage(topics=2, partitions=2)
    if filled:
        stage.send(Feed(stage.topics[:filled], mess=False).records(200))
    sampling = asyncio.create_task(find_split_customers(stage.topics, Connection(stage.bootstrap_servers)))
    # Not wait_for: its cancelling would end the very wait that is looked for here.
    assert await asyncio.wait({sampling}, timeout=PATIENCE_S) == ({sampling}, set())
    report = sampling.result()
    assert (report.keys > 0, report.messages()) == (bool(filled), [])


@pytest.mark.asyncio
async def test_a_missing_topic_is_named(connection: Connection) -> None:
    with pytest.raises(Refused, match="no topic no-such-topic"):
        await find_split_customers(["no-such-topic"], connection)


def key(number: int) -> bytes:
    return b"customer-%04d" % number


async def feed_by_murmur2(connection: Connection, topic: str, numbers: range) -> None:
    producer = AIOKafkaProducer(**connection.arguments())
    await producer.start()
    try:
        for future in [await producer.send(topic, b"{}", key=key(number)) for number in numbers]:
            await future
    finally:
        await producer.stop()


def feed_by_librdkafka(connection: Connection, topic: str, numbers: range) -> None:
    producer = Producer({"bootstrap.servers": connection.bootstrap_servers})
    for number in numbers:
        producer.produce(topic, b"{}", key=key(number))
    assert producer.flush(30) == 0
