"""The segments in force: which features an event touches, and which segments read what it changes of them.

Definitions belong to one partition: what features keep depends on what it was asked before.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from operator import attrgetter

from conditions.documents import SegmentDocument
from conditions.features import (
    Atom,
    CountAtom,
    CountFeature,
    EntryFeature,
    Feature,
    Readers,
    RegisterFeature,
    SumAtom,
    SumFeature,
    Summaries,
    ValueAtom,
)
from conditions.index import PredicateIndex
from conditions.segments import Segment, SegmentCompiler


class Definitions:
    """Segments, and all that an event needs to find the ones it concerns.

    A segment is first *prepared*: its features are folded from then on, but nobody asks it. *Installing* it lets it
    decide, in the place of the one with its id; *removing* it, or releasing one that was prepared in vain, gives up the
    features that nobody else needs. The cost of each does not depend on how many segments there are.
    """

    def __init__(self, compiler: SegmentCompiler) -> None:
        """`compiler` makes its segments, and perhaps those of others."""
        self.compiler = compiler
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
        self.forgotten: set[int] = set()  # keys of features given up; whoever keeps account of them empties it

    def prepare(self, segment: Segment) -> None:
        """Fold the segment's features from now on."""
        for atom in segment.atoms:
            if isinstance(atom, CountAtom):
                self._count(atom)
            elif isinstance(atom, SumAtom):
                self._sum(atom)
            else:
                self._register(atom)

    def _count(self, atom: CountAtom) -> None:
        feature = self.counts.get(atom.key)
        if feature is None:
            feature = self.counts[atom.key] = CountFeature(atom.events)
            self._index(feature)
        feature.ask(atom)
        feature.users += 1
        self.note_flips(feature)

    def _sum(self, atom: SumAtom) -> None:
        feature = self.sums.get(atom.key)
        if feature is None:
            feature = self.sums[atom.key] = SumFeature(atom.events, atom.amount)
            self._index(feature)
        feature.ask(atom)
        feature.users += 1

    def _register(self, atom: ValueAtom) -> None:
        feature = self.registers.get(atom.register)
        if feature is None:
            feature = self.registers[atom.register] = RegisterFeature(atom.register)
            self.register_keys.add(feature.key)
        feature.ask(atom)
        feature.users += 1

    def _index(self, feature: EntryFeature) -> None:
        predicate = feature.events.predicate
        index = self.indexes.setdefault(predicate.event_type, PredicateIndex())
        index.add(predicate.access, predicate.test, feature)

    def note_flips(self, feature: CountFeature) -> None:
        """Take note of what the feature is asked, or has to keep, from now on."""
        flip_ms = feature.first_flip_ms
        if flip_ms is not None:
            self.first_flips_ms[feature.key] = flip_ms

    def add(self, segment: Segment) -> None:
        """Prepare a segment and let it decide at once."""
        self.prepare(segment)
        self.install(segment)

    def install(self, segment: Segment) -> None:
        """Let a prepared segment decide, in the place of the one with its id."""
        self.remove(segment.id)
        for atom in segment.atoms:
            insort(self._readers(atom), segment, key=attrgetter("id"))
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
        for atom in segment.atoms:
            self._readers(atom).remove(segment)
        del self.by_key[segment.key]
        self.true_by_default.pop(segment_id, None)
        self.default_keys.discard(segment.key)
        self.release(segment)

    def release(self, segment: Segment) -> None:
        """Give up the features that only this segment needed."""
        for atom in segment.atoms:
            feature = self.feature_of(atom)
            feature.users -= 1
            if not feature.users:
                self._forget(feature)

    def _forget(self, feature: Feature) -> None:
        self.forgotten.add(feature.key)
        if isinstance(feature, RegisterFeature):
            del self.registers[feature.register]
            self.register_keys.discard(feature.key)
            return
        predicate = feature.events.predicate
        self.indexes[predicate.event_type].remove(predicate.access, feature)
        if isinstance(feature, CountFeature):
            del self.counts[feature.key]
            self.first_flips_ms.pop(feature.key, None)
        else:
            del self.sums[feature.key]

    def feature_of(self, atom: Atom) -> Feature:
        """The feature that the atom of a prepared segment asks."""
        if isinstance(atom, CountAtom):
            return self.counts[atom.key]
        return self.sums[atom.key] if isinstance(atom, SumAtom) else self.registers[atom.register]

    def features_of(self, segment: Segment) -> list[Feature]:
        """Every feature that a prepared segment reads, once."""
        return list(dict.fromkeys(map(self.feature_of, segment.atoms)))

    def _readers(self, atom: Atom) -> Readers:
        return self.feature_of(atom).readers(atom)  # type: ignore[arg-type]  # an atom's feature is of its kind

    def kept_entries(self, summaries: Summaries) -> dict[int, int]:
        """How many entries the summaries hold at most of each count feature that they hold any of, by its key."""
        return {key: self.counts[key].keep for key in summaries.counts if key in self.counts}

    def features(self) -> Iterable[Feature]:
        """Every feature that some segment reads."""
        yield from self.counts.values()
        yield from self.sums.values()
        yield from self.registers.values()


def compile_definitions(documents: Iterable[SegmentDocument]) -> Definitions:
    """Compile checked documents; ids are unique."""
    definitions = Definitions(SegmentCompiler())
    for document in sorted(documents, key=lambda each: each.id):
        definitions.add(definitions.compiler.compile(document))
    return definitions
