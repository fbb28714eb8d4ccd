"""The reference subscriber: what to do with changes, so that each counts once however often it is delivered.

Nothing here does I/O. A caller reads the memberships topic to its end into `Roll.start_with`, then follows the changes
topic, from where it ended *before* the memberships were read, into `Messenger.apply`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from conditions.changes import Change


class Roll:
    """Who is in which segment, from memberships and changes.

    A change is news when its sequence is higher than all of its partition so far. `sequences` is all that a restart
    needs to know to tell news from repetition; it names no customer, so an erased one leaves nothing here.
    """

    def __init__(self, sequences: Mapping[int, int] | None = None) -> None:
        self.sequences: dict[int, int] = dict(sequences or {})
        self._members: dict[str, dict[str, int]] = {}  # segment, customer, and the sequence that said so

    def start_with(self, change: Change) -> None:
        """One value of the memberships topic: the change by which a customer entered and still is in."""
        self._members.setdefault(change.segment_id, {})[change.customer_id] = change.sequence

    def apply(self, partition: int, change: Change) -> bool:
        """Take one change, and answer whether it is news."""
        if change.sequence <= self.sequences.get(partition, 0):
            return False
        self.sequences[partition] = change.sequence
        members = self._members.setdefault(change.segment_id, {})
        # Memberships may have been read later than this change was made, and then know better.
        if change.sequence > members.get(change.customer_id, 0):
            if change.type == "entered":
                members[change.customer_id] = change.sequence
            else:
                members.pop(change.customer_id, None)
        return True

    def members(self, segment_id: str) -> list[str]:
        """The customers in the segment, in order."""
        return sorted(self._members.get(segment_id, ()))

    def size(self, segment_id: str) -> int:
        return len(self._members.get(segment_id, ()))


class Rule(msgspec.Struct, frozen=True):
    """Which change leads to which message.

    For customers who do *not* fulfil something, let the segment say so (`negate: true`): who fails to do it in time
    enters that segment by deadline, though no event arrives.
    """

    segment_id: str
    message: str
    on: Literal["entered", "left"] = "entered"


class Send(msgspec.Struct, frozen=True):
    """A message to send. `key` is the same whenever the same change is seen, so a receiver can drop repetitions."""

    key: str
    customer_id: str
    message: str


class Messenger:
    """The worked example: one message to each customer who enters a segment, or leaves it, at each time they do."""

    def __init__(self, rules: Sequence[Rule], roll: Roll | None = None) -> None:
        self.roll = roll or Roll()
        self._rules = rules

    def apply(self, partition: int, change: Change) -> list[Send]:
        """What to send because of this change; nothing where it was delivered before, or where it is an erasure."""
        if not self.roll.apply(partition, change) or change.reason == "erasure":
            return []
        return [
            Send(f"{change.change_id}:{rule.message}", change.customer_id, rule.message)
            for rule in self._rules
            if (rule.segment_id, rule.on) == (change.segment_id, change.type)
        ]
