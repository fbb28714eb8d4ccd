"""Opening a partition: local state, then the changelog to its end. There is no other way to begin or to recover."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import structlog

from conditions.definitions import Definitions, compile_definitions
from conditions.documents import SegmentDocument
from conditions.segments import SegmentCompiler
from state.changelog import OtherLineage, Position, Restorer, read_checkpoint, read_position
from state.definitions_record import memberships_fingerprint, remember_segments
from state.engine import Marker, read_marker
from state.rocksdb_store import RocksdbStore, block_cache, move_aside
from state.store import StateError, UnreadableStateError
from streams.application_topics import look_at_topics, partitioned_outputs
from streams.backfill import history_from_ms
from streams.definitions import DefinitionsFollower
from streams.kafka.changelog import ChangelogBatch, RestoreOptions, restore
from streams.kafka.errors import ChangelogGone, Refused, StreamsError
from streams.kafka.open_transactions import open_writers
from streams.kafka.security import Connection
from streams.kafka.transactions import end_transaction_of
from streams.metrics import Metrics
from streams.outgoing import changelog_topic
from streams.pace import Pace
from streams.partition import Partition
from streams.redefining import Background
from streams.settings import Settings

log = structlog.get_logger(__name__)

LIVE = "live"  # the fingerprint of definitions that are followed as they change
# Half of delete.retention.ms, whose default is a day: tombstones that older state has not seen may be compacted away.
OLDEST_STATE_MS = 12 * 3_600_000

FOLDER_STEM = "partition-"
STANDBY_EVERY_S = 1.0
STANDBY_AGAIN_S = 5.0
ENDING_ATTEMPTS = 10
ENDING_AGAIN_S = 1.0


def local_partitions(data_dir: Path) -> list[int]:
    """The partitions with local state in the folder, whatever its worth."""
    found = (each.name.removeprefix(FOLDER_STEM) for each in data_dir.glob(f"{FOLDER_STEM}*"))
    return sorted(int(number) for number in found if number.isdigit())


class Opener:
    """Opens partitions of one worker; keeps warm copies of others."""

    def __init__(
        self,
        settings: Settings,
        segments: Sequence[SegmentDocument] | None,
        connection: Connection,
        transactional_id: str,
        metrics: Metrics,
        follower: DefinitionsFollower | None = None,
    ) -> None:
        """`segments` are fixed for the worker's life; for None the `follower` tells them, as they change."""
        self._settings = settings
        self._segments = segments
        self._connection = connection
        self._transactional_id = transactional_id
        self._metrics = metrics
        self._topic = changelog_topic(settings)
        self._cache = block_cache(settings.block_cache_bytes)
        self._follower = follower
        self._background = Background(connection, Pace(settings.backfill_share), SegmentCompiler())
        self.definitions: Definitions | None = None
        self.fingerprint = LIVE
        if segments is not None:
            self.definitions = compile_definitions(segments)
            self.fingerprint = memberships_fingerprint(segments)
        self._standbys: dict[int, asyncio.Task[None]] = {}
        self.failure: BaseException | None = None  # what ended a standby that should have gone on for ever

    async def check_topics(self) -> int:
        """How many partitions each input has. Raises Refused where the topics do not fit together, or not to the state.

        The definitions topic is left out: without it partitions go on with the segments that are known.
        """
        findings = await look_at_topics(self._settings, self._connection, partitioned_outputs(self._settings))
        findings.require_no_error()
        return findings.partitions

    async def open(self, number: int, epoch: int, held: Partition | None) -> Partition:
        """The partition, its state restored to the end of the changelog. `held` is the same one, opened before.

        Raises StreamsError and StateError; the store is closed then, that of `held` too.
        """
        await self._stop_standbys({number})
        self._metrics.restarts.labels("again" if held is not None else "assigned").inc()
        if held is not None and self._usable_position(held.store) is None:
            held.close()  # nobody is to go on counting in a state that is made anew
            held = None
        store = held.store if held is not None else self._open_local(number)
        try:
            store = await self._restored(number, store)
            self._require_definitions(number, store)
            if self._segments is not None:
                remember_segments(store, self._segments)
            background = await self._prepared(number, read_marker(store) or Marker())
        except BaseException:
            store.close()
            if held is not None:
                held.close()
            raise
        checkpoint = read_checkpoint(store)
        lineage = checkpoint.lineage if checkpoint is not None else uuid4().hex
        if held is not None and held.store is store:
            held.reset(epoch, lineage)
            return held
        if held is not None:
            held.close()  # its state was moved aside, and what goes on in the background works for that
        return Partition(number, epoch, lineage, store, self._settings, background, self.definitions)

    async def _prepared(self, number: int, marker: Marker) -> Background:
        """Wait until this worker's definitions are as new as the partition's, and see where a new one begins."""
        if self._follower is None:
            return self._background
        if self._follower.position < marker.definitions:
            await self._follower.catch_up()
        if self._follower.position < marker.definitions:
            raise Refused(
                f"topic {self._settings.definitions_topic} ends at offset {self._follower.position}, and the state of "
                f"partition {number} was made with definitions up to {marker.definitions}: it was probably deleted and "
                f"created anew. Rebuild the state: `rollcall worker --app-id {self._settings.app_id}-2 …`"
            )
        if marker.applied:
            return self._background
        begins_ms = await history_from_ms(number, self._settings.topics, self._connection, _now_ms())
        return self._background._replace(begins_ms=begins_ms)

    def folder(self, number: int) -> Path:
        return self._settings.data_dir / f"{FOLDER_STEM}{number}"

    async def follow(self, numbers: frozenset[int]) -> None:
        """Keep warm copies of these partitions, and of no others."""
        await self._stop_standbys(set(self._standbys) - numbers)
        for number in numbers - set(self._standbys):
            task = self._standbys[number] = asyncio.create_task(self._keep_warm(number))
            task.add_done_callback(self._note_end)

    async def close(self) -> None:
        """Stop following."""
        await self._stop_standbys(set(self._standbys))

    async def _stop_standbys(self, numbers: set[int]) -> None:
        """On return the stores are closed, so that they can be opened again."""
        tasks = [self._standbys.pop(number) for number in numbers & set(self._standbys)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self.failure = task.exception()

    async def _keep_warm(self, number: int) -> None:
        """Follow the changelog until cancelled, whatever Kafka and the disk do meanwhile."""
        while True:
            try:
                await self._follow_changelog(number)
            except (StreamsError, StateError) as error:
                log.warning("standby_failed", partition=number, error=str(error), again_in_s=STANDBY_AGAIN_S)
                await asyncio.sleep(STANDBY_AGAIN_S)

    async def _follow_changelog(self, number: int) -> None:
        store = self._open_local(number)
        try:
            while True:
                store = await self._restored(number, store, ends_transactions=False)
                await asyncio.sleep(STANDBY_EVERY_S)
        finally:
            store.close()

    def _open_local(self, number: int) -> RocksdbStore:
        folder = self.folder(number)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            return RocksdbStore.open(folder, cache=self._cache)
        except UnreadableStateError as error:
            log.warning("state_moved_aside", partition=number, folder=str(move_aside(folder)), error=str(error))
            return RocksdbStore.open(folder, cache=self._cache)

    async def _restored(self, number: int, store: RocksdbStore, *, ends_transactions: bool = True) -> RocksdbStore:
        try:
            await self._restore(number, store, ends_transactions)
        except (ChangelogGone, OtherLineage) as error:
            store.close()
            log.warning(
                "state_moved_aside", partition=number, folder=str(move_aside(self.folder(number))), error=str(error)
            )
            store = RocksdbStore.open(self.folder(number), cache=self._cache)
            try:
                await self._restore(number, store, ends_transactions)
            except BaseException:
                store.close()
                raise
        return store

    async def _restore(self, number: int, store: RocksdbStore, ends_transactions: bool) -> None:
        position = self._usable_position(store)
        if position is None:
            if read_position(store) is not None:
                log.info("state_dropped", partition=number, reason="too old, or of another application")
            store.clear()  # also what a restore that was interrupted has left
        restorer = Restorer(store, self._topic)
        remaining, label = self._metrics.restore_remaining, str(number)

        async def on_batch(batch: ChangelogBatch) -> None:
            restorer.apply(batch.records, batch.position, _now_ms())
            remaining.labels(label).set(batch.total - batch.done)

        async def on_stalled() -> None:
            if ends_transactions:
                await self._end_open_transactions(number)

        restored = await restore(
            self._topic,
            number,
            None if position is None else position.offset,
            on_batch,
            on_stalled,
            connection=self._connection,
            options=RestoreOptions(),
        )
        for _ in restorer.finish(restored.position, _now_ms()):
            await asyncio.sleep(0)
        remaining.labels(label).set(0)
        if ends_transactions:
            log.info(
                "partition_restored", partition=number, records=restored.records, seconds=round(restored.elapsed_s, 2)
            )

    def _usable_position(self, store: RocksdbStore) -> Position | None:
        """How far the store follows the changelog; None where nothing that it holds can be trusted.

        That it was open all the while says nothing: its worker may have been frozen, or cut off, for days.
        """
        position = read_position(store)
        if position is None or position.topic != self._topic or _age_ms(position.written_ms) >= OLDEST_STATE_MS:
            return None
        return position

    async def _end_open_transactions(self, number: int) -> None:
        """The end of the changelog is not committed: its writer is dead, or soon fenced and starts over."""
        for attempt in range(1, ENDING_ATTEMPTS + 1):
            try:
                found = await open_writers(self._topic, number, self._connection)
                for writer in sorted(set(found) - {self._transactional_id}):
                    log.info("ending_transaction", partition=number, writer=writer)
                    await end_transaction_of(writer, self._connection)
                return
            except StreamsError as error:
                # The broker may just have started. At the latest it ends the transaction itself, by its time-out.
                log.warning("ending_transaction_failed", partition=number, attempt=attempt, error=str(error))
                await asyncio.sleep(ENDING_AGAIN_S)

    def _require_definitions(self, number: int, store: RocksdbStore) -> None:
        checkpoint = read_checkpoint(store)
        if checkpoint is None or checkpoint.definitions == self.fingerprint:
            return
        made = "with other segment documents: what it has not counted it cannot know"
        if LIVE in {checkpoint.definitions, self.fingerprint}:
            kinds = ("whose segments were fixed", "that follows the definitions topic")
            made = f"by a worker {kinds[checkpoint.definitions == LIVE]}, this is one {kinds[self.fingerprint == LIVE]}"
        raise StateError(
            f"the state of partition {number} (application {self._settings.app_id!r}) was made {made}. "
            f"Rebuild it from the input topics: `rollcall worker --app-id {self._settings.app_id}-2 …`"
        )


def _age_ms(instant_ms: int) -> int:
    return _now_ms() - instant_ms


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
