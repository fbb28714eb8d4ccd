"""Being told to stop by a signal, for commands that own other processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Set by the first Ctrl-C or SIGTERM; the second raises KeyboardInterrupt, to end the process at once.

    Python calls it in the midst of whatever the main thread does, waiting too. So neither it nor `wait` takes a lock:
    with that of a threading.Event, which is not reentrant, the two could stand still for ever.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    @property
    def is_set(self) -> bool:
        return self.signal != 0

    def wait(self, seconds: float) -> bool:
        """Let so much time pass, unless it is set already; whether it is set then."""
        if not self.signal:
            time.sleep(seconds)
        return self.signal != 0


@contextmanager
def signals_to(stop: Stop) -> Iterator[None]:
    """The signals that ask for an end go there while the block runs; SIGHUP only where `nohup` did not turn it off."""
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS if number not in ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
