"""A predicate index: finds the predicates that a subject satisfies without looking at the others.

Each predicate is reached through one *access*: a key that must be equal, a prefix, or a range that must hold a
number, of what a *slot* reads from the subject. A subject costs what it reads and what it matches, however many
predicates there are. What the access does not decide, the predicate's own test does.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

import msgspec

Target = TypeVar("Target")
Test = Callable[[Any], bool]
Keyed = tuple[Hashable, Any]


class Slot(msgspec.Struct, frozen=True):
    """Reads from a subject what accesses look up. Slots of one name are one slot.

    `read` answers one key (None: nothing to look up); with `several`, an iterable of keys. For `Prefix` and `Range`
    it answers an iterable of (key, text or number).
    """

    name: str
    read: Callable[[Any], Any]
    several: bool = False


class Exact(msgspec.Struct, frozen=True):
    slot: Slot
    keys: tuple[Hashable, ...]


class Prefix(msgspec.Struct, frozen=True):
    slot: Slot
    key: Hashable
    prefix: str


class Range(msgspec.Struct, frozen=True):
    """Numbers from low to high, both included."""

    slot: Slot
    key: Hashable
    low: float
    high: float


class Anything(msgspec.Struct, frozen=True):
    """Every subject: the predicate's test alone decides."""


Access = Exact | Prefix | Range | Anything


class PredicateIndex(Generic[Target]):
    """Predicates by access. `match` answers the targets of those a subject satisfies, some perhaps twice."""

    def __init__(self) -> None:
        self._always: list[_Entry[Target]] = []
        self._exact: dict[str, tuple[Slot, dict[Hashable, list[_Entry[Target]]]]] = {}
        self._nested: dict[tuple[str, type], tuple[Slot, dict[Hashable, _Table[Target]]]] = {}
        self._single_slots: tuple[Any, ...] = ()
        self._several_slots: tuple[Any, ...] = ()
        self._nested_slots: tuple[Any, ...] = ()

    def add(self, access: Access, test: Test | None, target: Target) -> None:
        entry = (target, test)
        if isinstance(access, Exact):
            _, table = self._exact.setdefault(access.slot.name, (access.slot, {}))
            for key in access.keys:
                table.setdefault(key, []).append(entry)
        elif isinstance(access, Anything):
            self._always.append(entry)
        else:
            kind: type[_Table[Target]] = _Prefixes if isinstance(access, Prefix) else _Ranges
            _, tables = self._nested.setdefault((access.slot.name, kind), (access.slot, {}))
            tables.setdefault(access.key, kind()).add(access, entry)
        self._single_slots = tuple((slot.read, table) for slot, table in self._exact.values() if not slot.several)
        self._several_slots = tuple((slot.read, table) for slot, table in self._exact.values() if slot.several)
        self._nested_slots = tuple((slot.read, tables) for slot, tables in self._nested.values())

    def match(self, subject: Any) -> list[Target]:
        matched = [target for target, test in self._always if test is None or test(subject)]
        for read, table in self._single_slots:
            found = table.get(read(subject))
            if found is not None:
                for target, test in found:
                    if test is None or test(subject):
                        matched.append(target)
        for read, table in self._several_slots:
            for key in read(subject):
                for target, test in table.get(key, ()):
                    if test is None or test(subject):
                        matched.append(target)
        for read, tables in self._nested_slots:
            for key, value in read(subject):
                if key in tables:
                    tables[key].collect(value, subject, matched)
        return matched


_Entry = tuple[Target, Test | None]


class _Table(Generic[Target]):
    def add(self, access: Any, entry: _Entry[Target]) -> None:
        raise NotImplementedError

    def collect(self, value: Any, subject: Any, matched: list[Target]) -> None:
        raise NotImplementedError


class _Prefixes(_Table[Target]):
    """Prefixes by their length: a text is cut once for each length in use."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._entries: dict[str, list[_Entry[Target]]] = {}

    def add(self, access: Prefix, entry: _Entry[Target]) -> None:
        length = len(access.prefix)
        if length not in self._lengths:
            insort(self._lengths, length)
        self._entries.setdefault(access.prefix, []).append(entry)

    def collect(self, value: str, subject: Any, matched: list[Target]) -> None:
        for length in self._lengths:
            if length > len(value):
                break
            for target, test in self._entries.get(value[:length], ()):
                if test is None or test(subject):
                    matched.append(target)


class _Ranges(_Table[Target]):
    """Ranges in a centred interval tree, built when first asked after a change (de Berg et al., chapter 10.1)."""

    def __init__(self) -> None:
        self._ranges: list[_Bounded[Target]] = []
        self._root: _Node[Target] | None = None

    def add(self, access: Range, entry: _Entry[Target]) -> None:
        self._ranges.append((access.low, access.high, entry))
        self._root = None

    def collect(self, value: float, subject: Any, matched: list[Target]) -> None:
        if self._root is None:
            self._root = _Node(self._ranges)
        node: _Node[Target] | None = self._root
        while node is not None:
            for target, test in node.holding(value):
                if test is None or test(subject):
                    matched.append(target)
            node = node.below if value < node.centre else node.above


_Bounded = tuple[float, float, _Entry[Target]]


class _Node(Generic[Target]):
    """The ranges that hold `centre`, sorted by each end; the others lie wholly `below` or `above`."""

    def __init__(self, ranges: list[_Bounded[Target]]) -> None:
        ends = sorted(end for low, high, _ in ranges for end in (low, high))
        self.centre = ends[len(ends) // 2]
        here = [bounded for bounded in ranges if bounded[0] <= self.centre <= bounded[1]]
        self._by_low = sorted(here, key=lambda bounded: bounded[0])
        self._by_high = sorted(here, key=lambda bounded: -bounded[1])
        self._lows = [bounded[0] for bounded in self._by_low]
        self._highs = [-bounded[1] for bounded in self._by_high]
        below = [bounded for bounded in ranges if bounded[1] < self.centre]
        above = [bounded for bounded in ranges if bounded[0] > self.centre]
        self.below = _Node(below) if below else None
        self.above = _Node(above) if above else None

    def holding(self, value: float) -> Iterable[_Entry[Target]]:
        if value < self.centre:
            return (entry for _, _, entry in self._by_low[: bisect_right(self._lows, value)])
        return (entry for _, _, entry in self._by_high[: bisect_right(self._highs, -value)])
