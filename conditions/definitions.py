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

    def atoms(self) -> dict[Atom, None]:
        """Every atom that a condition reads, once."""
        return dict.fromkeys(atom for condition in self.conditions for atom, _ in condition.terms)

    def features(self) -> dict[Feature, None]:
        """Every feature that a condition reads, once."""
        return dict.fromkeys(atom.feature for atom in self.atoms())

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
    """Segments, and all that an event needs to find the ones it concerns.

    A segment is first *prepared*: its features are folded from then on, but nobody asks it. *Installing* it lets it
    decide, in the place of the one with its id; *removing* it, or releasing one that was prepared in vain, gives up the
    features that nobody else needs. The cost of each does not depend on how many segments there are.
    """

    def __init__(self) -> None:
        self.segments: dict[str, Segment] = {}
        self.by_key: dict[int, Segment] = {}
        self.counts: dict[int, CountFeature] = {}
        self.first_flips_ms: dict[int, int] = {}  # of the counts that time alone can change, by feature key
        self.sums: dict[int, SumFeature] = {}
        self.registers: dict[str, RegisterFeature] = {}
        self.register_keys: set[int] = set()
        self.indexes: dict[str, PredicateIndex[EntryFeature]] = {}
        self.true_by_default: dict[str, Segment] = {}
        self.default_keys: set[int] = set()
        self._users: dict[str, int] = {}  # how many compiled conditions read a feature, by its identity
        self._predicates: dict[str, Predicate] = {}
        self.forgotten: set[int] = set()  # keys of features given up; whoever keeps account of them empties it

    # -- what conditions ask for while they are compiled, see `conditions.kinds.Features` -----------------------------

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
            self.register_keys.add(feature.key)
        return feature.atom(identity, access, test)

    def _index(self, feature: EntryFeature, predicate: Predicate) -> None:
        self._predicates[feature.identity] = predicate
        index = self.indexes.setdefault(predicate.event_type, PredicateIndex())
        index.add(predicate.access, predicate.test, feature)

    # -- segments coming and going ------------------------------------------------------------------------------------

    def prepare(self, document: SegmentDefinition) -> Segment:
        """Compile a checked document and fold its features from now on."""
        segment = Segment(document, [CompiledCondition(each, each.terms(self)) for each in document.conditions])
        for feature in segment.features():
            self._users[feature.identity] = self._users.get(feature.identity, 0) + 1
            if isinstance(feature, CountFeature):
                self.note_flips(feature)
        return segment

    def note_flips(self, feature: CountFeature) -> None:
        """Take note of what the feature is asked, or has to keep, from now on."""
        flip_ms = feature.first_flip_ms
        if flip_ms is not None:
            self.first_flips_ms[feature.key] = flip_ms

    def install(self, segment: Segment) -> None:
        """Let a prepared segment decide, in the place of the one with its id."""
        self.remove(segment.id)
        for atom in segment.atoms():
            atom.segments.append(segment)
        self.segments[segment.id] = segment
        self.by_key[segment.key] = segment
        if segment.default:
            self.true_by_default[segment.id] = segment
            self.default_keys.add(segment.key)

    def remove(self, segment_id: str) -> None:
        """Let a segment decide no more, if there is one of that id."""
        segment = self.segments.pop(segment_id, None)
        if segment is None:
            return
        for atom in segment.atoms():
            atom.segments.remove(segment)
        del self.by_key[segment.key]
        self.true_by_default.pop(segment_id, None)
        self.default_keys.discard(segment.key)
        self.release(segment)

    def release(self, segment: Segment) -> None:
        """Give up the features that only this segment needed."""
        for feature in segment.features():
            self._users[feature.identity] -= 1
            if not self._users[feature.identity]:
                del self._users[feature.identity]
                self._forget(feature)

    def _forget(self, feature: Feature) -> None:
        self.forgotten.add(feature.key)
        if isinstance(feature, RegisterFeature):
            del self.registers[feature.identity]
            self.register_keys.discard(feature.key)
            return
        predicate = self._predicates.pop(feature.identity)
        self.indexes[predicate.event_type].remove(predicate.access, feature)
        if isinstance(feature, CountFeature):
            del self.counts[feature.key]
            self.first_flips_ms.pop(feature.key, None)
        else:
            del self.sums[feature.key]

    def predicate_of(self, feature: EntryFeature) -> Predicate:
        """The events that the feature counts or adds up."""
        return self._predicates[feature.identity]

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
    """Compile checked documents; ids are unique."""
    definitions = Definitions()
    for document in sorted(documents, key=lambda each: each.id):
        definitions.install(definitions.prepare(document))
    return definitions
