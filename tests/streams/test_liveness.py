"""Which worker counts as stuck: one that does nothing of what it should do all the time."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from streams.metrics import Metrics
from streams.polling import Membership, PollingThread
from streams.settings import load_settings
from streams.worker import Worker

LONG_S = 1_000.0


def ready_worker(partitions: set[int], standbys: set[int], polled_at: float) -> Worker:
    """A worker that has opened all that the group gave it, and whose consumer last polled then."""
    worker = Worker(load_settings(), Mock(), Mock(), Metrics())
    thread: Any = SimpleNamespace(polled_at=polled_at)
    worker.thread = thread
    worker._membership = Membership(1, "member", frozenset(partitions), frozenset(standbys))
    worker._partitions = {number: Mock() for number in partitions}
    assert worker.ready
    return worker


@pytest.mark.parametrize("standbys", [set(), {0, 1}])
def test_a_worker_without_partitions_is_not_stuck_though_nobody_polls(standbys: set[int]) -> None:
    assert ready_worker(set(), standbys, time.monotonic() - LONG_S).stuck_s < LONG_S / 2


def test_a_worker_whose_partitions_nobody_polls_is_stuck() -> None:
    assert ready_worker({0}, set(), time.monotonic() - LONG_S).stuck_s >= LONG_S


def test_the_time_without_polls_begins_anew_when_partitions_are_assigned() -> None:
    thread = object.__new__(PollingThread)
    consumer = SimpleNamespace(_coordinator=SimpleNamespace(generation=1, member_id="member"))
    thread._consumer, thread.polled_at = consumer, time.monotonic() - LONG_S
    thread.assignor = Mock(standbys={})
    thread.note_membership([SimpleNamespace(partition=0)])
    assert time.monotonic() - thread.polled_at < LONG_S / 2
