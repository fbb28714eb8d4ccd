"""State to the changelog and back, values in several records among it: whatever compaction and readers do meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import cycle
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from state.changelog import (
    CHECKPOINT_KEY,
    SHARED_MARK,
    Checkpoint,
    Restorer,
    add_checkpoint,
    changelog_records,
    read_checkpoint,
    read_position,
)
from state.customers import NEVER_MS, Customer, customer_key, encode_customer, is_spill, record_deadline_ms, spill_key
from state.engine import MARKER_KEY, Marker, read_marker
from state.memory_store import MemoryStore
from state.parts import END_BYTES, MARK, PART_MARK, KeyValue, PartWriter, newest_whole, part_key, part_of, value_key
from state.redefinition import ChangedSegment, Coverage, Redefinition, coverage_key, write_begun
from state.store import Store, WriteSet

TOPIC = "changelog"
CUSTOMERS = [customer_key(each) for each in ("ann", "bé", "part|")]
SPILLS = [spill_key(CUSTOMERS[0], 1), spill_key(CUSTOMERS[0], (1 << 64) - 1), spill_key(CUSTOMERS[1], 7)]
NAMED = [b"\xffsegment|a", b"\xffchanged|a"]

lengths = st.none() | st.integers(0, 12) | st.integers(0, 90)  # of what stands behind the deadline; None deletes
batches = st.dictionaries(st.sampled_from([*CUSTOMERS, *SPILLS, *NAMED]), lengths, max_size=6)


class Logged(NamedTuple):
    offset: int
    key: bytes
    value: bytes | None


class ChangelogHistory(RuleBasedStateMachine):
    """A worker that writes, a log that is compacted as Kafka may, and a copy that follows it and is restarted."""

    @initialize(largest_bytes=st.integers(10, 50))
    def begin(self, largest_bytes: int) -> None:
        self.random = random.Random(largest_bytes)
        self.worker, self.copy = MemoryStore(), MemoryStore()
        self.writer = PartWriter(self.worker, largest_bytes)
        self.log: list[Logged] = []
        self.end = 0
        self.cleaned: set[int] = set()  # tombstones that a compaction has come by
        self.read_from = 0  # where a copy that is read again begins

    @rule(largest_bytes=st.integers(10, 50))
    def restart_with_another_limit(self, largest_bytes: int) -> None:
        self.writer = PartWriter(self.worker, largest_bytes)

    @rule(transaction=st.lists(batches, min_size=1, max_size=2))
    def commit(self, transaction: list[dict[bytes, int | None]]) -> None:
        decided = [self.decided(batch) for batch in transaction]
        for writes, checkpoint in decided:
            for key, value in changelog_records(writes, checkpoint, self.writer):
                self.log.append(Logged(self.end, key, value))
                self.end += 1
        self.end += 1  # the transaction's marker
        for writes, _ in decided:
            move_deadlines(self.worker, writes)
            self.worker.write(writes)

    @rule(batch=batches)
    def fail_to_commit(self, batch: dict[bytes, int | None]) -> None:
        writes, checkpoint = self.decided(batch)
        self.end += len(changelog_records(writes, checkpoint, self.writer)) + 1
        self.writer.reload()

    @rule()
    def compact(self) -> None:
        """Of the log up to anywhere what is superseded there may go, and so may tombstones that everybody has seen."""
        below = self.random.randrange(self.end + 1)
        newest = {each.key: each.offset for each in self.log if each.offset < below}
        kept: list[Logged] = []
        standing: set[bytes] = set()  # keys of which something older is kept
        for each in self.log:
            is_superseded = newest.get(each.key, -1) > each.offset
            is_settled = each.offset in self.cleaned and each.key not in standing and each.offset < self.read_from
            if not ((is_superseded or is_settled) and self.random.random() < 0.7):
                kept.append(each)
                standing.add(each.key)
        self.cleaned |= {each.offset for each in kept if each.value is None and each.offset < below}
        self.log = kept

    @rule(cuts=st.lists(st.integers(1, 9), max_size=5), finishes=st.booleans())
    def follow(self, cuts: list[int], finishes: bool) -> None:
        """Some batches for a copy that is started anew then; it may end in the midst of a transaction."""
        self.restore(self.copy, cuts, finishes)

    @rule(cuts=st.lists(st.integers(1, 30), min_size=1, max_size=5))
    def every_copy_is_what_the_worker_has(self, cuts: list[int]) -> None:
        for store in (self.copy, MemoryStore()):
            self.restore(store, cycle(cuts), finishes=True)
            assert contents(store) == contents(self.worker)

    @rule()
    def no_part_outlives_its_value(self) -> None:
        last = {each.key: each.value for each in self.log}
        held = {key for key, value in last.items() if value is not None and key.startswith(PART_MARK)}
        assert held == {key for key, _ in self.worker.scan_meta(PART_MARK)}
        assert {part_of(part)[0] for part in held} <= {key for key, value in last.items() if value is not None}

    def restore(self, store: MemoryStore, cuts: Iterable[int], finishes: bool) -> None:
        found = read_position(store)
        if found is None:
            store.clear()
        position = self.read_from = 0 if found is None else found.offset
        restorer = Restorer(store, TOPIC)
        for most in cuts:
            records = [each for each in self.log if each.offset >= position][:most]
            if not records:
                break
            position = records[-1].offset + 1
            restorer.apply([(each.key, each.value) for each in records], position, now_ms=0)
            if self.random.random() < 0.1:
                self.compact()
        if finishes:
            for _ in restorer.finish(position, now_ms=0):
                pass
        followed = read_position(self.copy)
        self.read_from = 0 if followed is None else followed.offset

    def decided(self, batch: dict[bytes, int | None]) -> tuple[WriteSet, Checkpoint]:
        values = [(key, None if length is None else self.value(length)) for key, length in batch.items()]
        return decided(values, self.random.randrange(1 << 40))

    def value(self, length: int) -> bytes:
        deadline_ms = self.random.choice([NEVER_MS, self.random.randrange(9)])
        return deadline_ms.to_bytes(8, "big") + self.random.randbytes(length)


def decided(values: Iterable[KeyValue], sequence: int = 1) -> tuple[WriteSet, Checkpoint]:
    """A batch that writes these, and what is said of it."""
    checkpoint = Checkpoint(Marker(sequence=sequence), "writer", "definitions", "lineage")
    writes = WriteSet(meta=[(MARKER_KEY, msgspec.msgpack.encode(checkpoint.marker))])
    for key, value in values:
        (writes.meta if key[:1] == SHARED_MARK else writes.customers).append((key, value))
    add_checkpoint(writes, checkpoint)
    return writes, checkpoint


def move_deadlines(store: Store, writes: WriteSet) -> None:
    """Add the deadlines of the customers written, in place of those that the store has."""
    keys = [key for key, _ in writes.customers if not is_spill(key)]
    values = dict(writes.customers)
    for key, old in zip(keys, store.get_many(keys), strict=True):
        for record, moved in ((old, writes.removed_deadlines), (values[key], writes.added_deadlines)):
            if record is not None and record_deadline_ms(record) != NEVER_MS:
                moved.append((record_deadline_ms(record), key))


def contents(store: Store) -> dict[str, Any]:
    """All that a worker reads of the store."""
    return {
        "customers": dict(store.scan()),
        "deadlines": store.due(NEVER_MS, 1_000),
        "named": dict(store.scan_meta(SHARED_MARK)),
        "marker": read_marker(store),
        "checkpoint": read_checkpoint(store),
    }


TestChangelogHistory = ChangelogHistory.TestCase
TestChangelogHistory.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


def written(store: MemoryStore, values: Iterable[KeyValue], largest_bytes: int) -> list[KeyValue]:
    """Write a batch to the store; the records that the changelog has of it."""
    writes, checkpoint = decided(values)
    records = changelog_records(writes, checkpoint, PartWriter(store, largest_bytes))
    store.write(writes)
    return records


def test_a_value_that_fits_is_one_record_under_its_own_key() -> None:
    store = MemoryStore()
    values = [(b"ann", b"x" * 200), (b"bob", None), (b"\xffsegment|a", b"y" * 200)]
    assert written(store, values, 200)[:-1] == values
    assert not list(store.scan_meta(PART_MARK))


def test_a_larger_one_is_several_of_at_most_that_size_and_its_own_key_comes_last() -> None:
    value = bytes(range(256)) * 2
    *records, checkpoint = written(MemoryStore(), [(b"ann", value)], 200)
    assert records[:-1] == [(part_key(b"ann", 0), value[:200]), (part_key(b"ann", 1), value[200:400])]
    key, end = records[-1]
    assert key == b"ann"
    assert end is not None
    assert end.endswith(value[400:])
    assert len(end) <= 200
    assert checkpoint[0] == CHECKPOINT_KEY


@pytest.mark.parametrize("then", [b"small", b"m" * 350, None])
def test_what_gets_smaller_or_goes_leaves_no_part_behind(then: bytes | None) -> None:
    store = MemoryStore()
    log = written(store, [(b"ann", b"l" * 900)], 200) + written(store, [(b"ann", then)], 200)
    left = {key: value for key, value in dict(log).items() if value is not None and key != CHECKPOINT_KEY}
    assert list(left) == ([] if then is None else [part_key(b"ann", 0), b"ann"] if len(then) > 200 else [b"ann"])


def test_a_customer_that_is_erased_leaves_no_part_behind() -> None:
    store, customer = MemoryStore(), Customer("ann")
    customer.known = True
    customer.counts = {7: tuple(range(1_000)), 8: (1, 2)}
    customer.registers = {9: (5, "x" * 2_000, [6])}
    customer.touched = frozenset({7, 8, 9})
    log = written(store, encode_customer(customer), 200)
    assert len(log) > 10
    customer.forget()
    log += written(store, encode_customer(customer), 200)
    assert [key for key, value in dict(log).items() if value is not None] == [CHECKPOINT_KEY]
    assert not list(store.scan_meta(PART_MARK))


def test_wherever_reading_is_interrupted_the_store_has_the_value_before_or_the_one_after() -> None:
    worker = MemoryStore()
    before, after = b"%08d" % 5 + b"b" * 900, b"%08d" % 6 + b"a" * 1_500
    log = written(worker, [(b"ann", before)], 200)
    begun = len(log)
    log += written(worker, [(b"ann", after), (b"bob", b"%08d" % 7)], 200)
    last = max(place for place, (key, _) in enumerate(log) if key == b"ann")
    for cut in range(begun, len(log) + 1):
        store = MemoryStore()
        for begin, end in ((0, begun), (begun, cut)):
            restorer = Restorer(store, TOPIC)
            restorer.apply(log[begin:end], end, now_ms=0)
            list(restorer.finish(end, now_ms=0))
        assert store.get_many([b"ann"]) == [after if cut > last else before]
        assert [key for _, key in store.due(1 << 63, 10)][:1] == [b"ann"]


def test_of_an_older_value_that_compaction_has_left_without_its_parts_nothing_comes_into_the_store() -> None:
    worker = MemoryStore()
    log = written(worker, [(b"ann", b"a" * 500)], 200)
    [end] = [value for key, value in log if key == b"ann"]
    store = MemoryStore()
    restorer = Restorer(store, TOPIC)
    restorer.apply([(b"ann", end)], 3, now_ms=0)
    assert not list(store.scan())
    restorer.apply([(part_key(b"ann", 0), b"b" * 200), (b"ann", end)], 5, now_ms=0)
    assert not list(store.scan())
    restorer.apply(written(worker, [(b"ann", b"b" * 500)], 200), 8, now_ms=0)
    assert list(store.scan()) == [(b"ann", b"b" * 500)]


@pytest.mark.parametrize("length", range(1, 80))
def test_values_of_every_length_come_back_and_no_record_is_larger_than_may_be(length: int) -> None:
    value = random.Random(length).randbytes(length)
    writes, _ = decided([(b"ann", b"%08d" % length + value)])
    log = PartWriter(MemoryStore(), 20).cut(writes.customers, writes)
    assert max(len(record or b"") for _, record in log) <= 20
    assert sum(len(record or b"") for _, record in log) <= length + 8 + END_BYTES
    store = MemoryStore()
    Restorer(store, TOPIC).apply(log, len(log), now_ms=0)
    assert list(store.scan()) == writes.customers


def test_no_value_begins_as_the_end_of_one_that_was_cut_does() -> None:
    customer = Customer("ann")
    customer.known = True
    customer.counts = {7: [*range(1_000)]}
    customer.sums = {8: [(at, at, at) for at in range(1_000)]}
    customer.touched = frozenset({7, 8})
    writes, checkpoint = decided(encode_customer(customer))
    write_begun(writes, Redefinition(1, 1, "scan", [ChangedSegment("a", None, b"{}", 1)]))
    writes.meta.append((coverage_key(7), msgspec.msgpack.encode(Coverage(1, 2))))
    records = changelog_records(writes, checkpoint, PartWriter(MemoryStore(), 1_000_000))
    assert len(records) == 10
    assert not [key for key, value in records if value is None or value[0] == MARK]


@given(lengths=st.lists(st.none() | st.integers(0, 60), min_size=1, max_size=6))
def test_the_end_of_a_log_tells_the_newest_value_once_it_holds_all_of_it_and_never_an_older_one(
    lengths: list[int | None],
) -> None:
    store, log = MemoryStore(), list[KeyValue]()
    values = [None if length is None else b"%d" % number * length for number, length in enumerate(lengths)]
    for value in values:
        log += written(store, [(b"ann", value), (b"bob", b"b" * 30)], 20)
    mine = [record for record in log if value_key(record[0]) == b"ann"]
    assert newest_whole(b"ann", mine) == values[-1]
    for begin in range(len(mine) + 1):
        assert newest_whole(b"ann", mine[begin:]) in (None, values[-1])
