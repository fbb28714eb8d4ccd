"""Who is in, where the memberships were read before, during or after a change was made."""

from __future__ import annotations

import itertools
from typing import Literal, NamedTuple

from conditions.changes import Change
from connectors.changes import encode_change
from streams.subscribe import Position, _change_reader, _membership_reader


class Record(NamedTuple):
    """A record as far as the readers look at it."""

    key: bytes
    value: bytes | None
    partition: int = 0


def change(sequence: int, kind: Literal["entered", "left"]) -> Change:
    at = "2024-01-01T00:00:00.000Z"
    return Change(f"id-{sequence}", kind, "vip", "Vip", 1, "anna", sequence, at, at, None, "event", None, [True])


def test_memberships_and_changes_that_overlap_give_who_is_in_at_the_end_of_the_changes() -> None:
    history = [change(1, "entered"), change(2, "left"), change(3, "entered"), change(4, "left"), change(5, "entered")]
    lengths = range(len(history) + 1)
    # The changes are read from `start` on, which is noted first, to `end`; the memberships are as of between the two.
    for start, known, end in itertools.combinations_with_replacement(lengths, 3):
        members: dict[bytes, Change] = {}
        position = Position("changes")
        for each in history[:known]:
            value = encode_change(each) if each.type == "entered" else None
            _membership_reader(members)(Record(b"anna|vip", value))
        for each in history[start:end]:
            _change_reader(members, position)(Record(b"anna", encode_change(each)))
        expected = [history[end - 1]] if end and history[end - 1].type == "entered" else []
        assert list(members.values()) == expected, (start, known, end)
        assert position.sequences == ({0: end} if end > start else {})
