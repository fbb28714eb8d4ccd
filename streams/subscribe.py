"""`rollcall changes`, and what a subscriber written in Python builds on: each change once, also over restarts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka

from conditions.changes import Change
from connectors.changes import decode_change
from streams.kafka.errors import NotPermitted, Refused, Unreachable, waited_ms
from streams.kafka.metadata import missing_partition, partitions_of
from streams.kafka.security import Connection

POLL_MS = 200
POLL_RECORDS = 1_000
TIMEOUT_MS = 30_000


class PositionError(Exception):
    """The position file does not fit the topic."""


class Position(msgspec.Struct):
    """Where a subscriber stands. It names no customer."""

    topic: str
    offsets: dict[int, int] = msgspec.field(default_factory=dict)  # of each partition, the next to read
    sequences: dict[int, int] = msgspec.field(default_factory=dict)  # the highest that was handled


class Subscription(msgspec.Struct):
    """What to read, and who handles it.

    `handle(partition, changes)` gets the changes that are news, in their order; the position is written to the file
    once it returns. What it was handling when the process died is handed to it again, under the same `change_id`.
    With `handle_members` a subscription without a position begins with who is in, as the changes that entered, and
    `handle` gets what came after; without it, `handle` begins with the oldest change that the topic still holds.
    """

    connection: Connection
    changes_topic: str
    handle: Callable[[int, Sequence[Change]], None]
    memberships_topic: str = ""
    handle_members: Callable[[Sequence[Change]], None] | None = None
    position_file: Path | None = None
    follows: bool = False  # whether to go on at the end of the topic


async def read_changes(subscription: Subscription) -> None:
    """Hand over changes up to the end of the topic, or for ever. Raises StreamsError and PositionError."""
    position = _load(subscription)
    if position is None:
        position = Position(subscription.changes_topic)
        if subscription.handle_members is not None:
            subscription.handle_members(await _members(subscription, position))
            _save(subscription, position)
    async with _consumer(subscription.connection, "read_committed") as consumer:
        await _follow(subscription, consumer, position)


async def _members(subscription: Subscription, position: Position) -> list[Change]:
    """Who is in, by customer and segment; `position` is set to where exactly they are."""
    members: dict[bytes, Change] = {}
    # In this order: a change made meanwhile is in both topics rather than in neither.
    async with _consumer(subscription.connection, "read_committed") as consumer:
        starts = await consumer.end_offsets(await _places(consumer, subscription.changes_topic))
    await _read_up_to_now(subscription, subscription.memberships_topic, {}, _membership_reader(members))
    ends = await _read_up_to_now(subscription, subscription.changes_topic, starts, _change_reader(members, position))
    position.offsets = {place.partition: offset for place, offset in ends.items()}
    return [members[key] for key in sorted(members)]


def _membership_reader(members: dict[bytes, Change]) -> Callable[[Any], None]:
    def take(record: Any) -> None:
        if record.value is None:
            members.pop(record.key, None)
        else:
            members[record.key] = decode_change(record.value)

    return take


def _change_reader(members: dict[bytes, Change], position: Position) -> Callable[[Any], None]:
    def take(record: Any) -> None:
        change = decode_change(record.value)
        position.sequences[record.partition] = change.sequence
        key = f"{change.customer_id}|{change.segment_id}".encode()
        if key in members and members[key].sequence >= change.sequence:
            return  # the memberships were read after it was made
        if change.type == "entered":
            members[key] = change
        else:
            members.pop(key, None)

    return take


async def _read_up_to_now(
    subscription: Subscription, topic: str, starts: Mapping[TopicPartition, int], take: Callable[[Any], None]
) -> dict[TopicPartition, int]:
    """Read all transactions that have begun by now, from these offsets or the topic's start; the offsets after them."""
    # The high watermark: what is committed may be marked so in one topic sooner than in the other.
    async with _consumer(subscription.connection, "read_uncommitted") as asking:
        places = await _places(asking, topic)
        first, ends = await asking.beginning_offsets(places), await asking.end_offsets(places)
    offsets = {place: starts.get(place, first[place]) for place in places}
    if offsets == ends:
        return offsets  # aiokafka's consumer must not be stopped in the turn in which it was assigned
    # A consumer of its own: aiokafka's do not always end once they were assigned twice.
    async with _consumer(subscription.connection, "read_committed") as consumer:
        consumer.assign(places)
        for place, offset in offsets.items():
            consumer.seek(place, offset)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                for record in records:
                    take(record)
        return {place: await consumer.position(place) for place in places}


async def _follow(subscription: Subscription, consumer: AIOKafkaConsumer, position: Position) -> None:
    places = await _places(consumer, subscription.changes_topic)
    starts, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
    offsets = {place: _start_of(place, position, starts[place], ends[place]) for place in places}
    if offsets == ends and not subscription.follows:
        return
    consumer.assign(places)
    for place, offset in offsets.items():
        consumer.seek(place, offset)
    while subscription.follows or any([await consumer.position(place) < ends[place] for place in places]):
        polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
        for place, records in polled.items():
            changes = [decode_change(record.value) for record in records]
            highest = position.sequences.get(place.partition, 0)
            if news := [change for change in changes if change.sequence > highest]:
                subscription.handle(place.partition, news)
                position.sequences[place.partition] = news[-1].sequence
        if polled:
            position.offsets = {place.partition: await consumer.position(place) for place in places}
            _save(subscription, position)


def _start_of(place: TopicPartition, position: Position, start: int, end: int) -> int:
    wanted = position.offsets.get(place.partition, start)
    if not start <= wanted <= end:
        raise PositionError(
            f"partition {place.partition} of {place.topic} holds offsets {start} to {end}, and {wanted} is next: what "
            "was to be read is gone, or the topic is a new one. Begin anew with who is in now: remove the position "
            "file and use --members"
        )
    return wanted


async def _places(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    known = await partitions_of(consumer._client, topic, 0)
    fault = missing_partition(topic, 0, known)
    if fault is not None:
        raise Refused(fault)
    return [TopicPartition(topic, number) for number in sorted(known)]


def _load(subscription: Subscription) -> Position | None:
    path = subscription.position_file
    if path is None or not path.exists():
        return None
    try:
        position = msgspec.json.decode(path.read_bytes(), type=Position)
    except msgspec.DecodeError as error:
        raise PositionError(f"{path} is no position file: {error}") from error
    if position.topic != subscription.changes_topic:
        raise PositionError(f"{path} belongs to topic {position.topic}, not {subscription.changes_topic}")
    return position


def _save(subscription: Subscription, position: Position) -> None:
    path = subscription.position_file
    if path is not None:
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(msgspec.json.encode(position))
        fresh.replace(path)


@asynccontextmanager
async def _consumer(connection: Connection, isolation_level: str) -> AsyncIterator[Any]:
    consumer = AIOKafkaConsumer(
        **connection.arguments(),
        isolation_level=isolation_level,
        auto_offset_reset="none",
        enable_auto_commit=False,
        request_timeout_ms=TIMEOUT_MS,
    )
    began = time.monotonic()
    try:
        await consumer.start()
        yield consumer
    except kafka.TopicAuthorizationFailedError as error:
        raise NotPermitted(
            "this Kafka user may not read the topic; grant it with `kafka-acls.sh --add --allow-principal User:NAME "
            f"--operation Read --operation Describe --topic {' --topic '.join(sorted(error.args[0] or ['TOPIC']))}`"
        ) from error
    except (kafka.KafkaConnectionError, kafka.NodeNotReadyError, TimeoutError) as error:
        waited = waited_ms(began, TIMEOUT_MS)
        raise Unreachable(connection.bootstrap_servers, "reading changes", waited) from error
    finally:
        await consumer.stop()
