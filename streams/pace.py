"""How much of a worker's time background work may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IDLE_AFTER_S = 1.0


class Pace:
    """Background work comes in pieces; after each it rests, so that it takes at most a share of the time.

    One for all that a worker does in the background. While nothing live happens there is nothing to rest for.
    """

    def __init__(self, share: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._rest = (1 - share) / share
        self._next_at = 0.0
        self._live_at = float("-inf")

    def is_due(self) -> bool:
        """Whether the next piece may begin."""
        return self._wait_s() <= 0

    async def until_due(self) -> None:
        while True:
            wait_s = self._wait_s()
            if wait_s <= 0:
                return
            await asyncio.sleep(wait_s)

    @contextmanager
    def piece(self) -> Iterator[None]:
        """One piece of work, which gives control to nobody."""
        began = self._now()
        yield
        ended = self._now()
        self._next_at = max(self._next_at, ended) + (ended - began) * self._rest

    def note_live_work(self) -> None:
        """Something live was done just now."""
        self._live_at = self._now()

    def _wait_s(self) -> float:
        now = self._now()
        return 0.0 if now - self._live_at > IDLE_AFTER_S else self._next_at - now
