"""The worker: opens partitions, decides batches, commits each with all it causes, and starts over after any trouble.

One loop does it all, so nothing here needs a lock but the one that a rebalance waits for. The numbered steps of a
commit are in `_commit`; `_start_openings` is the only way into processing a partition.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress

import msgspec
import structlog
from aiokafka import TopicPartition

from state.changelog import Checkpoint, Position, add_checkpoint, add_position
from state.engine import BatchResult
from streams.answers import PartitionAnswers
from streams.kafka.errors import (
    CommitFailed,
    CommitUnknown,
    Fenced,
    MetadataBehind,
    RestoreStuck,
    StreamsError,
    Unreachable,
)
from streams.kafka.transactions import FencedProducer, Outgoing
from streams.memory import collect_garbage
from streams.metrics import Metrics
from streams.opening import Opener
from streams.openings import Openings
from streams.outgoing import changelog_topic, outgoing
from streams.partition import Partition, RecordsMissing
from streams.polling import Membership, PollingThread, PositionLost, Records
from streams.redefining import Redefining, WantedDefinitions
from streams.settings import Settings
from streams.trouble import Trouble
from streams.unread import UnreadRecords
from streams.wall_time import wall_time_ms

log = structlog.get_logger(__name__)

TICK_S = 0.02  # how often it looks whether a deadline is due, when nothing else wakes it
LONG_TURN_S = 2.0  # many segments take seconds to compile, for each partition
# Of all partitions together. A topic's share is more than records of a usual size come to, but of 1 MiB each those of
# one batch would be gigabytes.
BUFFERED_BYTES = 256 << 20
TRANSACTION_BYTES = 64 << 20  # and one batch more: brokers have to take it in time
AHEAD_RECORDS = 500  # fewer are decided in less time than a transaction takes
TRANSIENT = (
    CommitFailed,
    CommitUnknown,
    Fenced,
    MetadataBehind,
    PositionLost,
    RecordsMissing,
    RestoreStuck,
    Unreachable,
)


class Decided(msgspec.Struct):
    """One partition's batch on its way into a transaction."""

    partition: Partition
    result: BatchResult


class Worker:
    """Processes the partitions that the group gives it. `run` returns after `stop`; it raises what cannot be mended.

    `on_step` is called at "computed", at each step of the transaction, at "before_write" and "written" of the local
    write: where a test may want the process to die. Partitions that take changed definitions call theirs, each before
    what was decided is committed: "definitions_begun", "erasures_read", "history_folded", "definitions_in_force" and
    "customers_scanned".
    """

    def __init__(
        self,
        settings: Settings,
        producer: FencedProducer,
        opener: Opener,
        metrics: Metrics,
        on_step: Callable[[str], None] = lambda _: None,
        wanted: WantedDefinitions | None = None,
    ) -> None:
        self._settings = settings
        self._wanted = wanted
        self._producer = producer
        self._opener = opener
        self._metrics = metrics
        self._on_step = on_step
        self.thread: PollingThread | None = None
        self._partitions: dict[int, Partition] = {}
        self._membership: Membership | None = None
        self._openings = Openings(opener, self.wake)
        self._in_flight: asyncio.Task[None] | None = None
        self._decides = False  # whether the last step decided anything
        self._stepping = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._awake = asyncio.Event()
        self._trouble = Trouble()
        self._connected = False
        self._failure: BaseException | None = None
        self._unread: StreamsError | None = None
        self._unread_records = UnreadRecords()
        self.progress_at = time.monotonic()

    # -- what Faust calls ---------------------------------------------------------------------------------------------

    async def receive(self, records: Records) -> None:
        """One poll, from the agent. It never waits: a topic of which enough is buffered is not fetched."""
        try:
            self._take(records)
        except RecordsMissing as error:
            self._unread = error
        self._pause_full()
        self.wake()

    def fail_to_read(self, error: StreamsError) -> None:
        """What the consumer could not read on with."""
        self._unread = error
        self.wake()

    def fail(self, error: StreamsError) -> None:
        """End with this error, also where the worker only waits to be let into its group."""
        self._failure = self._failure or error
        self.stop()

    async def revoked(self) -> None:
        """Give up everything, once what is being committed is settled. Called before the group reassigns."""
        self._fetcher.close_partitions()
        self._metrics.ready.set(0)
        async with self._stepping:
            lost = self._membership
            self._membership = None
            try:
                await self._cancel_openings()
                await self._settle()
            except TRANSIENT as error:
                log.info("commit_lost_to_rebalance", error=str(error))
            except Exception as error:  # noqa: BLE001 - Faust would swallow it; `run` raises it
                self._failure = error
        if lost is not None:
            log.info("partitions_revoked", partitions=sorted(lost.partitions), generation=lost.generation)

    async def assigned(self) -> None:
        """Open what the group gave, in the background."""
        async with self._stepping:
            self._membership = membership = self._fetcher.membership
            if membership is None:
                return
            log.info("partitions_assigned", partitions=sorted(membership.partitions), generation=membership.generation)
            try:
                for number in set(self._partitions) - membership.partitions:
                    self._partitions.pop(number).close()
                await self._opener.follow(membership.standbys)
                self._start_openings(membership)
            except Exception as error:  # noqa: BLE001 - Faust would swallow it; `run` raises it
                self._failure = error

    # -- how it stands ------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether every assigned partition is open, and the topics are as they should be."""
        return (
            not self._stopping.is_set()
            and self._membership is not None
            and not self._openings.is_checking
            and set(self._partitions) == self._membership.partitions
        )

    def observe(self) -> None:
        """Bring those metrics up to date that tell how things stand, and not what was done.

        Of this worker's own partitions only: what the group takes back, another one tells.
        """
        membership = self._membership
        owned = frozenset[int]() if membership is None else membership.partitions
        self._metrics.keep_only(owned, frozenset() if membership is None else membership.standbys)
        for number in owned & self._partitions.keys():
            self._observe_partition(number, self._partitions[number])
        self._metrics.definitions_waiting.clear()
        for number, waits in self._redefines.items():
            if number in owned:
                self._metrics.definitions_waiting.labels(str(number)).set(waits)

    @property
    def _redefines(self) -> dict[int, bool]:
        """Of each open partition that can take changed definitions, whether it still has to."""
        wanted = self._wanted
        return {
            number: wanted is not None and redefining.is_behind(wanted)
            for number, redefining in self.redefinitions().items()
        }

    def _observe_partition(self, number: int, partition: Partition) -> None:
        marker, metrics, label = partition.engine.marker, self._metrics, str(number)
        metrics.lag.labels(label).set(partition.lag(self._fetcher.ends))
        metrics.deadlines_late.labels(label).set(partition.engine.is_behind(marker.clock_ms))
        metrics.customers.labels(label).set(marker.customers)
        if marker.clock_ms:  # it has none before its first record
            metrics.clock.labels(label).set(marker.clock_ms / 1000)

    @property
    def answers(self) -> dict[int, PartitionAnswers]:
        """What can be asked of each open partition."""
        return {number: partition.answers for number, partition in sorted(self._partitions.items())}

    @property
    def assigned_partitions(self) -> frozenset[int] | None:
        """What the group gave this worker, open or not; None: it has not said yet, or takes it back."""
        return None if self._membership is None else self._membership.partitions

    @property
    def owners(self) -> Mapping[int, str]:
        """The URL of each partition's owner, empty where that tells none; nothing where the group does not tell."""
        return self._fetcher.assignor.owners

    def redefinitions(self) -> dict[int, Redefining]:
        """What takes changed definitions into each open partition."""
        return {
            number: partition.redefining
            for number, partition in sorted(self._partitions.items())
            if partition.redefining is not None
        }

    @property
    def stuck_s(self) -> float:
        """For how long nothing has moved that should move all the time."""
        # Faust polls only while the group has given partitions.
        polls = self.ready and bool(self._partitions)
        moved_at = min(self.progress_at, self._fetcher.polled_at) if polls else self.progress_at
        return time.monotonic() - moved_at

    @property
    def waiting_for(self) -> str:
        """Why it is not ready, in words."""
        if self._stopping.is_set():
            return "stopping"
        if not self._connected:
            return "Kafka does not answer yet"
        if self._membership is None:
            return "the group has assigned no partitions yet"
        missing = sorted(self._membership.partitions - set(self._partitions))
        if not missing:
            return "looking whether the topics are as they should be"
        return f"restoring partitions {', '.join(map(str, missing))}"

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect to Kafka, however long that takes, and end what this worker left open when it last died."""
        await self._reopen_producer()
        self._connected = True

    async def run(self) -> None:
        """Process until `stop`. Raises StreamsError or StateError where trying again would not help."""
        try:
            while not self._stopping.is_set():
                await self._turn()
            if self._failure is not None:
                raise self._failure
        finally:
            await self._close()

    def stop(self) -> None:
        """Finish the batch, commit it and close."""
        self._stopping.set()
        self.wake()

    def wake(self) -> None:
        """Look at once whether there is something to do."""
        self._awake.set()

    async def unless_stopped(self, work: Awaitable[object]) -> bool:
        """Wait for the work, but no longer than until `stop`; whether it was done. Raises what it raises."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if task.done():
            task.result()
            return True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False

    async def _turn(self) -> None:
        failure = self._failure or self._opener.failure
        if failure is not None:
            raise failure
        with suppress(TimeoutError):
            await asyncio.wait_for(self._awake.wait(), TICK_S)
        self._awake.clear()
        async with self._stepping:
            try:
                self._require_all_records()
                await self._adopt_opened()
                await self._step()
                collect_garbage()
                self.progress_at = time.monotonic()
            except TRANSIENT as error:
                await self._start_over(error)

    def _take(self, records: Records) -> None:
        now_ms = wall_time_ms()
        for tp, found in records.items():
            partition = self._partitions.get(tp.partition)
            if partition is not None and partition.epoch == records.epochs[tp.partition]:
                partition.receive(tp.topic, found, records.before[tp], now_ms)

    def _require_all_records(self) -> None:
        unread, self._unread = self._unread, None
        if unread is not None:
            raise unread

    def _pause_full(self) -> None:
        partitions = self._partitions.values()
        share_bytes = BUFFERED_BYTES // max(1, len(partitions) * len(self._settings.topics))
        self._fetcher.paused = frozenset(tp for each in partitions for tp in each.full(share_bytes))

    # -- deciding and committing --------------------------------------------------------------------------------------

    async def _step(self) -> None:
        membership = self._membership
        # While little waits, whatever comes until the transaction under way has ended may as well join the next.
        if membership is None or sum(each.waiting for each in self._partitions.values()) < AHEAD_RECORDS:
            await self._settle()
            await self._begin_early()
        decided = [] if membership is None else await self._decide()
        self._decides = bool(decided)
        self._pause_full()
        if membership is None or not decided:
            await self._settle()
            await self._producer.withdraw()
            return
        self._on_step("computed")
        # A large batch was decided while the last one committed, on top of its uncommitted writes.
        await self._settle()
        self._in_flight = asyncio.create_task(self._commit(decided, membership))
        self._in_flight.add_done_callback(lambda _: self.wake())

    async def _begin_early(self) -> None:
        # Records that wait for those of another topic come to nothing, poll after poll, until that has some.
        waiting = [number for number, each in self._partitions.items() if each.waiting] if self._decides else []
        # A step towards many changed segments may take longer than a broker leaves a transaction open.
        if waiting and self._membership is not None and not any(self._redefines.values()):
            self._producer.begin_early(waiting, self._settings.app_id)
            await asyncio.sleep(0)  # so that it is on its way before anything is decided

    async def _decide(self) -> list[Decided]:
        """The next batch of each partition in turn.

        Of some only where that takes long, as a transaction waits meanwhile, or where the next one has enough to write.
        """
        decided: list[Decided] = []
        began, written_bytes = time.monotonic(), 0
        for number, partition in tuple(self._partitions.items()):
            if time.monotonic() - began > LONG_TURN_S or written_bytes >= TRANSACTION_BYTES:
                break
            self._partitions[number] = self._partitions.pop(number)  # to the end: next time the others come first
            # First the definitions: a new partition's first events are to find them there.
            step = partition.redefine(self._wanted, wall_time_ms())
            live = partition.decide(self._fetcher.ends, wall_time_ms(), len(self._partitions))
            results = [result for result in (step, live) if result is not None]
            if results:
                decided += [Decided(partition, result) for result in results]
                written_bytes += sum([result.written_bytes for result in results])
                await asyncio.sleep(0)  # the transaction under way has waited for the loop
        return decided

    async def _settle(self) -> None:
        """Wait for the transaction that is under way. Raises what it failed with."""
        task, self._in_flight = self._in_flight, None
        if task is not None:
            await task
            self._trouble.over()

    async def _commit(self, decided: list[Decided], membership: Membership) -> None:
        records = [record for each in decided for record in self._outgoing(each)]
        offsets = {tp: offset for each in decided for tp, offset in _offsets(each, self._settings.topics).items()}
        began = time.monotonic()
        # 1. to 3. One transaction: records, then offsets under the membership they were fetched under, then the end.
        try:
            written = await self._producer.commit(
                records, offsets, self._settings.app_id, membership.generation, membership.member_id
            )
        except StreamsError:
            self._metrics.transaction_failures.inc()
            raise
        self._metrics.transaction_seconds.observe(time.monotonic() - began)
        # 4. Only what the log holds is written to the local state, so that it is never ahead.
        self._on_step("before_write")
        # A partition's last batch of the transaction says so: until that is written, restoring begins where it did.
        last = {each.partition.number: each for each in decided}
        for each in decided:
            number = each.partition.number
            if last[number] is each:
                offset = written[TopicPartition(changelog_topic(self._settings), number)] + 1
                add_position(each.result.writes, Position(changelog_topic(self._settings), offset, wall_time_ms()))
            each.partition.commit(each.result)
        self._on_step("written")
        for each in decided:
            self._metrics.count(each.result)
            self._unread_records.note(each.result.rejected)

    def _outgoing(self, decided: Decided) -> list[Outgoing]:
        checkpoint = Checkpoint(
            decided.result.marker,
            self._producer.transactional_id,
            self._opener.fingerprint,
            decided.partition.lineage,
            self._openings.partition_count,
        )
        add_checkpoint(decided.result.writes, checkpoint)
        return outgoing(decided.result, decided.partition.number, checkpoint, decided.partition.parts, self._settings)

    # -- opening, and opening again -----------------------------------------------------------------------------------

    def _start_openings(self, membership: Membership) -> None:
        """Open every assigned partition anew; nothing fetched or decided before counts."""
        self._unread = None
        self._openings.start({number: self._partitions.pop(number, None) for number in sorted(membership.partitions)})

    async def _adopt_opened(self) -> None:
        """Begin to fetch for partitions that are open now. Raises what `Openings.opened` raises."""
        for partition in self._openings.opened():
            self._partitions[partition.number] = partition
            await self._fetcher.open_partition(partition.number, partition.epoch, partition.positions())
        self._metrics.ready.set(self.ready)

    async def _start_over(self, error: StreamsError) -> None:
        """After any unclean end: a new producer, and every partition from what was committed."""
        self._trouble.note(error)
        self._fetcher.close_partitions()
        await self._cancel_openings()
        if self._in_flight is not None:
            with suppress(StreamsError):
                await self._settle()
        await self._pause(self._trouble.pause_s)
        await self._reopen_producer()
        if self._membership is not None:
            self._start_openings(self._membership)

    async def _reopen_producer(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._producer.reopen()
                return
            except TRANSIENT as error:
                self._trouble.note(error)
                await self._pause(self._trouble.pause_s)
                self.progress_at = time.monotonic()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _cancel_openings(self) -> None:
        """On return each partition is held again, or its store is closed."""
        self._partitions.update(await self._openings.cancel())

    async def _close(self) -> None:
        self._fetcher.close_partitions()
        with suppress(*TRANSIENT):  # what was not committed is decided again by the partition's next owner
            await self._settle()
        await self._cancel_openings()
        for partition in self._partitions.values():
            partition.close()
        self._partitions.clear()
        await self._opener.close()
        await self._producer.stop()

    @property
    def _fetcher(self) -> PollingThread:
        assert self.thread is not None, "the worker runs only inside a started Faust app"
        return self.thread


def _offsets(decided: Decided, topics: Iterable[str]) -> dict[TopicPartition, int]:
    """The next offset of every topic of the partition: without offsets a transaction would not be fenced."""
    applied = decided.result.marker.applied
    return {TopicPartition(topic, decided.partition.number): applied.get(topic, -1) + 1 for topic in topics}
