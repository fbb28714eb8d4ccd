"""How many customers are in each segment, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

Row = tuple[str, ...]

LONGEST_NAME = 60


def table_lines(header: Row, rows: Sequence[Row]) -> list[str]:
    """The rows under their header: the first column to the left, numbers to the right, a last name as it is."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return [_line(row, widths) for row in (header, *rows)]


def _line(row: Row, widths: Sequence[int]) -> str:
    first, *numbers, last = row
    cells = [f"{number:>{width}}" for number, width in zip(numbers, widths[1:-1], strict=True)]
    return "  ".join([f"{first:<{widths[0]}}", *cells, last]).rstrip()


def printable(text: str, limit: int = LONGEST_NAME) -> str:
    """Text from outside, made harmless to a terminal and not too long."""
    clean = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
