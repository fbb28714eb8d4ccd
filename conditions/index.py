"""A predicate index: finds the predicates that a subject satisfies without looking at the others.

Each predicate is reached through one *access*: a key that must be equal, a prefix, or a range that must hold a
number, of what a *slot* reads from the subject. A subject costs what it reads and what it matches, however many
predicates there are. What the access does not decide, the predicate's own test does.

Slots may read from a *part* of the subject, such as a page's address, rather than from the whole. What is reached
through a part is remembered by the part's value, as the same pages, screens and campaigns come again and again.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

Target = TypeVar("Target")
Test = Callable[[Any], bool]

_REMEMBERED_PARTS = 16_384


class Part(msgspec.Struct, frozen=True):
    """What slots have in common that read only this of a subject. Parts of one name are one part."""

    name: str
    read: Callable[[Any], Hashable]


class Slot(msgspec.Struct, frozen=True):
    """Reads from a subject, or from its part where there is one, what accesses look up. Slots of one name are one slot.

    `read` answers one key (None: nothing to look up); with `several`, an iterable of keys. For `Prefix` and `Range`
    it answers an iterable of (key, text or number).
    """

    name: str
    read: Callable[[Any], Any]
    several: bool = False
    part: Part | None = None


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
        self._always: list[Target] = []
        self._tested: list[_Entry[Target]] = []
        self._whole: _Tables[Target] | None = None
        self._parts: dict[str, _Remembered[Target]] = {}
        self._remembered: tuple[_Remembered[Target], ...] = ()

    def add(self, access: Access, test: Test | None, target: Target) -> None:
        if isinstance(access, Anything):
            if test is None:
                self._always.append(target)
            else:
                self._tested.append((target, test))
        elif access.slot.part is None:
            self._whole = self._whole or _Tables()
            self._whole.add(access, (target, test))
        else:
            part = access.slot.part
            self._parts.setdefault(part.name, _Remembered(part)).add(access, (target, test))
            self._remembered = tuple(self._parts.values())

    def remove(self, access: Access, target: Target) -> None:
        """Take out what `add` put in with this access for this target."""
        if isinstance(access, Anything):
            if target in self._always:
                self._always = [each for each in self._always if each is not target]
            self._tested = _without(self._tested, target)
        elif access.slot.part is None:
            assert self._whole is not None, "what is removed was added"
            self._whole.remove(access, target)
        else:
            self._parts[access.slot.part.name].remove(access, target)

    def match(self, subject: Any) -> Sequence[Target]:
        matched = self._always
        for remembered in self._remembered:
            part = remembered.read(subject)
            found, tested = remembered.found.get(part) or remembered.find(part)
            if found:
                matched = matched + found if matched else found
            if tested:
                matched = matched + _passing(tested, subject)
        if self._tested:
            matched = matched + _passing(self._tested, subject)
        if self._whole is not None:
            matched = matched + _passing(self._whole.find(subject), subject)
        return matched


_Entry = tuple[Target, Test | None]


def _without(entries: list[_Entry[Target]], target: Target) -> list[_Entry[Target]]:
    return [entry for entry in entries if entry[0] is not target]


def _passing(entries: list[_Entry[Target]], subject: Any) -> list[Target]:
    return [target for target, test in entries if test is None or test(subject)]


class _Tables(Generic[Target]):
    """The accesses whose slots read from the same thing."""

    def __init__(self) -> None:
        self._exact: dict[str, tuple[Slot, dict[Hashable, list[_Entry[Target]]]]] = {}
        self._nested: dict[tuple[str, type], tuple[Slot, dict[Hashable, _Table[Target]]]] = {}
        self._single_slots: tuple[Any, ...] = ()
        self._several_slots: tuple[Any, ...] = ()
        self._nested_slots: tuple[Any, ...] = ()

    def add(self, access: Exact | Prefix | Range, entry: _Entry[Target]) -> None:
        if isinstance(access, Exact):
            _, table = self._exact.setdefault(access.slot.name, (access.slot, {}))
            for key in access.keys:
                table.setdefault(key, []).append(entry)
        else:
            kind: type[_Table[Target]] = _Prefixes if isinstance(access, Prefix) else _Ranges
            _, tables = self._nested.setdefault((access.slot.name, kind), (access.slot, {}))
            tables.setdefault(access.key, kind()).add(access, entry)
        self._single_slots = tuple((slot.read, table) for slot, table in self._exact.values() if not slot.several)
        self._several_slots = tuple((slot.read, table) for slot, table in self._exact.values() if slot.several)
        self._nested_slots = tuple((slot.read, tables) for slot, tables in self._nested.values())

    def remove(self, access: Exact | Prefix | Range, target: Target) -> None:
        if isinstance(access, Exact):
            _, table = self._exact[access.slot.name]
            for key in access.keys:
                table[key] = _without(table[key], target)
                if not table[key]:
                    del table[key]
            return
        kind: type[_Table[Target]] = _Prefixes if isinstance(access, Prefix) else _Ranges
        _, tables = self._nested[access.slot.name, kind]
        tables[access.key].remove(access, target)
        if tables[access.key].empty:
            del tables[access.key]

    def find(self, source: Any) -> list[_Entry[Target]]:
        """What is reached by what the slots read from the source."""
        found: list[_Entry[Target]] = []
        for read, table in self._single_slots:
            key = read(source)
            if key in table:
                found += table[key]
        for read, table in self._several_slots:
            for key in read(source):
                if key in table:
                    found += table[key]
        for read, tables in self._nested_slots:
            for key, value in read(source):
                if key in tables:
                    tables[key].collect(value, found)
        return found


class _Remembered(Generic[Target]):
    """The accesses to one part, and what they reach for the values of it that came lately."""

    def __init__(self, part: Part) -> None:
        self.read = part.read
        self.found: dict[Hashable, tuple[list[Target], list[_Entry[Target]]]] = {}
        self._tables: _Tables[Target] = _Tables()

    def add(self, access: Exact | Prefix | Range, entry: _Entry[Target]) -> None:
        self._tables.add(access, entry)
        self.found.clear()

    def remove(self, access: Exact | Prefix | Range, target: Target) -> None:
        self._tables.remove(access, target)
        self.found.clear()

    def find(self, part: Hashable) -> tuple[list[Target], list[_Entry[Target]]]:
        """The targets that the part alone decides, and those whose test must still be asked; remembered."""
        entries = self._tables.find(part)
        tested = [entry for entry in entries if entry[1] is not None]
        answer = ([target for target, test in entries if test is None], tested)
        if len(self.found) >= _REMEMBERED_PARTS:
            self.found.clear()
        self.found[part] = answer
        return answer


class _Table(Generic[Target]):
    def add(self, access: Any, entry: _Entry[Target]) -> None:
        raise NotImplementedError

    def remove(self, access: Any, target: Target) -> None:
        raise NotImplementedError

    @property
    def empty(self) -> bool:
        raise NotImplementedError

    def collect(self, value: Any, found: list[_Entry[Target]]) -> None:
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

    def remove(self, access: Prefix, target: Target) -> None:
        self._entries[access.prefix] = _without(self._entries[access.prefix], target)
        if not self._entries[access.prefix]:
            del self._entries[access.prefix]
            self._lengths = sorted({len(prefix) for prefix in self._entries})

    @property
    def empty(self) -> bool:
        return not self._entries

    def collect(self, value: str, found: list[_Entry[Target]]) -> None:
        for length in self._lengths:
            if length > len(value):
                break
            found += self._entries.get(value[:length], ())


class _Ranges(_Table[Target]):
    """Ranges in a centred interval tree, built when first asked after a change (de Berg et al., chapter 10.1)."""

    def __init__(self) -> None:
        self._ranges: list[_Bounded[Target]] = []
        self._root: _Node[Target] | None = None

    def add(self, access: Range, entry: _Entry[Target]) -> None:
        self._ranges.append((access.low, access.high, entry))
        self._root = None

    def remove(self, access: Range, target: Target) -> None:
        self._ranges = [bounded for bounded in self._ranges if bounded[2][0] is not target]
        self._root = None

    @property
    def empty(self) -> bool:
        return not self._ranges

    def collect(self, value: float, found: list[_Entry[Target]]) -> None:
        if self._root is None:
            self._root = _Node(self._ranges)
        node: _Node[Target] | None = self._root
        while node is not None:
            found += node.holding(value)
            node = node.below if value < node.centre else node.above


_Bounded = tuple[float, float, _Entry[Target]]


class _Node(Generic[Target]):
    """The ranges that hold `centre`, sorted by each end; the others lie wholly `below` or `above`."""

    def __init__(self, ranges: list[_Bounded[Target]]) -> None:
        ends = sorted(end for low, high, _ in ranges for end in (low, high))
        self.centre = ends[len(ends) // 2]
        here = [bounded for bounded in ranges if bounded[0] <= self.centre <= bounded[1]]
        by_low = sorted(here, key=lambda bounded: bounded[0])
        by_high = sorted(here, key=lambda bounded: -bounded[1])
        self._lows = [low for low, _, _ in by_low]
        self._highs = [-high for _, high, _ in by_high]
        self._by_low = [entry for _, _, entry in by_low]
        self._by_high = [entry for _, _, entry in by_high]
        below = [bounded for bounded in ranges if bounded[1] < self.centre]
        above = [bounded for bounded in ranges if bounded[0] > self.centre]
        self.below = _Node(below) if below else None
        self.above = _Node(above) if above else None

    def holding(self, value: float) -> list[_Entry[Target]]:
        if value < self.centre:
            return self._by_low[: bisect_right(self._lows, value)]
        return self._by_high[: bisect_right(self._highs, -value)]
