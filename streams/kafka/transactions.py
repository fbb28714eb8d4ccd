"""One transaction a worker: records, consumer offsets and their commit, fenced by the group's generation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import StrEnum
from itertools import zip_longest
from time import monotonic
from typing import Any, NamedTuple, TypeAlias

import msgspec
import structlog
from aiokafka import TopicPartition
from aiokafka import errors as kafka

from streams.kafka.errors import (
    CommitFailed,
    CommitUnknown,
    Fenced,
    NotPermitted,
    RecordTooLarge,
    Refused,
    StreamsError,
    Unreachable,
    waited_ms,
)
from streams.kafka.fencing import Membership, TransactionalProducer
from streams.kafka.metadata import missing_partition, partitions_of
from streams.kafka.security import Connection

log = structlog.get_logger(__name__)

# Key, value, headers, and the timestamp in ms (None: now).
Record: TypeAlias = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]], int | None]

MESSAGE_MAX_BYTES = 1_048_588  # the broker's default of message.max.bytes, which holds for a whole batch
LARGEST_BATCH_BYTES = 1_000_000
NO_HEADERS: list[tuple[str, bytes | None]] = []

FENCING_ERRORS = (
    kafka.ProducerFenced,
    kafka.InvalidProducerEpoch,
    kafka.TransactionCoordinatorFenced,
)
SIZE_ERRORS = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)
AUTHORIZATION_ERRORS = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
    kafka.ClusterAuthorizationFailedError,
)


class Outgoing(msgspec.Struct):
    """Records for one partition, in the order they are to stand there."""

    topic: str
    partition: int
    records: list[Record]


class ProducerOptions(msgspec.Struct, frozen=True, kw_only=True):
    transaction_timeout_ms: int = 60_000  # after which the broker ends a transaction whose writer is gone
    step_timeout_ms: int = 15_000  # for each of: all records written, offsets stored, committed
    start_timeout_ms: int = 30_000  # for connecting and ending what the id's last writer left open
    abort_timeout_ms: int = 2_000
    retry_backoff_ms: int = 100  # of anything but the wait for the end of the last transaction, which is 2 ms
    message_max_bytes: int = MESSAGE_MAX_BYTES


class Step(StrEnum):
    """What a transaction is at, by the name that `on_step` is called with once it is done."""

    PRODUCE = "produced"
    OFFSETS = "offsets_sent"
    COMMIT = "committed"


COMMIT_SENT = "commit_sent"


class FencedProducer:
    """Writes records and consumer offsets in transactions that a worker without its partitions cannot commit.

    Once an error other than ValueError has come out of `commit`, call `reopen` before the next. No transaction stays
    open between two calls, unless the broker could not be told. `on_step` is called at "produced", "offsets_sent",
    "commit_sent" and "committed" of each transaction; at "commit_sent" the request to commit is on its way and nothing
    of its answer has been read. What it raises fails the commit, but at "commit_sent" goes to the event loop.
    """

    def __init__(
        self,
        connection: Connection,
        transactional_id: str,
        *,
        options: ProducerOptions | None = None,
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        self.transactional_id = transactional_id
        self._connection = connection
        self._options = options or ProducerOptions()
        self._on_step = on_step or _ignore
        self._producer: TransactionalProducer | None = None
        self._left_open = False
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Connect, and end whatever an earlier writer with the same transactional id has left open.

        Raises Unreachable, NotPermitted or Refused; the call may be repeated.
        """
        await self.reopen()

    async def reopen(self) -> None:
        """Replace the producer. On return the last transaction is whole in the log or will never be, and no older
        producer with the same transactional id can commit any more. Raises as `start` does.
        """
        async with self._lock:
            await self._reopen(self._options)

    async def stop(self) -> None:
        """Close, and try once to end a transaction that an error has left open. May be called twice."""
        async with self._lock:
            if self._left_open:
                hurried = msgspec.structs.replace(self._options, start_timeout_ms=self._options.abort_timeout_ms)
                with contextlib.suppress(StreamsError):
                    await self._reopen(hurried)
            await self._close()

    async def commit(
        self,
        outgoing: Sequence[Outgoing],
        offsets: Mapping[TopicPartition, int],
        group_id: str,
        generation: int,
        member_id: str,
    ) -> dict[TopicPartition, int]:
        """Write all records and store all offsets (each the next one to read), or neither.

        Returns the offset of the last record written to each partition. Generation and member are those under which
        the records behind this transaction were fetched. Nothing to write and no offsets is no transaction; records
        without offsets raise ValueError, as nothing would fence them. A second call waits for the first.

        Raises Fenced, CommitFailed, NotPermitted or RecordTooLarge when nothing was committed, and CommitUnknown when
        that cannot be known (see also `Fenced.last_step`).
        """
        outgoing = [each for each in outgoing if each.records]
        if not outgoing and not offsets:
            return {}
        if not offsets:
            raise ValueError("records without offsets: nothing would fence the transaction; pass the offsets to store")
        membership = _membership(group_id, generation, member_id)
        async with self._lock:
            return await self._commit(outgoing, offsets, membership)

    async def _commit(
        self, outgoing: list[Outgoing], offsets: Mapping[TopicPartition, int], membership: Membership
    ) -> dict[TopicPartition, int]:
        producer, self._producer = self._producer, None  # it comes back only from a success
        if producer is None:
            raise CommitFailed(f"the producer {self.transactional_id} is not open: reopen it after an error")
        transaction = _Transaction(producer, self._options, self._on_step)
        try:
            written = await transaction.run(outgoing, offsets, membership)
            self._producer = producer
        except (kafka.KafkaError, kafka.IllegalOperation, TimeoutError) as error:
            raise transaction.explained(error) from error
        finally:
            if self._producer is None:
                self._left_open = True
                self._left_open = not await producer.abort(self._options.abort_timeout_ms)
                await producer.abandon()
        return written

    async def _reopen(self, options: ProducerOptions) -> None:
        await self._close()
        self._producer = await _started(self._connection, self.transactional_id, options)
        self._left_open = False

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.abandon()


async def end_transaction_of(
    transactional_id: str, connection: Connection, *, options: ProducerOptions | None = None
) -> None:
    """End what a dead writer left open: on return its records are in the log or never will be.

    A writer with this id that still lives is fenced, and has to reopen. Raises as `FencedProducer.start` does.
    """
    producer = await _started(connection, transactional_id, options or ProducerOptions())
    await producer.abandon()
    log.info("transaction_ended", transactional_id=transactional_id)


class _Batch(NamedTuple):
    place: TopicPartition
    builder: Any


class _Transaction:
    """One transaction on its way through the steps."""

    def __init__(
        self, producer: TransactionalProducer, options: ProducerOptions, on_step: Callable[[str], None]
    ) -> None:
        self._producer = producer
        self._options = options
        self._on_step = on_step
        self._step = Step.PRODUCE

    async def run(
        self, outgoing: list[Outgoing], offsets: Mapping[TopicPartition, int], membership: Membership
    ) -> dict[TopicPartition, int]:
        batches = self._batches(outgoing)
        # 1. Every record is in the log. aiokafka would commit even if one were not.
        async with self._limited(Step.PRODUCE):
            await self._require_partitions(batches)
            await self._producer.begin(membership)
            written = await self._produce(batches)
        # 2. The offsets are in, and with them the check that this worker still owns the partitions.
        async with self._limited(Step.OFFSETS):
            await self._producer.send_offsets(offsets)
        # 3. Both become visible at once.
        async with self._limited(Step.COMMIT):
            await self._producer.commit(lambda: self._on_step(COMMIT_SENT))
        return written

    @contextlib.asynccontextmanager
    async def _limited(self, step: Step) -> AsyncIterator[None]:
        self._step = step
        async with asyncio.timeout(self._options.step_timeout_ms / 1000):
            yield
        self._on_step(step.value)

    def _batches(self, outgoing: list[Outgoing]) -> list[_Batch]:
        """The first batch of each partition, then the second of each, and so on: one request takes one of each."""
        by_place: dict[TopicPartition, list[_Batch]] = {}
        for each in outgoing:
            place = TopicPartition(each.topic, each.partition)
            by_place.setdefault(place, []).extend(self._filled(place, each.records))
        return [batch for turn in zip_longest(*by_place.values()) for batch in turn if batch is not None]

    def _filled(self, place: TopicPartition, records: list[Record]) -> list[_Batch]:
        builder = self._producer.create_batch()
        batches = [_Batch(place, builder)]
        for key, value, headers, timestamp_ms in records:
            listed = list(headers) if headers else NO_HEADERS  # the record encoder takes nothing but lists
            if builder.append(key=key, value=value, headers=listed, timestamp=timestamp_ms) is None:
                builder = self._producer.create_batch()
                batches.append(_Batch(place, builder))
                builder.append(key=key, value=value, headers=listed, timestamp=timestamp_ms)
        limit_bytes = self._options.message_max_bytes
        for batch in batches:
            if batch.builder.size() > limit_bytes:  # a batch takes its first record whatever its size
                raise RecordTooLarge(place.topic, batch.builder.size(), limit_bytes)
        return batches

    async def _require_partitions(self, batches: list[_Batch]) -> None:
        for topic, partition in {batch.place for batch in batches}:
            known = await partitions_of(self._producer.client, topic, partition)
            fault = missing_partition(topic, partition, known)
            if fault is not None:
                raise CommitFailed(fault)

    async def _produce(self, batches: list[_Batch]) -> dict[TopicPartition, int]:
        futures: list[asyncio.Future[Any]] = []
        for batch in batches:
            topic, partition = batch.place
            future = await self._producer.send_batch(batch.builder, topic, partition=partition)
            future.add_done_callback(_note_error)
            futures.append(future)
        results = await asyncio.gather(*futures, return_exceptions=True)
        return {batch.place: _last_offset(batch, result) for batch, result in zip(batches, results, strict=True)}

    def explained(self, error: BaseException) -> StreamsError:
        """What the error means for the transaction."""
        cause = self._producer.root_of(error)
        last_step = self._step is Step.COMMIT
        if isinstance(cause, FENCING_ERRORS):
            return Fenced(
                "a newer producer took the transactional id, or the broker ended the transaction as older than "
                f"transaction_timeout_ms={self._options.transaction_timeout_ms}: open the partitions again",
                last_step=last_step,
            )
        if isinstance(cause, AUTHORIZATION_ERRORS):
            return _not_permitted(cause)
        answer = f"{type(cause).__name__}: {cause}"
        if isinstance(cause, TimeoutError):
            answer = f"no answer within step_timeout_ms={self._options.step_timeout_ms}"
        if last_step:
            return CommitUnknown(f"the commit was sent; {answer}. Whether it holds is settled by reopening.")
        return CommitFailed(f"nothing was committed, {self._step.value!r} was not reached: {answer}")


def _ignore(step: str) -> None:
    """Nobody wants to know."""


def _membership(group_id: str, generation: int, member_id: str) -> Membership:
    # The broker takes exactly these values as "do not fence".
    if generation < 0 or not member_id:
        raise Fenced(
            f"the worker is in no generation of group {group_id} (generation {generation}, member {member_id!r}): "
            "its records were fetched before it joined or after it left"
        )
    return Membership(group_id, generation, member_id)


def _last_offset(batch: _Batch, result: Any) -> int:
    if isinstance(result, SIZE_ERRORS):
        raise RecordTooLarge(batch.place.topic, batch.builder.size(), None) from result
    if isinstance(result, BaseException):
        raise result
    if result.offset < 0:  # the broker knows the batch as a repetition, but no longer where it stands
        raise CommitFailed(
            f"{batch.place.topic}-{batch.place.partition}: the broker no longer knows the offset written"
        )
    return int(result.offset + batch.builder.record_count() - 1)


def _note_error(future: asyncio.Future[Any]) -> None:
    # Else an error would be logged as never retrieved when another one came first.
    if not future.cancelled():
        future.exception()


async def _started(connection: Connection, transactional_id: str, options: ProducerOptions) -> TransactionalProducer:
    producer = TransactionalProducer(
        client_id=transactional_id,
        transactional_id=transactional_id,
        transaction_timeout_ms=options.transaction_timeout_ms,
        request_timeout_ms=options.step_timeout_ms,
        retry_backoff_ms=options.retry_backoff_ms,
        max_batch_size=min(options.message_max_bytes, LARGEST_BATCH_BYTES),
        **connection.arguments(),
    )
    began_s = monotonic()
    try:
        async with asyncio.timeout(options.start_timeout_ms / 1000):
            await producer.start()
    except BaseException as error:
        await producer.abandon()
        # aiokafka asserts that it knows a broker, and a broker that is overloaded may for a moment tell of none.
        if not isinstance(error, kafka.KafkaError | TimeoutError | AssertionError):
            raise
        waited = waited_ms(began_s, options.start_timeout_ms)
        raise _start_error(error, connection, transactional_id, options, waited) from error
    return producer


def _start_error(
    error: Exception, connection: Connection, transactional_id: str, options: ProducerOptions, waited: int
) -> StreamsError:
    what = f"opening the producer {transactional_id}"
    if isinstance(error, AUTHORIZATION_ERRORS):
        return _not_permitted(error)
    if isinstance(error, kafka.InvalidTransactionTimeout):
        return Refused(
            f"{what}: transaction_timeout_ms={options.transaction_timeout_ms} is over the broker's "
            "transaction.max.timeout.ms; lower the one or raise the other"
        )
    if isinstance(error, kafka.KafkaConnectionError | TimeoutError | AssertionError):
        return Unreachable(connection.bootstrap_servers, what, waited)
    return Refused(f"{what}: {type(error).__name__}: {error}")


def _not_permitted(error: BaseException) -> NotPermitted:
    named = error.args[0] if error.args else "…"
    names = ", ".join(sorted(named)) if isinstance(named, set) else str(named)
    if isinstance(error, kafka.TopicAuthorizationFailedError):
        acl = f"--operation Write --operation Describe --topic {names}"
    elif isinstance(error, kafka.GroupAuthorizationFailedError):
        acl = f"--operation Read --group {names}"
    elif isinstance(error, kafka.TransactionalIdAuthorizationFailed):
        acl = f"--operation Write --operation Describe --transactional-id {names}"
    else:
        acl = "--operation IdempotentWrite --cluster"
    return NotPermitted(f"{type(error).__name__} for {names}: this worker's Kafka user lacks an ACL", acl)
