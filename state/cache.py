"""The customers a partition works with: those in memory, and those it must read first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from state.customers import Customer, add_spilled, customer_key, decode_customer, spill_key
from state.overlay import Overlay


class Records(Protocol):
    """A store, or what stands for one."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...


class CustomerCache:
    """Decoded customers, at most `capacity` between batches, the longest unused given up first."""

    def __init__(self, overlay: Overlay, capacity: int) -> None:
        self._overlay = overlay
        self._capacity = capacity
        self._customers: dict[str, Customer] = {}

    def prefetch(self, customer_ids: Iterable[str]) -> dict[str, Customer]:
        """All these customers, read in one multi-get where they are not in memory; unknown ones come as such."""
        cached = self._customers
        working: dict[str, Customer] = {}
        missing: list[str] = []
        for customer_id in dict.fromkeys(customer_ids):
            customer = cached.pop(customer_id, None)
            if customer is None:
                missing.append(customer_id)
                customer = Customer(customer_id)
            working[customer_id] = customer
        if missing:
            working.update((customer.id, customer) for customer in read_customers(self._overlay, missing))
        cached.update(working)  # now the newest in the dict's order, which is the order of use
        return working

    def trim(self) -> None:
        """Give up the longest unused down to the capacity. Called between batches: no customer may be in work."""
        surplus = len(self._customers) - self._capacity
        if surplus > 0:
            for customer_id in list(self._customers)[:surplus]:
                del self._customers[customer_id]

    def clear(self) -> None:
        """Forget all: what is in memory may be ahead of what was committed."""
        self._customers.clear()


def read_customers(source: Records, customer_ids: Sequence[str]) -> list[Customer]:
    """Those of the customers that are known, with all their summaries, in the order of the ids."""
    records = source.get_many([customer_key(each) for each in customer_ids])
    found = [
        decode_customer(customer_id, record)
        for customer_id, record in zip(customer_ids, records, strict=True)
        if record is not None
    ]
    wanted = [(customer, feature_key) for customer in found for feature_key in customer.spilled]
    if wanted:
        keys = [spill_key(customer_key(customer.id), feature_key) for customer, feature_key in wanted]
        for (customer, feature_key), spilled in zip(wanted, source.get_many(keys), strict=True):
            if spilled is not None:
                add_spilled(customer, feature_key, spilled)
    return found
