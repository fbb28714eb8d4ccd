"""Opening a partition without Kafka: what becomes of the one that was held before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conditions.segments import SegmentCompiler
from conditions.times import HOUR_MS
from state.changelog import Position, add_position
from state.rocksdb_store import RocksdbStore
from state.store import StateError, WriteSet
from streams import opening
from streams.kafka.changelog import Restored
from streams.kafka.security import Connection
from streams.metrics import Metrics
from streams.opening import Opener
from streams.pace import Pace
from streams.partition import Partition
from streams.redefining import Background
from streams.settings import Settings, load_settings
from streams.wall_time import wall_time_ms


class MovingAside(Opener):
    """Finds the state unusable and starts from nothing, or cannot even do that."""

    fresh: Path | None = None

    async def _restored(self, number: int, store: RocksdbStore, **_: Any) -> RocksdbStore:
        store.close()
        if self.fresh is None:
            raise StateError("no room for another")
        return RocksdbStore.open(self.fresh)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"topics": ("visits",), "data_dir": tmp_path})


def opener(settings: Settings) -> MovingAside:
    return MovingAside(settings, None, Connection("nowhere:9092"), "writer", Metrics())


async def read_for_ever() -> None:
    await asyncio.Event().wait()


def reading_back(settings: Settings) -> tuple[Partition, asyncio.Task[None]]:
    """A partition that reads old events back."""
    background = Background(Connection("nowhere:9092"), Pace(settings.backfill_share), SegmentCompiler())
    held = Partition(0, 1, "lineage", RocksdbStore.open(settings.data_dir / "held"), settings, background, None)
    assert held.redefining is not None
    reading = asyncio.create_task(read_for_ever())
    held.redefining._reading = reading
    return held, reading


async def test_a_partition_whose_state_was_moved_aside_reads_no_further(settings: Settings) -> None:
    held, reading = reading_back(settings)
    moving = opener(settings)
    moving.fresh = settings.data_dir / "fresh"
    opened = await moving.open(0, 2, held)
    assert opened is not held
    with pytest.raises(asyncio.CancelledError):
        await reading
    opened.close()


async def test_a_partition_that_cannot_be_opened_again_reads_no_further(settings: Settings) -> None:
    held, reading = reading_back(settings)
    with pytest.raises(StateError, match="no room"):
        await opener(settings).open(0, 2, held)
    with pytest.raises(asyncio.CancelledError):
        await reading


END = 70


def write_state(store: RocksdbStore, settings: Settings, hours_ago: int) -> None:
    """A customer, as of offset 50 of the changelog so many hours ago."""
    writes = WriteSet(customers=[(b"ada", b"\xff" * 8)])
    add_position(writes, Position(settings.changelog_topic, 50, wall_time_ms() - hours_ago * HOUR_MS))
    store.write(writes)


@pytest.fixture
def restored_from(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The offsets from which a changelog was read that has nothing new."""
    offsets: list[int | None] = []

    async def read_nothing(_topic: str, _number: int, from_offset: int | None, *_: Any, **__: Any) -> Restored:
        offsets.append(from_offset)
        return Restored(END, 0, 0.0)

    async def no_history(*_: Any) -> None:
        return None

    monkeypatch.setattr(opening, "restore", read_nothing)
    monkeypatch.setattr(opening, "history_from_ms", no_history)
    return offsets


@pytest.mark.parametrize(("hours_ago", "offset"), [(11, 50), (13, None)])
@pytest.mark.parametrize("is_held", [False, True])
async def test_state_that_may_have_missed_tombstones_is_made_anew_also_where_it_was_held_all_the_while(
    settings: Settings, restored_from: list[int | None], is_held: bool, hours_ago: int, offset: int | None
) -> None:
    opens = Opener(settings, None, Connection("nowhere:9092"), "writer", Metrics())
    held = None
    store = RocksdbStore.open(opens.folder(0))
    write_state(store, settings, hours_ago)
    if is_held:
        background = Background(Connection("nowhere:9092"), Pace(settings.backfill_share), SegmentCompiler())
        held = Partition(0, 1, "lineage", store, settings, background, None)
    else:
        store.close()
    opened = await opens.open(0, 2, held)
    assert restored_from == [offset]
    assert opened.store.get_many([b"ada"]) == [None if offset is None else b"\xff" * 8]
    assert (opened is held) is (is_held and offset is not None)
    opened.close()


async def test_a_copy_that_was_followed_by_a_frozen_worker_is_made_anew(
    settings: Settings, restored_from: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "STANDBY_EVERY_S", 0.0)
    opens = Opener(settings, None, Connection("nowhere:9092"), "writer", Metrics())
    await opens.follow(frozenset({0}))
    await until(lambda: END in restored_from)
    frozen_ms = wall_time_ms() + 13 * HOUR_MS
    monkeypatch.setattr(opening, "wall_time_ms", lambda: frozen_ms)
    seen = len(restored_from)
    await until(lambda: None in restored_from[seen:])
    await opens.close()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")
