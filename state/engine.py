"""The one path of every batch: prefetch, compute, and a result that is plain data.

Replay, the worker, backfill and the tests run this same code. Computing reads no store and waits for nothing; the
caller commits the result (see `PartitionEngine`), or forgets it and starts again from what was committed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import chain
from operator import attrgetter, length_hint
from typing import Any, Literal

import msgspec
from xxhash import xxh3_64_intdigest

from conditions.changes import Cause, Change, Reason, change_id
from conditions.definitions import Definitions
from conditions.events import CUSTOMER_DELETE, CUSTOMER_UPDATE, CustomerUpdate, Event, Rejected
from conditions.features import EntryFeature, Readers
from conditions.segments import Segment
from conditions.times import MAX_TIME_MS, format_time
from state.cache import CustomerCache
from state.customers import NEVER_MS, Customer, customer_key, encode_customer
from state.overlay import Overlay
from state.redefinition import SEGMENT_MARK, Asking, CompiledChange, History
from state.store import Store, WriteSet
from state.wave import Due, Wave
from state.whereabouts import whereabouts

MARKER_KEY = b"marker"
DEFAULT_CACHE_BYTES = 256 << 20
MOST_RECORDS = 262_144  # before a batch is full: the more, the less often a busy customer is written
# Before a batch is full: a write set holds it all, and brokers have to take it in time. Deadlines that wait for their
# turn while records are taken come on top, up to half of it.
MOST_WRITTEN_BYTES = 32 << 20
BESIDE_RECORD_BYTES = 512  # of a customer that is written, for its deadlines and all the small objects
CHANGE_BYTES = 1_024  # of a change that is written, and of the membership beside it
LAST_ID = "\U0010ffff" * 2  # above every customer's id

whole_bytes = attrgetter("whole_bytes")


class Marker(msgspec.Struct):
    """How far a partition has come. It is written with every batch."""

    clock_ms: int = 0  # T, the largest record timestamp seen
    sequence: int = 0  # of the partition's last change
    applied: dict[str, int] = msgspec.field(default_factory=dict)  # topic to the last applied offset
    customers: int = 0  # known ones
    definitions: int = 0  # position in the definitions topic that decides here


class BatchResult(msgspec.Struct):
    """All that a batch decided; nothing of it has happened yet."""

    changes: list[Change]
    rejected: list[Rejected]
    writes: WriteSet
    marker: Marker
    consumed: int  # how many of the records it was given are in it
    grown_bytes: int = 0  # by which the records of the customers that are in memory have grown

    @property
    def written_bytes(self) -> int:
        """About what it sends to Kafka: customers' records, changes and memberships."""
        keys_and_records = chain.from_iterable(self.writes.customers)
        return sum(map(len, filter(None, keys_and_records))) + len(self.changes) * CHANGE_BYTES


Records = Sequence[Event | Rejected]


def read_marker(store: Store) -> Marker | None:
    """The store's marker; None for a new store."""
    found = store.get_meta(MARKER_KEY)
    return None if found is None else msgspec.msgpack.decode(found, type=Marker)


class PartitionEngine:
    """One partition's events in, membership changes out.

    `run` decides a batch on top of what was decided before; `commit` makes the oldest decided batch last; `discard`
    goes back to what was committed. With `strict_order` deadlines and events come in the exact order of their
    instants; without, a wave of deadlines is spread over batches and only a customer's own come before its events.
    """

    def __init__(
        self,
        store: Store,
        definitions: Definitions,
        *,
        strict_order: bool = True,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        most_deadlines: int = 10_000,
        most_changes: int = 50_000,
    ) -> None:
        self.store = store
        self.definitions = definitions
        self.marker = read_marker(store) or Marker()
        self._overlay = Overlay(store)
        self._cache = CustomerCache(self._overlay, cache_bytes)
        self._strict_order = strict_order
        self._most_deadlines = most_deadlines
        self._most_changes = most_changes
        self.asking: Asking | None = None

    def run(self, records: Records, now_ms: int, clock_ms: int = 0) -> BatchResult:
        """Decide the records, or as many of them as fit a batch: the result's `consumed` says how many.

        A batch ends early before a wave of deadlines that is too large, once it holds `most_changes`, and before
        customers that are too large to be in memory, or to be written, at once. `now_ms` is the wall time that changes
        are stamped with. `clock_ms` moves the partition's clock there once all records are in; the caller asks again
        while `is_behind(clock_ms)`.
        """
        batch = self.begin(max(clock_ms, latest_ms(records)))
        batch.take(records, now_ms)
        batch.settle(now_ms, clock_ms)
        return self.finish(batch)

    def begin(self, until_ms: int = MAX_TIME_MS) -> Batch:
        """Begin a batch that takes its records bit by bit, until `finish`; nothing else may run meanwhile.

        It takes none that are later than `until_ms`: the smaller, the fewer deadlines are read.
        """
        until_ms = max(until_ms, self.marker.clock_ms)
        due = self._overlay.due(until_ms, self._most_deadlines)
        is_cut = self._strict_order and len(due) == self._most_deadlines
        cut_ms = due[-1][0] if is_cut else until_ms + 1
        computation = self._computation((cut_ms - 1, LAST_ID))
        wave = [(at_ms, key.decode()) for at_ms, key in due]
        last = wave[-1] if is_cut else (until_ms, LAST_ID)
        return Batch(computation, self._cache, wave, cut_ms, last, in_order=self._strict_order)

    def finish(self, batch: Batch) -> BatchResult:
        """The end of a batch that was begun: from here on it is one like any other."""
        return self._staged(batch.computation.result(batch.taken))

    def take_deadlines(self, most: int) -> None:
        """From now on take so many of a wave in one batch, at most."""
        self._most_deadlines = most

    def bound_cache(self, most_bytes: int) -> None:
        """From now on keep customers that take so many bytes in memory, about. Not while a batch is in the making."""
        self._cache.bound(most_bytes)

    def _computation(self, limit: Due) -> Computation:
        return Computation(self.definitions, self.marker, limit, self._most_changes, self.asking)

    def _staged(self, result: BatchResult) -> BatchResult:
        self.marker = result.marker
        self._overlay.stage(result.writes)
        self._cache.note_growth(result.grown_bytes)
        self._cache.trim()
        return result

    def tick(self, clock_ms: int) -> bool:
        """Move the clock there if no deadline is due by then, and answer whether one is: then `run` must move it.

        A clock moved so is not written down: what no deadline saw can be seen again after a crash.
        """
        if self._overlay.due(clock_ms, 1):
            return True
        self._move_marker(clock_ms=max(self.marker.clock_ms, clock_ms))
        return False

    def _move_marker(self, **fields: int) -> None:
        # Another one: results that were decided and not committed yet keep the marker that is written with them.
        self.marker = msgspec.structs.replace(self.marker, **fields)

    def is_behind(self, clock_ms: int) -> bool:
        """Whether the clock, or a deadline, is still before this instant."""
        return self.marker.clock_ms < clock_ms or bool(self._overlay.due(clock_ms, 1))

    @property
    def segments_are_committed(self) -> bool:
        """Whether the definitions in memory are those of the store: no decided batch that waits changes them."""
        return not self._overlay.stages(SEGMENT_MARK)

    def commit(self) -> None:
        """Write the oldest decided batch to the store, whole. Raises StateError; nothing is written then."""
        self._overlay.commit()

    def discard(self) -> None:
        """Forget every decided batch that was not committed, and all that is in memory."""
        self._overlay.discard()
        self._cache.clear()
        self.marker = read_marker(self.store) or Marker()


def latest_ms(records: Records) -> int:
    """The largest record timestamp, 0 where there is none."""
    return max([record.record_time_ms for record in records if type(record) is Event], default=0)


def _before(records: Records, instant_ms: int, clock_ms: int) -> Records:
    """The leading records that leave the clock before the instant."""
    if clock_ms >= instant_ms:
        return ()
    for count, record in enumerate(records):
        if isinstance(record, Event) and record.record_time_ms >= instant_ms:
            return records[:count]
    return records


# A change in the making: its customer's id, segment, the version, whether it enters, the instants from and up to which
# that holds (ms; None: no end is known), the reason, the event, and the truth of each condition.
_Decision = tuple[str, Segment, int, bool, int, int | None, Reason, Event | None, list[bool]]


def _place(records: Records, wanted: Event) -> int:
    return next(at for at, record in enumerate(records) if record is wanted)


class Batch:
    """A batch in the making, which takes its records bit by bit: few of them are in memory, and a busy customer is
    written once.

    Changes come as they are decided; they and the state are only good once the batch is finished and committed.
    """

    def __init__(
        self,
        computation: Computation,
        cache: CustomerCache,
        due: list[Due],
        cut_ms: int,
        last: Due,
        *,
        in_order: bool,
    ) -> None:
        self.computation = computation
        self.taken = 0
        self._cache = cache
        self._due = due  # the stored deadlines, in order
        self._awaited = 0  # how many of them have been handed on
        self._cut_ms = cut_ms  # from here on there may be deadlines that are not among them
        self._last = last  # up to there it has all
        self._in_order = in_order  # whether no record may come before an earlier deadline of whomever
        self._is_cut = False
        self._is_closed = False

    @property
    def is_full(self) -> bool:
        """Whether it is time to finish."""
        return self.taken >= MOST_RECORDS or self.computation.written_bytes >= MOST_WRITTEN_BYTES

    def take(self, records: Records, now_ms: int) -> int:
        """Decide the records, or as many of them as fit; when fewer are taken, finish and begin anew: it takes no more.

        None are taken behind more deadlines than one batch may hold: `settle` fires those. What is raised has a note of
        the records, and of the one among them that it was raised for: the state may be wrong then.
        """
        try:
            return self._take(records, now_ms)
        except Exception as error:
            error.add_note(whereabouts(records, self.computation.applying))
            raise

    def _take(self, records: Records, now_ms: int) -> int:
        if self._is_closed:
            return 0
        computation = self.computation
        horizon_ms = max(latest_ms(records), computation.clock_ms)
        if horizon_ms >= self._cut_ms:
            records = self._before_cut(records)
            horizon_ms = max(latest_ms(records), computation.clock_ms)
        # Half of what fits is for records: live ones do not wait until a wave is over.
        self._await_until(horizon_ms, 0.5)
        if horizon_ms >= self._cut_ms:
            records = self._before_cut(records)
        events = [record for record in records if type(record) is Event]
        customers = self._cache.prefetch([event.customer_id for event in events])
        fitting = computation.fitting(customers)
        decided = computation.apply_all(events[:fitting], customers, now_ms)
        taken = len(records) if decided == len(events) else _place(records, events[decided])
        computation.note_taken(records[:taken], decided)
        self._is_closed = taken < len(records)
        self.taken += taken
        return taken

    def settle(self, now_ms: int, clock_ms: int = 0) -> None:
        """Move the clock there, unless records or deadlines that stand before it did not fit, and fire what is due."""
        computation = self.computation
        if self._is_closed:
            return
        until_ms = max(clock_ms, computation.clock_ms)
        self._await_until(self._end[0] if self._is_cut else until_ms, 1)
        if self._is_cut or until_ms >= self._cut_ms:
            computation.limit = self._end
            until_ms = computation.limit[0]
        else:
            computation.clock_ms = until_ms
        computation.fire_all(until_ms, now_ms)

    def outcome(self) -> tuple[list[Change], list[Rejected]]:
        """What was decided since this was last asked."""
        return self.computation.outcome()

    @property
    def _end(self) -> Due:
        """Where a batch that is cut ends."""
        return (self._cut_ms - 1, LAST_ID) if self.taken else self._last

    def _before_cut(self, records: Records) -> Records:
        self._is_cut = True
        return _before(records, self._cut_ms, self.computation.clock_ms)

    def _await_until(self, horizon_ms: int, share: float) -> None:
        """Hand on the deadlines until then, as many as fit such a share of a batch, and forget the others."""
        due, begin = self._due, self._awaited
        end = bisect_right(due, (horizon_ms, LAST_ID), begin)
        if begin == end:
            return
        customers = self._cache.prefetch([whose for _, whose in due[begin:end]], share)
        fitting = self.computation.fitting(customers, share)
        for (at_ms, _), customer in zip(due[begin:end], customers[:fitting], strict=False):
            self.computation.wave.add(at_ms, customer)
        self._awaited = begin + fitting
        if self._awaited < end:
            self._forget_due()

    def _forget_due(self) -> None:
        """Of the deadlines only those that have been handed on are of this batch."""
        if self._in_order:
            self._cut_ms = self._due[self._awaited][0]
            self._last = self._due[self._awaited - 1]
        del self._due[self._awaited :]


class Computation:
    """One batch being decided: the customers' state moves in place, the rest collects here."""

    def __init__(
        self,
        definitions: Definitions,
        marker: Marker,
        limit: Due,
        most_changes: int,
        asking: Asking | None,
    ) -> None:
        self.clock_ms = marker.clock_ms
        self.limit = limit  # later deadlines are not of this batch
        self.wave = Wave()
        self._most_changes = most_changes
        self._asking = asking
        self._definitions = definitions
        self._indexes = definitions.indexes
        self._sequence = marker.sequence
        self._applied = dict(marker.applied)
        self._known = marker.customers
        self._position = marker.definitions
        self._dirty: list[Customer] = []
        self.written_bytes = 0  # of those, as they were before
        self._decisions: list[_Decision] = []  # changes in the making
        self._changes: list[Change] = []
        self._rejected: list[Rejected] = []
        self._in_turn: tuple[Sequence[Event], Iterator[Event]] = (), iter(())

    @property
    def applying(self) -> Event | None:
        """The event whose turn it is, while there is one."""
        events, left = self._in_turn
        return events[-1 - length_hint(left)] if events else None

    def _each(self, events: Sequence[Event]) -> Iterator[Event]:
        self._in_turn = events, iter(events)
        return self._in_turn[1]

    def fitting(self, customers: Sequence[Customer], share: float = 1) -> int:
        """How many of the first of these customers can be written as well, where the batch is filled to that share.

        Of a batch that writes nothing yet it is one at least.
        """
        room = share * MOST_WRITTEN_BYTES - self.written_bytes
        if sum(map(whole_bytes, customers)) + len(customers) * BESIDE_RECORD_BYTES <= room:
            return len(customers)
        counted: set[str] = set()
        for count, customer in enumerate(customers):
            if not customer.is_dirty and customer.id not in counted:
                counted.add(customer.id)
                room -= customer.whole_bytes + BESIDE_RECORD_BYTES
                if room < 0 and (count or self.written_bytes):
                    return count
        return len(customers)

    def outcome(self) -> tuple[list[Change], list[Rejected]]:
        """What was decided since this was last asked."""
        decided = self._changes, self._rejected
        self._changes, self._rejected = [], []
        return decided

    def apply_all(self, events: Sequence[Event], customers: Iterable[Customer], now_ms: int) -> int:
        """Take the events in their order, and fire the deadlines before each.

        `customers` begin with those of the events, in the same order. Answers how many events were taken: fewer once
        the batch has its changes. What of the wave has not fired stays due.
        """
        # Each of these steps is taken for all events before the next one is, as their code stays in the processor's
        # cache only so long as no other runs.
        matched = self._match_all(events)
        hashes = [xxh3_64_intdigest(event.event_id.encode()) for event in self._each(events)]
        taken = self._fold_all(events, customers, matched, hashes)
        self._each(())
        self._complete(now_ms)
        return taken

    def _fold_all(
        self,
        events: Sequence[Event],
        customers: Iterable[Customer],
        matched: Iterable[Sequence[EntryFeature]],
        hashes: Iterable[int],
    ) -> int:
        decisions, most_decisions = self._decisions, self._most_changes - len(self._changes)
        apply, wave, clock_ms = self._apply, self.wave, self.clock_ms
        # `customers` go on behind those of the events
        inputs = zip(self._each(events), matched, hashes, customers, strict=False)
        for taken, (event, features, id_hash, customer) in enumerate(inputs):
            if len(decisions) >= most_decisions:
                return taken
            record_time_ms = event.record_time_ms
            if record_time_ms > clock_ms:
                if wave.next_ms <= record_time_ms:
                    self._fire_wave(record_time_ms)
                self.clock_ms = clock_ms = record_time_ms
            apply(event, features, id_hash, customer, clock_ms)
        return len(events)

    def note_taken(self, records: Records, events: int) -> None:
        """Remember how far the topics were read, and what of the records was no event; so many were."""
        if events < len(records):
            self._rejected += [record for record in records if not isinstance(record, Event)]
        last = {record.topic: record.offset for record in records}
        self._applied.update((topic or "", offset) for topic, offset in last.items())

    def fire_all(self, until_ms: int, now_ms: int) -> None:
        """Fire the deadlines of the batch until then."""
        self._fire_wave(until_ms)
        self._complete(now_ms)

    def result(self, consumed: int) -> BatchResult:
        """All that was decided, with the customers' records as they are now."""
        writes = WriteSet()
        records = writes.customers
        grown_bytes = 0
        for customer in self._dirty:
            customer.is_dirty = False
            before_bytes = customer.stored_bytes
            records += encode_customer(customer)
            if customer.is_cached:
                grown_bytes += customer.stored_bytes - before_bytes
            if customer.stored_deadline_ms != customer.deadline_ms:
                self._write_deadline(customer, writes)
        marker = Marker(self.clock_ms, self._sequence, self._applied, self._known, self._position)
        writes.meta.append((MARKER_KEY, msgspec.msgpack.encode(marker)))
        return BatchResult(self._changes, self._rejected, writes, marker, consumed, grown_bytes)

    def _write_deadline(self, customer: Customer, writes: WriteSet) -> None:
        old_ms, new_ms = customer.stored_deadline_ms, customer.deadline_ms
        key = customer_key(customer.id)
        if old_ms != NEVER_MS:
            writes.removed_deadlines.append((old_ms, key))
        if new_ms != NEVER_MS:
            writes.added_deadlines.append((new_ms, key))
        customer.stored_deadline_ms = new_ms

    # -- time ---------------------------------------------------------------------------------------------------------

    def _fire_wave(self, until_ms: int) -> None:
        wave = self.wave
        while wave.next_ms <= until_ms and (due := wave.pop(until_ms)) is not None:
            at_ms, _, customer = due
            try:
                if self._asking is not None:
                    self._ask_anew(customer, self._asking)
                if customer.deadline_ms == at_ms:
                    self._fire(customer)
            except Exception as error:
                error.add_note(f"at the deadline {at_ms} ms of customer {customer.id!a}")
                raise

    def _fire(self, customer: Customer) -> None:
        """Let the customer's deadline pass: what turns false at that instant, and when the next one is."""
        at_ms = customer.deadline_ms
        next_ms = NEVER_MS
        flipped: list[Readers] = []
        counts = self._definitions.counts
        first_flips_ms = self._definitions.first_flips_ms
        due: list[int] = []
        for key, entries in customer.counts.items():
            flip_ms = first_flips_ms.get(key)
            if flip_ms is not None:
                flip_ms += entries[0]
                if flip_ms <= at_ms:
                    due.append(key)
                elif flip_ms < next_ms:
                    next_ms = flip_ms
        for key in due:
            flip_ms = counts[key].expire(customer, customer.counts[key], at_ms, flipped)
            if flip_ms < next_ms:
                next_ms = flip_ms
        if customer.sums:
            next_ms = min(next_ms, self._expire_sums(customer, at_ms, flipped))
        customer.deadline_ms = next_ms
        self._write(customer)
        self._await(customer)
        if flipped:
            self._decide(customer, _readers(flipped), at_ms, at_ms, "deadline", None)

    def _expire_sums(self, customer: Customer, at_ms: int, flipped: list[Readers]) -> int:
        """Let amounts pass, and answer when the next do."""
        sums = self._definitions.sums
        kept = [(sums[key], amounts) for key, amounts in customer.sums.items() if key in sums]
        return min([each.expire(customer, amounts, at_ms, flipped) for each, amounts in kept], default=NEVER_MS)

    def _await(self, customer: Customer) -> None:
        """The customer's next deadline may still fall into this batch."""
        if customer.deadline_ms <= self.limit[0] and (customer.deadline_ms, customer.id) <= self.limit:
            self.wave.add(customer.deadline_ms, customer)

    def _write(self, customer: Customer) -> None:
        """The customer's record is written with the batch."""
        if not customer.is_dirty:
            customer.is_dirty = True
            self._dirty.append(customer)
            self.written_bytes += customer.whole_bytes + BESIDE_RECORD_BYTES

    # -- events -------------------------------------------------------------------------------------------------------

    def _match_all(self, events: Sequence[Event]) -> list[Sequence[EntryFeature]]:
        index_of = self._indexes.get
        return [() if (index := index_of(event.type)) is None else index.match(event) for event in self._each(events)]

    def _apply(  # noqa: C901 - a call saved is 2 % of an event's time
        self, event: Event, features: Sequence[EntryFeature], id_hash: int, customer: Customer, clock_ms: int
    ) -> None:
        if self._asking is not None:
            self._ask_anew(customer, self._asking)
        while customer.deadline_ms <= clock_ms:
            self._fire(customer)
        kind = event.type
        if kind == CUSTOMER_DELETE:
            self._erase(customer, event)
            return
        deadline_ms = customer.deadline_ms
        flipped: list[Readers] = []
        changed = False
        for feature in features:
            if feature.fold(customer, event, id_hash, clock_ms, flipped):
                changed = True
        if kind == CUSTOMER_UPDATE:
            changed = self._update(customer, event, id_hash, flipped) or changed
        if changed:
            self._write(customer)
            if customer.deadline_ms < deadline_ms:
                self._await(customer)
        if not customer.known:
            self._welcome(customer, event, flipped)
        elif flipped:
            self._decide(customer, _readers(flipped), clock_ms, event.time_ms, "event", event)

    def _update(self, customer: Customer, event: Event, id_hash: int, flipped: list[Readers]) -> bool:
        """Write attributes and agreements that some segment reads. Answers whether a register changed."""
        update = event.payload
        assert isinstance(update, CustomerUpdate), "the decoder gives every customer.update its payload"
        registers = self._definitions.registers
        changed = False
        for family, values in (("attribute", update.attributes), ("agreement", update.agreements)):
            for name, value in values.items():
                register = registers.get(f"{family}:{name}")
                if register is not None and register.fold(customer, value, event.time_ms, id_hash, flipped):
                    changed = True
        return changed

    def _welcome(self, customer: Customer, event: Event, flipped: list[Readers]) -> None:
        """Nobody unknown is in any segment: those that hold with nothing known are entered now."""
        customer.known = True
        self._known += 1
        if self._asking is not None:
            self._asking.welcome(customer)
        customer.differing = set(self._definitions.default_keys)
        self._write(customer)
        readers = _in_order([*_readers(flipped), *self._definitions.true_by_default.values()])
        self._decide(customer, readers, self.clock_ms, event.time_ms, "event", event)

    def _erase(self, customer: Customer, event: Event) -> None:
        """Let a known customer leave every segment, and forget it."""
        if not customer.known:
            return
        effective_ms = max(event.time_ms, customer.last_effective_ms)
        by_key = self._definitions.by_key
        entered = [by_key[key] for key in self._definitions.default_keys ^ customer.differing if key in by_key]
        for segment in sorted(entered, key=lambda each: each.id):
            truths = segment.truths(customer, self.clock_ms)
            self._decisions.append(
                (customer.id, segment, segment.version, False, effective_ms, None, "erasure", event, truths)
            )
        customer.forget()
        self._known -= 1
        self._write(customer)

    # -- changed definitions ------------------------------------------------------------------------------------------

    def ask_all(self, customers: Iterable[Customer]) -> int:
        """Ask the customers about the changed segments, until the batch is full. Answers how many were asked."""
        assert self._asking is not None, "only while a redefinition is under way"
        asked = 0
        for customer in customers:
            try:
                self._ask_anew(customer, self._asking)
            except Exception as error:
                error.add_note(f"asking customer {customer.id!a} about changed segments")
                raise
            asked += 1
            if self.written_bytes >= MOST_WRITTEN_BYTES:
                break
        return asked

    def end_asking(self, cursor: bytes, now_ms: int) -> None:
        """All customers up to that key were asked: let what is due of theirs fire."""
        assert self._asking is not None, "only while a redefinition is under way"
        self._asking.cursor = cursor
        self._fire_wave(self.limit[0])
        self._complete(now_ms)

    def _ask_anew(self, customer: Customer, asking: Asking) -> None:
        """Decide the changed segments for a customer that was not asked yet, as of their activation."""
        if not asking.concerns(customer):
            return
        customer.asked = asking.number
        before_ms = customer.deadline_ms
        changed = False
        for change in asking.changes:
            changed = self._decide_change(customer, change, asking.activated_ms) or changed
        changed = self._forget_unread(customer) or changed
        self._plan_anew(customer, asking.activated_ms)
        if changed or customer.deadline_ms != before_ms:
            self._write(customer)
            self._await(customer)

    def _decide_change(self, customer: Customer, change: CompiledChange, at_ms: int) -> bool:
        was_in, segment = change.was_in(customer.differing), change.after
        before = change.key in customer.differing
        customer.differing.discard(change.key)
        now_in = segment is not None and segment.holds(customer, at_ms)
        if segment is not None and now_in is not segment.default:
            customer.differing.add(change.key)
        if was_in is not now_in:
            shown = segment or change.before
            assert shown is not None, "who was in or is in has a segment"
            effective_ms = customer.last_effective_ms = max(at_ms, customer.last_effective_ms)
            valid_until_ms = shown.flips_at(customer, at_ms, now_in) if segment is not None else None
            truths = shown.truths(customer, at_ms)
            self._decisions.append(
                (customer.id, shown, change.version, now_in, effective_ms, valid_until_ms, "definition", None, truths)
            )
        return was_in is not now_in or before is not (change.key in customer.differing)

    def _forget_unread(self, customer: Customer) -> bool:
        """Keep nothing of features that nobody reads any more. Answers whether there was any."""
        definitions = self._definitions
        unread: set[int] = set()
        kinds: tuple[tuple[Any, Set[int]], ...] = (
            (customer.counts, definitions.counts.keys()),
            (customer.sums, definitions.sums.keys()),
            (customer.registers, definitions.register_keys),
        )
        for summaries, read in kinds:
            keys = summaries.keys() - read
            for key in keys:
                del summaries[key]
            unread |= keys
        customer.touched |= unread
        return bool(unread)

    def _plan_anew(self, customer: Customer, at_ms: int) -> None:
        """The next deadline over all features that are read now."""
        counts = self._definitions.counts
        nexts = [counts[key].expire(customer, entries, at_ms, []) for key, entries in tuple(customer.counts.items())]
        customer.deadline_ms = min([*nexts, self._expire_sums(customer, at_ms, [])])

    def fold_history(self, events: Sequence[Event], customers: Iterable[Customer], features: History) -> None:
        """Fold events from before live ones took over into features that were not kept then; decides nothing.

        `customers` are those of the events, in the same order.
        """
        number = 0 if self._asking is None else self._asking.number
        for event, customer in zip(self._each(events), customers, strict=True):
            if not customer.known or customer.born == number:
                continue
            if features.fold(customer, event, self.clock_ms):
                self._write(customer)

    # -- decisions ----------------------------------------------------------------------------------------------------

    def _decide(
        self,
        customer: Customer,
        readers: Sequence[Segment],
        at_ms: int,
        event_ms: int,
        reason: Reason,
        event: Event | None,
    ) -> None:
        """Ask the segments, in order of their id, whether they hold at `at_ms`, and emit where that is new."""
        differing = customer.differing
        for segment in readers:
            key = segment.key
            truths = segment.truths(customer, at_ms)
            now_in = segment.agrees(truths)
            if now_in is ((key in differing) is not segment.default):
                continue
            if now_in is segment.default:
                differing.discard(key)
            else:
                differing.add(key)
            effective_ms = customer.last_effective_ms
            if event_ms > effective_ms:
                effective_ms = customer.last_effective_ms = event_ms
            valid_until_ms = segment.flips_at(customer, at_ms, now_in)
            self._decisions.append(
                (customer.id, segment, segment.version, now_in, effective_ms, valid_until_ms, reason, event, truths)
            )

    def _complete(self, now_ms: int) -> None:
        """Say what was decided, at this wall time, as changes."""
        if not self._decisions:
            return
        decisions, self._decisions = self._decisions, []
        self._changes += _changes(decisions, self._sequence, format_time(now_ms))
        self._sequence += len(decisions)


def _changes(decisions: Iterable[_Decision], sequence: int, decided_at: str) -> Iterator[Change]:
    """The changes that follow the one of that sequence number."""
    explained: Event | None = None
    cause: Cause | None = None
    for number, decision in enumerate(decisions, sequence + 1):
        customer_id, segment, version, is_in, effective_ms, valid_until_ms, reason, event, truths = decision
        if event is not explained:
            explained, cause = event, None if event is None else _cause(event)
        # It is the event's own time as a rule, and that is a text already.
        effective_at = (
            cause.event_time if cause and event and event.time_ms == effective_ms else format_time(effective_ms)
        )
        kind: Literal["entered", "left"] = "entered" if is_in else "left"
        yield Change(
            change_id(customer_id, segment.id, kind, number, effective_ms),
            kind,
            segment.id,
            segment.name,
            version,
            customer_id,
            number,
            effective_at,
            decided_at,
            None if valid_until_ms is None or valid_until_ms > MAX_TIME_MS else format_time(valid_until_ms),
            reason,
            cause,
            truths,
        )


def _readers(flipped: list[Readers]) -> Sequence[Segment]:
    """The segments that read any of the atoms that flipped, in order of their id."""
    if len(flipped) == 1:
        return flipped[0]
    return _in_order(segment for readers in flipped for segment in readers)


def _in_order(segments: Iterable[Segment]) -> Sequence[Segment]:
    by_id = {segment.id: segment for segment in segments}
    return [by_id[segment_id] for segment_id in sorted(by_id)]


def _cause(event: Event) -> Cause:
    return Cause(event.topic, event.partition, event.offset, event.event_id, event.type, format_time(event.time_ms))
