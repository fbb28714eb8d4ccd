"""Reading towards an offset that never comes: said after a while, and then rarely."""

from __future__ import annotations

import time

import structlog
from aiokafka import TopicPartition

log = structlog.get_logger(__name__)

SAID_EVERY_S = 60.0  # a broker ends most open transactions before


class Standstill:
    """Watches the position of one who reads a partition up to `end`; what it waits for, nobody else would say."""

    def __init__(self, place: TopicPartition, end: int) -> None:
        self._place = place
        self._end = end
        self._position = -1
        self._since_s = self._said_s = time.monotonic()

    def note(self, position: int) -> None:
        """The position now; says so where it has not moved for long."""
        now_s = time.monotonic()
        if position != self._position:
            self._position, self._since_s, self._said_s = position, now_s, now_s
        elif now_s - self._said_s >= SAID_EVERY_S:
            self._said_s = now_s
            log.warning("reading_stands_still", **self._said(now_s - self._since_s))

    def _said(self, for_s: float) -> dict[str, object]:
        return {
            "topic": self._place.topic,
            "partition": self._place.partition,
            "position": self._position,
            "end": self._end,
            "for_s": round(for_s, 1),
            "cause": "a transaction that is open there, or a broker that does not answer",
            "mend": "`kafka-transactions.sh --bootstrap-server … find-hanging "
            f"--topic {self._place.topic} --partition {self._place.partition}`, and `abort` what it finds",
        }
