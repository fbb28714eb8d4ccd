"""How long Kafka was waited for, as the errors tell it."""

from __future__ import annotations

from time import monotonic

from streams.kafka.errors import Unreachable, waited_ms


def test_waiting_is_told_in_seconds() -> None:
    assert "did not answer; gave up after 30 s. Check" in str(Unreachable("kafka:9092", "reading", 30_025))
    assert "did not answer; gave up after less than a second. Check" in str(Unreachable("kafka:9092", "reading", 0))
    assert "did not answer. Check" in str(Unreachable("kafka:9092", "reading"))


def test_work_that_failed_at_once_did_not_wait_and_long_work_waited_no_longer_than_one_request() -> None:
    assert waited_ms(monotonic(), 30_000) < 30_000
    assert waited_ms(monotonic() - 3_600, 30_000) == 30_000
