"""What `rollcall run` shows: a screen on a terminal, a line a second elsewhere, and the closing table."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import IO, Protocol

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from conditions.changes import Change
from conditions.times import format_time
from streams.follower import SegmentTally, Standing
from streams.member_table import printable, table_lines

LINE_EVERY_S = 1.0
RECENT_A_LINE = 3
RATE_OVER_S = 3.0
FRAME_LINES = 7  # of a screen, beside the footer and the rows of segments and changes
FEWEST_CHANGES = 4
CHANGE_COLUMNS = (
    ("customer", 2, None),
    ("", None, 7),
    ("segment", 3, None),
    ("because of", None, 14),
    ("effective at", None, 19),
)


class Moment(msgspec.Struct):
    """A run at one moment, as it is shown."""

    elapsed_s: float
    state: str  # of the worker, in words
    events: int  # applied so far
    events_total: int
    standing: Standing
    footer: list[str]


class View(Protocol):
    """Shows moments, one after the other."""

    def show(self, moment: Moment) -> None:
        """Called several times a second."""

    def close(self) -> None:
        """Give the terminal back."""


class Rate:
    """How much a count rises in a second, over the last few."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def at(self, elapsed_s: float, count: int) -> float:
        self._points.append((elapsed_s, count))
        while self._points[0][0] < elapsed_s - RATE_OVER_S:
            self._points.popleft()
        first_s, first = self._points[0]
        return (count - first) / max(elapsed_s - first_s, 0.001) if elapsed_s > first_s else 0.0


class PlainView:
    """A line a second with the totals, and the newest changes below it."""

    def __init__(self, output: IO[str]) -> None:
        self._output = output
        self._shown_s = -LINE_EVERY_S
        self._changes = 0
        self._rate = Rate()

    def show(self, moment: Moment) -> None:
        rate = self._rate.at(moment.elapsed_s, moment.standing.changes)
        if moment.elapsed_s - self._shown_s < LINE_EVERY_S:
            return
        self._shown_s = moment.elapsed_s
        standing = moment.standing
        parts = [f"{moment.elapsed_s:4.0f} s", moment.state]
        if moment.events:
            parts = [
                f"{moment.elapsed_s:4.0f} s",
                f"event time {format_time(standing.clock_ms)[:10]}",
                f"{moment.events:,} of {moment.events_total:,} events",
                f"{standing.customers:,} customers",
                f"{standing.changes:,} changes ({rate:,.0f}/s)",
            ]
        self._output.write("  ".join(parts) + "\n")
        fresh = min(standing.changes - self._changes, RECENT_A_LINE, len(standing.recent))
        for change in reversed(standing.recent[:fresh]):
            self._output.write(f"          {change_line(change)}\n")
        self._changes = standing.changes
        self._output.flush()

    def close(self) -> None:
        self._output.flush()


class ScreenView:
    """The whole terminal, drawn anew a few times a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._live.start()
        self._events, self._changes = Rate(), Rate()

    def show(self, moment: Moment) -> None:
        self._live.update(self._frame(moment), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def _frame(self, moment: Moment) -> Group:
        standing = moment.standing
        room = max(self._console.height - FRAME_LINES - len(moment.footer), FEWEST_CHANGES + 1)
        segments = _shown_segments(standing.segments, room - FEWEST_CHANGES)
        events = self._events.at(moment.elapsed_s, moment.events)
        changes = self._changes.at(moment.elapsed_s, standing.changes)
        head = Table.grid(padding=(0, 3))
        head.add_row(
            Text(format_time(standing.clock_ms)[:16].replace("T", " ") if standing.clock_ms else "—", "bold"),
            f"{moment.events:,} of {moment.events_total:,} events",
            f"{standing.customers:,} customers",
            f"{standing.changes:,} changes",
        )
        head.add_row("event time", f"{events:,.0f} events/s", "", f"{changes:,.0f} changes/s")
        more = len(standing.segments) - len(segments)
        return Group(
            Panel(head, title="rollcall run", subtitle=Text(moment.state), title_align="left", subtitle_align="left"),
            segments_table(segments, more),
            changes_table(standing.recent[: max(room - len(segments) - bool(more), FEWEST_CHANGES)]),
            *(Text(line, "dim", no_wrap=True, overflow="ellipsis") for line in moment.footer),
        )


def _shown_segments(segments: list[SegmentTally], room: int) -> list[SegmentTally]:
    """All, or those with the most changes where there is no room for all, in the order of the documents."""
    if len(segments) <= room:
        return segments
    busiest = sorted(segments, key=lambda each: -(each.entered + each.left))[: room - 1]
    kept = {each.id for each in busiest}
    return [each for each in segments if each.id in kept]


def segments_table(segments: list[SegmentTally], more: int) -> Table:
    table = Table(box=None, expand=True, header_style="bold", pad_edge=False)
    table.add_column("segment", ratio=3, no_wrap=True)
    for name in ("members", "entered", "left"):
        table.add_column(name, justify="right", ratio=1, no_wrap=True)
    for each in segments:
        table.add_row(
            Text(printable(each.name), overflow="ellipsis"),
            Text(f"{each.members:,}", "bold cyan"),
            Text(f"{each.entered:,}", "green"),
            Text(f"{each.left:,}", "red"),
        )
    if more:
        table.add_row(Text(f"and {more:,} more", "dim"))
    return table


def changes_table(changes: list[Change]) -> Table:
    table = Table(box=None, expand=True, header_style="bold", pad_edge=False)
    for name, ratio, width in CHANGE_COLUMNS:
        table.add_column(name, ratio=ratio, width=width, no_wrap=True, overflow="ellipsis")
    for each in changes:
        table.add_row(
            Text(printable(each.customer_id)),
            Text(each.type, "green" if each.type == "entered" else "red"),
            Text(printable(each.segment_id)),
            Text(because(each), "yellow" if each.reason == "deadline" else ""),
            Text(each.effective_at[:19].replace("T", " ")),
        )
    return table


def because(change: Change) -> str:
    """The reason in a word or two."""
    if change.reason == "deadline":
        return "time alone"
    return change.reason if change.cause is None else printable(change.cause.event_type)


def change_line(change: Change) -> str:
    """One change as a line of text."""
    return (
        f"{printable(change.customer_id)} {change.type} {printable(change.segment_id)} "
        f"at {change.effective_at} ({because(change)})"
    )


def closing_lines(moment: Moment, width: int | None) -> Iterator[str]:
    """Members of each segment at the end, and the totals; names are cut where they do not fit a terminal's width."""
    standing = moment.standing
    rows = [
        (each.id, f"{each.members:,}", f"{each.entered:,}", f"{each.left:,}", printable(each.name))
        for each in standing.segments
    ]
    for line in table_lines(("segment", "members", "entered", "left", "name"), rows):
        yield line[:width]
    yield ""
    yield (
        f"{moment.events:,} events, {standing.dead_letters:,} rejected, {standing.customers:,} customers, "
        f"{standing.changes:,} changes in {moment.elapsed_s:.0f} s"
    )
    if standing.lost:
        yield f"{standing.lost:,} changes are missing here: the mock broker keeps little. Use --broker kafka"


def make_view(output: IO[str]) -> View:
    """The screen where the output is a terminal, lines elsewhere."""
    return ScreenView(Console(file=output)) if output.isatty() else PlainView(output)
