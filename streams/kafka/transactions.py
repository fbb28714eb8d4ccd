"""One transaction a worker: records, consumer offsets and their commit, fenced by the group's generation."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from time import monotonic

import msgspec
import structlog
from aiokafka import TopicPartition
from aiokafka import errors as kafka

from streams.kafka.errors import (
    CommitFailed,
    CommitUnknown,
    Fenced,
    NotPermitted,
    Refused,
    StreamsError,
    Unreachable,
    waited_ms,
)
from streams.kafka.fencing import Membership
from streams.kafka.metadata import missing_partition, partitions_of
from streams.kafka.security import Connection
from streams.kafka.writer import Record, RecordBatch, TransactionalWriter, batches_of

log = structlog.get_logger(__name__)

MESSAGE_MAX_BYTES = 1_048_588  # the broker's default of message.max.bytes, which holds for a whole batch
LARGEST_BATCH_BYTES = 1_000_000

FENCING_ERRORS = (
    kafka.ProducerFenced,
    kafka.InvalidProducerEpoch,
    kafka.TransactionCoordinatorFenced,
)
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
    retry_backoff_ms: int = 100  # at most; the first one is 2 ms, and each is twice the one before
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
        self._writer: TransactionalWriter | None = None
        self._left_open = False
        self._written_topics: dict[int, list[str]] = {}  # by partition, those of its last transaction
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
            if self._writer is not None and self._writer.in_transaction:
                self._left_open = not await self._writer.abort(self._options.abort_timeout_ms)
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

    def begin_early(self, partitions: Iterable[int], group_id: str) -> None:
        """Begin the next transaction while what it will hold is being decided.

        It begins with what these partitions wrote last: that is likely what they write next, and costs a marker where
        it is not. `commit` goes on with it; where there is nothing to commit, call `withdraw`.
        """
        places = [TopicPartition(topic, each) for each in partitions for topic in self._written_topics.get(each, ())]
        writer = None if self._lock.locked() else self._writer
        if places and writer is not None and not writer.in_transaction:
            writer.begin(places, group_id)

    async def withdraw(self) -> None:
        """End a transaction that has begun early. Raises CommitFailed where that cannot be known."""
        async with self._lock:
            writer = self._writer
            if writer is None or not writer.in_transaction:
                return
            self._writer = None  # it comes back only from a success
            try:
                await self._end_early(writer)
                self._writer = writer
            finally:
                if self._writer is None:
                    await writer.close()

    async def _end_early(self, writer: TransactionalWriter) -> None:
        self._left_open = True
        # A coordinator that is away for a moment has as long as in any other step.
        with contextlib.suppress(kafka.KafkaError, TimeoutError):
            async with asyncio.timeout(self._options.step_timeout_ms / 1000):
                await writer.add(())
        self._left_open = not await writer.abort(self._options.step_timeout_ms)
        if self._left_open:
            raise CommitFailed(f"the producer {self.transactional_id} could not end a transaction without records")

    async def _commit(
        self, outgoing: list[Outgoing], offsets: Mapping[TopicPartition, int], membership: Membership
    ) -> dict[TopicPartition, int]:
        writer, self._writer = self._writer, None  # it comes back only from a success
        if writer is None:
            raise CommitFailed(f"the producer {self.transactional_id} is not open: reopen it after an error")
        transaction = _Transaction(writer, self._options, self._on_step)
        try:
            written = await transaction.run(outgoing, offsets, membership)
            self._writer = writer
        except (kafka.KafkaError, TimeoutError) as error:
            raise transaction.explained(error) from error
        finally:
            if self._writer is None:
                await self._end(writer)
        self._note_places(written)
        return written

    async def _end(self, writer: TransactionalWriter) -> None:
        self._left_open = True
        try:
            self._left_open = not await writer.abort(self._options.abort_timeout_ms)
        finally:
            await writer.close()

    def _note_places(self, written: Iterable[TopicPartition]) -> None:
        topics: dict[int, list[str]] = defaultdict(list)
        for topic, partition in written:
            topics[partition].append(topic)
        self._written_topics |= topics

    async def _reopen(self, options: ProducerOptions) -> None:
        await self._close()
        # Topics may have been what went wrong: what is begun early is only what was written since.
        self._written_topics.clear()
        self._writer = await _started(self._connection, self.transactional_id, options)
        self._left_open = False

    async def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()


async def end_transaction_of(
    transactional_id: str, connection: Connection, *, options: ProducerOptions | None = None
) -> None:
    """End what a dead writer left open: on return its records are in the log or never will be.

    A writer with this id that still lives is fenced, and has to reopen. Raises as `FencedProducer.start` does.
    """
    writer = await _started(connection, transactional_id, options or ProducerOptions())
    await writer.close()
    log.info("transaction_ended", transactional_id=transactional_id)


class _Transaction:
    """One transaction on its way through the steps."""

    def __init__(self, writer: TransactionalWriter, options: ProducerOptions, on_step: Callable[[str], None]) -> None:
        self._writer = writer
        self._options = options
        self._on_step = on_step
        self._step = Step.PRODUCE

    async def run(
        self, outgoing: list[Outgoing], offsets: Mapping[TopicPartition, int], membership: Membership
    ) -> dict[TopicPartition, int]:
        batches = self._batches(outgoing)
        places = {batch.place for batch in batches}
        # 1. Every record is in the log.
        async with self._limited(Step.PRODUCE):
            await self._require_partitions(places)
            if not self._writer.in_transaction:
                self._writer.begin(places, membership.group_id)
            await self._writer.add(places)
            written = await self._produce(batches)
        # 2. The offsets are in, and with them the check that this worker still owns the partitions.
        async with self._limited(Step.OFFSETS):
            await self._writer.send_offsets(offsets, membership)
        # 3. Both become visible at once.
        async with self._limited(Step.COMMIT):
            await self._writer.commit(lambda: self._on_step(COMMIT_SENT))
        return written

    @contextlib.asynccontextmanager
    async def _limited(self, step: Step) -> AsyncIterator[None]:
        self._step = step
        async with asyncio.timeout(self._options.step_timeout_ms / 1000):
            yield
        self._on_step(step.value)

    def _batches(self, outgoing: list[Outgoing]) -> list[RecordBatch]:
        limit_bytes = self._options.message_max_bytes
        listed = [(TopicPartition(each.topic, each.partition), each.records) for each in outgoing]
        return batches_of(listed, min(limit_bytes, LARGEST_BATCH_BYTES), limit_bytes)

    async def _require_partitions(self, places: set[TopicPartition]) -> None:
        for topic, partition in places:
            known = await partitions_of(self._writer.client, topic, partition)
            fault = missing_partition(topic, partition, known)
            if fault is not None:
                raise CommitFailed(fault)

    async def _produce(self, batches: list[RecordBatch]) -> dict[TopicPartition, int]:
        offsets = await self._writer.produce(batches)
        return {batch.place: _last_offset(batch, offset) for batch, offset in zip(batches, offsets, strict=True)}

    def explained(self, error: BaseException) -> StreamsError:
        """What the error means for the transaction."""
        last_step = self._step is Step.COMMIT
        if isinstance(error, FENCING_ERRORS):
            return Fenced(
                "a newer producer took the transactional id, or the broker ended the transaction as older than "
                f"transaction_timeout_ms={self._options.transaction_timeout_ms}: open the partitions again",
                last_step=last_step,
            )
        if isinstance(error, AUTHORIZATION_ERRORS):
            return _not_permitted(error)
        answer = f"{type(error).__name__}: {error}"
        if isinstance(error, TimeoutError):
            held_up_by = f"; {self._writer.held_up_by}" if self._writer.held_up_by else ""
            answer = f"not done within step_timeout_ms={self._options.step_timeout_ms}{held_up_by}"
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


def _last_offset(batch: RecordBatch, offset: int) -> int:
    if offset < 0:  # the broker knows the batch as a repetition, but no longer where it stands
        raise CommitFailed(
            f"{batch.place.topic}-{batch.place.partition}: the broker no longer knows the offset written"
        )
    return offset + batch.count - 1


async def _started(connection: Connection, transactional_id: str, options: ProducerOptions) -> TransactionalWriter:
    writer = TransactionalWriter(
        connection,
        transactional_id,
        transaction_timeout_ms=options.transaction_timeout_ms,
        request_timeout_ms=options.step_timeout_ms,
        retry_backoff_ms=options.retry_backoff_ms,
    )
    began_s = monotonic()
    try:
        async with asyncio.timeout(options.start_timeout_ms / 1000):
            await writer.start()
    except BaseException as error:
        await writer.close()
        if not isinstance(error, kafka.KafkaError | TimeoutError):
            raise
        waited = waited_ms(began_s, options.start_timeout_ms)
        raise _start_error(error, connection, transactional_id, options, waited) from error
    return writer


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
    if isinstance(error, kafka.KafkaConnectionError | kafka.NodeNotReadyError | TimeoutError):
        return Unreachable(connection.bootstrap_servers, what, waited)
    return Refused(f"{what}: {type(error).__name__}: {error}")


def _not_permitted(error: BaseException) -> NotPermitted:
    named = error.args[0] if error.args else "…"
    names = ", ".join(sorted(named)) if isinstance(named, set) else str(named)
    if isinstance(error, kafka.TopicAuthorizationFailedError):
        acl = " ".join(["--operation Write --operation Describe", *(f"--topic {name}" for name in names.split(", "))])
    elif isinstance(error, kafka.GroupAuthorizationFailedError):
        acl = f"--operation Read --group {names}"
    elif isinstance(error, kafka.TransactionalIdAuthorizationFailed):
        acl = f"--operation Write --operation Describe --transactional-id {names}"
    else:
        acl = "--operation IdempotentWrite --cluster"
    return NotPermitted(f"{type(error).__name__} for {names}: this worker's Kafka user lacks an ACL", acl)
