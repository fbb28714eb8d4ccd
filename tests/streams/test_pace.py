"""How background work shares a worker's time with live work."""

from __future__ import annotations

from streams.pace import IDLE_AFTER_S, Pace


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_after_each_piece_comes_a_rest_that_leaves_the_others_their_share() -> None:
    clock = Clock()
    pace = Pace(0.25, clock)
    pace.note_live_work()
    with pace.piece():
        clock.now_s += 0.01
    clock.now_s += 0.029
    assert not pace.is_due()
    clock.now_s += 0.002
    assert pace.is_due()


def test_pieces_of_several_partitions_count_together() -> None:
    clock = Clock()
    pace = Pace(0.5, clock)
    pace.note_live_work()
    for _ in range(3):
        with pace.piece():
            clock.now_s += 0.01
    clock.now_s += 0.009
    assert not pace.is_due()
    clock.now_s += 0.025
    assert pace.is_due()


def test_there_is_no_rest_while_nothing_live_happens() -> None:
    clock = Clock()
    pace = Pace(0.001, clock)
    with pace.piece():
        clock.now_s += 1.0
    assert pace.is_due()
    pace.note_live_work()
    assert not pace.is_due()
    clock.now_s += IDLE_AFTER_S * 1.1
    assert pace.is_due()


def test_a_share_of_one_never_rests() -> None:
    clock = Clock()
    pace = Pace(1.0, clock)
    pace.note_live_work()
    with pace.piece():
        clock.now_s += 1.0
    assert pace.is_due()
