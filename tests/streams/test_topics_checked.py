"""A worker goes on with what the group has given it once the topics are found to be as they should be."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from streams.kafka.errors import MetadataBehind, Refused
from streams.metrics import Metrics
from streams.polling import Membership
from streams.settings import load_settings
from streams.worker import Worker


class Topics:
    """Stands for an Opener: opens at once, and tells of the topics when the test does."""

    failure = None
    fingerprint = ""

    def __init__(self) -> None:
        self.told: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def check_topics(self) -> int:
        return await self.told

    async def open(self, number: int, epoch: int, _held: None) -> Any:
        return SimpleNamespace(number=number, epoch=epoch, positions=dict)


def worker_with(topics: Any, *partitions: int) -> Worker:
    """A worker that the group has just given these partitions."""
    worker = Worker(load_settings(), Mock(), topics, Metrics())
    thread: Any = SimpleNamespace(open_partition=AsyncMock(), close_partitions=Mock())
    worker.thread = thread
    worker._membership = Membership(1, "member", frozenset(partitions), frozenset())
    worker._start_openings(worker._membership)
    return worker


async def adopted(worker: Worker) -> bool:
    """Whether it is ready after all that can be done was done."""
    for _ in range(5):
        await asyncio.sleep(0)
    await worker._adopt_opened()
    return worker.ready


@pytest.mark.parametrize("partitions", [(), (0, 1)])
async def test_it_is_not_ready_before(partitions: tuple[int, ...]) -> None:
    topics = Topics()
    worker = worker_with(topics, *partitions)
    assert not await adopted(worker)
    topics.told.set_result(2)
    assert await adopted(worker)


@pytest.mark.parametrize("partitions", [(), (0, 1)])
async def test_what_is_wrong_with_the_topics_is_raised_also_where_they_left_it_nothing(
    partitions: tuple[int, ...],
) -> None:
    topics = Topics()
    worker = worker_with(topics, *partitions)
    topics.told.set_exception(Refused("topic tracking does not exist"))
    with pytest.raises(Refused, match="tracking"):
        await adopted(worker)
    assert not worker.ready
    await worker._cancel_openings()


async def test_partitions_that_the_brokers_do_not_all_know_of_are_not_begun() -> None:
    topics = Topics()
    worker = worker_with(topics, 1, 2, 3)
    topics.told.set_result(2)
    with pytest.raises(MetadataBehind, match="has assigned partitions 2, 3, and the input topics have 2"):
        await adopted(worker)
    assert not worker._partitions
