"""Lines that a library writes again and again."""

from __future__ import annotations

import logging

from streams.logs import REPEATED_AFTER_S, RepeatFilter


def said(repeats: RepeatFilter, line: str, at_s: float) -> str | None:
    record = logging.LogRecord("aiokafka", logging.ERROR, "", 0, line + " %s", ("t",), None)
    record.created = at_s
    return record.getMessage() if repeats.filter(record) else None


def test_the_same_line_is_said_once_a_minute_and_the_next_one_counts_those_between() -> None:
    repeats = RepeatFilter()
    assert said(repeats, "not found", 1_000.0) == "not found t"
    assert [said(repeats, "not found", 1_000.0 + each) for each in (0.1, 1.0, REPEATED_AFTER_S - 1)] == [None] * 3
    assert said(repeats, "another", 1_001.0) == "another t"
    assert said(repeats, "not found", 1_000.0 + REPEATED_AFTER_S) == "not found t (and 3 times since it was last said)"
    assert said(repeats, "not found", 1_001.0 + 2 * REPEATED_AFTER_S) == "not found t"
