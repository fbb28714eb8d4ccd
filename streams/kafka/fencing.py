"""What aiokafka's transactional producer lacks: offsets that the group's generation fences.

aiokafka sends TxnOffsetCommit version 0, with which a worker that lost its partitions can still commit. Version 3
carries the generation and the member under which the records were fetched, and the group coordinator refuses stale
ones (KIP-447). Everything that leans on aiokafka's internals is in this module.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, NoError, for_code
from aiokafka.producer.sender import (
    BACKOFF_OVERRIDE,
    AddOffsetsToTxnHandler,
    AddPartitionsToTxnHandler,
    EndTxnHandler,
    Sender,
    TxnOffsetCommitHandler,
)
from aiokafka.producer.transaction_manager import TransactionResult, TransactionState
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.transaction import EndTxnRequest
from aiokafka.protocol.types import Int16, Int32, Int64

from streams.kafka.errors import Fenced
from streams.kafka.wire import STRING, message, table

CLOSE_TIMEOUT_S = 1.0
CONCURRENT_BACKOFF_S = 0.002

# Error codes of the Kafka protocol. aiokafka knows no names for those above 79.
LOST_MEMBERSHIP = {
    22: "the group is at another generation",
    25: "the group does not know this member any more",
    27: "the group is rebalancing",
    82: "another process took this member's group.instance.id",
    113: "the group is at another member epoch",
}
LOST_PRODUCER = {
    47: "a newer producer took this transactional id, or the broker ended the transaction as too old",
    90: "a newer producer took this transactional id, or the broker ended the transaction as too old",
}
CONCURRENT_TRANSACTIONS = 51
RETRIED = frozenset({3, 7, 14, 15, 16, 51})  # unknown partition, timed out, coordinator loading/gone/moved, concurrent
COORDINATOR_MOVED = frozenset({7, 15, 16})


class Membership(msgspec.Struct, frozen=True):
    """Under which generation and as which member of the group the records of a transaction were fetched."""

    group_id: str
    generation: int
    member_id: str


class TxnOffsetCommitResponseV3(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    SCHEMA = message(
        ("throttle_time_ms", Int32),
        (
            "topics",
            table(("name", STRING), ("partitions", table(("partition_index", Int32), ("error_code", Int16)))),
        ),
    )


class TxnOffsetCommitRequestV3(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = TxnOffsetCommitResponseV3
    SCHEMA = message(
        ("transactional_id", STRING),
        ("group_id", STRING),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", STRING),
        ("group_instance_id", STRING),
        (
            "topics",
            table(
                ("name", STRING),
                (
                    "partitions",
                    table(
                        ("partition_index", Int32),
                        ("committed_offset", Int64),
                        ("committed_leader_epoch", Int32),
                        ("committed_metadata", STRING),
                    ),
                ),
            ),
        ),
    )


class TxnOffsetCommitRequest(Request[TxnOffsetCommitRequestV3]):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 28

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: type[TxnOffsetCommitRequestV3]) -> TxnOffsetCommitRequestV3:
        return request_struct_class(**self._fields, tags={})


class FencedOffsetsHandler(TxnOffsetCommitHandler):  # type: ignore[misc]  # aiokafka ships no types
    """Sends the offsets with the membership; a refusal fails the waiting caller, not the whole sender.

    So the sender lives on to abort the transaction, which aiokafka's own handler cannot.
    """

    def __init__(self, sender: FencingSender, offsets: Mapping[TopicPartition, Any], membership: Membership) -> None:
        super().__init__(sender, offsets, membership.group_id)
        self._membership = membership

    def create_request(self) -> TxnOffsetCommitRequest:
        manager = self._sender._txn_manager
        by_topic: dict[str, list[tuple[int, int, int, str, dict[int, bytes]]]] = defaultdict(list)
        for (topic, partition), offset in sorted(self._offsets.items()):
            by_topic[topic].append((partition, offset.offset, -1, offset.metadata, {}))
        return TxnOffsetCommitRequest(
            transactional_id=manager.transactional_id,
            group_id=self._membership.group_id,
            producer_id=manager.producer_id,
            producer_epoch=manager.producer_epoch,
            generation_id=self._membership.generation,
            member_id=self._membership.member_id,
            group_instance_id=None,
            topics=[(topic, partitions, {}) for topic, partitions in by_topic.items()],
        )

    def handle_response(self, response: TxnOffsetCommitResponseV3) -> float | None:
        """The seconds after which to try again, or None when the offsets are stored or refused."""
        manager = self._sender._txn_manager
        for topic, partitions, _ in response.topics:
            for partition, code, _ in partitions:
                if code == NoError.errno:
                    place = TopicPartition(topic, partition)
                    manager.offset_committed(place, self._offsets[place].offset, self._group_id)
                elif code in RETRIED:
                    if code in COORDINATOR_MOVED:
                        self._sender._coordinator_dead(CoordinationType.GROUP)
                    return float(self._default_backoff)
                else:
                    self._sender.fail_offsets(self._error(code))
                    return None
        return None

    def _error(self, code: int) -> Exception:
        cause = LOST_MEMBERSHIP.get(code) or LOST_PRODUCER.get(code)
        if cause is not None:
            member = self._membership
            return Fenced(
                f"group {member.group_id} refused the offsets of generation {member.generation}, member "
                f"{member.member_id}: {cause}. The partitions have to be opened again under the new assignment."
            )
        refusal: Exception = for_code(code)(self._group_id if code == GroupAuthorizationFailedError.errno else code)
        return refusal


class PromptAddPartitionsHandler(AddPartitionsToTxnHandler):  # type: ignore[misc]  # aiokafka ships no types
    """Looks again soon while the broker still writes the last transaction's end, where aiokafka waits 20 ms."""

    def handle_response(self, response: Any) -> float | None:
        backoff_s: float | None = super().handle_response(response)
        return CONCURRENT_BACKOFF_S if backoff_s == BACKOFF_OVERRIDE else backoff_s


class PromptAddOffsetsHandler(AddOffsetsToTxnHandler):  # type: ignore[misc]  # aiokafka ships no types
    """Looks again soon, as the other one does."""

    def handle_response(self, response: Any) -> float | None:
        backoff_s: float | None = super().handle_response(response)
        return CONCURRENT_BACKOFF_S if response.error_code == CONCURRENT_TRANSACTIONS else backoff_s


class AnnouncedEndTxnRequest(EndTxnRequest):  # type: ignore[misc]  # aiokafka ships no types
    """An EndTxn that tells when its bytes have gone to the socket and no answer has been read.

    `build` runs in the same turn of the event loop as the write. A callback for the next turn runs ahead of the
    callbacks of sockets that this turn finds readable, and so ahead of the answer.
    """

    def __init__(self, announce: Callable[[], None], **fields: Any) -> None:
        super().__init__(**fields)
        self._announce = announce

    def build(self, request_struct_class: type[Any]) -> Any:
        asyncio.get_running_loop().call_soon(self._announce)
        return super().build(request_struct_class)


class AnnouncedCommitHandler(EndTxnHandler):  # type: ignore[misc]  # aiokafka ships no types
    def create_request(self) -> AnnouncedEndTxnRequest:
        manager = self._sender._txn_manager
        return AnnouncedEndTxnRequest(
            self._sender.announce_commit,
            transactional_id=manager.transactional_id,
            producer_id=manager.producer_id,
            producer_epoch=manager.producer_epoch,
            transaction_result=self._commit_result,
        )


class FencingSender(Sender):  # type: ignore[misc]  # aiokafka ships no types
    """aiokafka's sender, with fenced offsets, an announced commit and an end that waits for nothing.

    The group is added to the transaction while the records are on their way; its offsets are sent when asked for.
    """

    membership: Membership | None = None
    on_commit_sent: Callable[[], None] | None = None

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self._under_way: set[asyncio.Task[Any]] = set()

    def fail_offsets(self, error: Exception) -> None:
        """Hand the error to whoever waits for the offsets to be stored."""
        _, _, future = self._txn_manager._pending_txn_offsets.popleft()
        future.set_exception(error)

    def announce_commit(self) -> None:
        """Called when a commit has gone out; only the first attempt of a transaction is passed on."""
        announce, self.on_commit_sent = self.on_commit_sent, None
        if announce is not None:
            announce()

    async def abandon(self) -> None:
        """End at once, whatever is under way; its answers are not waited for."""
        tasks = [*self._under_way, *([self._sender_task] if self._sender_task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _do_add_partitions_to_txn(self, places: set[TopicPartition]) -> None:
        node = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        await PromptAddPartitionsHandler(self, places).do(node)

    async def _do_add_offsets_to_txn(self, group_id: str) -> None:
        node = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        await PromptAddOffsetsHandler(self, group_id).do(node)

    async def _do_txn_offset_commit(self, offsets: Mapping[TopicPartition, Any], group_id: str) -> None:
        assert self.membership is not None
        assert self.membership.group_id == group_id
        try:
            node = await self._find_coordinator(CoordinationType.GROUP, group_id)
        except KafkaError as error:
            self.fail_offsets(error)
            return
        await FencedOffsetsHandler(self, offsets, self.membership).do(node)

    async def _do_txn_commit(self, commit_result: TransactionResult) -> None:
        if commit_result == TransactionResult.ABORT:
            await super()._do_txn_commit(commit_result)
            return
        node = await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)
        await AnnouncedCommitHandler(self, commit_result).do(node)

    def _maybe_do_transactional_request(self) -> asyncio.Task[Any] | None:
        manager = self._txn_manager
        task: asyncio.Task[Any] | None
        if self.membership is not None and manager.txn_partitions and self._lacks_group():
            task = asyncio.create_task(self._do_add_offsets_to_txn(self.membership.group_id))
        else:
            task = super()._maybe_do_transactional_request()
        if task is not None:
            self._track(task)
        return task

    def _lacks_group(self) -> bool:
        manager = self._txn_manager
        return manager.is_in_transaction() and not manager.partitions_to_add() and manager._txn_consumer_group is None

    async def _send_produce_req(self, node_id: int, batches: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._track(task)
        await super()._send_produce_req(node_id, batches)

    def _track(self, task: asyncio.Task[Any]) -> None:
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)


class TransactionalProducer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka ships no types
    """aiokafka's producer over a FencingSender. Use `begin`, `send_offsets`, `commit`, `abandon`, not its own."""

    _closed: bool

    def __init__(self, *, retry_backoff_ms: int, request_timeout_ms: int, **options: Any) -> None:
        super().__init__(
            acks="all", retry_backoff_ms=retry_backoff_ms, request_timeout_ms=request_timeout_ms, linger_ms=0, **options
        )
        self._sender = FencingSender(
            self.client,
            acks=-1,
            txn_manager=self._txn_manager,
            message_accumulator=self._message_accumulator,
            retry_backoff_ms=retry_backoff_ms,
            request_timeout_ms=request_timeout_ms,
        )

    async def begin(self, membership: Membership) -> None:
        """Begin a transaction of records that were fetched under this membership."""
        self._sender.membership = membership
        await self.begin_transaction()

    async def send_offsets(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Add the offsets to the transaction. Raises Fenced when the group refuses the membership."""
        assert self._sender.membership is not None, "begin sets it"
        await self.send_offsets_to_transaction(dict(offsets), self._sender.membership.group_id)

    async def commit(self, on_sent: Callable[[], None]) -> None:
        """Commit; `on_sent` is called once, when the request is on its way and its answer has not been read."""
        self._sender.on_commit_sent = on_sent
        await self.commit_transaction()

    async def abort(self, timeout_ms: int) -> bool:
        """Abort an open transaction; whether none is open now. False also when the broker did not answer in time."""
        if not self._txn_manager.is_in_transaction():
            return bool(self._txn_manager.state == TransactionState.READY)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self.abort_transaction()
        except (KafkaError, TimeoutError):
            return False
        return True

    def root_of(self, error: BaseException) -> BaseException:
        """The error behind `error`: aiokafka's sender dies of one and hands copies of a wrapper to everybody."""
        task = self._sender.sender_task
        if task is not None and task.done() and not task.cancelled():
            error = task.exception() or error
        return error.__cause__ if type(error) is KafkaError and error.__cause__ is not None else error

    async def abandon(self) -> None:
        """Close without flushing or waiting for the broker. An open transaction stays open. May be called twice."""
        if self._closed:
            return
        self._closed = True
        await self._sender.abandon()
        self._forget_transaction()
        # Connections with bytes that a silent broker does not take would be waited for.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.client.close(), CLOSE_TIMEOUT_S)

    def _forget_transaction(self) -> None:
        # An error nobody asked for would be logged when it is collected.
        waiters = [batch._drain_waiter for queue in self._message_accumulator._batches.values() for batch in queue]
        for waiter in [self._txn_manager.wait_for_transaction_end(), *waiters]:
            if waiter is not None and waiter.done() and not waiter.cancelled():
                waiter.exception()
