"""Amounts with the time of their event: what they add up to from an instant on, in steps that do not grow with them.

Entries are sorted, oldest first, and no amount is negative. A few are a plain list, which is walked. Many are
`ManyAmounts`, which knows the running total before every `STRIDE`-th entry: whoever asks finds the nearest one by
bisection and walks less than a stride.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate

AmountEntry = tuple[int, int, int]  # event time in ms, hash of the event's id, amount in micros

ABOVE_HASHES = 1 << 64
STRIDE = 32


class ManyAmounts(list[AmountEntry]):
    """Entries with running totals. Only `add` and `drop_oldest` may change them.

    `totals` are the running totals before the entries at `first`, `first + STRIDE` and so on, and `total` is the one
    behind the last entry. What they count from does not matter, as only differences are asked for.

    Each entry has a number: how many came before it, with the `dropped` ones. From the number `changed_from` on entries
    have changed since whoever writes them down last set it.
    """

    __slots__ = ("changed_from", "dropped", "first", "total", "totals")

    def __init__(self, entries: Iterable[AmountEntry], dropped: int = 0) -> None:
        super().__init__(entries)
        self.dropped = dropped
        self.changed_from = 0
        running = list(accumulate([amount for _, _, amount in self], initial=0))
        self.total = running.pop()
        self.totals = running[::STRIDE]
        self.first = 0

    def add(self, at: int, entry: AmountEntry) -> None:
        """Insert the entry there."""
        amount = entry[2]
        first, totals = self.first, self.totals
        self.insert(at, entry)
        self.total += amount
        self.changed_from = min(self.changed_from, self.dropped + at)
        behind = max(0, (at - first) // STRIDE + 1)
        if behind < len(totals):
            # What stood just before one of those places now stands at it.
            pushed = self[first + behind * STRIDE :: STRIDE]
            totals[behind:] = [total + amount - each[2] for total, each in zip(totals[behind:], pushed, strict=False)]
        if first + len(totals) * STRIDE < len(self):
            totals.append(self.total - self[-1][2])

    def drop_oldest(self, count: int) -> None:
        """Forget so many of the oldest entries."""
        del self[:count]
        self.dropped += count
        gone = self._next(count)
        del self.totals[:gone]
        self.first += gone * STRIDE - count

    def known_from(self, at: int) -> tuple[int, int]:
        """The next place from `at` on from which the sum to the end is known, and that sum."""
        number = self._next(at)
        if number < len(self.totals):
            return self.first + number * STRIDE, self.total - self.totals[number]
        return len(self), 0

    def last_reaching(self, bound_micros: int) -> tuple[int, int]:
        """The last known place from which the sum to the end reaches the bound, and that sum; (-1, 0): none does."""
        number = bisect_right(self.totals, self.total - bound_micros) - 1
        return (self.first + number * STRIDE, self.total - self.totals[number]) if number >= 0 else (-1, 0)

    def _next(self, at: int) -> int:
        """The number of the first running total at this place or behind it."""
        return max(0, -((self.first - at) // STRIDE))


Amounts = list[AmountEntry]  # `ManyAmounts` where there are more than `STRIDE`


def with_amount(amounts: Amounts, entry: AmountEntry) -> Amounts | None:
    """The amounts with one more; None where its event is among them. What was given is not to be used any more."""
    at = len(amounts)
    if at and entry[0] <= amounts[-1][0]:
        at = bisect_left(amounts, (entry[0], entry[1], -1))
        if at < len(amounts) and amounts[at][:2] == entry[:2]:
            return None
    if type(amounts) is not ManyAmounts:
        if len(amounts) < STRIDE:
            amounts.insert(at, entry)
            return amounts
        amounts = ManyAmounts(amounts)
    amounts.add(at, entry)
    return amounts


def drop_oldest(amounts: Amounts, count: int) -> None:
    """Forget so many of the oldest entries."""
    if type(amounts) is ManyAmounts:
        amounts.drop_oldest(count)
    else:
        del amounts[:count]


def place_after(amounts: Amounts, after_ms: int) -> int:
    """Where the entries begin that are younger than `after_ms`."""
    return bisect_right(amounts, (after_ms, ABOVE_HASHES, 0))


def sum_since(amounts: Amounts, after_ms: int) -> tuple[int, int]:
    """Where the entries begin that are younger than `after_ms`, and what they add up to, in micros."""
    at = place_after(amounts, after_ms) if amounts and amounts[0][0] <= after_ms else 0
    total, walked = 0, amounts
    if type(amounts) is ManyAmounts:
        end, total = amounts.known_from(at)
        walked = amounts[at:end]
    elif at:
        walked = amounts[at:]
    for _, _, amount in walked:
        total += amount
    return at, total


def drop_time(amounts: Amounts, at: int, total: int, bound_micros: int) -> int:
    """The event time of the entry whose expiry takes the sum from that place on, `total`, below the bound.

    The bound is positive and not above the total.
    """
    if type(amounts) is ManyAmounts:
        place, known = amounts.last_reaching(bound_micros)
        if place > at:
            at, total = place, known
    while total >= bound_micros:
        total -= amounts[at][2]
        at += 1
    return amounts[at - 1][0]
