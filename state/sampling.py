"""An even sample of a partition's customers: every n-th in the order of their keys."""

from __future__ import annotations

import random
from itertools import islice

from state.customers import is_spill
from state.store import Store


class CustomerSample:
    """Passes over the customers' keys, a bounded number a call, and picks as many as wanted, evenly spread.

    Stop early, and `ids` are an even sample of those `passed`.
    """

    def __init__(self, customers: int, wanted: int) -> None:
        """`customers` is how many there are, about."""
        self.ids: list[str] = []
        self.passed = 0
        self.done = False
        self._wanted = wanted
        self._stride = max(1.0, customers / wanted)
        self._next = random.uniform(0, self._stride - 1)  # noqa: S311 - spreads a sample, guards nothing
        self._cursor = b""

    def advance(self, store: Store, most: int) -> None:
        """Pass the next records."""
        keys = [key for key, _ in islice(store.scan(after=self._cursor), most)]
        for key in keys:
            if is_spill(key):
                continue
            if self.passed >= self._next and len(self.ids) < self._wanted:
                self.ids.append(key.decode())
                self._next += self._stride
            self.passed += 1
        self._cursor = keys[-1] if keys else self._cursor
        self.done = len(keys) < most

    def some(self, wanted: int) -> list[str]:
        """As many of the picked ones, or all, evenly spread again."""
        if wanted >= len(self.ids):
            return self.ids
        return [self.ids[place * len(self.ids) // wanted] for place in range(wanted)]
