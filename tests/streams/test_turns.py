"""Which partitions' batches a worker puts into one transaction."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from streams.metrics import Metrics
from streams.settings import load_settings
from streams.worker import TRANSACTION_BYTES, Worker


@pytest.mark.parametrize(
    ("written_bytes", "turns"),
    [
        (1_000, [[0, 1, 2], [0, 1, 2]]),
        (TRANSACTION_BYTES // 2, [[0, 1], [2, 0], [1, 2]]),
        (TRANSACTION_BYTES, [[0], [1], [2], [0]]),
    ],
)
def test_a_turn_ends_once_there_is_enough_to_write_and_the_others_come_first_in_the_next(
    written_bytes: int, turns: list[list[int]]
) -> None:
    worker = Worker(load_settings(), Mock(), Mock(), Metrics())
    thread: Any = SimpleNamespace(ends={})
    worker.thread = thread
    result = SimpleNamespace(written_bytes=written_bytes)
    worker._partitions = {
        number: Mock(number=number, decide=Mock(return_value=result), redefine=Mock(return_value=None))
        for number in range(3)
    }
    for turn in turns:
        decided = asyncio.run(worker._decide())
        assert [each.partition.number for each in decided] == turn
