"""A worker's metrics tell how its own partitions stand, and not those that have moved to another worker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from state.engine import Marker
from streams.metrics import Metrics
from streams.polling import Membership
from streams.settings import load_settings
from streams.worker import Worker

OF_OWNED = (
    "rollcall_lag_records",
    "rollcall_clock_seconds",
    "rollcall_customers",
    "rollcall_deadlines_waiting",
    "rollcall_definitions_waiting",
)
RESTORING = "rollcall_restore_remaining_records"


class OpenPartition:
    """A double of `streams.partition.Partition` that has applied something."""

    def __init__(self, marker: Marker) -> None:
        self.engine = SimpleNamespace(marker=marker, is_behind=lambda _: False)
        self.redefining = SimpleNamespace(is_behind=lambda _: True)

    def lag(self, _: Any) -> int:
        return 3


def worker_with(metrics: Metrics, *numbers: int) -> Any:
    nothing: Any = None
    worker: Any = Worker(load_settings(), nothing, nothing, metrics)
    worker.thread = SimpleNamespace(ends={})
    worker._partitions = {number: OpenPartition(Marker(clock_ms=5_000, customers=7)) for number in numbers}
    return worker


def membership(*partitions: int, standbys: frozenset[int] = frozenset()) -> Membership:
    return Membership(1, "member", frozenset(partitions), standbys)


def told(metrics: Metrics, worker: Any) -> dict[str, set[str]]:
    """The partitions that each metric tells of, as of a scrape."""
    worker.observe()
    families = {family.name: family for family in metrics.registry.collect()}
    return {name: {each.labels["partition"] for each in families[name].samples} for name in (*OF_OWNED, RESTORING)}


def in_all(*partitions: str) -> dict[str, set[str]]:
    return {name: set(partitions) for name in (*OF_OWNED, RESTORING)}


def test_every_metric_with_a_partition_is_watched_here() -> None:
    metrics = Metrics()
    gauges = {family.name for family in metrics.registry.collect() if family.type == "gauge"}
    without = {"rollcall_definitions_unsettled", "rollcall_ready"}
    assert gauges - without == {*OF_OWNED, RESTORING}


def test_a_partition_that_has_moved_to_another_worker_is_not_told_of_any_more() -> None:
    metrics = Metrics()
    worker = worker_with(metrics, 0, 1)
    for number in (0, 1):
        metrics.restore_remaining.labels(str(number)).set(0)
    worker._membership = membership(0, 1)
    assert told(metrics, worker) == in_all("0", "1")
    worker._membership = membership(0)
    del worker._partitions[1]
    assert told(metrics, worker) == in_all("0")


def test_a_worker_that_the_group_has_taken_everything_from_tells_of_no_partition() -> None:
    metrics = Metrics()
    worker = worker_with(metrics, 0)
    worker._membership = membership(0)
    assert told(metrics, worker)["rollcall_lag_records"] == {"0"}
    worker._membership = None
    assert told(metrics, worker) == in_all()


def test_a_partition_that_comes_back_is_told_of_before_anything_happens_in_it() -> None:
    metrics = Metrics()
    worker = worker_with(metrics, 0)
    told(metrics, worker)
    worker._membership = membership(0)
    assert told(metrics, worker)["rollcall_customers"] == {"0"}
    assert metrics.registry.get_sample_value("rollcall_customers", {"partition": "0"}) == 7
    assert metrics.registry.get_sample_value("rollcall_clock_seconds", {"partition": "0"}) == pytest.approx(5)


def test_a_partition_being_opened_again_keeps_its_last_lag_and_a_warm_copy_tells_what_it_restores() -> None:
    metrics = Metrics()
    worker = worker_with(metrics, 0)
    worker._membership = membership(0, standbys=frozenset({1}))
    metrics.restore_remaining.labels("1").set(9)
    told(metrics, worker)
    worker._partitions.clear()
    found = told(metrics, worker)
    assert (found["rollcall_lag_records"], found[RESTORING]) == ({"0"}, {"1"})
