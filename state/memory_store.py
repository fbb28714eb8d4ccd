"""State in memory, gone with the process: for replays that keep nothing, and as the shipped test double."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from sortedcontainers import SortedSet

from state.store import FORMAT_KEY, FORMAT_VERSION, StateError, WriteSet


class MemoryStore:
    """Keeps the promise of `Store` but for durability. Not for use by several threads at once."""

    def __init__(self) -> None:
        self._customers: dict[bytes, bytes] = {}
        self._deadlines: SortedSet[tuple[int, bytes]] = SortedSet()
        self._meta: dict[bytes, bytes] = {}
        self._closed = False
        self._set_format()

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._require_open()
        return [self._customers.get(key) for key in keys]

    def get_meta(self, key: bytes) -> bytes | None:
        self._require_open()
        return self._meta.get(key)

    def due(self, until_ms: int, most: int) -> list[tuple[int, bytes]]:
        self._require_open()
        earliest = self._deadlines.irange(maximum=(until_ms + 1,), inclusive=(True, False))
        return list(islice(earliest, max(most, 0)))

    def scan(self, prefix: bytes = b"", after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        self._require_open()
        found = (
            item for item in self._customers.items() if item[0].startswith(prefix) and (item[0] > after or not after)
        )
        return self._while_open(sorted(found))

    def scan_meta(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._require_open()
        return self._while_open(sorted(item for item in self._meta.items() if item[0].startswith(prefix)))

    def write(self, writes: WriteSet) -> None:
        """Apply all of it. Raises ValueError, and applies nothing, where it names the format version."""
        self._require_open()
        if any(name == FORMAT_KEY for name, _ in writes.meta):
            raise ValueError("the format version in meta is the store's own and cannot be written")
        _apply(self._customers, writes.customers)
        self._deadlines.difference_update(writes.removed_deadlines)
        self._deadlines.update(writes.added_deadlines)
        _apply(self._meta, writes.meta)

    def clear(self) -> None:
        self._require_open()
        self._customers.clear()
        self._deadlines.clear()
        self._meta.clear()
        self._set_format()

    def close(self) -> None:
        self._closed = True

    def _set_format(self) -> None:
        self._meta[FORMAT_KEY] = str(FORMAT_VERSION).encode()

    def _require_open(self) -> None:
        if self._closed:
            raise StateError("the state in memory is closed: its store cannot be used any more")

    def _while_open(self, records: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for record in records:
            self._require_open()
            yield record


def _apply(family: dict[bytes, bytes], changes: Iterable[tuple[bytes, bytes | None]]) -> None:
    for key, value in changes:
        if value is None:
            family.pop(key, None)
        else:
            family[key] = value
