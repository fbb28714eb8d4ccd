"""How many customers are in each segment of a partition: counted once, then moved by each committed change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from conditions.changes import Change
from conditions.definitions import Definitions
from state.customers import customer_key, decode_customer, is_spill, record_differing
from state.lookup import CommittedState


class Tally:
    """Sizes that are exact at every commit once `done`, and cost nothing for an event that changes no membership.

    `count` passes over the customers in the order of their keys, a bounded number a call. A committed change counts if
    its customer was passed by then; those to come will be counted as they are.
    """

    def __init__(self) -> None:
        self._members: Counter[str] = Counter()
        self._cursor = b""
        self.counted = 0  # customers passed
        self.done = False

    def count(self, state: CommittedState, most_customers: int) -> None:
        """Pass the next customers."""
        found = list(islice(state.store.scan(after=self._cursor), most_customers))
        if state.asking is None:
            self._add(state.definitions, [record for key, record in found if not is_spill(key)])
        else:
            for key, record in found:
                if not is_spill(key):
                    entered = state.memberships(decode_customer(key.decode(), record))
                    self._members.update(segment.id for segment in entered)
                    self.counted += 1
        self._cursor = found[-1][0] if found else self._cursor
        self.done = len(found) < most_customers

    def committed(self, changes: Iterable[Change]) -> None:
        """Follow what the store holds since just now."""
        for change in changes:
            if self.done or customer_key(change.customer_id) <= self._cursor:
                self._members[change.segment_id] += 1 if change.type == "entered" else -1

    def size(self, segment_id: str) -> int | None:
        """How many are in the segment; None as long as not all customers were counted."""
        return self._members[segment_id] if self.done else None

    def _add(self, definitions: Definitions, records: list[bytes]) -> None:
        self.counted += len(records)
        for segment in definitions.true_by_default.values():
            self._members[segment.id] += len(records)
        differing: Counter[int] = Counter()
        for record in records:
            differing.update(record_differing(record))
        for key, customers in differing.items():
            segment_of_key = definitions.by_key.get(key)
            if segment_of_key is not None:
                self._members[segment_of_key.id] += -customers if segment_of_key.default else customers
