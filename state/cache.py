"""The customers a partition works with: those in memory, and those it must read first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Protocol

from state.customers import Customer, add_spilled, customer_key, decode_customer, spill_keys
from state.overlay import Overlay


class Records(Protocol):
    """A store, or what stands for one."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...


class CustomerCache:
    """Decoded customers, at most `capacity` between batches; those that were not used for long are given up.

    Two generations stand for the order of use: who is asked for again moves from the old one to the young one, and when
    the young one has its share of the capacity it becomes the old one, whose customers are given up. So who is used
    all the time costs one look-up.
    """

    def __init__(self, overlay: Overlay, capacity: int) -> None:
        self._overlay = overlay
        self._capacity = capacity
        self._young: dict[str, Customer] = {}
        self._old: dict[str, Customer] = {}

    def prefetch(self, customer_ids: Sequence[str]) -> list[Customer]:
        """The customers of these ids, in their order, read in one multi-get where they are not in memory.

        Ids may repeat; unknown ones come as unknown customers.
        """
        young = self._young
        found = list(map(young.get, customer_ids))
        if None in found:
            absent = [place for place, customer in enumerate(found) if customer is None]
            self._bring(list(dict.fromkeys([customer_ids[place] for place in absent])))
            for place in absent:
                found[place] = young[customer_ids[place]]
        return found  # type: ignore[return-value]  # every None is gone

    def visit(self, customer_ids: Iterable[str]) -> list[Customer]:
        """Those of these customers that are known, without keeping them: who goes through all pushes nobody out."""
        found = {each: self._young.get(each) or self._old.get(each) for each in customer_ids}
        kept = [customer for customer in found.values() if customer is not None]
        absent = [each for each, customer in found.items() if customer is None]
        return [*kept, *read_customers(self._overlay, absent)]

    def trim(self) -> None:
        """Give up who was not used for long. Called between batches: no customer may be in work."""
        if len(self._young) * 2 > self._capacity:
            self._old, self._young = self._young, {}
        surplus = max(0, len(self._young) + len(self._old) - self._capacity)
        for customer_id in tuple(islice(self._old, surplus)):
            del self._old[customer_id]

    def clear(self) -> None:
        """Forget all: what is in memory may be ahead of what was committed."""
        self._young.clear()
        self._old.clear()

    def _bring(self, customer_ids: list[str]) -> None:
        """Into the young generation, from the old one or from the store."""
        young, old = self._young, self._old
        missing: list[str] = []
        for customer_id in customer_ids:
            customer = old.pop(customer_id, None)
            if customer is None:
                missing.append(customer_id)
            else:
                young[customer_id] = customer
        if missing:
            young.update([(customer.id, customer) for customer in read_customers(self._overlay, missing)])
            young.update([(each, Customer(each)) for each in missing if each not in young])


def read_customers(source: Records, customer_ids: Sequence[str]) -> list[Customer]:
    """Those of the customers that are known, with all their summaries, in the order of the ids."""
    records = source.get_many([customer_key(each) for each in customer_ids])
    found = [
        decode_customer(customer_id, record)
        for customer_id, record in zip(customer_ids, records, strict=True)
        if record is not None
    ]
    wanted = [(customer, *spilled) for customer in found if customer.spilled for spilled in spill_keys(customer)]
    if wanted:
        parts = iter(source.get_many([key for _, _, keys in wanted for key in keys]))
        for customer, feature_key, keys in wanted:
            stored = [part for part in islice(parts, len(keys)) if part is not None]
            if stored:
                add_spilled(customer, feature_key, stored)
    return found
