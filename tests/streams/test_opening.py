"""Opening a partition without Kafka: what becomes of the one that was held before."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from conditions.segments import SegmentCompiler
from state.rocksdb_store import RocksdbStore
from state.store import StateError
from streams.kafka.security import Connection
from streams.metrics import Metrics
from streams.opening import Opener
from streams.pace import Pace
from streams.partition import Partition
from streams.redefining import Background
from streams.settings import Settings, load_settings


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
    opening = opener(settings)
    opening.fresh = settings.data_dir / "fresh"
    opened = await opening.open(0, 2, held)
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
