"""Trouble that passes: said without flooding the log, and met with ever longer pauses."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

LONGEST_PAUSE_S = 5.0
COMPLAIN_EVERY_S = 60.0


class Trouble:
    """What Kafka refuses lately: one line at once and then one a minute, and ever longer pauses.

    `begins` and `ends` are the names of the log's events.
    """

    def __init__(
        self, begins: str = "starting_over", ends: str = "recovered", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._begins = begins
        self._ends = ends
        self._clock = clock
        self._times = 0
        self._since_s = 0.0
        self._said_s = float("-inf")

    @property
    def pause_s(self) -> float:
        return min(LONGEST_PAUSE_S, 0.05 * 2.0 ** min(self._times, 10))

    def note(self, error: Exception) -> None:
        """Remember that something went wrong, and say so if it was not said lately."""
        now = self._clock()
        if not self._times:
            self._since_s = now
        self._times += 1
        if now - self._said_s >= COMPLAIN_EVERY_S:
            self._said_s = now
            for_s = round(now - self._since_s, 1)
            log.warning(self._begins, error=str(error), kind=type(error).__name__, for_s=for_s, attempts=self._times)

    def over(self) -> None:
        """A turn went well."""
        if self._times:
            log.info(self._ends, after_s=round(self._clock() - self._since_s, 1), attempts=self._times)
            self._times, self._said_s = 0, float("-inf")
