"""Customers with more state than a record of the changelog takes: the worker goes on, and restores them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import pytest

from state.parts import PART_MARK
from tests.kafka.workers import START_MS, NewStage, Sent, Stage, until

pytestmark = pytest.mark.kafka

SEGMENTS = """
segments:
  - id: described
    name: Described
    conditions:
      - {kind: customer, attribute: first, operator: ends_with, value: "!"}
      - {kind: customer, attribute: second, operator: ends_with, value: "!"}
      - {kind: customer, attribute: third, operator: ends_with, value: "!"}
  - {id: spender, name: Spender, conditions: [{kind: spend, min: 4001}]}
"""
ORDERS = 4_000  # each takes longer to add than the one before


def sent(stage: Stage, events: Iterable[tuple[str, dict[str, Any]]], begin: int) -> Iterator[Sent]:
    for number, (kind, properties) in enumerate(events, begin):
        fields = {"event_id": str(number), "type": kind, "customer_id": "ann", "properties": properties}
        yield Sent(stage.topics[0], "ann", json.dumps(fields).encode(), START_MS + number)


def attributes(**values: str) -> tuple[str, dict[str, Any]]:
    return "customer.update", {"attributes": values}


def orders(count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in range(count):
        yield "purchase.order", {"order_id": str(number), "total": 1}


def changelog(stage: Stage) -> dict[bytes, bytes]:
    """What compaction would leave of it in the end."""
    newest = {bytes(each.key() or b""): each.value() for part in stage.read(stage.changelog) for each in part}
    return {key: bytes(value) for key, value in newest.items() if value is not None}


def entered(stage: Stage) -> list[str]:
    return sorted(each["segment_id"] for each in stage.memberships().values())


@pytest.mark.parametrize("limits", [{}, {"message_max_bytes": "10000"}], ids=["default", "smallest"])
def test_a_customer_larger_than_a_record_is_restored_goes_on_and_is_erased_whole(
    new_stage: NewStage, limits: dict[str, str]
) -> None:
    stage = new_stage(partitions=1, segments=SEGMENTS, **limits)
    stage.send(sent(stage, [attributes(**{name: "x" * 450_000 + "!"}) for name in ("first", "second", "third")], 0))
    stage.send(sent(stage, orders(ORDERS), 10))
    worker = stage.start("worker")
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check()
    assert entered(stage) == ["described"]
    large = changelog(stage)
    assert sum(map(len, large.values())) > 1_400_000
    assert any(key.startswith(PART_MARK) for key in large)

    shutil.rmtree(worker.folder)
    worker.restart()
    stage.send(sent(stage, [*orders(1), attributes(second="short")], 100_000))
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check()
    assert entered(stage) == ["spender"]

    worker.restart()
    stage.send(sent(stage, [("customer.delete", {})], 200_000))
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check()
    assert entered(stage) == []
    assert not [key for key in changelog(stage) if b"ann" in key]


def test_a_changelog_whose_broker_has_removed_parts_of_older_values_is_restored(new_stage: NewStage) -> None:
    stage = new_stage(partitions=1, segments=SEGMENTS, message_max_bytes="10000")
    stage.configure(stage.changelog, segment_ms="100", min_cleanable_dirty_ratio="0.001", max_compaction_lag_ms="100")
    worker = stage.start("worker")
    names = ("first", "second", "third")
    rounds = count()

    def parts_are_removed() -> bool:
        number = next(rounds)
        values = {name: "x" * (place + number) * 7_000 + "!" for place, name in enumerate(names)}
        stage.send(sent(stage, [attributes(**values), attributes(first="short")], 10 * number))
        stage.wait_applied()
        [log] = stage.read(stage.changelog)
        places = [each.offset() or 0 for each in log if bytes(each.key() or b"").startswith(PART_MARK)]
        return min(places) > 100

    until(parts_are_removed, "the broker has removed parts")
    assert worker.stop() == 0, worker.log_tail()
    shutil.rmtree(worker.folder)
    worker.restart()
    stage.send(sent(stage, [attributes(first="long!")], 1_000_000))
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check()
    assert entered(stage) == ["described"]


def test_a_topic_that_takes_less_than_the_worker_sends_is_named_with_the_setting_that_mends_it(
    new_stage: NewStage,
) -> None:
    stage = new_stage(partitions=1, segments=SEGMENTS)
    stage.configure(stage.changelog, max_message_bytes="20000")
    stage.send(sent(stage, [attributes(first="x" * 100_000)], 0))
    worker = stage.start("worker")
    assert worker.exit_code() == 1
    assert f"rollcall: topic {stage.changelog}: a batch of 100," in worker.log()
    assert "lower --message-max-bytes" in worker.log()
    assert f"topic {stage.changelog} takes batches of at most 20,000 bytes" in worker.log()
    worker.restart(message_max_bytes="20000")
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check()
