"""Following a run's outputs, and ending that whatever the broker does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from streams.follower import Follower
from streams.settings import load_settings

PATIENCE_S = 60
AT_ONCE_S = 0.05


class SilentBroker:
    """A double of librdkafka's consumer: what is asked for at this point is answered only once the test is over."""

    def __init__(self, point: str) -> None:
        self._point = point
        self.asked = threading.Event()
        self.over = threading.Event()

    def consumer(self, _: dict[str, Any]) -> Any:
        return self

    def _reach(self, point: str) -> None:
        if point == self._point:
            self.asked.set()
            self.over.wait()

    def list_topics(self, topic: str, timeout: float) -> Any:
        self._reach("list_topics")
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions={0: None})})

    def assign(self, _: Any) -> None:
        self._reach("assign")

    def consume(self, _: int, __: float) -> list[Any]:
        self._reach("consume")
        return []

    def close(self) -> None:
        self._reach("close")


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[SilentBroker]:
    broker = SilentBroker(request.param)
    yield broker
    broker.over.set()


@pytest.mark.parametrize("broker", ["list_topics", "assign", "consume", "close"], indirect=True)
def test_a_broker_that_never_answers_does_not_keep_the_follower_from_ending(broker: SilentBroker) -> None:
    follower = Follower(load_settings(), (), broker.consumer)
    follower.start()
    # the consumer is closed only once it is told to end
    assert follower.stop(AT_ONCE_S) is False
    assert broker.asked.wait(PATIENCE_S)
    assert follower.standing().changes == 0
    broker.over.set()
    assert follower.stop(PATIENCE_S) is True
    assert follower.failure is None


@pytest.mark.parametrize("broker", ["nothing"], indirect=True)
def test_a_follower_ends_once_nothing_more_is_there_to_read(broker: SilentBroker) -> None:
    follower = Follower(load_settings(), (), broker.consumer)
    follower.start()
    assert follower.stop(PATIENCE_S) is True
