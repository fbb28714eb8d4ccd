"""What an SRE watches. Counted per batch, never per event."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from state.engine import BatchResult

TRANSACTION_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """The worker's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.events = Counter("rollcall_events", "input records by outcome", ["outcome"], registry=registry)
        self.changes = Counter("rollcall_changes", "membership changes", ["type", "reason"], registry=registry)
        self.rejected = Counter("rollcall_dead_letters", "invalid records by code", ["code"], registry=registry)
        self.lag = Gauge(
            "rollcall_lag_records",
            "records in the input topics that are not applied yet",
            ["partition"],
            registry=registry,
        )
        self.clock = Gauge(
            "rollcall_clock_seconds", "the partition's clock, seconds since the epoch", ["partition"], registry=registry
        )
        self.customers = Gauge("rollcall_customers", "known customers", ["partition"], registry=registry)
        self.transaction_seconds = Histogram(
            "rollcall_transaction_seconds", "time of a transaction", buckets=TRANSACTION_BUCKETS, registry=registry
        )
        self.transaction_failures = Counter(
            "rollcall_transaction_failures", "transactions that did not end well", registry=registry
        )
        self.restarts = Counter("rollcall_openings", "partitions opened, by what for", ["cause"], registry=registry)
        self.restore_remaining = Gauge(
            "rollcall_restore_remaining_records", "changelog offsets still to restore", ["partition"], registry=registry
        )
        self.deadlines_late = Gauge(
            "rollcall_deadlines_waiting", "1 while due deadlines wait for their turn", ["partition"], registry=registry
        )
        self.definitions_ignored = Counter(
            "rollcall_definitions_ignored",
            "records of the definitions topic that do not count, by reason",
            ["reason"],
            registry=registry,
        )
        self.definitions_unsettled = Gauge(
            "rollcall_definitions_unsettled",
            "segments whose last record on the definitions topic is not the definition in force",
            registry=registry,
        )
        self.definitions_waiting = Gauge(
            "rollcall_definitions_waiting",
            "1 while changed definitions are prepared or customers are asked about them",
            ["partition"],
            registry=registry,
        )
        self.ready = Gauge("rollcall_ready", "1 when every assigned partition is open", registry=registry)

    def keep_only(self, owned: Collection[int], standbys: Collection[int]) -> None:
        """Let go of how other partitions stand: a sum over all workers would count those twice."""
        for gauge in (self.lag, self.clock, self.customers, self.deadlines_late, self.definitions_waiting):
            _keep_only(gauge, {*owned})
        _keep_only(self.restore_remaining, {*owned, *standbys})

    def count(self, result: BatchResult) -> None:
        """Take note of a committed batch."""
        self.events.labels("applied").inc(result.consumed - len(result.rejected))
        self.events.labels("rejected").inc(len(result.rejected))
        for (kind, reason), count in Tally((each.type, each.reason) for each in result.changes).items():
            self.changes.labels(kind, reason).inc(count)
        for code, count in Tally(each.code for each in result.rejected).items():
            self.rejected.labels(code).inc(count)


def _keep_only(gauge: Gauge, partitions: Collection[int]) -> None:
    told = {sample.labels["partition"] for family in gauge.collect() for sample in family.samples}
    for label in told - {str(number) for number in partitions}:
        gauge.remove(label)
