"""Records that the decoder itself failed on: they are among the dead letters, and somebody ought to mend it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import structlog

from conditions.events import Rejected
from streams.trouble import COMPLAIN_EVERY_S

log = structlog.get_logger(__name__)


class UnreadRecords:
    """Tells of one at once, with its traceback, and of others once a minute, with how many came meanwhile."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._untold = 0
        self._said_s = float("-inf")

    def note(self, rejected: Iterable[Rejected]) -> None:
        """Look through what a committed batch rejected."""
        unread = [each for each in rejected if each.trace]
        self._untold += len(unread)
        if not unread or self._clock() - self._said_s < COMPLAIN_EVERY_S:
            return
        last = unread[-1]
        log.error(
            "record_not_read",
            topic=last.topic,
            partition=last.partition,
            offset=last.offset,
            error=last.message,
            records=self._untold,
            exception=last.trace,
        )
        self._said_s, self._untold = self._clock(), 0
