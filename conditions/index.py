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
Found = TypeVar("Found")
Test = Callable[[Any], bool]
Read = Callable[[Any], Any]

_REMEMBERED = 16_384  # values of a part; all are forgotten when there are more
_LONGEST_REMEMBERED = 1_000  # characters of a value: an event's fields may be as long as the event


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
    read: Read
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
        self._parts: dict[str, _Remembered[Target]] = {}
        self._lookups: tuple[Any, ...] = ()  # the same as a tuple of what `match` uses of each
        self._only: _Remembered[Target] | None = None  # the part, where all that there is is reached through one
        self._tested: list[_Entry[Target]] = []
        self._whole: _Tables[_Entry[Target]] | None = None

    def add(self, access: Access, test: Test | None, target: Target) -> None:
        if isinstance(access, Anything):
            if test is None:
                self._always.append(target)
            else:
                self._tested.append((target, test))
            self._look_ahead()
        elif access.slot.part is None or test is not None:
            self._whole_tables().add(access, _of_subject(access.slot), (target, test))
        else:
            self._part(access.slot.part).add(access, target)

    def remove(self, access: Access, target: Target) -> None:
        """Take out what `add` put in with this access for this target."""
        if isinstance(access, Anything):
            if target in self._always:
                self._always = [each for each in self._always if each is not target]
            self._tested = [entry for entry in self._tested if entry[0] is not target]
            self._look_ahead()
            return
        if self._whole is not None:
            self._whole.remove(access, lambda entry: entry[0] is target)
        if access.slot.part is not None and access.slot.part.name in self._parts:
            self._parts[access.slot.part.name].remove(access, target)

    def _whole_tables(self) -> _Tables[_Entry[Target]]:
        if self._whole is None:
            self._whole = _Tables()
            self._look_ahead()
        return self._whole

    def _part(self, part: Part) -> _Remembered[Target]:
        found = self._parts.get(part.name)
        if found is None:
            found = self._parts[part.name] = _Remembered(part)
            self._look_ahead()
        return found

    def _look_ahead(self) -> None:
        """Lay ready what `match` uses, and forget what it remembers."""
        parts = tuple(self._parts.values())
        self._lookups = tuple((each.read, each.known, each.find) for each in parts)
        only = parts[0] if len(parts) == 1 and self._whole is None and not self._tested else None
        for each in parts:
            each.always = self._always if each is only else []
            each.known.clear()
        self._only = only

    def match(self, subject: Any) -> Sequence[Target]:
        only = self._only
        if only is not None:
            part = only.read(subject)
            remembered = only.known.get(part)
            return only.find(part) if remembered is None else remembered
        matched = self._always
        for read, known, find in self._lookups:
            part = read(subject)
            found = known.get(part)
            if found is None:
                found = find(part)
            if found:
                matched = matched + found if matched else found
        if self._whole is not None:
            entries = self._whole.find(subject)
            matched = matched + [target for target, test in entries if test is None or test(subject)]
        if self._tested:
            matched = matched + [target for target, test in self._tested if test is None or test(subject)]
        return matched


_Entry = tuple[Target, Test | None]
Gone = Callable[[Any], bool]


def _without(reached: list[Found], gone: Gone) -> list[Found]:
    return [each for each in reached if not gone(each)]


def _of_subject(slot: Slot) -> Read:
    """What the slot reads, from the whole subject."""
    read, part = slot.read, slot.part
    return read if part is None else lambda subject: read(part.read(subject))


class _Remembered(Generic[Target]):
    """The accesses to one part, and what they reach for the values of it that came lately."""

    def __init__(self, part: Part) -> None:
        self.read = part.read
        self.known: dict[Hashable, list[Target]] = {}
        self.always: list[Target] = []  # found with every value
        self._tables: _Tables[Target] = _Tables()

    def add(self, access: Exact | Prefix | Range, target: Target) -> None:
        self._tables.add(access, access.slot.read, target)
        self.known.clear()

    def remove(self, access: Exact | Prefix | Range, target: Target) -> None:
        self._tables.remove(access, lambda reached: reached is target)
        self.known.clear()

    def find(self, part: Hashable) -> list[Target]:
        found = self.always + self._tables.find(part)
        if len(str(part)) > _LONGEST_REMEMBERED:
            return found
        if len(self.known) >= _REMEMBERED:
            self.known.clear()
        self.known[part] = found
        return found


class _Tables(Generic[Found]):
    """What is reached through slots that read from the same thing."""

    def __init__(self) -> None:
        self._single: dict[str, tuple[Read, dict[Hashable, list[Found]]]] = {}
        self._several: dict[str, tuple[Read, dict[Hashable, list[Found]]]] = {}
        self._nested: dict[tuple[str, type], tuple[Read, dict[Hashable, _Table[Found]]]] = {}

    def add(self, access: Exact | Prefix | Range, read: Read, reached: Found) -> None:
        slot = access.slot
        if isinstance(access, Exact):
            tables = self._several if slot.several else self._single
            _, table = tables.setdefault(slot.name, (read, {}))
            for key in access.keys:
                table.setdefault(key, []).append(reached)
        else:
            kind: type[_Table[Found]] = _Prefixes if isinstance(access, Prefix) else _Ranges
            _, nested = self._nested.setdefault((slot.name, kind), (read, {}))
            nested.setdefault(access.key, kind()).add(access, reached)

    def remove(self, access: Exact | Prefix | Range, gone: Gone) -> None:
        """Take out what stands under the access and is `gone`; there may be nothing."""
        slot = access.slot
        if isinstance(access, Exact):
            tables = self._several if slot.several else self._single
            table = tables[slot.name][1] if slot.name in tables else {}
            for key in access.keys:
                left = _without(table.pop(key, []), gone)
                if left:
                    table[key] = left
            return
        kind: type[_Table[Found]] = _Prefixes if isinstance(access, Prefix) else _Ranges
        nested = self._nested[slot.name, kind][1] if (slot.name, kind) in self._nested else {}
        if access.key in nested:
            nested[access.key].remove(access, gone)
            if nested[access.key].empty:
                del nested[access.key]

    def find(self, source: Any) -> list[Found]:
        """All that is reached by what the slots read from the source."""
        found: list[Found] = []
        for read, table in self._single.values():
            key = read(source)
            if key in table:
                found += table[key]
        for read, table in self._several.values():
            for key in read(source):
                if key in table:
                    found += table[key]
        for read, tables in self._nested.values():
            for key, value in read(source):
                if key in tables:
                    found += tables[key].holding(value)
        return found


class _Table(Generic[Found]):
    def add(self, access: Any, reached: Found) -> None:
        raise NotImplementedError

    def remove(self, access: Any, gone: Gone) -> None:
        raise NotImplementedError

    @property
    def empty(self) -> bool:
        raise NotImplementedError

    def holding(self, value: Any) -> list[Found]:
        """What is reached by a text or number."""
        raise NotImplementedError


class _Prefixes(_Table[Found]):
    """Prefixes by their length: a text is cut once for each length in use."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._reached: dict[str, list[Found]] = {}

    def add(self, access: Prefix, reached: Found) -> None:
        length = len(access.prefix)
        if length not in self._lengths:
            insort(self._lengths, length)
        self._reached.setdefault(access.prefix, []).append(reached)

    def remove(self, access: Prefix, gone: Gone) -> None:
        self._reached[access.prefix] = _without(self._reached[access.prefix], gone)
        if not self._reached[access.prefix]:
            del self._reached[access.prefix]
            self._lengths = sorted({len(prefix) for prefix in self._reached})

    @property
    def empty(self) -> bool:
        return not self._reached

    def holding(self, value: str) -> list[Found]:
        found: list[Found] = []
        for length in self._lengths:
            if length > len(value):
                break
            found += self._reached.get(value[:length], ())
        return found


class _Ranges(_Table[Found]):
    """Ranges in a centred interval tree, built when first asked after a change (de Berg et al., chapter 10.1)."""

    def __init__(self) -> None:
        self._ranges: list[_Bounded[Found]] = []
        self._root: _Node[Found] | None = None

    def add(self, access: Range, reached: Found) -> None:
        self._ranges.append((access.low, access.high, reached))
        self._root = None

    def remove(self, access: Range, gone: Gone) -> None:
        self._ranges = [bounded for bounded in self._ranges if not gone(bounded[2])]
        self._root = None

    @property
    def empty(self) -> bool:
        return not self._ranges

    def holding(self, value: float) -> list[Found]:
        if self._root is None:
            self._root = _Node(self._ranges)
        node: _Node[Found] | None = self._root
        found: list[Found] = []
        while node is not None:
            if value < node.centre:
                found += node.by_low[: bisect_right(node.lows, value)]
                node = node.below
            else:
                found += node.by_high[: bisect_right(node.highs, -value)]
                node = node.above
        return found


_Bounded = tuple[float, float, Found]


class _Node(Generic[Found]):
    """The ranges that hold `centre`, sorted by each end; the others lie wholly `below` or `above`."""

    def __init__(self, ranges: list[_Bounded[Found]]) -> None:
        ends = sorted(end for low, high, _ in ranges for end in (low, high))
        self.centre = ends[len(ends) // 2]
        here = [bounded for bounded in ranges if bounded[0] <= self.centre <= bounded[1]]
        by_low = sorted(here, key=lambda bounded: bounded[0])
        by_high = sorted(here, key=lambda bounded: -bounded[1])
        self.lows = [low for low, _, _ in by_low]
        self.highs = [-high for _, high, _ in by_high]
        self.by_low = [reached for _, _, reached in by_low]
        self.by_high = [reached for _, _, reached in by_high]
        below = [bounded for bounded in ranges if bounded[1] < self.centre]
        above = [bounded for bounded in ranges if bounded[0] > self.centre]
        self.below = _Node(below) if below else None
        self.above = _Node(above) if above else None
