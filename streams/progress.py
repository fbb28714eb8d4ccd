"""Progress of long work on a terminal; nothing of it where standard error is not one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from connectors.lines import STANDARD
from streams.replay import Totals


@contextmanager
def replay_progress(events: str) -> Iterator[Callable[[Totals], None]]:
    """What a replay calls after each batch: a bar by bytes where the size is known, and the rate."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    known = events != STANDARD and Path(events).is_file() and not events.endswith(".gz")
    columns = (
        TextColumn("replay"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[done]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replay", total=Path(events).stat().st_size if known else None, done="")

        def show(totals: Totals) -> None:
            rate = totals.events / max(totals.seconds, 0.001)
            done = f"{rate:,.0f} events/s, {totals.customers:,} customers, {totals.changes:,} changes"
            progress.update(task, completed=totals.input_bytes, done=done)

        yield show
