"""One writer's transactions, request by request as the protocol has them (KIP-98), its offsets fenced (KIP-447).

aiokafka's producer has a task that finds out again and again what to send next; of a transaction of few records that
was a good part of the time. Here every step is a coroutine that sends what it is for. Connections, metadata, security
and the shapes of messages are aiokafka's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, TypeAlias

from aiokafka import TopicPartition
from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streams.kafka.errors import RecordTooLarge
from streams.kafka.fencing import LOST_PRODUCER, Membership, TxnOffsetCommitRequest, lost_membership
from streams.kafka.produce import ProduceRequest
from streams.kafka.security import Connection

# Key, value, headers, and the timestamp in ms (None: now).
Record: TypeAlias = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]], int | None]
# The codes in an answer, each with the name of what it is said of.
Codes: TypeAlias = Callable[[Any], list[tuple[str, int]]]

CLOSE_TIMEOUT_S = 1.0
FIRST_BACKOFF_S = 0.002  # a broker is often done with the end of the last transaction by then
NO_HEADERS: list[tuple[str, bytes | None]] = []
SIZE_ERRORS = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)

# Error codes of the Kafka protocol.
NOT_ATTEMPTED = 55  # of one partition, where another one was refused
RETRIED = frozenset({3, 7, 14, 15, 16, 51})  # unknown partition, timed out, coordinator loading/gone/moved, concurrent
COORDINATOR_MOVED = frozenset({7, 15, 16})


class RecordBatch:
    """Records for one partition that are one batch of its log."""

    def __init__(self, place: TopicPartition, limit_bytes: int) -> None:
        self.place = place
        self.count = 0
        self.size_bytes = 0
        self._builder = DefaultRecordBatchBuilder(2, 0, 1, -1, -1, 0, limit_bytes)
        self._built: Any = None

    def fill(self, records: Sequence[Record], start: int) -> int:
        """Take records from `start` on for as long as they fit; the index of the first that was not taken.

        The first one fits whatever its size.
        """
        append, count = self._builder.append, self.count
        for key, value, headers, timestamp_ms in islice(records, start, None):
            listed = list(headers) if headers else NO_HEADERS  # the record encoder takes nothing but lists
            if append(count, timestamp_ms, key, value, listed) is None:
                break
            count += 1
        taken, self.count = count - self.count, count
        self.size_bytes = self._builder.size()
        return start + taken

    def seal(self, producer_id: int, epoch: int, sequences: dict[TopicPartition, int]) -> Any:
        """The batch as it is sent, each time the same, with the next sequence number of its partition."""
        if self._built is None:
            sequence = sequences.get(self.place, 0)
            sequences[self.place] = (sequence + self.count) % (1 << 31)
            self._builder.set_producer_state(producer_id, epoch, sequence)
            self._built = self._builder.build()
        return self._built


def batches_of(
    outgoing: Iterable[tuple[TopicPartition, Sequence[Record]]], batch_bytes: int, limit_bytes: int
) -> list[RecordBatch]:
    """Batches of up to `batch_bytes`, those of one partition in the order of its records.

    Raises RecordTooLarge where one is over the limit, as a record that is larger has a batch of its own.
    """
    by_place: dict[TopicPartition, list[RecordBatch]] = {}
    for place, records in outgoing:
        batches = by_place.setdefault(place, [])
        taken = batches[-1].fill(records, 0) if batches else 0
        while taken < len(records):
            batches.append(RecordBatch(place, batch_bytes))
            taken = batches[-1].fill(records, taken)
    made = list(chain.from_iterable(by_place.values()))
    for batch in made:
        if batch.size_bytes > limit_bytes:
            raise RecordTooLarge(batch.place.topic, batch.size_bytes, limit_bytes)
    return made


class TransactionalWriter:
    """`start`, then any number of `begin`, `add`, `produce`, `send_offsets` and `commit`; at the end, or after any
    error, `abort` and `close`.

    All may raise KafkaError, of which ProducerFenced means that another writer began with the same transactional id.
    What a broker may yet do is asked for again and again: limit each call by `asyncio.timeout`. Records and offsets on
    their way are not called back by that, and `abort` waits for what became of them.
    """

    def __init__(
        self,
        connection: Connection,
        transactional_id: str,
        *,
        transaction_timeout_ms: int,
        request_timeout_ms: int,
        retry_backoff_ms: int,
    ) -> None:
        self.client = AIOKafkaClient(
            client_id=transactional_id,
            request_timeout_ms=request_timeout_ms,
            retry_backoff_ms=retry_backoff_ms,
            **connection.arguments(),
        )
        self._transactional_id = transactional_id
        self._transaction_timeout_ms = transaction_timeout_ms
        self._request_timeout_ms = request_timeout_ms
        self._backoff_s = retry_backoff_ms / 1000
        self._coordinators: dict[tuple[CoordinationType, str], int] = {}
        self._producer_id = self._epoch = -1
        self._sequences: dict[TopicPartition, int] = {}
        self._places: set[TopicPartition] = set()
        self._partitions_added: asyncio.Task[None] | None = None
        self._group_added: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._aborting = False
        self.held_up_by = ""  # why something was asked for again, in words; empty where nothing was

    async def start(self) -> None:
        """Connect, and end whatever an earlier writer with this transactional id has left open."""
        await self.client.bootstrap()
        request = InitProducerIdRequest(self._transactional_id, self._transaction_timeout_ms)
        answer = await self._ask_transaction_coordinator(request)
        self._producer_id, self._epoch = answer.producer_id, answer.producer_epoch

    @property
    def in_transaction(self) -> bool:
        """Whether one has begun and its end has not been answered."""
        return self._partitions_added is not None

    def begin(self, places: Collection[TopicPartition], group_id: str | None = None) -> None:
        """Begin a transaction and add these partitions to it, then the group, in the background."""
        self.held_up_by, self._aborting = "", False
        self._partitions_added = self._track(self._add_partitions(set(places)))
        self._group_added = self._track(self._add_group(self._partitions_added, group_id)) if group_id else None

    async def add(self, places: Iterable[TopicPartition]) -> None:
        """On return these partitions can be written to."""
        assert self._partitions_added is not None, "begin comes first"
        await asyncio.shield(self._partitions_added)
        missing = set(places) - self._places
        if missing:
            await asyncio.shield(self._track(self._add_partitions(missing)))

    async def produce(self, batches: Sequence[RecordBatch]) -> list[int]:
        """Write batches, those of one partition in their order; the offset of the first record of each.

        -1: the broker had that batch already and no longer knows where. Raises RecordTooLarge too.
        """
        offsets: dict[RecordBatch, int] = {}
        waiting: dict[TopicPartition, deque[RecordBatch]] = defaultdict(deque)
        for batch in batches:
            waiting[batch.place].append(batch)
        backoff_s = FIRST_BACKOFF_S
        while waiting:
            written = await self._produce_first(waiting)
            offsets |= written
            for batch in written:
                waiting[batch.place].popleft()
                if not waiting[batch.place]:
                    del waiting[batch.place]
            if not written:
                await self._pause(backoff_s)
                backoff_s = min(2 * backoff_s, self._backoff_s)
        return [offsets[batch] for batch in batches]

    async def send_offsets(self, offsets: Mapping[TopicPartition, int], membership: Membership) -> None:
        """Add the offsets to the transaction. Raises Fenced when the group refuses the membership."""
        assert self._group_added is not None, "begin has the group"
        await asyncio.shield(self._group_added)
        request = TxnOffsetCommitRequest(membership=membership, offsets=offsets, **self._identity())
        storing = self._ask(
            CoordinationType.GROUP,
            membership.group_id,
            request,
            lambda answer: [(membership.group_id, code) for _, parts, _ in answer.topics for _, code, _ in parts],
            lambda code: lost_membership(code, membership),
        )
        # The group may be elsewhere than the transaction: offsets that come there behind the end would be of none.
        await asyncio.shield(self._track(storing))

    async def commit(self, on_sent: Callable[[], None]) -> None:
        """Commit; `on_sent` is called once, when the request is on its way and its answer has not been read."""
        await self._end(AnnouncedEndTxnRequest(on_sent, **self._identity(), transaction_result=True))

    async def abort(self, timeout_ms: int) -> bool:
        """Abort a transaction that has begun; whether none is open now. False also where no answer came in time.

        Nothing that a broker refuses for now is asked for again meanwhile, but the end itself.
        """
        if not self.in_transaction:
            return not self._closed
        self._aborting = True
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                # What reached its partition behind the marker would be of no transaction.
                if self._under_way:
                    await asyncio.wait(self._under_way)
                await self._end(EndTxnRequest(**self._identity(), transaction_result=False))
        except (kafka.KafkaError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Close without waiting for the broker. An open transaction stays open. May be called twice."""
        if self._closed:
            return
        self._closed = True
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        # Connections with bytes that a silent broker does not take would be waited for.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.client.close(), CLOSE_TIMEOUT_S)

    # -- the steps ----------------------------------------------------------------------------------------------------

    async def _add_partitions(self, places: set[TopicPartition]) -> None:
        if not places:
            return
        by_topic: dict[str, list[int]] = defaultdict(list)
        for topic, partition in sorted(places):
            by_topic[topic].append(partition)
        await self._ask_transaction_coordinator(
            AddPartitionsToTxnRequest(**self._identity(), topics=list(by_topic.items())),
            lambda answer: [(topic, code) for topic, parts in answer.errors for _, code in parts],
        )
        self._places |= places

    async def _add_group(self, partitions_added: asyncio.Task[None], group_id: str) -> None:
        await asyncio.shield(partitions_added)
        request = AddOffsetsToTxnRequest(**self._identity(), group_id=group_id)
        await self._ask_transaction_coordinator(request, lambda answer: [(group_id, answer.error_code)])

    async def _end(self, request: EndTxnRequest) -> None:
        await self._ask_transaction_coordinator(request)
        self._places.clear()
        self._partitions_added = self._group_added = None

    async def _produce_first(self, waiting: Mapping[TopicPartition, deque[RecordBatch]]) -> dict[RecordBatch, int]:
        """Write the first batch of each partition, each to its leader; the offsets of those that were written."""
        by_node: dict[int, list[RecordBatch]] = defaultdict(list)
        for place, queue in waiting.items():
            leader = self.client.cluster.leader_for_partition(place)
            by_node[-1 if leader is None else leader].append(queue[0])
        leaderless = by_node.pop(-1, [])
        requests = [self._track(self._write(node, batches)) for node, batches in by_node.items()]
        if requests:
            await asyncio.wait(requests)
        answers = {batch: outcome for request in requests for batch, outcome in request.result().items()}
        refusals = {batch: outcome for batch, outcome in answers.items() if isinstance(outcome, kafka.KafkaError)}
        for batch, refusal in refusals.items():
            if isinstance(refusal, SIZE_ERRORS):
                raise RecordTooLarge(batch.place.topic, batch.size_bytes, None) from refusal
            if not refusal.retriable:
                raise refusal
            self.held_up_by = f"{batch.place.topic}-{batch.place.partition}: {refusal!r}"
        for batch in leaderless:
            self.held_up_by = f"{batch.place.topic}-{batch.place.partition} has no leader"
        if leaderless or any(refusal.invalid_metadata for refusal in refusals.values()):
            await self.client.force_metadata_update()
        return {batch: outcome for batch, outcome in answers.items() if isinstance(outcome, int)}

    async def _write(self, node: int, batches: list[RecordBatch]) -> dict[RecordBatch, int | kafka.KafkaError]:
        by_topic: dict[str, list[tuple[int, Any]]] = defaultdict(list)
        for batch in batches:
            sealed = batch.seal(self._producer_id, self._epoch, self._sequences)
            by_topic[batch.place.topic].append((batch.place.partition, sealed))
        request = ProduceRequest(self._transactional_id, self._request_timeout_ms, list(by_topic.items()))
        try:
            answer = await self._send(node, request, ConnectionGroup.DEFAULT)
        except kafka.KafkaError as error:
            return dict.fromkeys(batches, error)
        outcomes = {
            TopicPartition(topic, partition): self._outcome(topic, code, offset)
            for topic, parts in answer.topics
            for partition, code, offset, *_ in parts
        }
        missing = kafka.KafkaError(f"broker {node} did not say what became of a batch")
        return {batch: outcomes.get(batch.place, missing) for batch in batches}

    def _outcome(self, topic: str, code: int, offset: int) -> int | kafka.KafkaError:
        """The offset, or why there is none."""
        if code in (kafka.NoError.errno, kafka.DuplicateSequenceNumber.errno):
            return offset
        return self._refusal(code, {topic})

    def _refusal(self, code: int, names: set[str]) -> kafka.KafkaError:
        """What the code means, with what it was said of."""
        if code in LOST_PRODUCER:
            return kafka.ProducerFenced()
        kind = kafka.for_code(code)
        if kind is kafka.UnknownError:
            return kind(f"error code {code}")
        if kind is kafka.TopicAuthorizationFailedError:
            return kind(names)
        if kind is kafka.TransactionalIdAuthorizationFailed:
            return kind(self._transactional_id)  # whatever it was said of
        return kind(*names) if kind is kafka.GroupAuthorizationFailedError else kind()

    # -- asking coordinators ------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        return {
            "transactional_id": self._transactional_id,
            "producer_id": self._producer_id,
            "producer_epoch": self._epoch,
        }

    async def _ask_transaction_coordinator(self, request: Any, codes: Codes | None = None) -> Any:
        codes = codes or (lambda answer: [(self._transactional_id, answer.error_code)])
        return await self._ask(CoordinationType.TRANSACTION, self._transactional_id, request, codes)

    async def _ask(
        self,
        role: CoordinationType,
        key: str,
        request: Any,
        codes: Codes,
        refusal: Callable[[int], Exception | None] = lambda _: None,
    ) -> Any:
        """The answer, once the coordinator has done it."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            node = await self._coordinator(role, key)
            try:
                answer = await self._send(node, request, ConnectionGroup.COORDINATION)
            except kafka.KafkaError as error:
                if not error.retriable:
                    raise
                self._coordinators.pop((role, key), None)
                self.held_up_by = f"{type(request).__name__}: {error!r}"
            else:
                refused = [(code, name) for name, code in codes(answer) if code]
                if not refused:
                    self.held_up_by = ""
                    return answer
                for code, _ in refused:
                    if code not in RETRIED and code != NOT_ATTEMPTED:
                        raise refusal(code) or self._refusal(code, {name for each, name in refused if each == code})
                self.held_up_by = f"{refused[0][1]}: {kafka.for_code(refused[0][0])()!r}"
                if any(code in COORDINATOR_MOVED for code, _ in refused):
                    self._coordinators.pop((role, key), None)
            await self._pause(backoff_s)
            backoff_s = min(2 * backoff_s, self._backoff_s)

    async def _pause(self, seconds: float) -> None:
        """Before asking again."""
        if self._aborting and asyncio.current_task() in self._under_way:
            raise kafka.KafkaError(f"the transaction is being aborted; {self.held_up_by}")
        await asyncio.sleep(seconds)

    async def _send(self, node: int, request: Any, group: ConnectionGroup) -> Any:
        with _errors_of_kafka(f"sending {type(request).__name__}"):
            return await self.client.send(node, request, group=group)

    async def _coordinator(self, role: CoordinationType, key: str) -> int:
        """The node that it is at, which can be connected to."""
        known = self._coordinators.get((role, key))
        if known is not None:
            return known
        while True:
            if self.client.get_random_node() is None:
                raise kafka.NodeNotReadyError("no broker is known")
            try:
                with _errors_of_kafka(f"looking for the coordinator of {key}"):
                    node: int = await self.client.coordinator_lookup(role, key)
                    if await self.client.ready(node, group=ConnectionGroup.COORDINATION):
                        self._coordinators[role, key] = node
                        return node
            except (kafka.TransactionalIdAuthorizationFailed, kafka.GroupAuthorizationFailedError) as error:
                raise type(error)(key) from error
            except (kafka.CoordinatorNotAvailableError, kafka.NodeNotReadyError, kafka.RequestTimedOutError):
                await self.client.force_metadata_update()
            await self._pause(self._backoff_s)

    def _track(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._untrack)
        return task

    def _untrack(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # else it would be logged as never retrieved where another error came first


class AnnouncedEndTxnRequest(EndTxnRequest):  # type: ignore[misc]  # aiokafka ships no types
    """An EndTxn that tells once when its bytes have gone to the socket and no answer has been read.

    `build` runs in the same turn of the event loop as the write. A callback for the next turn runs ahead of the
    callbacks of sockets that this turn finds readable, and so ahead of the answer.
    """

    def __init__(self, announce: Callable[[], None], **fields: Any) -> None:
        super().__init__(**fields)
        self._announce: Callable[[], None] | None = announce

    def build(self, request_struct_class: type[Any]) -> Any:
        announce, self._announce = self._announce, None
        if announce is not None:
            asyncio.get_running_loop().call_soon(announce)
        return super().build(request_struct_class)


@contextlib.contextmanager
def _errors_of_kafka(what: str) -> Iterator[None]:
    """Aiokafka looks connections up that have gone meanwhile. Opening anew mends that, whatever came of it."""
    try:
        yield
    except kafka.KafkaError:
        raise
    except Exception as error:
        raise kafka.KafkaError(f"{what} failed: {error!r}") from error
