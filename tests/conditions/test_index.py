"""What a predicate index remembers of the values that it was asked about."""

from __future__ import annotations

import pytest

from conditions.index import Exact, Part, PredicateIndex, Slot


class CountedReads:
    """An index of one predicate, and how often its slot was read."""

    def __init__(self, wanted: str) -> None:
        self.reads = 0
        self.index: PredicateIndex[str] = PredicateIndex()
        slot = Slot("text", self._read, part=Part("whole", lambda subject: subject))
        self.index.add(Exact(slot, (wanted,)), None, "found")

    def _read(self, text: str) -> str:
        self.reads += 1
        return text


@pytest.mark.parametrize(("length", "reads"), [(1_000, 1), (1_001, 3)])
def test_a_value_is_looked_up_once_and_a_very_long_one_takes_no_memory(length: int, reads: int) -> None:
    text = "x" * length
    counted = CountedReads(text)
    assert [list(counted.index.match(text)) for _ in range(3)] == [["found"]] * 3
    assert counted.reads == reads
