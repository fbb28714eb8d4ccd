"""How often a broker is asked for records."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import Fetcher

from streams.polling import FETCH_EVERY_S, AskingFetcher


class Clock:
    """Stands for `time` and `asyncio`: time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("streams.polling.time", clock)
    monkeypatch.setattr("streams.polling.asyncio", clock)
    return clock


@pytest.fixture
def asked(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Which broker was asked, and when."""
    asked: list[tuple[int, float]] = []

    async def ask(_self: Fetcher, _assignment: Any, node_id: int, _request: Any) -> bool:
        asked.append((node_id, clock.now))
        return True

    monkeypatch.setattr(Fetcher, "_proc_fetch_request", ask)
    return asked


def ask_in_turn(clock: Clock, brokers: list[int], every_s: float) -> None:
    fetcher = object.__new__(AskingFetcher)
    fetcher.asked_ms, fetcher.asked_at = {}, {}

    async def run() -> None:
        for broker in brokers:
            await fetcher._proc_fetch_request(None, broker, SimpleNamespace(topics=[]))
            clock.now += every_s

    asyncio.run(run())


def test_a_broker_that_answers_at_once_is_not_asked_again_at_once(clock: Clock, asked: list[tuple[int, float]]) -> None:
    ask_in_turn(clock, [1, 1, 1], every_s=0.001)
    assert [at for _, at in asked] == pytest.approx([1_000, 1_000 + FETCH_EVERY_S, 1_000 + 2 * FETCH_EVERY_S])


def test_a_broker_that_took_its_time_is_asked_again_at_once(clock: Clock, asked: list[tuple[int, float]]) -> None:
    ask_in_turn(clock, [1, 1], every_s=0.2)
    assert [at for _, at in asked] == pytest.approx([1_000, 1_000.2])


def test_each_broker_is_asked_at_a_pace_of_its_own(clock: Clock, asked: list[tuple[int, float]]) -> None:
    ask_in_turn(clock, [1, 2, 3], every_s=0)
    assert asked == [(1, 1_000), (2, 1_000), (3, 1_000)]
