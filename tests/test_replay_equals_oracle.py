"""Replay against an evaluator that keeps every event, asks everything anew each time, and shares no code with it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

import state.engine
from conditions.definitions import compile_definitions
from conditions.documents import parse_segments
from connectors.json_events import decode_line
from connectors.lines import read_batches
from state.engine import PartitionEngine
from state.memory_store import MemoryStore
from state.rocksdb_store import RocksdbStore
from state.store import Store
from tests.cases import Case, case
from tests.oracle import replay

SEEDS = range(300)
ROCKSDB_SEEDS = range(1000, 1020)
SMALL_SEEDS = range(2000, 2100)
# Seeds that once showed a defect stay here for ever.
FAILED_ONCE: tuple[int, ...] = ()


def engine_outcome(
    each: Case, store: Store, folder: Path, *, chance: random.Random | None = None
) -> tuple[list[dict[str, Any]], list[tuple[int, str]], dict[str, set[str]]]:
    """Changes, rejected lines and closing members, in batches of random sizes where `chance` is given."""
    definitions = compile_definitions(parse_segments(each.document))
    if chance is None:
        engine = PartitionEngine(store, definitions)
    else:
        engine = PartitionEngine(store, definitions, cache_bytes=2_000, most_deadlines=3, most_changes=5)
    path = folder / "events.ndjson"
    path.write_bytes(b"\n".join(each.lines) + b"\n")
    with path.open("rb") as stream:
        batches = list(read_batches(stream))
    numbered = [each for batch in batches for each in zip(batch.lines, batch.numbers, strict=True)]
    records = [decode_line(line, number - 1) for line, number in numbered]
    changes: list[Any] = []
    rejected: list[tuple[int, str]] = []
    while records:
        size = chance.randint(1, 20) if chance else len(records)
        result = engine.run(records[:size], 0)
        engine.commit()
        changes += result.changes
        rejected += [(letter.offset + 1, letter.code) for letter in result.rejected]
        records = records[result.consumed :]
    while each.until_ms is not None and engine.is_behind(each.until_ms):
        changes += engine.run((), 0, each.until_ms).changes
        engine.commit()
    members: dict[str, set[str]] = {segment: set() for segment in definitions.segments}
    for change in changes:
        (members[change.segment_id].add if change.type == "entered" else members[change.segment_id].discard)(
            change.customer_id
        )
    return [comparable(msgspec.to_builtins(change)) for change in changes], rejected, members


def comparable(change: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in change.items() if name not in {"change_id", "decided_at"}}


def assert_equal(each: Case, store: Store, folder: Path, chance: random.Random | None = None) -> None:
    expected = replay(each.document, each.lines, each.until_ms)
    changes, rejected, members = engine_outcome(each, store, folder, chance=chance)
    assert rejected == [(letter.line, letter.code) for letter in expected.rejected]
    for ours, theirs in zip(changes, expected.changes, strict=False):
        assert ours == comparable(theirs)
    assert len(changes) == len(expected.changes)
    assert members == expected.members


@pytest.mark.parametrize("seed", [*FAILED_ONCE, *SEEDS])
def test_replay_says_what_the_brute_force_evaluator_says(seed: int, tmp_path: Path) -> None:
    assert_equal(case(seed), MemoryStore(), tmp_path)


@pytest.mark.parametrize("seed", ROCKSDB_SEEDS)
def test_so_it_does_in_batches_of_any_size_with_state_on_disk(seed: int, tmp_path: Path) -> None:
    store = RocksdbStore.open(tmp_path / "state")
    try:
        assert_equal(case(seed), store, tmp_path, random.Random(seed))
    finally:
        store.close()


@pytest.mark.parametrize("seed", SMALL_SEEDS)
def test_so_it_does_where_hardly_a_customer_fits_a_batch(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(state.engine, "MOST_WRITTEN_BYTES", chance.choice((1, 1_000, 2_000, 5_000)))
    assert_equal(case(seed), MemoryStore(), tmp_path, chance)
