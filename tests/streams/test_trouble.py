"""Trouble is said at once, then once a minute, and its pauses grow up to a bound."""

from __future__ import annotations

import structlog
from structlog.typing import EventDict

from streams.trouble import COMPLAIN_EVERY_S, LONGEST_PAUSE_S, Trouble


def said(log: list[EventDict]) -> list[tuple[str, int]]:
    return [(each["event"], each["attempts"]) for each in log]


def test_trouble_is_said_once_a_minute_and_its_end_once() -> None:
    now_s = 1_000.0
    trouble = Trouble("lost", "found", lambda: now_s)
    with structlog.testing.capture_logs() as log:
        trouble.over()
        for _ in range(3):
            trouble.note(ValueError("no answer"))
        now_s += COMPLAIN_EVERY_S
        trouble.note(ValueError("no answer yet"))
        trouble.over()
        trouble.over()
        trouble.note(ValueError("again"))
    assert said(log) == [("lost", 1), ("lost", 4), ("found", 4), ("lost", 1)]
    assert (log[1]["error"], log[1]["kind"], log[1]["for_s"]) == ("no answer yet", "ValueError", COMPLAIN_EVERY_S)


def test_pauses_grow_up_to_a_bound_and_begin_again_after_a_good_turn() -> None:
    trouble = Trouble()
    pauses = []
    with structlog.testing.capture_logs():
        for _ in range(20):
            trouble.note(ValueError())
            pauses.append(trouble.pause_s)
        assert pauses == sorted(pauses)
        assert (pauses[0], pauses[-1]) == (0.1, LONGEST_PAUSE_S)
        trouble.over()
        trouble.note(ValueError())
    assert trouble.pause_s == pauses[0]
