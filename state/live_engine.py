"""An engine whose segments change while events flow. See `state.redefinition` for the stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from conditions.definitions import Definitions
from conditions.documents import SegmentDocument, encode_segment, membership_fingerprint
from conditions.events import Event
from conditions.features import Atom, CountFeature, Feature, RegisterFeature, ValueAtom
from conditions.segments import Segment, SegmentCompiler
from state.customers import customer_key, is_spill
from state.engine import MARKER_KEY, BatchResult, PartitionEngine
from state.redefinition import (
    SEGMENT_MARK,
    Asking,
    ChangedSegment,
    History,
    Redefinition,
    compile_changes,
    coverage_key,
    coverage_of,
    covers,
    read_all_coverage,
    read_coverage,
    read_redefinition,
    segment_key,
    write_begun,
    write_ended,
    write_progress,
)
from state.store import Store
from state.whereabouts import whereabouts


class LiveEngine(PartitionEngine):
    """A partition's engine that keeps its segments in the store and changes them by redefinitions, one at a time."""

    def __init__(
        self, store: Store, compiler: SegmentCompiler, *, begins_ms: int | None = None, **options: Any
    ) -> None:
        """`compiler` may be that of other partitions, which then share the segments that they have in common.

        `begins_ms` is where the topics begin for a partition that has applied nothing yet, if they lost more.
        """
        super().__init__(store, Definitions(compiler), **options)
        self._begins_ms = begins_ms
        self.redefinition: Redefinition | None = None
        self._history: History | None = None
        self._prepared: list[Segment] = []
        self._load()

    def discard(self) -> None:
        """Forget what was not committed, definitions included."""
        stage = self._stage()
        super().discard()
        self.redefinition = read_redefinition(self.store)
        if self._stage() != stage:
            self._load()
        elif self.redefinition is not None and self.redefinition.stage == "scan":
            self._begin_asking(self.redefinition)

    def _stage(self) -> tuple[int, int, str]:
        """What decides which definitions are compiled: those that are in force, and those that are prepared."""
        redefinition = self.redefinition
        if redefinition is None:
            return self.marker.definitions, 0, ""
        return self.marker.definitions, redefinition.number, redefinition.stage

    # -- asking for a change ------------------------------------------------------------------------------------------

    def differences(
        self,
        segment_ids: Iterable[str],
        wanted: Callable[[str], SegmentDocument | None],
        version_of: Callable[[str], int | None],
    ) -> list[ChangedSegment]:
        """What must change of these segments for the wanted ones to be in force.

        `version_of` one that is gone is the version that deleted it; None: nobody knows, and its last one stands.
        """
        changed = []
        for segment_id in sorted(segment_ids):
            before, after = self._document(segment_id), wanted(segment_id)
            if before != after:
                shown = after or before
                assert shown is not None, "what differs is there before or after"
                version = after.version if after is not None else version_of(segment_id) or shown.version
                changed.append(ChangedSegment(segment_id, _encoded(before), _encoded(after), version))
        return changed

    def can_begin(self) -> bool:
        """Whether a redefinition may begin: none is under way, and no deadline is overdue that the old ones owe."""
        return self.redefinition is None and not self.is_owing

    @property
    def is_owing(self) -> bool:
        """Whether a deadline is overdue: the segments that are in force now have to decide it."""
        return bool(self._overlay.due(self.marker.clock_ms, 1))

    def begin_redefinition(self, position: int, changed: list[ChangedSegment], ends: Mapping[str, int]) -> BatchResult:
        """Decide to take these changes, with everything of the definitions topic before `position`.

        `ends` are the next offsets of each topic: what is before them must be read back for features not kept so far.
        """
        result = self._nothing()
        redefinition = Redefinition(
            position, position, "backfill", changed, ends=dict(ends), began_ms=self.marker.clock_ms
        )
        self._prepare(redefinition)
        if not self.marker.applied:
            redefinition.history_from_ms = self._begins_ms
        if not self.marker.applied or not self._missing(redefinition):
            self._activate(redefinition, result)
        else:
            self.redefinition = redefinition
            self._begin_backfill(redefinition)
        if self.redefinition is not None:
            write_begun(result.writes, self.redefinition)
        return self._staged(result)

    @property
    def backfilled_types(self) -> frozenset[str]:
        """The types of the events that the backfill under way folds."""
        self._under_way("backfill")
        assert self._history is not None, "a backfill has features to fill"
        return self._history.event_types

    def backfill(self, events: Sequence[Event]) -> BatchResult:
        """Fold old events, or the first of them: the result's `consumed` says how many.

        To fold one again changes nothing, so whoever goes on may begin anew.
        """
        self._under_way("backfill")
        assert self._history is not None, "a backfill has features to fill"
        places = [place for place, event in enumerate(events) if self._history.concerns(event)]
        customers = self._cache.prefetch([events[place].customer_id for place in places])
        computation = self._computation((0, ""))
        fitting = computation.fitting(customers)
        found = [events[place] for place in places[:fitting]]
        try:
            computation.fold_history(found, customers[:fitting], self._history)
        except Exception as error:
            error.add_note(whereabouts(found, computation.applying))
            raise
        return self._staged(computation.result(places[fitting] if fitting < len(places) else len(events)))

    def finish_backfill(self, history_from_ms: int | None) -> BatchResult:
        """Everything that is there was read back: the new segments come into force. Not while it `is_owing`."""
        redefinition = self._under_way("backfill")
        redefinition.history_from_ms = history_from_ms
        result = self._nothing()
        self._activate(redefinition, result)
        self._write_standing(redefinition, result)
        return self._staged(result)

    def scan(self, now_ms: int, most_customers: int, most_questions: int) -> BatchResult:
        """Ask the next customers about the changed segments; after the last the redefinition is over.

        Each changed segment is a question to each customer. One customer at least is asked, and fewer than that come to
        where they are large.
        """
        redefinition = self._under_way("scan")
        most_customers = max(1, min(most_customers, most_questions // max(1, len(redefinition.changed))))
        keys = [key for key, _ in islice(self.store.scan(after=redefinition.cursor), most_customers)]
        limit = (self.marker.clock_ms + 1, "")
        ids = [key.decode() for key in keys if not is_spill(key)]
        computation = self._computation(limit)
        asked = computation.ask_all(self._cache.visit(ids))
        is_whole = asked == len(ids)
        if keys:
            redefinition.cursor = keys[-1] if is_whole else customer_key(ids[asked - 1])
        computation.end_asking(redefinition.cursor, now_ms)
        result = computation.result(0)
        redefinition.scanned += asked
        if is_whole and len(keys) < most_customers:
            self.redefinition = self.asking = None
        self._write_standing(redefinition, result)
        return self._staged(result)

    def history_from_ms(self, segment_id: str) -> int | None:
        """Where the history that the segment in force asks for begins; None where all of it was there."""
        segment = self.definitions.segments.get(segment_id)
        if segment is None:
            return None
        kept = read_coverage(self._overlay, self.definitions.features_of(segment))
        begins_ms = [
            coverage.history_from_ms
            for atom in segment.atoms
            if (coverage := kept.get(atom.key)) is not None and coverage.history_from_ms is not None
            if asked_from_ms(atom, self.marker.clock_ms) < coverage.history_from_ms
        ]
        return max(begins_ms, default=None)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Definitions and redefinition as the store has them."""
        definitions = Definitions(self.definitions.compiler)
        for _, encoded in self.store.scan_meta(SEGMENT_MARK):
            definitions.add(definitions.compiler.read(encoded))
        keep_as_covered(self.store, definitions)
        self.definitions = definitions
        self.redefinition = read_redefinition(self.store)
        self.asking, self._history = None, None
        if self.redefinition is not None and self.redefinition.stage == "backfill":
            self._prepare(self.redefinition)
            self._begin_backfill(self.redefinition)
        elif self.redefinition is not None:
            self._begin_asking(self.redefinition)

    def _prepare(self, redefinition: Redefinition) -> None:
        read = self.definitions.compiler.read
        self._prepared = [read(each.after) for each in redefinition.changed if each.after is not None]
        for segment in self._prepared:
            self.definitions.prepare(segment)

    def _document(self, segment_id: str) -> SegmentDocument | None:
        segment = self.definitions.segments.get(segment_id)
        return None if segment is None else segment.document

    def _missing(self, redefinition: Redefinition) -> list[Feature]:
        """Features of the prepared segments that are not kept well enough."""
        found = (feature for segment in self._prepared for feature in self.definitions.features_of(segment))
        features = list(dict.fromkeys(found))
        kept = read_coverage(self._overlay, features)
        return [feature for feature in features if not covers(kept.get(feature.key), coverage_of(feature))]

    def _begin_backfill(self, redefinition: Redefinition) -> None:
        self._history = History(self._missing(redefinition))
        self.asking = Asking(redefinition.number, [], 0, b"")

    def _begin_asking(self, redefinition: Redefinition) -> None:
        changes = compile_changes(redefinition.changed, self.definitions)
        self.asking = Asking(redefinition.number, changes, redefinition.activated_ms, redefinition.cursor)

    def _activate(self, redefinition: Redefinition, result: BatchResult) -> None:
        """The new segments are in force from here on; customers are asked one by one."""
        assert not self.is_owing, "what is overdue would be forgotten"
        for feature in self._missing(redefinition):
            coverage = coverage_of(feature, redefinition.history_from_ms)
            result.writes.meta.append((coverage_key(feature.key), msgspec.msgpack.encode(coverage)))
        for each in redefinition.changed:
            result.writes.meta.append((segment_key(each.id), each.after))
        self._install(redefinition)
        # What nobody reads is folded no more, so should it be asked for again it has to be read back again.
        result.writes.meta.extend((coverage_key(key), None) for key in self.definitions.forgotten)
        self.definitions.forgotten.clear()
        redefinition.stage, redefinition.activated_ms = "scan", self.marker.clock_ms
        result.marker.definitions = redefinition.position
        self._history = None
        if self.marker.customers and redefinition_matters(redefinition, self.definitions.compiler):
            self.redefinition = redefinition
            self._begin_asking(redefinition)
        else:
            self.redefinition = self.asking = None
        result.writes.meta.append(self._marker_value(result))

    def _write_standing(self, begun: Redefinition, result: BatchResult) -> None:
        if self.redefinition is None:
            write_ended(result.writes, begun)
        else:
            write_progress(result.writes, begun)

    def _install(self, redefinition: Redefinition) -> None:
        prepared = {segment.id: segment for segment in self._prepared}
        for each in redefinition.changed:
            if each.after is None:
                self.definitions.remove(each.id)
            else:
                self.definitions.install(prepared[each.id])
        self._prepared = []

    def _nothing(self) -> BatchResult:
        return self._computation((0, "")).result(0)

    def _marker_value(self, result: BatchResult) -> tuple[bytes, bytes]:
        return MARKER_KEY, msgspec.msgpack.encode(result.marker)

    def _under_way(self, stage: str) -> Redefinition:
        redefinition = self.redefinition
        assert redefinition is not None
        assert redefinition.stage == stage, f"the redefinition is at {redefinition.stage}, not at {stage}"
        return redefinition


def keep_as_covered(store: Store, definitions: Definitions) -> None:
    """Let features keep what their summaries are said to hold, though the segment that asked for so much is gone."""
    kept = read_all_coverage(store)
    for feature in definitions.features():
        coverage = kept.get(feature.key)
        if coverage is not None and not isinstance(feature, RegisterFeature):
            feature.widest_ms = max(feature.widest_ms, coverage.widest_ms)
            if isinstance(feature, CountFeature):
                feature.keep = max(feature.keep, coverage.keep)
                definitions.note_flips(feature)


def asked_from_ms(atom: Atom, clock_ms: int) -> int:
    """The earliest event time that the atom's truth depends on."""
    if isinstance(atom, ValueAtom):
        return 0
    return max(atom.events.since_ms, clock_ms - atom.duration_ms)


def redefinition_matters(redefinition: Redefinition, compiler: SegmentCompiler) -> bool:
    """Whether a membership can differ: not where only names and versions changed."""

    def membership(encoded: bytes | None) -> str | None:
        return None if encoded is None else membership_fingerprint(compiler.read(encoded).document)

    return any(membership(each.before) != membership(each.after) for each in redefinition.changed)


def _encoded(document: SegmentDocument | None) -> bytes | None:
    return None if document is None else encode_segment(document)
