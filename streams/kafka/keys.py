"""Which partition a key belongs to, and customers whose events stand in several."""

from __future__ import annotations

import asyncio
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import TypeAlias

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.partitioner import murmur2

from streams.kafka.errors import NotPermitted, Refused, Unreachable, waited_ms
from streams.kafka.security import Connection
from streams.kafka.topics import describe_topics

TIMEOUT_MS = 30_000
POLL_MS = 50
STOP_TIMEOUT_S = 5.0
NAMED_CUSTOMERS = 20  # in a report; the counts are of all

Sighting: TypeAlias = tuple[str, int, bytes]  # topic, partition, key


def murmur2_partition(key: bytes, partitions: int) -> int:
    """Where Java's and aiokafka's producers put a key."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def crc32_partition(key: bytes, partitions: int) -> int:
    """Where librdkafka's producers put a key unless told otherwise."""
    return zlib.crc32(key) % partitions


class SplitCustomer(msgspec.Struct, frozen=True):
    customer: str
    places: list[tuple[str, int]]  # topic and partition, each once


class MisplacedKeys(msgspec.Struct, frozen=True):
    topic: str
    sampled: int  # different keys
    misplaced: int  # of them, not where murmur2 puts them
    crc32: int  # of those, where CRC32 puts them


class SplitReport(msgspec.Struct, frozen=True):
    """What a sample of keys says about how the input topics are fed."""

    keys: int  # different ones in the sample
    split: int  # customers seen in two partition numbers, within a topic or across topics
    examples: list[SplitCustomer]  # the first of them
    misplaced: list[MisplacedKeys]  # one for each topic that has any

    def messages(self) -> list[str]:
        """What is wrong and what mends it; nothing when all is well."""
        advice = (
            "Java's and aiokafka's producers place keys by murmur2, librdkafka's (confluent-kafka, kcat and most other "
            "languages) by CRC32. Set `partitioner=murmur2_random` in every librdkafka producer, then send the events "
            "of these topics again"
        )
        found = [
            f"topic {each.topic}: {each.misplaced} of {each.sampled} sampled keys are not in the partition that "
            f"murmur2 gives them, {each.crc32} of those are where CRC32 puts them. {advice}."
            for each in self.misplaced
        ]
        if self.split:
            named = "; ".join(
                f"{each.customer}: {', '.join(f'{topic}-{partition}' for topic, partition in each.places)}"
                for each in self.examples
            )
            found.append(
                f"{self.split} of {self.keys} sampled customers stand in several partition numbers, so that no worker "
                f"sees all of their events ({named}). {advice}."
            )
        return found


async def find_split_customers(
    topics: Sequence[str], connection: Connection, *, sample: int = 10_000, timeout_ms: int = TIMEOUT_MS
) -> SplitReport:
    """Look at the newest `sample` records of each topic, evenly from its partitions, and where their keys stand.

    A sample proves faults, never their absence.
    """
    found = await describe_topics(topics, connection, timeout_ms=timeout_ms)
    missing = [topic for topic in topics if topic not in found]
    if missing:
        raise Refused(f"there is no topic {', '.join(missing)}; make it with `rollcall topics create`")
    seen: set[Sighting] = set()
    for topic in topics:
        places = [TopicPartition(topic, partition) for partition in range(found[topic].partitions)]
        # A consumer of its own: aiokafka's do not always end once they were assigned twice.
        async with _reader(connection, topics, timeout_ms) as consumer:
            seen |= await _sampled_keys(consumer, places, max(1, sample // len(places)), timeout_ms)
    counts = {topic: found[topic].partitions for topic in topics}
    return _split_report(seen, counts)


def _split_report(seen: set[Sighting], counts: Mapping[str, int]) -> SplitReport:
    places: dict[bytes, set[tuple[str, int]]] = defaultdict(set)
    for topic, partition, key in seen:
        places[key].add((topic, partition))
    split = sorted(key for key, where in places.items() if len({partition for _, partition in where}) > 1)
    examples = [
        SplitCustomer(key.decode("utf-8", errors="replace"), sorted(places[key])) for key in split[:NAMED_CUSTOMERS]
    ]
    misplaced = [_misplaced(topic, count, seen) for topic, count in counts.items()]
    return SplitReport(len(places), len(split), examples, [each for each in misplaced if each.misplaced])


def _misplaced(topic: str, count: int, seen: set[Sighting]) -> MisplacedKeys:
    here = [(partition, key) for name, partition, key in seen if name == topic]
    wrong = [(partition, key) for partition, key in here if murmur2_partition(key, count) != partition]
    by_crc32 = sum(crc32_partition(key, count) == partition for partition, key in wrong)
    return MisplacedKeys(topic, len({key for _, key in here}), len({key for _, key in wrong}), by_crc32)


async def _sampled_keys(
    consumer: AIOKafkaConsumer, places: list[TopicPartition], wanted: int, timeout_ms: int
) -> set[Sighting]:
    starts, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    if starts == ends:
        return set()  # aiokafka's consumer must not be stopped in the turn in which it was assigned
    consumer.assign(places)
    for place in places:
        consumer.seek(place, max(starts[place], ends[place] - wanted))
    seen: set[Sighting] = set()
    deadline = monotonic() + timeout_ms / 1000
    while any([await consumer.position(place) < ends[place] for place in places]):
        if monotonic() > deadline:
            raise Refused(f"topic {places[0].topic}: reading {wanted} records a partition took over {timeout_ms} ms")
        for place, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
            seen |= {(place.topic, place.partition, record.key) for record in records if record.key is not None}
    return seen


@asynccontextmanager
async def _reader(connection: Connection, topics: Sequence[str], timeout_ms: int) -> AsyncIterator[AIOKafkaConsumer]:
    # Uncommitted: an open transaction is no reason to wait, and its keys say as much as others.
    consumer = AIOKafkaConsumer(
        **connection.arguments(),
        isolation_level="read_uncommitted",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        request_timeout_ms=timeout_ms,
    )
    began_s = monotonic()
    try:
        await consumer.start()
        yield consumer
    except kafka.TopicAuthorizationFailedError as error:
        raise NotPermitted(
            f"this Kafka user may not read the input topics; grant it with `kafka-acls.sh --add --allow-principal "
            f"User:NAME --operation Read --operation Describe {' '.join(f'--topic {topic}' for topic in topics)}`"
        ) from error
    except (kafka.KafkaError, TimeoutError) as error:
        waited = waited_ms(began_s, timeout_ms)
        raise Unreachable(connection.bootstrap_servers, f"sampling keys ({error!r})", waited) from error
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await consumer.stop()
