"""What one open partition can be asked beside its work: customers, sizes, what changed lately, previews.

Nothing is counted or read back before somebody asks; then it goes on in the background, between batches, and what is
committed meanwhile is followed. Between two awaits nothing is committed, so an answer sees one instant.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
import structlog
from aiokafka import errors as kafka

from conditions.changes import Change
from conditions.documents import SegmentDocument
from conditions.times import DAY_MS, HOUR_MS, format_time
from state.activity import LAST_DAY, LAST_HOUR, Activity
from state.cache import read_customers
from state.engine import BatchResult, Marker, PartitionEngine, read_marker
from state.lookup import CommittedState
from state.preview import Preview, SamplePreview, preview_features
from state.redefinition import read_coverage
from state.sampling import CustomerSample
from state.store import StateError
from state.tally import Tally
from streams.changes_reader import Take
from streams.wall_time import wall_time_ms

log = structlog.get_logger(__name__)

COUNTED_CUSTOMERS = 500  # between two batches
COUNTING_SHARE = 0.2  # of the time
ASKED_CUSTOMERS = 200
ATTEMPTS = 5
AGAIN_S = 1.0

MOST_SAMPLED = 10_000
SAMPLE_LIFE_S = 300.0
SAMPLING_S = 3.0
PASSED_KEYS = 2_000


class OlderChanges(Protocol):
    """Reads what was changed before, see `changes_reader.ChangesReader`."""

    async def read_backwards(self, since_ms: int, take: Take) -> None: ...


class DefinitionsChanged(Exception):
    """What a preview reads was given up while it read; asking again mends that."""


class Flow(msgspec.Struct):
    """How many entered and left since the instant."""

    since: str
    entered: int
    left: int


class SegmentNumbers(msgspec.Struct):
    """One segment in one partition. `version` is the one in force, None where there is none.

    `size` is None until all `customers` were counted, and `counted` tells how many were. `counted_from` is the instant
    from which on entered and left are complete; None: nothing is missing.
    """

    version: int | None
    size: int | None
    counted: int
    customers: int
    last_hour: Flow
    last_day: Flow
    counted_from: str | None


class LastChanges(msgspec.Struct):
    """A customer's newest changes, and since when there is no other one (None: never)."""

    changes: list[Change]
    looked_back_to: str | None


class PartitionPreview(msgspec.Struct):
    """A preview over a sample of the partition's customers, as of its time `at`.

    `sampled_from` is of how many customers the sample was drawn: of all, unless that would have taken too long.
    """

    partition: int
    at: str
    customers: int
    sampled_from: int
    sample: SamplePreview


class PartitionAnswers:
    """Belongs to an open partition, which tells it of every commit."""

    def __init__(self, number: int, engine: PartitionEngine, new_reader: Callable[[], OlderChanges]) -> None:
        self.number = number
        self._engine = engine
        self._new_reader = new_reader
        self._sequence = engine.marker.sequence
        self._state: CommittedState | None = None
        self._moved = asyncio.Event()  # something was committed, or what was not is forgotten
        self._forget()

    # -- what the partition tells -------------------------------------------------------------------------------------

    def committed(self, result: BatchResult) -> None:
        """The store holds this result now."""
        self._sequence = result.marker.sequence
        self._moved.set()
        if self._tally is not None:
            self._tally.committed(result.changes)
        if self._activity is not None:
            self._activity.committed(result.changes)

    def reopened(self) -> None:
        """The partition was restored. What was counted still holds if no other worker has decided changes meanwhile."""
        self._moved.set()
        if self._engine.marker.sequence != self._sequence:
            self.stop()
            self._forget()
            self._sequence = self._engine.marker.sequence

    def stop(self) -> None:
        """End what goes on in the background, before the store closes."""
        for task in (self._counting, self._reading):
            if task is not None:
                task.cancel()

    def _forget(self) -> None:
        self._tally: Tally | None = None
        self._activity: Activity | None = None
        self._older: OlderChanges | None = None  # None: nothing more is to be read back
        self._sample: CustomerSample | None = None
        self._sampled_until = 0.0
        self._counting: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._sampling = asyncio.Lock()
        self._first_slice = asyncio.Event()

    # -- customers ----------------------------------------------------------------------------------------------------

    async def state(self) -> CommittedState:
        """The committed state, with the definitions that belong to it; good until the caller awaits something."""
        while not self._engine.segments_are_committed:
            self._moved.clear()
            await self._moved.wait()
        self._state = CommittedState(self._engine.store, self._engine.definitions, self._state)
        return self._state

    async def wait_for_changes(self, patience_s: float) -> None:
        """Until the newest of the older changes are read back, where nobody has asked before."""
        self._activity_now()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._first_slice.wait(), patience_s)

    def last_changes(self, customer_id: str, segment_id: str | None, most: int) -> LastChanges:
        """The customer's newest changes, as of the last commit."""
        activity = self._activity_now()
        wanted = None if segment_id is None else [segment_id]
        changes = activity.last_changes(customer_id, wanted, most)
        return LastChanges(changes, _time(activity.looked_back_to_ms))

    # -- segments -----------------------------------------------------------------------------------------------------

    async def numbers(self, segment_id: str, now_ms: int) -> SegmentNumbers:
        """Size, and entered and left up to `now_ms`, as of the last commit."""
        state = await self.state()
        tally, activity = self._tally_now(), self._activity_now()
        segment = state.definitions.segments.get(segment_id)
        hour, day = (activity.total(segment_id, window, now_ms) for window in (LAST_HOUR, LAST_DAY))
        customers = state.marker.customers
        return SegmentNumbers(
            None if segment is None else segment.version,
            tally.size(segment_id),
            customers if tally.done else min(tally.counted, customers),
            customers,
            Flow(format_time(LAST_HOUR.from_ms(now_ms)), *hour),
            Flow(format_time(LAST_DAY.from_ms(now_ms)), *day),
            _time(activity.counted_from_ms),
        )

    async def preview(self, document: SegmentDocument, most_customers: int) -> PartitionPreview:
        """What the segment would say of a sample. Raises DefinitionsChanged where summaries were given up meanwhile."""
        async with self._sampling:
            sample = await self._sample_now()
        store = self._engine.store
        features = preview_features(document)
        kept = read_coverage(store, features)
        preview = Preview(document, kept)
        marker = read_marker(store) or Marker()
        ids = sample.some(most_customers)
        for start in range(0, len(ids), ASKED_CUSTOMERS):
            for customer in read_customers(store, ids[start : start + ASKED_CUSTOMERS]):
                preview.ask(customer, marker.clock_ms)
            await asyncio.sleep(0)
        if read_coverage(store, features) != kept:
            raise DefinitionsChanged("definitions have just changed: ask again")
        of = marker.customers if sample.done else sample.passed
        return PartitionPreview(self.number, format_time(marker.clock_ms), marker.customers, of, preview.result())

    # -- in the background --------------------------------------------------------------------------------------------

    def _tally_now(self) -> Tally:
        if self._tally is None:
            self._tally = Tally()
        if not self._tally.done and (self._counting is None or self._counting.done()):
            self._counting = asyncio.create_task(self._count(self._tally))
        return self._tally

    async def _count(self, tally: Tally) -> None:
        try:
            while not tally.done:
                state = await self.state()
                began = time.monotonic()
                tally.count(state, COUNTED_CUSTOMERS)
                await asyncio.sleep((time.monotonic() - began) * (1 - COUNTING_SHARE) / COUNTING_SHARE)
        except StateError as error:  # the partition is given up, or its own work meets the same and says so
            log.info("counting_ended", partition=self.number, error=str(error))

    def _activity_now(self) -> Activity:
        if self._activity is None:
            self._activity = Activity(self._sequence, wall_time_ms())
            self._older = self._new_reader() if self._sequence else None
        if self._older is None:
            self._first_slice.set()
        elif self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_older(self._activity, self._older))
        return self._activity

    async def _read_older(self, activity: Activity, older: OlderChanges) -> None:
        """Until nothing is missing of the last day. Given up after some attempts; whoever asks then begins again."""

        def take(changes: Sequence[Change]) -> bool:
            goes_on = activity.read_back(changes)
            self._first_slice.set()
            return goes_on

        for attempt in range(1, ATTEMPTS + 1):
            try:
                await older.read_backwards(wall_time_ms() - DAY_MS - HOUR_MS, take)
            except (kafka.KafkaError, TimeoutError, OSError, msgspec.DecodeError) as error:
                log.warning("changes_unreadable", partition=self.number, attempt=attempt, error=repr(error))
                await asyncio.sleep(AGAIN_S)
            else:
                self._older = None
                self._first_slice.set()
                return

    async def _sample_now(self) -> CustomerSample:
        """One that is not older than some minutes."""
        found = self._sample
        if found is None or time.monotonic() > self._sampled_until:
            customers = (read_marker(self._engine.store) or Marker()).customers
            found = CustomerSample(customers, MOST_SAMPLED)
            deadline = time.monotonic() + SAMPLING_S
            while not found.done and time.monotonic() < deadline:
                found.advance(self._engine.store, PASSED_KEYS)
                await asyncio.sleep(0)
            self._sample, self._sampled_until = found, time.monotonic() + SAMPLE_LIFE_S
        return found


def _time(instant_ms: int | None) -> str | None:
    return None if instant_ms is None else format_time(instant_ms)
