"""The time of day. No other package looks at it: what computes is told the time."""

from __future__ import annotations

import time


def wall_time_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000
