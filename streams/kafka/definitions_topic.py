"""The definitions topic as a DefinitionsLog: reads what is committed, writes in transactions that exclude each other.

All writers of one application have the same transactional id, so Kafka lets only the one write that began last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from time import monotonic
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka

from streams.definitions_log import LogReader, LogRecord, TurnLost, WritingTurn
from streams.kafka.errors import (
    CommitUnknown,
    NotPermitted,
    Refused,
    Unreachable,
    waited_ms,
    with_cause,
)
from streams.kafka.metadata import partitions_of, require_partition
from streams.kafka.reading import open_consumer, read_from
from streams.kafka.security import Connection
from streams.kafka.transactions import AUTHORIZATION_ERRORS, FENCING_ERRORS, LARGEST_BATCH_BYTES
from streams.kafka.writer import TransactionalWriter, batches_of

POLL_MS = 1_000
MOST_RECORDS = 500  # of one read, so that those who apply them do not hold up the event loop
FETCH_WAIT_MS = 100  # who asks for the end waits for the fetch that is under way
REQUEST_TIMEOUT_MS = 15_000
TRANSACTION_TIMEOUT_MS = 20_000
ABORT_TIMEOUT_MS = 2_000
RETRY_BACKOFF_MS = 20


class KafkaDefinitionsLog:
    """Partition 0 of the topic, which has no other. `app_id` is the application whose writers exclude each other.

    `check_crcs` is to be False on librdkafka's mock cluster, whose transaction markers have wrong checksums.
    """

    def __init__(
        self,
        topic: str,
        connection: Connection,
        app_id: str,
        *,
        message_max_bytes: int = LARGEST_BATCH_BYTES,
        check_crcs: bool = True,
    ) -> None:
        self.place = TopicPartition(topic, 0)
        self._topic = topic
        self._connection = connection
        self._transactional_id = f"{app_id}-{topic}-writer"
        self._message_max_bytes = message_max_bytes
        self._check_crcs = check_crcs

    @asynccontextmanager
    async def reader(self, position: int) -> AsyncIterator[LogReader]:
        opening = open_consumer(
            self._connection,
            "read_committed",
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            retry_backoff_ms=RETRY_BACKOFF_MS,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            check_crcs=self._check_crcs,
        )
        async with AsyncExitStack() as stack:
            with self.explained("reading"):
                consumer = await stack.enter_async_context(opening)
                await self._require_partition(consumer._client, position)
                start = (await consumer.beginning_offsets([self.place]))[self.place]
                # Compaction leaves the log's start where it is; somebody else may not.
                position = max(start, position)
                read_from(consumer, {self.place: position})
            yield _Reader(self, consumer, position)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[WritingTurn]:
        writer = TransactionalWriter(
            self._connection,
            self._transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        try:
            with self.explained("beginning to write"):
                async with asyncio.timeout(REQUEST_TIMEOUT_MS / 1000):
                    await writer.start()
                    await self._require_partition(writer.client)
            yield _Turn(self, writer, self._message_max_bytes)
        finally:
            await writer.close()

    async def _require_partition(self, client: Any, position: int = 0) -> None:
        if position and not await partitions_of(client, self._topic, 0):
            raise self.deleted()
        await require_partition(client, self._topic, 0)

    def deleted(self) -> Refused:
        """What to say where the topic was there before."""
        return Refused(
            f"there is no topic {self._topic} any more: it was probably deleted. The segments that are known stay in "
            "force for as long as a worker runs, and none can be changed. Keep their documents (`GET /api/segments/ID` "
            "of a worker), make the topic with `rollcall topics create`, apply them with `rollcall segments apply` and "
            "begin anew with another app_id and output topics of its own: docs/topics.md says why"
        )

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        began_s = monotonic()
        try:
            yield
        except (kafka.KafkaError, TimeoutError) as error:
            raise self._explanation(what, error, waited_ms(began_s, REQUEST_TIMEOUT_MS)) from error

    def _explanation(self, what: str, error: BaseException, waited: int) -> Exception:
        if isinstance(error, FENCING_ERRORS):
            return TurnLost(f"{what} {self._topic}: another writer has begun")
        if isinstance(error, kafka.OffsetOutOfRangeError):
            return Refused(
                f"{self._topic}: the log no longer holds what was read last; the topic was probably deleted and "
                "created anew. Start again to read it from its beginning."
            )
        if isinstance(error, AUTHORIZATION_ERRORS):
            return NotPermitted(
                f"{what} {self._topic}: {type(error).__name__}: the Kafka user lacks an ACL",
                "--operation Read --operation Write --operation Describe "
                f"--topic {self._topic} --transactional-id {self._transactional_id}",
            )
        return Unreachable(self._connection.bootstrap_servers, with_cause(f"{what} {self._topic}", error), waited)


class _Reader:
    def __init__(self, log: KafkaDefinitionsLog, consumer: AIOKafkaConsumer, position: int) -> None:
        self.position = position
        self._log = log
        self._consumer = consumer

    async def read(self) -> list[LogRecord]:
        with self._log.explained("reading"):
            got = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=MOST_RECORDS)
            self.position = await self._consumer.position(self._log.place)
            if not got and self._consumer._client.cluster.partitions_for_topic(self._log.place.topic) is None:
                raise self._log.deleted()  # aiokafka would ask on and on
        return [LogRecord(each.offset, each.timestamp, each.key, each.value) for each in got.get(self._log.place, ())]

    async def end(self) -> int:
        with self._log.explained("asking for the end of"):
            ends = await self._consumer.end_offsets([self._log.place])
        return int(ends[self._log.place])


class _Turn:
    def __init__(self, log: KafkaDefinitionsLog, writer: TransactionalWriter, message_max_bytes: int) -> None:
        self._log = log
        self._writer = writer
        self._message_max_bytes = message_max_bytes

    async def append(self, records: Sequence[tuple[bytes, bytes | None]]) -> list[int]:
        place, limit_bytes = self._log.place, self._message_max_bytes
        batches = batches_of([(place, [(key, value, (), None) for key, value in records])], limit_bytes, limit_bytes)
        try:
            with self._log.explained("writing"):
                async with asyncio.timeout(REQUEST_TIMEOUT_MS / 1000):
                    self._writer.begin([place])
                    await self._writer.add([place])
                    offsets = await self._writer.produce(batches)
        except BaseException:
            await self._writer.abort(ABORT_TIMEOUT_MS)
            raise
        try:
            with self._log.explained("writing"):
                async with asyncio.timeout(REQUEST_TIMEOUT_MS / 1000):
                    await self._writer.commit(_ignore)
        except Unreachable as error:
            raise CommitUnknown(f"{error} Whether it is written shows once it is read.") from error
        return [first + at for batch, first in zip(batches, offsets, strict=True) for at in range(batch.count)]


def _ignore() -> None:
    """Nobody waits for the moment in which the commit is sent."""
