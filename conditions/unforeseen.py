"""How an error is told that nobody foresaw: by a message about the record it was found in, or with a note on top."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from conditions.wording import shorten

TRACED_CALLS = 12  # the innermost ones


def unforeseen(error: Exception, report_with: str) -> str:
    """The message for who looks at the record; `report_with` is what the defect is to be reported with."""
    got = shorten(ascii(f"{type(error).__name__}: {error}")[1:-1])
    return f"expected to read the record, got {got}: a defect of Rollcall, to be reported with {report_with}"


def innermost_calls(error: Exception) -> str:
    """The end of the traceback, for the log."""
    return "".join(traceback.format_exception(error, limit=-TRACED_CALLS))


@contextmanager
def noted(note: Callable[[], str]) -> Iterator[None]:
    """Whatever the block raises gets this note, which is only made then."""
    try:
        yield
    except Exception as error:
        error.add_note(note())
        raise
