"""What `rollcall run` counts and shows."""

from __future__ import annotations

import io
from typing import Literal

import pytest
from rich.console import Console

from conditions.changes import Cause, Change
from conditions.documents import parse_segments
from state.engine import Marker
from streams.follower import Standing, Tally
from streams.live_view import Moment, PlainView, Rate, ScreenView, change_line, closing_lines
from streams.member_table import printable, table_lines

SEGMENTS = parse_segments(
    {
        "segments": [
            {"id": "vip", "name": "Very important", "conditions": [{"kind": "app_screen"}]},
            {"id": "new", "name": "New [red]ones[/]", "conditions": [{"kind": "app_screen"}]},
        ]
    }
)


def change(
    sequence: int, kind: Literal["entered", "left"] = "entered", customer: str = "anna", segment: str = "vip"
) -> Change:
    at = "2024-01-01T00:00:00.000Z"
    cause = Cause("events", 0, 1, "e1", "app.screen", at)
    return Change(f"id-{sequence}", kind, segment, segment, 1, customer, sequence, at, at, None, "event", cause, [True])


def tally_of(*changes: Change) -> Tally:
    tally = Tally(SEGMENTS)
    for each in changes:
        tally.add_change(0, each)
    return tally


def moment(standing: Standing, elapsed_s: float = 1.0, events: int = 5) -> Moment:
    return Moment(elapsed_s, "playing", events, 10, standing, ["a footer"])


def test_every_change_counts_once() -> None:
    standing = tally_of(change(1), change(2, customer="bert"), change(2, customer="bert"), change(3, "left")).standing()
    [vip, new] = standing.segments
    assert (vip.members, vip.entered, vip.left) == (1, 2, 1)
    assert (new.members, new.entered, new.left) == (0, 0, 0)
    assert (standing.changes, standing.lost) == (3, 0)
    assert [each.sequence for each in standing.recent] == [3, 2, 1]


def test_changes_that_never_came_are_counted_as_lost() -> None:
    standing = tally_of(change(1), change(5)).standing()
    assert standing.lost == 3
    assert any(line.startswith("3 changes are missing here") for line in closing_lines(moment(standing), None))


def test_a_partition_has_applied_what_its_checkpoint_says_once_all_its_changes_were_counted() -> None:
    tally = tally_of(change(1))
    tally.add_marker(0, Marker(clock_ms=7, sequence=2, applied={"events": 41}, customers=3))
    assert tally.applied("events") == {}
    tally.add_change(0, change(2))
    assert tally.applied("events") == {0: 41}
    tally.add_marker(1, Marker(clock_ms=9, applied={"events": 5}, customers=2))
    assert tally.applied("events") == {0: 41, 1: 5}
    assert (tally.standing().clock_ms, tally.standing().customers) == (9, 5)


def test_plain_lines_come_once_a_second_with_the_newest_changes() -> None:
    output = io.StringIO()
    view = PlainView(output)
    tally = tally_of(*(change(number, customer=f"c{number}") for number in range(1, 6)))
    view.show(moment(tally.standing(), elapsed_s=0.5))
    view.show(moment(tally.standing(), elapsed_s=0.9))
    assert len(output.getvalue().splitlines()) == 4
    tally.add_change(0, change(6, "left", customer="c1"))
    view.show(moment(tally.standing(), elapsed_s=1.6))
    assert output.getvalue().splitlines()[4:] == [
        "   2 s  event time 1970-01-01  5 of 10 events  0 customers  6 changes (1/s)",
        "          c1 left vip at 2024-01-01T00:00:00.000Z (app.screen)",
    ]


def test_before_the_first_event_a_line_says_the_state() -> None:
    output = io.StringIO()
    PlainView(output).show(moment(tally_of().standing(), elapsed_s=0.0, events=0))
    assert output.getvalue() == "   0 s  playing\n"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (40, 10)])
def test_the_screen_shows_all_of_it_where_there_is_room(width: int, height: int) -> None:
    output = io.StringIO()
    view = ScreenView(Console(file=output, width=width, height=height, force_terminal=True, color_system=None))
    view.show(moment(tally_of(*(change(number) for number in range(1, 50))).standing()))
    view.close()
    frame = output.getvalue()
    assert "rollcall run" in frame
    if width >= 80:
        for text in ("5 of 10", "Very important", "New [red]ones[/]", "app.screen", "2024-01-01 00:00:00", "a footer"):
            assert text in frame


def test_the_closing_table_has_a_row_for_each_segment_and_fits_the_terminal() -> None:
    standing = tally_of(change(1), change(2, customer="bert")).standing()
    assert list(closing_lines(moment(standing, elapsed_s=3.2), None)) == [
        "segment  members  entered  left  name",
        "vip            2        2     0  Very important",
        "new            0        0     0  New [red]ones[/]",
        "",
        "5 events, 0 rejected, 0 customers, 2 changes in 3 s",
    ]
    assert list(closing_lines(moment(standing), 20))[1] == "vip            2    "


def test_a_rate_is_over_the_last_seconds() -> None:
    rate = Rate()
    assert rate.at(0.0, 0) == 0
    assert rate.at(1.0, 50) == pytest.approx(50)
    assert rate.at(10.0, 50) == 0
    assert rate.at(11.0, 150) == pytest.approx(100)


def test_text_from_outside_cannot_steer_the_terminal() -> None:
    line = change_line(change(1, customer="\x1b[2J\nanna\u202e"))
    assert line == "\ufffd[2J\ufffdanna\ufffd entered vip at 2024-01-01T00:00:00.000Z (app.screen)"
    assert printable("x" * 100, 10) == "x" * 9 + "…"


def test_a_table_aligns_numbers_to_the_right() -> None:
    assert table_lines(("segment", "members", "name"), [("a", "1,000", "A"), ("longer-id", "7", "B")]) == [
        "segment    members  name",
        "a            1,000  A",
        "longer-id        7  B",
    ]
