"""Reading a changelog partition back, from where the local state ends to where the log ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka

from streams.kafka.errors import ChangelogGone, NotPermitted, Refused, RestoreStuck, Unreachable, waited_ms
from streams.kafka.metadata import missing_partition, partitions_of
from streams.kafka.security import Connection

TAIL_OFFSETS = 50  # what a partition's newest transaction fits into, more often than not
TAIL_GROWTH = 20


class RestoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    batch_records: int = 2_000  # at most, in one call of `on_batch`
    fetch_max_bytes: int = 2 * 1024 * 1024  # larger ones are no faster, and hold up the event loop longer
    stalled_after_ms: int = 500  # without progress, after which `on_stalled` is called
    stuck_after_ms: int = 120_000  # without progress, after which restoring is given up
    request_timeout_ms: int = 30_000
    poll_ms: int = 20


class ChangelogBatch(msgspec.Struct, frozen=True, gc=False):
    """Committed records in log order. A value of None deletes its key."""

    records: list[tuple[bytes | None, bytes | None]]
    position: int  # the next offset to read: state that holds these records may later be restored from here
    done: int  # offsets behind us, counted from where restoring began
    total: int  # offsets from there to the end; transaction markers are among them


class Restored(msgspec.Struct, frozen=True):
    position: int
    records: int
    elapsed_s: float


async def restore(
    topic: str,
    partition: int,
    from_offset: int | None,
    on_batch: Callable[[ChangelogBatch], Awaitable[None]],
    on_stalled: Callable[[], Awaitable[None]],
    *,
    connection: Connection,
    options: RestoreOptions | None = None,
) -> Restored:
    """Pass every committed record from `from_offset` (None: the log's start) to the end of the log to `on_batch`.

    The end is the high watermark when the call begins. Every transaction begun before it is over by the return, so
    nothing below the returned position can still become visible. If the way to the end is blocked, most likely by
    the open transaction of a dead writer, `on_stalled` is called once; it should end that transaction. Each call has
    a consumer of its own, so partitions restore side by side; errors of the two callbacks end the call.

    Raises ChangelogGone when the log does not hold `from_offset` any more, RestoreStuck when nothing moves for too
    long, Unreachable or NotPermitted when Kafka cannot be read.
    """
    chosen = options or RestoreOptions()
    place = TopicPartition(topic, partition)
    began = monotonic()
    with _explained(connection, topic, chosen.request_timeout_ms):
        start, end = await _bounds(connection, place, chosen)
        first = start if from_offset is None else from_offset
        if not start <= first <= end:
            raise ChangelogGone(topic, partition, first, start, end)
        if first == end:
            return Restored(first, 0, monotonic() - began)
        async with _consumer(connection, chosen, isolation_level="read_committed") as consumer:
            run = _Run(consumer, place, first, end, chosen)
            try:
                await run.to_the_end(on_batch, on_stalled)
            except kafka.OffsetOutOfRangeError as error:
                start, end = await _bounds(connection, place, chosen)
                raise ChangelogGone(topic, partition, run.position, start, end) from error
    return Restored(run.position, run.records, monotonic() - began)


async def newest_values(
    topic: str, key: bytes, connection: Connection, *, options: RestoreOptions | None = None
) -> AsyncGenerator[bytes, None]:
    """The newest committed value of the key in each partition of the topic that has one.

    Partitions are read backwards from their ends, so little is read where the key is written often. The topic has to
    exist: asking for it may create it. Raises Unreachable or NotPermitted.
    """
    chosen = options or RestoreOptions()
    with _explained(connection, topic, chosen.request_timeout_ms):
        async with _consumer(connection, chosen, isolation_level="read_committed") as consumer:
            numbers = await partitions_of(consumer._client, topic, 0)
            places = [TopicPartition(topic, number) for number in sorted(numbers)]
            starts, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
            for place in places:
                async with asyncio.timeout(chosen.request_timeout_ms / 1000):
                    value = await _newest_value(consumer, place, key, starts[place], ends[place], chosen)
                if value is not None:
                    yield value


async def _newest_value(
    consumer: AIOKafkaConsumer, place: TopicPartition, key: bytes, start: int, end: int, options: RestoreOptions
) -> bytes | None:
    consumer.assign([place])
    length = TAIL_OFFSETS
    while start < end:
        begin = max(start, end - length)
        consumer.seek(place, begin)
        newest: bytes | None = None
        while await consumer.position(place) < end:
            got = await consumer.getmany(place, timeout_ms=options.poll_ms, max_records=options.batch_records)
            for record in got.get(place, ()):
                newest = record.value if record.key == key and record.offset < end else newest
        if newest is not None:
            return newest
        end, length = begin, length * TAIL_GROWTH
    return None


class _Run:
    """One partition on its way from the first offset to the end."""

    def __init__(
        self, consumer: AIOKafkaConsumer, place: TopicPartition, first: int, end: int, options: RestoreOptions
    ) -> None:
        self.position = first
        self.records = 0
        self._consumer = consumer
        self._place = place
        self._first = first
        self._end = end
        self._options = options

    async def to_the_end(
        self,
        on_batch: Callable[[ChangelogBatch], Awaitable[None]],
        on_stalled: Callable[[], Awaitable[None]],
    ) -> None:
        self._consumer.assign([self._place])
        self._consumer.seek(self._place, self.position)
        moved_at, told = monotonic(), False
        # Transaction markers take offsets and are no records, so the position is what has to reach the end.
        while self.position < self._end:
            if await self._step(on_batch):
                moved_at = monotonic()
                continue
            waited_ms = int((monotonic() - moved_at) * 1000)
            if waited_ms >= self._options.stalled_after_ms and not told:
                told = True
                await on_stalled()
                moved_at = monotonic()
            elif waited_ms >= self._options.stuck_after_ms:
                raise RestoreStuck(self._place.topic, self._place.partition, self.position, self._end, waited_ms)

    async def _step(self, on_batch: Callable[[ChangelogBatch], Awaitable[None]]) -> bool:
        """Wait a moment for records and pass them on; whether the position moved."""
        options = self._options
        got = await self._consumer.getmany(timeout_ms=options.poll_ms, max_records=options.batch_records)
        position = await self._consumer.position(self._place)
        records = [(record.key, record.value) for record in got.get(self._place, ())]
        moved: bool = position > self.position
        self.position = position
        if records:
            self.records += len(records)
            total = self._end - self._first
            await on_batch(ChangelogBatch(records, position, min(position - self._first, total), total))
        return moved


async def _bounds(connection: Connection, place: TopicPartition, options: RestoreOptions) -> tuple[int, int]:
    """The partition's first offset and its high watermark."""
    # A read_committed consumer is told the last stable offset instead, below the records of open transactions.
    async with _consumer(connection, options, isolation_level="read_uncommitted") as consumer:
        known = await partitions_of(consumer._client, place.topic, place.partition)
        fault = missing_partition(place.topic, place.partition, known)
        if fault is not None:
            raise Refused(fault)
        start = await consumer.beginning_offsets([place])
        end = await consumer.end_offsets([place])
    return start[place], end[place]


@asynccontextmanager
async def _consumer(
    connection: Connection, options: RestoreOptions, *, isolation_level: str
) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **connection.arguments(),
        isolation_level=isolation_level,
        auto_offset_reset="none",
        enable_auto_commit=False,
        request_timeout_ms=options.request_timeout_ms,
        retry_backoff_ms=20,
        fetch_max_wait_ms=100,
        fetch_max_bytes=options.fetch_max_bytes,
        max_partition_fetch_bytes=options.fetch_max_bytes,
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


@contextmanager
def _explained(connection: Connection, topic: str, timeout_ms: int) -> Iterator[None]:
    began_s = monotonic()
    try:
        yield
    except kafka.TopicAuthorizationFailedError as error:
        raise NotPermitted(
            f"topic {topic}: this worker's Kafka user may not read it; grant it with `kafka-acls.sh --add "
            f"--allow-principal User:NAME --operation Read --operation Describe --topic {topic}`"
        ) from error
    except (kafka.KafkaError, TimeoutError) as error:
        waited = waited_ms(began_s, timeout_ms)
        raise Unreachable(connection.bootstrap_servers, f"reading {topic} ({error!r})", waited) from error
