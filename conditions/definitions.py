"""Segments, compiled: which features an event touches, which atoms those carry, which segments read the atoms.

`compile_definitions` turns checked documents into one immutable set of definitions. It is pure and deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from conditions.events import Event
from conditions.features import (
    FOREVER,
    Atom,
    CountFeature,
    EntryFeature,
    Feature,
    RegisterFeature,
    SumFeature,
    Summaries,
    stable_key,
)
from conditions.index import Access, PredicateIndex, Test
from conditions.kinds import Condition, Predicate, Window

LAST_INSTANT_MS = 253_402_300_799_999  # the end of the year 9999, the last that RFC 3339 can write


class SegmentDefinition(Protocol):
    """What compiling asks of a segment's document."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def match(self) -> str: ...
    @property
    def conditions(self) -> Sequence[Condition]: ...


class CompiledCondition:
    """A conjunction of atoms, each wanted true or false, perhaps negated as a whole."""

    __slots__ = ("document", "negate", "terms")

    def __init__(self, document: Condition, terms: Iterable[tuple[Atom, bool]]) -> None:
        self.document = document
        self.negate = document.negate
        self.terms = tuple(terms)

    def holds(self, summaries: Summaries, at_ms: int) -> bool:
        for atom, wanted in self.terms:
            if atom.holds(summaries, at_ms) is not wanted:
                return self.negate
        return not self.negate

    def flips_at(self, summaries: Summaries, at_ms: int) -> list[int]:
        """The instants after `at_ms` at which time alone may change the condition's truth."""
        instants = []
        for atom, _ in self.terms:
            flip_ms = atom.turns_false_at(summaries, at_ms)
            if flip_ms is not None and flip_ms <= LAST_INSTANT_MS:
                instants.append(flip_ms)
        return instants


class Segment:
    """A segment whose conditions are ready to be asked. `key` is what state calls it."""

    __slots__ = ("_sole", "_sole_wanted", "any_of", "conditions", "default", "id", "key", "name", "version")

    def __init__(self, document: SegmentDefinition, conditions: Iterable[CompiledCondition]) -> None:
        self.id = document.id
        self.key = stable_key(document.id)
        self.name = document.name
        self.version = document.version
        self.any_of = document.match == "any"
        self.conditions = tuple(conditions)
        # Most segments are one atom, wanted true or false; for those the answer is at hand.
        self._sole: Atom | None = None
        self._sole_wanted = True
        if len(self.conditions) == 1 and len(self.conditions[0].terms) == 1:
            self._sole, wanted = self.conditions[0].terms[0]
            self._sole_wanted = wanted is not self.conditions[0].negate
        self.default = self.holds(Summaries(), 0)

    def holds(self, summaries: Summaries, at_ms: int) -> bool:
        any_of = self.any_of
        for condition in self.conditions:
            if condition.holds(summaries, at_ms) is any_of:
                return any_of
        return not any_of

    def truths(self, summaries: Summaries, at_ms: int) -> list[bool]:
        """Whether each condition holds, in their order."""
        if self._sole is not None:
            return [self._sole.holds(summaries, at_ms) is self._sole_wanted]
        return [condition.holds(summaries, at_ms) for condition in self.conditions]

    def agrees(self, truths: list[bool]) -> bool:
        """Whether the segment holds, given the truth of each of its conditions."""
        return any(truths) if self.any_of else all(truths)

    def flips_at(self, summaries: Summaries, at_ms: int, now_in: bool) -> int | None:
        """When the segment's answer at `at_ms`, `now_in`, changes by time alone; None: never, or past the year 9999."""
        if self._sole is not None:
            if now_in is not self._sole_wanted:
                return None  # time alone turns no atom true
            flip_ms = self._sole.turns_false_at(summaries, at_ms)
            return None if flip_ms is None or flip_ms > LAST_INSTANT_MS else flip_ms
        instants = [flip_ms for condition in self.conditions for flip_ms in condition.flips_at(summaries, at_ms)]
        for flip_ms in sorted(instants) if len(instants) > 1 else instants:
            if self.holds(summaries, flip_ms) is not now_in:
                return flip_ms
        return None


class Definitions:
    """One set of segments and all that an event needs to find the ones it concerns."""

    def __init__(self) -> None:
        self.segments: dict[str, Segment] = {}
        self.by_key: dict[int, Segment] = {}
        self.counts: dict[int, CountFeature] = {}
        self.timed_counts: dict[int, CountFeature] = {}
        self.sums: dict[int, SumFeature] = {}
        self.registers: dict[str, RegisterFeature] = {}
        self.indexes: dict[str, PredicateIndex[EntryFeature]] = {}
        self.true_by_default: tuple[Segment, ...] = ()
        self.default_keys: frozenset[int] = frozenset()

    def count(self, identity: str, predicate: Predicate, window: Window, nth: int) -> Atom:
        """See `conditions.kinds.Features`."""
        identity = _bounded_identity(identity, window)
        feature = self.counts.get(stable_key(identity))
        if feature is None:
            feature = CountFeature(identity, window.since_ms, window.until_ms)
            self.counts[feature.key] = feature
            self._index(feature, predicate)
        return feature.atom(nth, window.duration_ms)

    def total(
        self, identity: str, predicate: Predicate, window: Window, amount: Callable[[Event], int], bound_micros: int
    ) -> Atom:
        """See `conditions.kinds.Features`."""
        identity = _bounded_identity(identity, window)
        feature = self.sums.get(stable_key(identity))
        if feature is None:
            feature = SumFeature(identity, window.since_ms, window.until_ms, amount)
            self.sums[feature.key] = feature
            self._index(feature, predicate)
        return feature.atom(bound_micros, window.duration_ms)

    def value(self, register: str, identity: str, access: Access, test: Test) -> Atom:
        """See `conditions.kinds.Features`."""
        feature = self.registers.get(register)
        if feature is None:
            feature = self.registers[register] = RegisterFeature(register)
        return feature.atom(identity, access, test)

    def _index(self, feature: EntryFeature, predicate: Predicate) -> None:
        index = self.indexes.setdefault(predicate.event_type, PredicateIndex())
        index.add(predicate.access, predicate.test, feature)

    def features(self) -> Iterable[Feature]:
        """Every feature that some segment reads."""
        yield from self.counts.values()
        yield from self.sums.values()
        yield from self.registers.values()


def _bounded_identity(identity: str, window: Window) -> str:
    if window.since_ms == 0 and window.until_ms == FOREVER:
        return identity
    return f"{identity}[{window.since_ms},{window.until_ms})"


def compile_definitions(documents: Iterable[SegmentDefinition]) -> Definitions:
    """Compile checked documents; ids are unique. Segments come in order of their id."""
    definitions = Definitions()
    for document in sorted(documents, key=lambda each: each.id):
        segment = _compile_segment(document, definitions)
        definitions.segments[segment.id] = segment
        definitions.by_key[segment.key] = segment
    definitions.timed_counts = {key: feature for key, feature in definitions.counts.items() if feature.is_timed}
    definitions.true_by_default = tuple(segment for segment in definitions.segments.values() if segment.default)
    definitions.default_keys = frozenset(segment.key for segment in definitions.true_by_default)
    return definitions


def _compile_segment(document: SegmentDefinition, definitions: Definitions) -> Segment:
    conditions = [CompiledCondition(each, each.terms(definitions)) for each in document.conditions]
    segment = Segment(document, conditions)
    for condition in conditions:
        for atom, _ in condition.terms:
            if not atom.segments or atom.segments[-1] is not segment:
                atom.segments.append(segment)
    return segment
