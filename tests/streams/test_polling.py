"""What a poll is stamped with while the worker's thread opens and closes partitions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.polling import PollingThread


class ClosingBatches(list[list[Any]]):
    """Batches during whose taking the worker's thread closes all partitions."""

    def __init__(self, thread: PollingThread, *batches: list[Any]) -> None:
        super().__init__(batches)
        self._thread = thread

    def __iter__(self) -> Iterator[list[Any]]:
        self._thread.close_partitions()
        return super().__iter__()


async def test_a_partition_closed_while_records_are_taken_leaves_them_the_epoch_they_were_fetched_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = TP("t", 0)
    thread = object.__new__(PollingThread)
    thread.paused, thread._epochs, thread._delivered = frozenset(), {0: 5}, defaultdict(int)
    thread.consumer = Mock(flow_active=True)

    async def fetch(*_: Any) -> dict[TP, ClosingBatches]:
        return {place: ClosingBatches(thread, [(b"value", b"key", 1_000, 7)])}

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", fetch)
    monkeypatch.setattr(PollingThread, "_note_ends", lambda *_: None)
    records = await thread._fetch_records(Mock(), {place})
    assert set(records) == {place}
    assert records.epochs == {0: 5}
    assert thread._epochs == {}
