"""A batch that takes its records bit by bit decides what a whole one decides."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

import state.engine
from conditions.changes import Change
from conditions.definitions import Definitions, compile_definitions
from conditions.documents import parse_segments
from conditions.events import Event, Rejected
from conditions.times import DAY_MS, MAX_TIME_MS
from connectors.json_events import decode_lines
from state.engine import PartitionEngine
from state.memory_store import MemoryStore
from state.rocksdb_store import RocksdbStore
from state.store import Store
from tests.cases import case

Records = list[Event | Rejected]


def decoded(lines: list[bytes]) -> Records:
    return decode_lines(lines, range(len(lines)))


def whole(records: Records, definitions: Definitions) -> tuple[list[Any], dict[bytes, bytes]]:
    store = MemoryStore()
    engine = PartitionEngine(store, definitions)
    changes: list[Change] = []
    while records:
        result = engine.run(records, 0)
        engine.commit()
        changes += result.changes
        records = records[result.consumed :]
    return comparable(changes), dict(store.scan())


def bit_by_bit(
    records: Records, definitions: Definitions, store: Store, chance: random.Random
) -> tuple[list[Any], dict[bytes, bytes]]:
    engine = PartitionEngine(store, definitions, cache_bytes=2_000, most_deadlines=3, most_changes=5)
    changes: list[Change] = []
    while records:
        until_ms = engine.marker.clock_ms + chance.choice((0, DAY_MS, 40 * DAY_MS))
        batch = engine.begin(chance.choice((until_ms, MAX_TIME_MS)))
        left = chance.randint(1, 8)
        taken = 1
        while records and left and taken:
            taken = batch.take(records[: chance.randint(1, 9)], 0)
            changes += batch.outcome()[0]
            records, left = records[taken:], left - 1
        engine.finish(batch)
        engine.commit()
        if not taken:
            result = engine.run(records[:9], 0)
            engine.commit()
            changes += result.changes
            records = records[result.consumed :]
    return comparable(changes), dict(store.scan())


def comparable(changes: list[Change]) -> list[Any]:
    return [msgspec.structs.replace(change, decided_at="") for change in changes]


@pytest.mark.parametrize("seed", range(60))
def test_taken_bit_by_bit_records_are_decided_as_in_one_batch(seed: int, tmp_path: Path) -> None:
    drawn = case(seed)
    definitions = compile_definitions(parse_segments(drawn.document))
    records = decoded(drawn.lines)
    store: Store = RocksdbStore.open(tmp_path / "state") if seed % 10 == 0 else MemoryStore()

    changes, customers = bit_by_bit(records, definitions, store, random.Random(seed))
    store.close()

    expected_changes, expected_customers = whole(records, definitions)
    assert changes == expected_changes
    assert customers.keys() == expected_customers.keys()


def test_a_batch_is_full_after_so_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state.engine, "MOST_RECORDS", 3)
    drawn = case(1)
    engine = PartitionEngine(MemoryStore(), compile_definitions(parse_segments(drawn.document)))
    batch = engine.begin()
    records = decoded(drawn.lines)[:3]

    batch.take(records[:2], 0)
    full_after_two = batch.is_full
    batch.take(records[2:], 0)
    full_after_three = batch.is_full

    assert (full_after_two, full_after_three) == (False, True)
    assert engine.finish(batch).consumed == 3
