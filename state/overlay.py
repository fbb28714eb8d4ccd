"""A store with writes on top that are decided but not yet committed.

The next batch is computed while one commits: it must see what that one decided, and lose it again if it fails.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from state.store import Store, WriteSet

Deadline = tuple[int, bytes]


class Overlay:
    """Reads answer from the staged writes first. Stage in order, commit in the same order."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._staged: list[WriteSet] = []
        self._laid = 0  # how many of the staged sets the fields below hold; the rest waits until somebody reads
        self._records: dict[bytes, bytes | None] = {}
        self._added: set[Deadline] = set()
        self._removed: set[Deadline] = set()
        self._in_order: list[Deadline] = []  # the added ones

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of these keys, in their order; None for a key that has none."""
        if not self._staged:
            return self.store.get_many(keys)
        self._lay_staged()
        records = self._records
        found = dict(zip(keys, map(records.get, keys), strict=True))
        asked = [key for key in keys if key not in records]
        found.update(zip(asked, self.store.get_many(asked), strict=True))
        return [found[key] for key in keys]

    def get_meta(self, key: bytes) -> bytes | None:
        """The named value, or None. Costs a look through what the staged batches name."""
        for writes in reversed(self._staged):
            for name, value in reversed(writes.meta):
                if name == key:
                    return value
        return self.store.get_meta(key)

    def due(self, until_ms: int, most: int) -> list[Deadline]:
        """The earliest deadlines not after `until_ms`, at most `most`, in order."""
        if not self._staged:
            return self.store.due(until_ms, most)
        self._lay_staged()
        stored = self.store.due(until_ms, most + len(self._removed))
        found = {deadline for deadline in stored if deadline not in self._removed}
        if len(self._in_order) != len(self._added):
            self._in_order = sorted(self._added)
        found.update(self._in_order[: bisect_left(self._in_order, (until_ms + 1, b""))])
        return sorted(found)[:most]

    def stage(self, writes: WriteSet) -> None:
        """Put a decided write set on top."""
        self._staged.append(writes)

    def stages(self, mark: bytes) -> bool:
        """Whether a staged set changes a named value whose key begins so."""
        return any(key.startswith(mark) for writes in self._staged for key, _ in writes.meta)

    def commit(self) -> None:
        """Write the oldest staged set to the store. Raises StateError; nothing is unstaged then."""
        self.store.write(self._staged[0])
        self._staged.pop(0)
        self._unlay()

    def discard(self) -> None:
        """Forget everything staged: the store alone counts again."""
        self._staged.clear()
        self._unlay()

    def _unlay(self) -> None:
        if self._laid:
            self._laid = 0
            self._records.clear()
            self._added.clear()
            self._in_order.clear()
            self._removed.clear()

    def _lay_staged(self) -> None:
        for writes in self._staged[self._laid :]:
            self._lay(writes)
            self._in_order = []
        self._laid = len(self._staged)

    def _lay(self, writes: WriteSet) -> None:
        self._records.update(writes.customers)
        self._added.difference_update(writes.removed_deadlines)
        self._removed.update(writes.removed_deadlines)
        self._removed.difference_update(writes.added_deadlines)
        self._added.update(writes.added_deadlines)
