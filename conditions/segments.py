"""Segments, compiled: conditions as conjunctions of atoms, to be asked about any customer's summaries.

What is compiled here never changes, so all partitions of a process may share it; what is folded and who is asked is
each partition's own, see `conditions.definitions`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from weakref import WeakValueDictionary

from conditions.documents import SegmentDocument, encode_segment
from conditions.features import Atom, Summaries, stable_key
from conditions.json_values import decode_segment
from conditions.kinds import Condition, Term
from conditions.times import MAX_TIME_MS

NOTHING_KNOWN = Summaries()


class CompiledCondition:
    """A conjunction of atoms, each wanted true or false, perhaps negated as a whole."""

    __slots__ = ("document", "negate", "terms")

    def __init__(self, document: Condition, terms: Iterable[Term]) -> None:
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
            if flip_ms is not None and flip_ms <= MAX_TIME_MS:
                instants.append(flip_ms)
        return instants


class Segment:
    """A segment whose conditions are ready to be asked. `key` is what state calls it, `atoms` are those it reads."""

    __slots__ = (
        "__weakref__",
        "_sole",
        "_sole_wanted",
        "any_of",
        "atoms",
        "conditions",
        "default",
        "document",
        "id",
        "key",
        "name",
        "version",
    )

    def __init__(self, document: SegmentDocument, conditions: Iterable[CompiledCondition]) -> None:
        self.document = document
        self.id = document.id
        self.key = stable_key(document.id)
        self.name = document.name
        self.version = document.version
        self.any_of = document.match == "any"
        self.conditions = tuple(conditions)
        self.atoms = tuple(dict.fromkeys(atom for condition in self.conditions for atom, _ in condition.terms))
        # Most segments are one atom, wanted true or false; for those the answer is at hand.
        self._sole: Atom | None = None
        self._sole_wanted = True
        if len(self.conditions) == 1 and len(self.conditions[0].terms) == 1:
            self._sole, wanted = self.conditions[0].terms[0]
            self._sole_wanted = wanted is not self.conditions[0].negate
        self.default = self.holds(NOTHING_KNOWN, 0)

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
            return None if flip_ms is None or flip_ms > MAX_TIME_MS else flip_ms
        instants = [flip_ms for condition in self.conditions for flip_ms in condition.flips_at(summaries, at_ms)]
        for flip_ms in sorted(instants) if len(instants) > 1 else instants:
            if self.holds(summaries, flip_ms) is not now_in:
                return flip_ms
        return None


class SegmentCompiler:
    """Compiles documents. For the same document it answers the same segment as long as anybody holds that.

    Segments that ask the same read the same atom. What nobody holds any more is forgotten.
    """

    def __init__(self) -> None:
        self._segments: WeakValueDictionary[bytes, Segment] = WeakValueDictionary()
        self._atoms: WeakValueDictionary[Hashable, Atom] = WeakValueDictionary()

    def compile(self, document: SegmentDocument) -> Segment:
        """The segment of a checked document."""
        return self._segment(encode_segment(document), document)

    def read(self, encoded: bytes) -> Segment:
        """The segment of a document as `encode_segment` wrote it."""
        return self._segment(encoded, None)

    def _segment(self, encoded: bytes, document: SegmentDocument | None) -> Segment:
        segment = self._segments.get(encoded)
        if segment is None:
            document = document or decode_segment(encoded)
            segment = Segment(document, [CompiledCondition(each, self._terms(each)) for each in document.conditions])
            self._segments[encoded] = segment
        return segment

    def _terms(self, condition: Condition) -> list[Term]:
        return [(self._atoms.setdefault(atom.question, atom), wanted) for atom, wanted in condition.terms()]
