"""One partition's committed state, to be asked about customers: what they are in, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from conditions.definitions import Definitions
from conditions.explanation import SegmentAnswer, explain_segment
from conditions.segments import Segment
from state.cache import read_customers
from state.customers import Customer
from state.engine import Marker, read_marker
from state.redefinition import Asking, CompiledChange, compile_changes, read_redefinition
from state.store import Store


class Standing(NamedTuple):
    """What was last said of a customer and a segment that is in force."""

    segment: Segment
    member: bool
    pending: bool  # whether the segment has changed since, and this customer is still to be asked


class CommittedState:
    """What the store says now. Good until the next write to it.

    While changed segments are taken in, customers that were not asked yet are in what the old ones said.
    """

    def __init__(self, store: Store, definitions: Definitions, earlier: CommittedState | None = None) -> None:
        """`definitions` are those that the store names. What an `earlier` state has compiled is used again."""
        self.store = store
        self.definitions = definitions
        self.marker: Marker = read_marker(store) or Marker()
        self.asking: Asking | None = _asking(store, definitions, None if earlier is None else earlier.asking)

    def customer(self, customer_id: str) -> Customer | None:
        """The customer with all its summaries; None for an unknown one."""
        return next(iter(read_customers(self.store, [customer_id])), None)

    def standings(self, customer: Customer, segments: Iterable[Segment]) -> list[Standing]:
        """What was last said of the customer and each of the segments."""
        pending = self._pending(customer)
        return [_standing(customer, each, pending.get(each.key)) for each in segments]

    def memberships(self, customer: Customer) -> list[Segment]:
        """The segments that the customer was last said to be in, in order of their ids."""
        by_key, pending = self.definitions.by_key, self._pending(customer)
        entered = self.definitions.default_keys ^ customer.differing
        found = [by_key[key] for key in entered if key in by_key and key not in pending]
        found += [each.before for each in pending.values() if each.before is not None and _was_in(customer, each)]
        return sorted(found, key=lambda each: each.id)

    def _pending(self, customer: Customer) -> dict[int, CompiledChange]:
        if self.asking is None or not self.asking.concerns(customer):
            return {}
        return {change.key: change for change in self.asking.changes}


def explain_standing(standing: Standing, kept: Mapping[int, int], customer: Customer, at_ms: int) -> SegmentAnswer:
    """Why the customer is in or out. What is still to be asked has no instant until which it holds.

    `kept` is what `Definitions.kept_entries` said of the customer when the store did.
    """
    answer = explain_segment(standing.segment, kept, customer, at_ms, standing.member)
    return msgspec.structs.replace(answer, valid_until=None) if standing.pending else answer


def _asking(store: Store, definitions: Definitions, earlier: Asking | None) -> Asking | None:
    redefinition = read_redefinition(store)
    if redefinition is None or redefinition.stage != "scan":
        return None
    is_same = earlier is not None and earlier.number == redefinition.number
    changes = earlier.changes if is_same and earlier is not None else compile_changes(redefinition.changed, definitions)
    return Asking(redefinition.number, changes, redefinition.activated_ms, redefinition.cursor)


def _standing(customer: Customer, segment: Segment, change: CompiledChange | None) -> Standing:
    if change is not None:
        return Standing(segment, _was_in(customer, change), True)
    return Standing(segment, (segment.key in customer.differing) is not segment.default, False)


def _was_in(customer: Customer, change: CompiledChange) -> bool:
    return change.was_in(customer.differing)
