"""Two summaries of one customer into one: what summarising both streams of events would have given.

Backfill merges what it read back with what came in meanwhile, and the merging of two customers merges theirs.
"""

from __future__ import annotations

from heapq import merge as merge_sorted

from conditions.amounts import Amounts
from conditions.features import READ_BACK, Entries, Register


def merge_entries(first: Entries, second: Entries, keep: int) -> Entries:
    """The newest `keep` of the union of two count summaries."""
    union = {*zip(first[::2], first[1::2], strict=True), *zip(second[::2], second[1::2], strict=True)}
    newest = sorted(union)[-keep:] if keep else []
    return [part for entry in newest for part in entry]


def merge_amounts(first: Amounts, second: Amounts) -> Amounts:
    """The union of two sum summaries; an event that is in both counts once."""
    merged: Amounts = []
    for entry in merge_sorted(first, second):
        if not merged or merged[-1][:2] != entry[:2]:
            merged.append(entry)
    return merged


def merge_registers(first: Register, second: Register) -> Register:
    """The newer of two values; at the same event time the second, whose records came later."""
    if first[0] != second[0]:
        return max(first, second, key=lambda register: register[0])
    known = [writer for writer in first[2] if writer != READ_BACK]
    later = [writer for writer in second[2] if writer not in first[2] and writer != READ_BACK]
    # What only repeats events that the first knows changes nothing.
    return (first[0], second[1], [*known, *later]) if later else first
