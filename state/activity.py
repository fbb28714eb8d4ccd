"""What a partition has changed lately: how many entered and left each segment, and the newest changes themselves."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from conditions.changes import Change
from conditions.times import DAY_MS, HOUR_MS, MINUTE_MS, parse_time

KEPT_CHANGES = 20_000  # in memory, some 12 MB


class Window(msgspec.Struct, frozen=True):
    """A stretch of time up to now, told to a slot's width: it begins with the slot in which the stretch begins."""

    length_ms: int
    width_ms: int

    @property
    def slots(self) -> int:
        return self.length_ms // self.width_ms + 1

    def from_ms(self, now_ms: int) -> int:
        """The instant from which on changes count."""
        return (now_ms - self.length_ms) // self.width_ms * self.width_ms


LAST_HOUR = Window(HOUR_MS, MINUTE_MS)
LAST_DAY = Window(DAY_MS, 30 * MINUTE_MS)
WINDOWS = (LAST_HOUR, LAST_DAY)


class Slots:
    """How many entered and left one segment, in the slots of one window; of constant size."""

    __slots__ = ("_counts", "_newest", "_window")

    def __init__(self, window: Window) -> None:
        self._window = window
        self._newest = 0  # number of the newest slot that was written
        self._counts = array("I", bytes(8 * window.slots))

    def add(self, at_ms: int, place: int) -> None:
        """Count one; `place` 0: entered, 1: left."""
        slots, slot = self._window.slots, at_ms // self._window.width_ms
        if slot <= self._newest - slots:
            return
        for fresh in range(max(self._newest + 1, slot - slots + 1), slot + 1):
            self._counts[2 * (fresh % slots)] = self._counts[2 * (fresh % slots) + 1] = 0
        self._newest = max(self._newest, slot)
        self._counts[2 * (slot % slots) + place] += 1

    def total(self, from_ms: int) -> tuple[int, int]:
        """Entered and left since the instant, which is the beginning of a slot."""
        slots = self._window.slots
        first = max(from_ms // self._window.width_ms, self._newest - slots + 1)
        found = [slot % slots for slot in range(first, self._newest + 1)]
        return sum(self._counts[2 * each] for each in found), sum(self._counts[2 * each + 1] for each in found)


class Activity:
    """Follows the committed changes of one partition, and takes older ones as they are read back, newest first.

    All is counted by the time of the decision, each change once. `counted_from_ms` is the instant from which on nothing
    is missing; None: nothing is missing at all. What was read back further than that, and the newest `KEPT_CHANGES`
    changes, stay until the partition is left.
    """

    def __init__(self, sequence: int, now_ms: int) -> None:
        """To be told of every change after the one numbered `sequence`."""
        self.sequence = sequence
        self.counted_from_ms: int | None = now_ms if sequence else None
        self._began_ms = now_ms
        self._oldest = sequence + 1  # the number of the oldest change that is counted
        self._is_reading_back = False
        self._slots: dict[str, tuple[Slots, ...]] = {}
        self._recent: deque[Change] = deque(maxlen=KEPT_CHANGES)
        self._dropped = False

    def committed(self, changes: Sequence[Change]) -> None:
        """Take what the partition has just committed."""
        if not changes:
            return
        at_ms = parse_time(changes[0].decided_at)  # one for all of a batch
        for change in changes:
            self._count(change, at_ms)
        self._dropped = self._dropped or len(self._recent) + len(changes) > KEPT_CHANGES
        self._recent.extend(changes)

    def read_back(self, changes: Sequence[Change]) -> bool:
        """Take older changes, in their order, all those right before the oldest that is known.

        Answers whether to read on: not past the first change ever, nor where older ones are numbered anew.
        """
        for change in reversed(changes):
            if change.sequence > self.sequence and not self._is_reading_back:
                continue  # it was told when it was committed
            self._is_reading_back = True
            if change.sequence >= self._oldest:
                self.counted_from_ms = None
                return False
            self._take_older(change)
        if self._oldest == 1:
            self.counted_from_ms = None
        return self._oldest > 1

    def _take_older(self, change: Change) -> None:
        at_ms = parse_time(change.decided_at)
        self._oldest = change.sequence
        # Others of the same instant may come before it.
        self.counted_from_ms = min(self.counted_from_ms or at_ms, at_ms + 1)
        if at_ms >= self._began_ms - DAY_MS - HOUR_MS:
            self._count(change, at_ms)
        if len(self._recent) < KEPT_CHANGES:
            self._recent.appendleft(change)
        else:
            self._dropped = True

    def _count(self, change: Change, at_ms: int) -> None:
        slots = self._slots.get(change.segment_id)
        if slots is None:
            slots = self._slots[change.segment_id] = tuple(map(Slots, WINDOWS))
        for each in slots:
            each.add(at_ms, change.type == "left")

    def total(self, segment_id: str, window: Window, now_ms: int) -> tuple[int, int]:
        """How many entered and left the segment since the window's beginning."""
        slots = self._slots.get(segment_id)
        return (0, 0) if slots is None else slots[WINDOWS.index(window)].total(window.from_ms(now_ms))

    def last_changes(self, customer_id: str, segment_ids: Iterable[str] | None, most: int) -> list[Change]:
        """The customer's newest changes, the newest first, as far back as `looked_back_to_ms`."""
        wanted = None if segment_ids is None else frozenset(segment_ids)
        found: list[Change] = []
        for change in reversed(self._recent):
            if change.customer_id == customer_id and (wanted is None or change.segment_id in wanted):
                found.append(change)
                if len(found) == most:
                    break
        return found

    @property
    def looked_back_to_ms(self) -> int | None:
        """The instant since which every change is among those that `last_changes` finds; None: since ever."""
        if self._dropped and self._recent:
            return parse_time(self._recent[0].decided_at) + 1
        return self.counted_from_ms
