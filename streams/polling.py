"""Faust's consumer, made to hand over whole polls.

An agent's event is a `Poll`: all records that one fetch returned, for all partitions. It is stamped in the consumer's
thread, in the same turn of its loop in which the records are taken and in which positions are set, so a record fetched
before a partition was opened again can never pass for one fetched after.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, count
from typing import Any

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.consumer.group_coordinator import GroupCoordinator
from faust.serializers.schemas import Schema
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from conditions.times import HOUR_MS
from connectors.json_events import Encoded
from streams.assignor import CopartitionedAssignor
from streams.kafka.errors import NotPermitted, Refused, StreamsError, Unreachable
from streams.kafka.fetching import AskingFetcher
from streams.kafka.security import Connection

log = structlog.get_logger(__name__)

IDLE_POLL_S = 0.05
BOUNDS_TIMEOUT_S = 10.0
FETCH_WAIT_MS = 200
METADATA_EVERY_MS = 10_000  # for so long a topic can have more partitions without anybody noticing


class PositionLost(StreamsError):
    """A log no longer has the offset to read next. Opening the partition again tells what is lost, or refuses it."""

    def __init__(self, lost: Mapping[TopicPartition, int]) -> None:
        places = ", ".join(f"{place.topic}-{place.partition} from offset {offset}" for place, offset in lost.items())
        super().__init__(
            f"{places}: the log no longer has it. Its records were probably deleted before they were read: raise "
            "retention.ms or retention.bytes of the topic"
        )


class Membership(msgspec.Struct, frozen=True):
    """What one rebalance gave this worker, and under which generation and member id."""

    generation: int
    member_id: str
    partitions: frozenset[int]
    standbys: frozenset[int]


class LogEnd(msgspec.Struct, frozen=True, gc=False):
    """What the newest fetch response said of one topic partition, once `delivered` records had been handed over."""

    epoch: int
    delivered: int  # records handed over in this epoch
    reached: bool  # whether they are all that the log has
    asked_ms: int  # wall time at which the request of that response was sent
    behind: int  # offsets from what was handed over to the log's end


class Records(dict[TP, list[Encoded]]):
    """One fetch's records, with the epoch of each partition at the moment they were taken.

    `before` counts the records of each topic partition that were handed over earlier in that epoch.
    """

    epochs: dict[int, int]
    before: dict[TP, int]


# Faust drops, without a word, what does not lie above the last offset it has passed on. Records that are read again
# after a partition was opened anew would be lost so; hence polls are numbered, above every offset there can be.
_poll_numbers = count(1 << 62)


class Poll:
    """All records of one fetch, in the shape of the last record of one of them, which is what Faust passes on."""

    def __init__(self, records: Records) -> None:
        first = next(iter(records))
        *_, timestamp_ms, _offset = records[first][-1]
        self.topic, self.partition = first.topic, first.partition
        self.offset = next(_poll_numbers)
        self.timestamp, self.timestamp_type = timestamp_ms, 0
        self.headers: tuple[Any, ...] = ()
        self.key = None
        self.value = records
        self.checksum = None
        self.serialized_key_size = self.serialized_value_size = 0


class PollScheduler:
    """Faust's ConsumerScheduler: yields one object for a whole poll."""

    def iterate(self, records: Mapping[TP, list[Encoded]]) -> Iterator[tuple[TP, Poll]]:
        if records:
            poll = Poll(records)  # type: ignore[arg-type]  # PollingThread fetches nothing else
            yield TP(poll.topic, poll.partition), poll


class PollSchema(Schema[Any, Any]):
    """Passes the records on as they are."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> None:
        return None

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:
        return message.value


class TellingCoordinator(GroupCoordinator):  # type: ignore[misc]  # aiokafka ships no types
    """Tells what it cannot go on after. aiokafka keeps that for the next `getmany`, which Faust never calls."""

    tell: Callable[[BaseException], None]

    def watch(self, tell: Callable[[BaseException], None]) -> None:
        """Called before it joins the group."""
        self.tell = tell
        self._coordination_task.add_done_callback(self._tell_end)

    def _push_error_to_user(self, exc: BaseException) -> Any:
        self.tell(exc)
        return super()._push_error_to_user(exc)

    def _tell_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.tell(error)


class RebalanceListener(driver.ConsumerRebalanceListener):
    """Takes note of the membership while the group's answer is fresh, before Faust's long chain of callbacks."""

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        places = list(assigned)
        self._thread.note_membership(places)  # type: ignore[attr-defined]  # the thread is a PollingThread
        await super().on_partitions_assigned(places)


class PollingThread(driver.AIOKafkaConsumerThread):
    """The thread with aiokafka's consumer. Only partitions that were positioned are fetched."""

    connection: Connection
    assignor: CopartitionedAssignor
    # Called in the loop of the worker.
    on_end_reached: Callable[[], None]
    on_trouble: Callable[[StreamsError], None]
    on_refused: Callable[[StreamsError], None]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.membership: Membership | None = None
        self.ends: dict[TP, LogEnd] = {}
        self.paused: frozenset[TP] = frozenset()
        self.polled_at = time.monotonic()
        self._epochs: dict[int, int] = {}
        self._delivered: dict[TP, int] = defaultdict(int)

    async def on_start(self) -> None:
        await super().on_start()
        consumer = self._ensure_consumer()
        fetcher, coordinator = consumer._fetcher, consumer._coordinator
        fetcher.asked_ms, fetcher.asked_at = {}, {}
        fetcher.__class__ = AskingFetcher
        coordinator.__class__ = TellingCoordinator
        coordinator.watch(self._note_refusal)

    def _note_refusal(self, error: BaseException) -> None:
        conf = self.app.conf
        refusal = refusal_of(error, conf.id, int(conf.broker_session_timeout * 1000))
        self.parent_loop.call_soon_threadsafe(self.on_refused, refusal)

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        conf = self.app.conf
        return AIOKafkaConsumer(
            **self.connection.arguments(),
            client_id=conf.id,
            group_id=conf.id,
            partition_assignment_strategy=[self.assignor],
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",  # any other moves on past deleted records without a word
            max_poll_interval_ms=HOUR_MS,
            max_partition_fetch_bytes=2 * 1024 * 1024,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            retry_backoff_ms=50,
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            metadata_max_age_ms=METADATA_EVERY_MS,
        )

    def note_membership(self, assigned: Iterable[Any]) -> None:
        """Called in this thread when the group has answered, before anything is fetched under the answer."""
        coordinator = self._ensure_consumer()._coordinator
        self.membership = Membership(
            coordinator.generation,
            coordinator.member_id,
            frozenset(place.partition for place in assigned),
            frozenset(self.assignor.standbys),
        )
        self.polled_at = time.monotonic()  # without partitions nobody polled

    async def seek_to_committed(self) -> dict[TP, int]:
        """Nothing: where to read from is the marker's to say, and `open_partition` has done so or will."""
        return {}

    async def open_partition(self, number: int, epoch: int, offsets: dict[TP, int | None]) -> None:
        """Fetch the partition's topics from these offsets (None: the log's start) under a new epoch.

        Does nothing where the group has taken the partition back. Raises Unreachable, and Refused where a log ends
        before its offset.
        """
        await self.call_thread(self._open_partition, number, epoch, offsets)

    async def _open_partition(self, number: int, epoch: int, offsets: dict[TP, int | None]) -> None:
        consumer = self._ensure_consumer()
        positions = await self._positions(consumer, offsets)
        # From here on without an await: positions and epoch change in one turn.
        if not set(positions) <= set(consumer.assignment()):
            return
        for tp, offset in positions.items():
            consumer.seek(driver.ensure_aiokafka_TP(tp), offset)
            self._delivered[tp] = 0
            self.ends.pop(tp, None)
            consumer._fetcher.asked_ms.pop(tp, None)
        self._epochs[number] = epoch

    async def _positions(self, consumer: Any, offsets: dict[TP, int | None]) -> dict[TP, int]:
        places = [driver.ensure_aiokafka_TP(tp) for tp in offsets]
        try:
            starts = await asyncio.wait_for(consumer.beginning_offsets(places), BOUNDS_TIMEOUT_S)
            ends = await asyncio.wait_for(consumer.end_offsets(places), BOUNDS_TIMEOUT_S)
        except (kafka.KafkaError, TimeoutError) as error:
            servers = self.connection.bootstrap_servers
            raise Unreachable(servers, f"looking up offsets ({error!r})", int(BOUNDS_TIMEOUT_S * 1000)) from error
        return {
            tp: starts[tp] if offset is None else _position(tp, offset, starts[tp], ends[tp])
            for tp, offset in offsets.items()
        }

    def close_partitions(self) -> None:
        """Fetch nothing more until partitions are opened again. May be called from any thread."""
        self._epochs = {}

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: Any,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is Faust's
        max_records: int | None = None,
    ) -> Any:
        self.polled_at = time.monotonic()
        open_places = {tp for tp in active_partitions or () if tp.partition in self._epochs and tp not in self.paused}
        if not self.consumer.flow_active or not open_places:
            await asyncio.sleep(IDLE_POLL_S)
            self._note_ends(consumer)
            return {}
        taken = await self._fetched(consumer, open_places)
        epochs = self._epochs  # read once: the worker's thread puts another in its place at any moment
        records = Records(
            {
                TP(*place): list(chain.from_iterable(batches))
                for place, batches in taken.items()
                if batches and place.partition in epochs
            }
        )
        records.epochs = dict(epochs)
        records.before = {tp: self._delivered[tp] for tp in records}
        for tp, found in records.items():
            self._delivered[tp] += len(found)
        self._note_ends(consumer)
        return records

    async def _fetched(self, consumer: Any, open_places: set[TP]) -> Mapping[Any, Any]:
        taken: Mapping[Any, Any] = {}
        try:
            taken = await super()._fetch_records(consumer, open_places, IDLE_POLL_S)
        except kafka.OffsetOutOfRangeError as error:
            self.close_partitions()
            self.parent_loop.call_soon_threadsafe(self.on_trouble, PositionLost(error.args[0]))
        except kafka.NoOffsetForPartitionError:
            pass  # the group has given it anew, and it is not opened yet
        return taken

    def _note_ends(self, consumer: Any) -> None:
        subscription = consumer._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        if assignment is None:
            return
        news = False
        for place in assignment.tps:
            epoch = self._epochs.get(place.partition)
            state = assignment.state_value(place)
            asked_ms = consumer._fetcher.asked_ms.get(place)
            if epoch is None or state is None or asked_ms is None or not state.has_valid_position:
                continue
            reached = state.highwater is not None and state.position >= state.highwater
            behind = 0 if state.highwater is None else max(0, state.highwater - state.position)
            tp = TP(*place)
            known = self.ends.get(tp)
            news = news or (reached and not (known is not None and known.reached))
            self.ends[tp] = LogEnd(epoch, self._delivered[tp], reached, asked_ms, behind)
        if news:
            # No poll may follow that would tell: a topic that has nothing can be what the others wait for.
            self.parent_loop.call_soon_threadsafe(self.on_end_reached)


def _position(tp: TP, offset: int, start: int, end: int) -> int:
    if offset > end:
        raise Refused(
            f"{tp.topic}-{tp.partition}: the state has applied it up to offset {offset}, but the log ends at {end}: it "
            "was probably deleted and created anew, or lost its end. What was counted before cannot be told from what "
            "comes now: put the topic back, or rebuild under another --app-id"
        )
    if offset < start:
        log.error("records_lost", topic=tp.topic, partition=tp.partition, from_offset=offset, to_offset=start)
    return max(offset, start)


def refusal_of(error: BaseException, group: str, session_timeout_ms: int) -> StreamsError:
    """Why this worker is not in its group, and what mends it."""
    if isinstance(error, kafka.InvalidSessionTimeoutError):
        return Refused(
            f"group {group}: the broker does not take a session_timeout of {session_timeout_ms:,} ms: choose a "
            "--session-timeout between its group.min.session.timeout.ms and group.max.session.timeout.ms (6,000 and "
            "1,800,000 ms unless it sets them)"
        )
    if isinstance(error, kafka.InconsistentGroupProtocolError):
        return Refused(
            f"group {group} is in use by another application, whose members share out partitions in another way: "
            "choose another --app-id, or end those members"
        )
    if isinstance(error, kafka.GroupAuthorizationFailedError):
        return NotPermitted(f"group {group}: this Kafka user may not join it", f"--operation Read --group {group}")
    return Refused(f"the consumer of group {group} ended by itself: {error!r}; start the worker again")


class PollingConsumer(driver.Consumer):
    """Faust's consumer over a PollingThread."""

    RebalanceListener = RebalanceListener

    def _new_consumer_thread(self) -> PollingThread:
        return PollingThread(self, loop=self.loop, beacon=self.beacon)


class PollingTransport(driver.Transport):
    """Faust's transport with a PollingConsumer."""

    Consumer = PollingConsumer
