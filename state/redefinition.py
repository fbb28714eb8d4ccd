"""Changing a partition's segments while events flow, and remembering how far that has come.

A redefinition takes a set of changed segments through stages, each step part of a batch's write and transaction:

1. `backfill`: features that the new segments need and that were not kept well enough are folded from the source
   topics; the old segments stay in force. Left out where everything needed is kept already.
2. `scan`: the new segments are in force. Each customer is asked anew, when an event or a deadline touches it or when
   the scan comes to it, as of the instant of activation.

What is written under keys that begin with 0xFF goes to the changelog as well, so another worker goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
import xxhash

from conditions.definitions import Definitions
from conditions.events import CUSTOMER_DELETE, CUSTOMER_UPDATE, CustomerUpdate, Event
from conditions.features import CountFeature, EntryFeature, Feature, RegisterFeature, SumFeature, stable_key
from conditions.index import PredicateIndex
from conditions.segments import Segment
from state.customers import Customer, customer_key
from state.overlay import Overlay
from state.store import Store, WriteSet

Place = tuple[int, int, int]  # of a record: the timestamp its topic has come to, the topic's order, the offset

REDEFINITION_KEY = b"\xffredefinition"
CHANGED_MARK = b"\xffchanged|"
SEGMENT_MARK = b"\xffsegment|"
COVERAGE_MARK = b"\xffcoverage|"
LISTED = b"\xfflisted"


class ChangedSegment(msgspec.Struct):
    """One segment before and after: canonical documents, None where there is none."""

    id: str
    before: bytes | None
    after: bytes | None
    version: int  # the definition_version of the changes that it causes


class Redefinition(msgspec.Struct):
    """A redefinition under way. `ends` are the offsets at which live events took over."""

    number: int
    position: int  # of the definitions topic, up to which this takes the partition
    stage: Literal["backfill", "scan"]
    changed: list[ChangedSegment]
    activated_ms: int = 0  # the partition's clock at activation
    cursor: bytes = b""  # the last customer key that the scan has passed
    scanned: int = 0
    ends: dict[str, int] = {}
    began_ms: int = 0  # the partition's clock then: nothing before `ends` counted as later
    history_from_ms: int | None = None  # where the topics begin, if they no longer hold everything


class Coverage(msgspec.Struct, array_like=True):
    """For which count and window a feature's summaries are complete; and since when, where history was lost."""

    keep: int
    widest_ms: int
    history_from_ms: int | None = None


def coverage_of(feature: Feature, history_from_ms: int | None = None) -> Coverage:
    """What the feature keeps from now on."""
    if isinstance(feature, CountFeature):
        return Coverage(feature.keep, feature.widest_ms, history_from_ms)
    if isinstance(feature, SumFeature):
        return Coverage(0, feature.widest_ms, history_from_ms)
    return Coverage(0, 0, history_from_ms)


def covers(kept: Coverage | None, needed: Coverage) -> bool:
    """Whether summaries kept so answer what is needed."""
    return kept is not None and kept.keep >= needed.keep and kept.widest_ms >= needed.widest_ms


def coverage_key(feature_key: int) -> bytes:
    return COVERAGE_MARK + feature_key.to_bytes(8, "big")


def read_coverage(store: Store | Overlay, features: Iterable[Feature]) -> dict[int, Coverage]:
    """What is kept of these features, by feature key; nothing for one that was never complete."""
    found = {}
    for feature in features:
        value = store.get_meta(coverage_key(feature.key))
        if value is not None:
            found[feature.key] = msgspec.msgpack.decode(value, type=Coverage)
    return found


def read_all_coverage(store: Store) -> dict[int, Coverage]:
    """What is kept of every feature, by feature key."""
    return {
        int.from_bytes(name[len(COVERAGE_MARK) :], "big"): msgspec.msgpack.decode(value, type=Coverage)
        for name, value in store.scan_meta(COVERAGE_MARK)
    }


def segment_key(segment_id: str) -> bytes:
    return SEGMENT_MARK + segment_id.encode()


def read_redefinition(store: Store) -> Redefinition | None:
    """The redefinition under way; None where there is none."""
    found = store.get_meta(REDEFINITION_KEY)
    if found is None:
        return None
    redefinition = msgspec.msgpack.decode(found, type=Redefinition)
    changed = [msgspec.msgpack.decode(value, type=ChangedSegment) for _, value in store.scan_meta(CHANGED_MARK)]
    # A build that kept them all in the one record may have begun it.
    return msgspec.structs.replace(redefinition, changed=changed or redefinition.changed)


# Each changed segment is a record of its own: thousands in one would be more than a topic takes, and all of them would
# be written again with each step.


def write_begun(writes: WriteSet, redefinition: Redefinition) -> None:
    """Let a batch's write begin a redefinition, with the segments that it changes."""
    writes.meta.extend((_changed_key(each), msgspec.msgpack.encode(each)) for each in redefinition.changed)
    write_progress(writes, redefinition)


def write_progress(writes: WriteSet, redefinition: Redefinition) -> None:
    """Let a batch's write say how far a redefinition is that was begun."""
    progress = msgspec.structs.replace(redefinition, changed=[])
    writes.meta.append((REDEFINITION_KEY, msgspec.msgpack.encode(progress)))


def write_ended(writes: WriteSet, redefinition: Redefinition) -> None:
    """Let a batch's write end a redefinition that was begun."""
    writes.meta.extend((_changed_key(each), None) for each in redefinition.changed)
    writes.meta.append((REDEFINITION_KEY, None))


def _changed_key(changed: ChangedSegment) -> bytes:
    return CHANGED_MARK + changed.id.encode()


class CompiledChange(msgspec.Struct):
    """A changed segment, compiled: what it was for a customer not asked yet, and what it is."""

    id: str
    key: int
    before: Segment | None
    after: Segment | None
    version: int

    def was_in(self, differing: set[int]) -> bool:
        return self.before is not None and (self.key in differing) is not self.before.default


class Asking(msgspec.Struct):
    """What a batch has to know of a redefinition under way. Before activation there are no `changes` to ask about."""

    number: int
    changes: list[CompiledChange]
    activated_ms: int
    cursor: bytes

    def welcome(self, customer: Customer) -> None:
        """Note what a customer that is new in the meantime need not be asked, or given."""
        if self.changes:
            customer.asked = self.number
        else:
            customer.born = self.number

    def concerns(self, customer: Customer) -> bool:
        """Whether this customer was not asked yet."""
        return (
            bool(self.changes)
            and customer.known
            and customer.asked != self.number
            and customer_key(customer.id) > self.cursor
        )


def compile_changes(changed: Iterable[ChangedSegment], definitions: Definitions) -> list[CompiledChange]:
    """The changes in order of their segments' ids; the segments after them are installed in the definitions."""
    return [
        CompiledChange(
            each.id,
            stable_key(each.id),
            None if each.before is None else definitions.compiler.read(each.before),
            definitions.segments.get(each.id) if each.after is not None else None,
            each.version,
        )
        for each in sorted(changed, key=lambda each: each.id)
    ]


class History:
    """The features that a backfill fills: matches and folds old events into these and no others."""

    def __init__(self, features: Iterable[Feature]) -> None:
        self._indexes: dict[str, PredicateIndex[EntryFeature]] = {}
        self._registers: dict[str, RegisterFeature] = {}
        for feature in features:
            if isinstance(feature, RegisterFeature):
                self._registers[feature.register] = feature
            else:
                predicate = feature.events.predicate
                index = self._indexes.setdefault(predicate.event_type, PredicateIndex())
                index.add(predicate.access, predicate.test, feature)

    @property
    def event_types(self) -> frozenset[str]:
        """Events of other types change nothing."""
        updates = {CUSTOMER_UPDATE} if self._registers else set()
        return frozenset(self._indexes.keys() | updates)

    def concerns(self, event: Event) -> bool:
        """Whether the event may change a summary."""
        if self._registers and isinstance(event.payload, CustomerUpdate):
            return True
        index = self._indexes.get(event.type)
        return index is not None and bool(index.match(event))

    def fold(self, customer: Customer, event: Event, clock_ms: int) -> bool:
        """Whether the event changed a summary. What it flips is asked when the segments are activated."""
        id_hash = xxhash.xxh3_64_intdigest(event.event_id.encode())
        index = self._indexes.get(event.type)
        folded = [
            feature.fold(customer, event, id_hash, clock_ms, []) for feature in (index.match(event) if index else ())
        ]
        if isinstance(event.payload, CustomerUpdate) and self._registers:
            folded += self._fold_registers(customer, event, event.payload, id_hash)
        return any(folded)

    def _fold_registers(self, customer: Customer, event: Event, update: CustomerUpdate, id_hash: int) -> Iterable[bool]:
        named = {f"attribute:{name}": value for name, value in update.attributes.items()}
        named |= {f"agreement:{name}": value for name, value in update.agreements.items()}
        for name, value in named.items():
            register = self._registers.get(name)
            if register is not None:
                yield register.fold_old(customer, value, event.time_ms, id_hash)


class Erasures:
    """Which of the events that a backfill reads back were erased before live ones took over.

    First `learn` all, then ask `spared` of each. Of several topics it is the order of their record timestamps that
    tells what came before an erasure: in which order the partition took them is not known any more.
    """

    def __init__(self) -> None:
        self._last: dict[str, Place] = {}

    def learn(self, place: Place, event: Event) -> None:
        if event.type == CUSTOMER_DELETE:
            self._last[event.customer_id] = max(place, self._last.get(event.customer_id, place))

    def spared(self, place: Place, event: Event) -> bool:
        erased = self._last.get(event.customer_id)
        return erased is None or place > erased
