"""What is in memory and what a batch writes stay bounded, however large the customers are."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

import orjson
import pytest

import state.engine
from conditions.changes import Change
from conditions.definitions import Definitions, compile_definitions
from conditions.documents import encode_segment, parse_segments
from conditions.events import Event, Rejected
from conditions.segments import SegmentCompiler
from conditions.times import DAY_MS, MAX_TIME_MS
from connectors.json_events import decode_lines
from state.cache import DECODED_TIMES, READ_AT_ONCE, READ_BYTES, VISITED_SHARE, CustomerCache, CustomerReader
from state.customers import PART_ENTRIES, Customer, decode_customer, is_spill
from state.engine import BatchResult, PartitionEngine, latest_ms
from state.live_engine import LiveEngine
from state.memory_store import MemoryStore
from state.overlay import Overlay
from state.redefinition import ChangedSegment
from state.store import Store
from tests.cases import case

Records = list[Event | Rejected]

START_MS = 1_760_000_000_000
LARGE_BYTES = 100_000
CUSTOMERS = [f"c{number}" for number in range(40)]
CACHE_BYTES = 8 * LARGE_BYTES * DECODED_TIMES
ONE_BYTES = (LARGE_BYTES + 1_000) * DECODED_TIMES
CONDITIONS = {
    "noted": {"kind": "customer", "attribute": "note", "operator": "exists"},
    "seen": {"kind": "page_visit", "within": "1d"},
    "spent": {"kind": "spend", "min": 5},
}
DOCUMENT = {"segments": [{"id": each, "name": each, "conditions": [asked]} for each, asked in CONDITIONS.items()]}


def definitions() -> Definitions:
    return compile_definitions(parse_segments(DOCUMENT))


def event(number: int, customer: str, kind: str, at_ms: int, **fields: object) -> bytes:
    head = {"event_id": f"e{number}", "type": kind, "customer_id": customer, "time": at_ms}
    return orjson.dumps(head | fields)


def note(number: int, customer: str, at_ms: int, size: int = LARGE_BYTES) -> bytes:
    return event(number, customer, "customer.update", at_ms, properties={"attributes": {"note": "x" * size}})


def visit(number: int, customer: str, at_ms: int) -> bytes:
    return event(number, customer, "page.visit", at_ms, properties={"url": "https://a.example/"})


def order(number: int, customer: str, at_ms: int) -> bytes:
    return event(number, customer, "purchase.order", at_ms, properties={"order_id": f"o{number}", "total": 10})


def decoded(lines: Sequence[bytes]) -> Records:
    return decode_lines(list(lines), range(len(lines)))


def filled(store: Store, *, visited: bool = False) -> None:
    """Let all customers have a large attribute, and maybe a deadline a day later, all at one instant."""
    engine = PartitionEngine(store, definitions())
    lines = [note(at, each, START_MS) for at, each in enumerate(CUSTOMERS)]
    if visited:
        lines += [visit(1_000 + at, each, START_MS) for at, each in enumerate(CUSTOMERS)]
    records = decoded(lines)
    while records:
        records = records[engine.run(records, 0).consumed :]
        engine.commit()


def batches(engine: PartitionEngine, records: Records, until_ms: int = 0) -> Iterator[BatchResult]:
    """Run and commit all records, then all that is due until then."""
    while records or engine.is_behind(until_ms):
        result = engine.run(records, 0, until_ms)
        records = records[result.consumed :]
        engine.commit()
        yield result


def kept(engine: PartitionEngine) -> list[Customer]:
    cache = engine._cache
    return [*cache._young.values(), *cache._old.values()]


def said(changes: Sequence[Change]) -> list[tuple[str, str, str, str]]:
    return [(each.customer_id, each.segment_id, each.type, each.effective_at) for each in changes]


def test_very_many_very_large_customers_take_no_more_memory_than_they_may() -> None:
    store = MemoryStore()
    filled(store)
    engine = PartitionEngine(store, definitions(), cache_bytes=CACHE_BYTES)
    chance = random.Random(1)
    records = decoded([visit(at, chance.choice(CUSTOMERS), START_MS + at) for at in range(2_000)])
    peak_bytes = 0
    while records:
        batch = engine.begin()
        taken = 1
        while records and taken:
            taken = batch.take(records[:50], 0)
            records = records[taken:]
            peak_bytes = max(peak_bytes, engine._cache.size_bytes)
            assert engine._cache.size_bytes == DECODED_TIMES * sum(each.stored_bytes for each in kept(engine))
        engine.finish(batch)
        engine.commit()
        assert engine._cache.size_bytes <= CACHE_BYTES
    assert CACHE_BYTES / 2 < peak_bytes <= CACHE_BYTES + ONE_BYTES


def test_customers_that_grow_are_counted_as_they_are_written() -> None:
    engine = PartitionEngine(MemoryStore(), definitions(), cache_bytes=CACHE_BYTES)
    for at in range(100):
        for _ in batches(engine, decoded([note(at, CUSTOMERS[at % 12], START_MS + at, at * 2_000)])):
            assert engine._cache.size_bytes == DECODED_TIMES * sum(each.stored_bytes for each in kept(engine))
            assert engine._cache.size_bytes <= CACHE_BYTES


@pytest.mark.parametrize("strict_order", [True, False])
def test_a_batch_ends_before_it_writes_too_much(strict_order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state.engine, "MOST_WRITTEN_BYTES", 5 * LARGE_BYTES)
    store = MemoryStore()
    filled(store)
    engine = PartitionEngine(store, definitions(), strict_order=strict_order)
    records = decoded([visit(at, each, START_MS + at) for at, each in enumerate(CUSTOMERS)])
    for _ in range(2):  # from the store, then from memory
        results = list(batches(engine, records))
        assert sum(result.consumed for result in results) == len(CUSTOMERS)
        assert max(result.written_bytes for result in results) <= 5 * LARGE_BYTES
        assert len(results) == len(CUSTOMERS) / 4
        records = decoded([visit(1_000 + at, each, START_MS + 1_000 + at) for at, each in enumerate(CUSTOMERS)])


def test_a_busy_large_customer_is_written_once_for_all_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state.engine, "MOST_WRITTEN_BYTES", 2 * LARGE_BYTES)
    store = MemoryStore()
    filled(store)
    engine = PartitionEngine(store, definitions())
    [result] = batches(engine, decoded([visit(at, "c1", START_MS + at) for at in range(500)]))
    assert (result.consumed, len(result.writes.customers)) == (500, 1)


@pytest.mark.parametrize("cache_bytes", [CACHE_BYTES, 1 << 30])
@pytest.mark.parametrize("strict_order", [True, False])
def test_a_wave_of_large_customers_is_taken_in_bounded_batches(
    strict_order: bool, cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, whole_store = MemoryStore(), MemoryStore()
    for each in (store, whole_store):
        filled(each, visited=True)
    whole = PartitionEngine(whole_store, definitions())
    expected = [change for result in batches(whole, [], START_MS + 2 * DAY_MS) for change in result.changes]
    monkeypatch.setattr(state.engine, "MOST_WRITTEN_BYTES", 5 * LARGE_BYTES)
    engine = PartitionEngine(store, definitions(), strict_order=strict_order, cache_bytes=cache_bytes)

    changes: list[Change] = []
    for result in batches(engine, [], START_MS + 2 * DAY_MS):
        changes += result.changes
        assert result.written_bytes <= 5 * LARGE_BYTES
        assert engine._cache.size_bytes <= cache_bytes
        assert result.changes

    assert [each.customer_id for each in changes] == sorted(CUSTOMERS)
    assert said(changes) == said(expected)


def test_a_live_event_does_not_wait_until_a_wave_of_large_customers_is_over() -> None:
    store = MemoryStore()
    filled(store, visited=True)
    engine = PartitionEngine(store, definitions(), strict_order=False, cache_bytes=CACHE_BYTES)
    live = decoded([visit(5_000 + at, f"live{at}", START_MS + 2 * DAY_MS) for at in range(100)])
    first = next(batches(engine, live))
    left = sum(change.type == "left" for change in first.changes)
    assert first.consumed == len(live)
    assert 0 < left < len(CUSTOMERS)


@pytest.mark.parametrize("seed", range(40))
def test_with_the_wall_clock_each_customer_has_the_same_changes_whatever_fits(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = case(seed)
    compiled = compile_definitions(parse_segments(drawn.document))
    until_ms = min(latest_ms(decoded(drawn.lines)) + DAY_MS, MAX_TIME_MS)

    def by_customer(engine: PartitionEngine) -> dict[str, list[tuple[str, str, str, str]]]:
        found = defaultdict(list)
        for result in batches(engine, decoded(drawn.lines), until_ms):
            for change in said(result.changes):
                found[change[0]].append(change)
        return found

    expected = by_customer(PartitionEngine(MemoryStore(), compiled))
    chance = random.Random(seed)
    monkeypatch.setattr(state.engine, "MOST_WRITTEN_BYTES", chance.choice((1, 1_000, 3_000)))
    small = PartitionEngine(MemoryStore(), compiled, strict_order=False, cache_bytes=chance.choice((1, 3_000)))
    assert by_customer(small) == expected


def live_engine() -> LiveEngine:
    """All customers have a large attribute, which the one segment asks for."""
    engine = LiveEngine(MemoryStore(), SegmentCompiler(), cache_bytes=CACHE_BYTES)
    engine.begin_redefinition(1, [changed("noted", 1)], {})
    engine.commit()
    for _ in batches(engine, decoded([note(at, each, START_MS) for at, each in enumerate(CUSTOMERS)])):
        pass
    return engine


def changed(segment_id: str, version: int, *, is_deleted: bool = False) -> ChangedSegment:
    [document] = [encode_segment(each) for each in parse_segments(DOCUMENT) if each.id == segment_id]
    return ChangedSegment(segment_id, document if is_deleted else None, None if is_deleted else document, version)


@pytest.mark.parametrize("most_written_bytes", [5 * LARGE_BYTES, 1 << 30])
def test_a_scan_for_changed_segments_takes_bounded_steps(
    most_written_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live_engine()
    monkeypatch.setattr(state.engine, "MOST_WRITTEN_BYTES", most_written_bytes)
    engine.begin_redefinition(2, [changed("noted", 2, is_deleted=True)], {})
    engine.commit()
    most_read = CACHE_BYTES / VISITED_SHARE / (LARGE_BYTES * DECODED_TIMES) + 1
    left: list[str] = []
    while engine.redefinition is not None:
        held = {each.id for each in kept(engine)}
        result = engine.scan(0, 1_000, 20_000)
        engine.commit()
        asked = [change.customer_id for change in result.changes]
        left += asked
        assert engine._cache.size_bytes <= CACHE_BYTES
        assert result.written_bytes <= most_written_bytes
        assert len([each for each in asked if each not in held]) <= most_read
    assert left == sorted(CUSTOMERS)


@pytest.mark.parametrize("most_written_bytes", [5 * LARGE_BYTES, 1 << 30])
def test_what_is_read_back_for_new_segments_is_folded_in_bounded_steps(
    most_written_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = live_engine()
    monkeypatch.setattr(state.engine, "MOST_WRITTEN_BYTES", most_written_bytes)
    engine.begin_redefinition(2, [changed("seen", 1)], {"": len(CUSTOMERS)})
    engine.commit()
    old = decoded([visit(at, each, START_MS) for at, each in enumerate(CUSTOMERS)])
    events = [each for each in old if isinstance(each, Event)]
    while events:
        result = engine.backfill(events)
        engine.commit()
        assert 0 < result.consumed < len(CUSTOMERS)
        assert result.written_bytes <= min(most_written_bytes, 2 * CACHE_BYTES / DECODED_TIMES)
        assert engine._cache.size_bytes <= CACHE_BYTES
        del events[: result.consumed]
    engine.finish_backfill(None)
    engine.commit()
    entered = []
    while engine.redefinition is not None:
        entered += [change.customer_id for change in engine.scan(0, 1_000, 20_000).changes]
        engine.commit()
    assert entered == sorted(CUSTOMERS)


def test_what_a_customer_takes_is_what_its_records_have() -> None:
    store = MemoryStore()
    engine = PartitionEngine(store, definitions())
    lines = [order(at, "buyer", START_MS + at) for at in range(3 * PART_ENTRIES)]
    lines += [note(5_000, "noted", START_MS, 5_000), visit(5_001, "noted", START_MS)]
    for _ in batches(engine, decoded(lines)):
        pass
    written = {each.id: (each.stored_bytes, each.whole_bytes) for each in kept(engine)}
    read = {each.id: (each.stored_bytes, each.whole_bytes) for each in CustomerReader(store).read(["buyer", "noted"])}
    stored = {
        each: sum(len(record) for key, record in store.scan() if key.split(b"\xff")[0] == each.encode())
        for each in ("buyer", "noted")
    }
    for each in ("buyer", "noted"):
        assert written[each][0] == pytest.approx(read[each][0], rel=0.1)
        assert read[each][0] == pytest.approx(stored[each], rel=0.1)
        assert written[each][1] == read[each][1]
    assert written["buyer"][1] < 1_000 < written["buyer"][0]
    assert written["noted"][1] == written["noted"][0]


class CountingStore(MemoryStore):
    """A store that knows how much was read at once."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[int, int]] = []  # records and bytes

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found = super().get_many(keys)
        self.read.append((len(keys), sum(len(record or b"") for record in found)))
        return found


@pytest.mark.parametrize("size", [100, 10_000, 60_000, 400_000, 2_000_000])
def test_few_records_are_read_at_once_where_they_are_large(size: int) -> None:
    store = CountingStore()
    engine = PartitionEngine(store, definitions())
    for _ in batches(engine, decoded([note(at, each, START_MS, size) for at, each in enumerate(CUSTOMERS)])):
        pass
    store.read.clear()
    found = [each.id for each in CustomerReader(store).read([*CUSTOMERS, "nobody"])]
    assert found == [*CUSTOMERS, "nobody"]
    assert max(records for records, _ in store.read) <= READ_AT_ONCE
    assert max(size_bytes for _, size_bytes in store.read) <= max(READ_BYTES, size + 1_000)


@pytest.mark.parametrize("seed", range(30))
def test_a_cache_counts_what_it_keeps_and_answers_what_the_store_has(seed: int) -> None:
    chance = random.Random(seed)
    store = MemoryStore()
    engine = PartitionEngine(store, definitions())
    lines = [note(at, each, START_MS, chance.choice((0, 100, 5_000))) for at, each in enumerate(CUSTOMERS)]
    for _ in batches(engine, decoded(lines)):
        pass
    known = {key.decode(): decode_customer(key.decode(), record) for key, record in store.scan() if not is_spill(key)}
    cache = CustomerCache(Overlay(store), 200_000)
    for _ in range(200):
        wanted = chance.choices([*CUSTOMERS, "nobody", "no one"], k=chance.randint(1, 9))
        if chance.random() < 0.2:
            found = list(cache.visit(list(dict.fromkeys(wanted))))
            wanted = list(dict.fromkeys(wanted))
        else:
            found = cache.prefetch(wanted, chance.choice((0.5, 1)))
        assert found
        for each, customer in zip(wanted, found, strict=False):
            assert (customer.id, customer.known) == (each, each in known)
            assert customer.registers == (known[each].registers if each in known else {})
        if chance.random() < 0.5:
            cache.trim()
        if chance.random() < 0.1:
            most_bytes = chance.choice((1, 50_000, 200_000))
            cache.bound(most_bytes)
            cache.trim()
            assert cache.size_bytes <= most_bytes
        held = [*cache._young.values(), *cache._old.values()]
        assert cache.size_bytes == DECODED_TIMES * sum(each.stored_bytes for each in held)
        assert not cache._young.keys() & cache._old.keys()
