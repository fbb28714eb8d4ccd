"""A signal to stop, whenever it comes."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

import pytest

from streams.stopping import Stop

ENDS_WITHIN_S = 60


class SignalAt:
    """Calls the handler, as Python does, between two steps of whoever waits: at the step of that number."""

    def __init__(self, stop: Stop, step: int) -> None:
        self._stop = stop
        self._left = step
        self.answer: bool | None = None
        self.was_sent = False

    def wait(self) -> None:
        sys.settrace(self)
        try:
            self.answer = self._stop.wait(0.001)
        finally:
            sys.settrace(None)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> SignalAt:
        self._left -= 1
        if self._left == 0:
            self.was_sent = True
            self._stop(signal.SIGTERM, frame)
        return self


def test_a_signal_at_any_step_of_waiting_is_taken_and_waiting_ends() -> None:
    step, was_sent = 0, True
    while was_sent:
        step += 1
        stop = Stop()
        waiting = SignalAt(stop, step)
        thread = threading.Thread(target=waiting.wait, daemon=True)
        thread.start()
        thread.join(ENDS_WITHIN_S)
        assert not thread.is_alive(), f"it stands still for a signal at step {step}"
        was_sent = waiting.was_sent
        assert stop.is_set is was_sent
        assert waiting.answer in ((True, False) if was_sent else (False,))
    assert step > 3


def test_the_second_signal_ends_at_once() -> None:
    stop = Stop()
    assert (stop.is_set, stop.wait(0)) == (False, False)
    stop(signal.SIGINT, None)
    assert (stop.is_set, stop.wait(60), stop.signal) == (True, True, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stop(signal.SIGINT, None)
