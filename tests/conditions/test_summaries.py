"""Order, repetition and splits into batches change nothing; merging equals summarising both streams."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conditions.definitions import Definitions, compile_definitions
from conditions.documents import parse_segments
from conditions.events import Event, Order
from conditions.features import (
    FOREVER,
    INLINE_ENTRIES,
    READ_BACK,
    CountAtom,
    CountFeature,
    EventSet,
    Predicate,
    RegisterFeature,
    SumAtom,
    SumFeature,
    Summaries,
)
from conditions.kinds import order_total_micros
from conditions.merging import merge_amounts, merge_entries, merge_registers
from state.engine import PartitionEngine
from state.memory_store import MemoryStore

CLOCK_MS = 100_000
ORDERS = EventSet("f", Predicate("purchase.order"))

times = st.integers(0, CLOCK_MS)
id_hashes = st.integers(0, 5)
entries = st.lists(st.tuples(times, id_hashes, st.integers(0, 10**9)), max_size=40)


def event(time_ms: int, name: int = 0, amount: int = 0, *, customer: str = "c", clock_ms: int = CLOCK_MS) -> Event:
    order = Order(f"o{name}", amount)
    return Event(f"e{name}", "purchase.order", customer, time_ms, clock_ms, 0, {}, order)


def counted(stream: list[tuple[int, int, int]], keep: int) -> list[int]:
    feature = CountFeature(ORDERS)
    feature.ask(CountAtom(ORDERS, keep, FOREVER))
    summaries = Summaries()
    for time_ms, id_hash, _ in stream:
        feature.fold(summaries, event(time_ms), id_hash, CLOCK_MS, [])
    return list(summaries.counts.get(feature.key, ()))


def summed(stream: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    atom = SumAtom(ORDERS, order_total_micros, 1, FOREVER)
    feature = SumFeature(atom.events, atom.amount)
    feature.ask(atom)
    summaries = Summaries()
    for time_ms, id_hash, amount in stream:
        feature.fold(summaries, event(time_ms, amount=amount), id_hash, CLOCK_MS, [])
    return summaries.sums.get(feature.key, [])


def once(stream: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Each event (time and id) with one amount only."""
    return [(*key, amount) for key, amount in {each[:2]: each[2] for each in stream}.items()]


@given(entries, st.integers(1, 6), st.randoms(use_true_random=False))
def test_order_and_repetition_change_no_count_summary(
    stream: list[tuple[int, int, int]], keep: int, chance: random.Random
) -> None:
    shuffled = stream + [each for each in stream if chance.random() < 0.5]
    chance.shuffle(shuffled)

    assert counted(shuffled, keep) == counted(stream, keep)


@given(entries, st.integers(1, 6))
def test_a_count_summary_is_the_newest_of_the_set_of_events(stream: list[tuple[int, int, int]], keep: int) -> None:
    newest = sorted({each[:2] for each in stream})[-keep:]

    assert counted(stream, keep) == [part for entry in newest for part in entry]


@given(entries, entries, st.integers(1, 6))
def test_merging_count_summaries_equals_counting_both_streams(
    first: list[tuple[int, int, int]], second: list[tuple[int, int, int]], keep: int
) -> None:
    assert merge_entries(counted(first, keep), counted(second, keep), keep) == counted(first + second, keep)


@given(entries, st.randoms(use_true_random=False))
def test_order_and_repetition_change_no_sum_summary(stream: list[tuple[int, int, int]], chance: random.Random) -> None:
    stream = once(stream)
    shuffled = stream + [each for each in stream if chance.random() < 0.5]
    chance.shuffle(shuffled)

    assert summed(shuffled) == summed(stream) == sorted(stream)


@given(entries, st.integers(0, 40))
def test_merging_sum_summaries_equals_adding_up_both_streams(stream: list[tuple[int, int, int]], cut: int) -> None:
    stream = once(stream)
    first, second = stream[:cut], stream[max(0, cut - 3) :]

    assert merge_amounts(summed(first), summed(second)) == summed(stream)


def test_merging_registers_takes_the_newer_value_and_the_later_record_at_the_same_time() -> None:
    assert merge_registers((5, "old", [1]), (7, "new", [2])) == (7, "new", [2])
    assert merge_registers((7, "new", [2]), (5, "old", [1])) == (7, "new", [2])
    assert merge_registers((5, "a", [1]), (5, "b", [2])) == (5, "b", [1, 2])
    assert merge_registers((5, "b", [1, 2]), (5, "a", [1])) == (5, "b", [1, 2])


SEGMENTS = {
    "segments": [
        {"id": "a", "name": "a", "conditions": [{"kind": "transaction", "min": 1, "at_least": 2, "within": "20s"}]},
        {"id": "b", "name": "b", "conditions": [{"kind": "spend", "min": 5, "max": 9, "within": "30s"}]},
        {"id": "c", "name": "c", "conditions": [{"kind": "transaction", "min": 1, "within": "10s", "negate": True}]},
    ]
}


def definitions() -> Definitions:
    return compile_definitions(parse_segments(SEGMENTS))


def said(engine: PartitionEngine, batches: list[list[Event]]) -> list[tuple[str, str, str, int]]:
    found = []
    for batch in batches:
        rest = batch
        while rest:
            result = engine.run(rest, 0)
            engine.commit()
            found += [(each.customer_id, each.segment_id, each.effective_at, each.sequence) for each in result.changes]
            rest = rest[result.consumed :]
    return found


streams = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 60_000), st.integers(0, 9_000), st.integers(0, 9)), max_size=60
)


def as_events(stream: list[tuple[int, int, int, int]]) -> list[Event]:
    return [
        event(record_ms - min(record_ms, late_ms), name, name * 1_000_000, customer=f"c{whose}", clock_ms=record_ms)
        for whose, record_ms, late_ms, name in stream
    ]


@given(streams, st.lists(st.integers(0, 60), max_size=6), st.integers(1, 5))
def test_any_split_into_batches_says_the_same_changes(
    stream: list[tuple[int, int, int, int]], cuts: list[int], most_deadlines: int
) -> None:
    events = as_events(stream)
    bounds = [0, *sorted(cuts), len(events)]
    batches = [events[start:end] for start, end in pairwise(bounds)]
    whole = PartitionEngine(MemoryStore(), definitions())
    split = PartitionEngine(MemoryStore(), definitions(), most_deadlines=most_deadlines, most_changes=3, cache_bytes=1)

    assert said(split, batches) == said(whole, [events])


def written(records: list[tuple[str, int]], seed: int) -> object:
    """The value after the live records were written in their order, the old ones among them at any time."""
    feature, summaries, chance = RegisterFeature("r"), Summaries(), random.Random(seed)
    old = chance.randint(0, len(records))
    waiting = [iter(enumerate(records[:old])), iter(enumerate(records[old:], old))]
    for source in chance.sample([0] * old + [1] * (len(records) - old), len(records)):
        id_hash, (value, time_ms) = next(waiting[source])
        if source:
            feature.fold(summaries, value, time_ms, id_hash, [])
        else:
            feature.fold_old(summaries, value, time_ms, id_hash)
    return summaries.registers[feature.key][1] if records else None


@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=1), st.integers(0, 2)), max_size=8), st.integers(0, 99))
def test_a_register_that_is_read_back_holds_the_last_record_of_its_newest_time(
    records: list[tuple[str, int]], seed: int
) -> None:
    newest_ms = max((time_ms for _, time_ms in records), default=0)
    last = [value for value, time_ms in records if time_ms == newest_ms][-1:]

    assert written(records, seed) == (last[0] if last else None)


def test_a_register_reads_the_same_records_back_twice_without_a_difference() -> None:
    feature, summaries = RegisterFeature("r"), Summaries()
    feature.fold(summaries, "live", 5, 3, [])
    for _ in range(2):
        for id_hash, value in enumerate(("first", "second")):
            feature.fold_old(summaries, value, 5, id_hash)

    assert summaries.registers[feature.key] == (5, "live", [0, 1, READ_BACK, 3])


class WatchedHash(int):
    """A hash of an event's id that counts how often one of them is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        WatchedHash.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


@pytest.mark.parametrize("is_old", [False, True])
def test_a_register_with_very_many_writers_at_one_time_finds_each_at_once(is_old: bool) -> None:
    feature, summaries = RegisterFeature("r"), Summaries()
    WatchedHash.compared = 0
    for id_hash in range(10_000):
        if is_old:
            assert feature.fold_old(summaries, id_hash, 5, WatchedHash(id_hash))
            assert not feature.fold_old(summaries, "again", 5, WatchedHash(id_hash // 2))
        else:
            assert feature.fold(summaries, id_hash, 5, WatchedHash(id_hash), [])
            assert not feature.fold(summaries, "again", 5, WatchedHash(id_hash // 2), [])

    assert summaries.registers[feature.key] == (5, 9_999, [*range(10_000), *[READ_BACK] * is_old])
    assert WatchedHash.compared < 10_000 * 10


@given(st.integers(0, 3 * INLINE_ENTRIES), st.randoms(use_true_random=False))
def test_a_register_takes_many_records_of_one_time_read_back_beside_live_ones(
    count: int, chance: random.Random
) -> None:
    records = [(str(number), 5) for number in range(count)]
    assert written(records, chance.randrange(10**6)) == (str(count - 1) if count else None)
