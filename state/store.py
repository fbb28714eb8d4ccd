"""What every store of customer state promises; `rocksdb_store` and `memory_store` keep the promise.

A store holds one partition. It has three column families: customers (key to record), deadlines (instant and key,
in order) and meta (a few named values, the partition's marker among them).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

FORMAT_VERSION = 1
FORMAT_KEY = b"format"
"""The name in meta that is the store's own: it can be read, and a write set that names it is refused."""


class WriteSet(msgspec.Struct):
    """All that one batch changes. It is written whole or not at all."""

    customers: list[tuple[bytes, bytes | None]] = msgspec.field(default_factory=list)  # None deletes
    added_deadlines: list[tuple[int, bytes]] = msgspec.field(default_factory=list)  # (instant in ms, customer key)
    removed_deadlines: list[tuple[int, bytes]] = msgspec.field(default_factory=list)  # applied before the added ones
    meta: list[tuple[bytes, bytes | None]] = msgspec.field(default_factory=list)


class StateError(Exception):
    """The state cannot be opened, read or written. The message names the folder, the likely cause and what mends it."""


class UnreadableStateError(StateError):
    """What the folder holds is damaged, not ours or of another format. It can be moved aside and rebuilt."""


class Store(Protocol):
    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The records of these keys, in their order; None for a key that has none."""

    def get_meta(self, key: bytes) -> bytes | None:
        """The named value, or None."""

    def due(self, until_ms: int, most: int) -> list[tuple[int, bytes]]:
        """The earliest deadlines not after `until_ms`, at most `most`, in order of (instant, key)."""

    def scan(self, prefix: bytes = b"", after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Customer records whose key has the prefix and comes after `after`, in key order, as of the call."""

    def scan_meta(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The named values whose key has the prefix, in key order, as of the call."""

    def write(self, writes: WriteSet) -> None:
        """Apply all of it or nothing. Raises StateError; after one, the store still holds what it held before."""

    def clear(self) -> None:
        """Forget customers, deadlines and meta (not the format version)."""

    def close(self) -> None:
        """Release the folder and its lock. May be called twice; any other call after it raises StateError."""
