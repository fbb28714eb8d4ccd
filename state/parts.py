"""Values that are larger than a record of the changelog may be: cut on their way there, put together on the way back.

Such a value goes there in several records of one transaction: first its parts, each under a key of its own (`0xFF
part|`, the part's number in 4 bytes, the value's key), then under the value's key its end, which begins with 0xFF, as
no value does, and the hash of the whole. Who reads parts keeps them until the end comes. Every write of a value has,
before what stands under its key, a record for each part that the older one had: a new part or a tombstone. So the last
value of a key is whole. Of an older one compaction, which removes what a later record with its key supersedes, may have
left some of its records: an end whose hash does not fit is passed over, as the newer value comes behind.

A store holds values whole, and beside them a named value for each part that the changelog holds: empty, or the part
itself while the end was not read yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from xxhash import xxh3_64_digest

from state.memory_store import MemoryStore
from state.store import Store, WriteSet

KeyValue = tuple[bytes, bytes | None]

MARK = 0xFF
PART_MARK = b"\xffpart|"
END_BYTES = 9  # of the mark and the hash
_NUMBER_BYTES = 4
_BEGIN = len(PART_MARK) + _NUMBER_BYTES  # of the value's key in a part's
_IN_CHANGELOG = b""


def part_key(key: bytes, number: int) -> bytes:
    return PART_MARK + number.to_bytes(_NUMBER_BYTES, "big") + key


def part_of(part: bytes) -> tuple[bytes, int]:
    """The key of the value that the part with this key is of, and the part's number."""
    return part[_BEGIN:], int.from_bytes(part[len(PART_MARK) : _BEGIN], "big")


def value_key(key: bytes) -> bytes:
    """The key of the value that a record with this key is of, or a part of."""
    return part_of(key)[0] if key.startswith(PART_MARK) else key


class PartWriter:
    """Cuts the values of one partition that have more than `largest_bytes`, and knows which were cut before."""

    def __init__(self, store: Store, largest_bytes: int) -> None:
        self._store = store
        self._largest_bytes = largest_bytes
        self._counts: dict[bytes, int] = {}  # how many parts the changelog holds of a value
        self.reload()

    def reload(self) -> None:
        """Know what the store knows: what was cut since then was not committed."""
        self._counts.clear()
        for part, _ in self._store.scan_meta(PART_MARK):
            key, number = part_of(part)
            self._counts[key] = max(number + 1, self._counts.get(key, 0))

    def cut(self, records: Iterable[KeyValue], writes: WriteSet) -> list[KeyValue]:
        """The records as the changelog takes them. Which parts it then holds is added to `writes`, for the store."""
        largest_bytes, counts = self._largest_bytes, self._counts
        found: list[KeyValue] = []
        for record in records:
            key, value = record
            if (value is not None and len(value) > largest_bytes) or key in counts:
                found += self._pieces(key, value, writes)
            else:
                found.append(record)
        return found

    def _pieces(self, key: bytes, value: bytes | None, writes: WriteSet) -> list[KeyValue]:
        *parts, end = [None] if value is None else _pieces_of(value, self._largest_bytes)
        found: list[KeyValue] = [(part_key(key, number), piece) for number, piece in enumerate(parts)]
        surplus = range(len(parts), self._counts.pop(key, 0))
        found += [(part_key(key, number), None) for number in surplus]
        if parts:
            self._counts[key] = len(parts)
        writes.meta.extend((part, None if piece is None else _IN_CHANGELOG) for part, piece in found)
        return [*found, (key, end)]


def _pieces_of(value: bytes, largest_bytes: int) -> list[bytes]:
    if len(value) <= largest_bytes:
        return [value]
    begins = range(0, len(value) - largest_bytes + END_BYTES, largest_bytes)
    end = bytes([MARK]) + xxh3_64_digest(value) + value[begins[-1] + largest_bytes :]
    return [*(value[begin : begin + largest_bytes] for begin in begins), end]


class PartReader:
    """Puts the values of one partition together again, from records in the order of the log."""

    def __init__(self, store: Store) -> None:
        """`store` holds what the records that follow go on from."""
        self._waiting: defaultdict[bytes, dict[int, bytes]] = defaultdict(dict)  # parts by number, by the value's key
        for part, piece in store.scan_meta(PART_MARK):
            if piece != _IN_CHANGELOG:
                key, number = part_of(part)
                self._waiting[key][number] = piece

    def newest(self, records: Iterable[tuple[bytes | None, bytes | None]]) -> dict[bytes, bytes | None]:
        """What a batch of the log leaves in the store: the last value of each key, whole, and parts.

        Of a value whose end is to come there is nothing under its key.
        """
        newest: dict[bytes, bytes | None] = {}
        for key, value in records:
            if not key:
                continue
            if key[0] == MARK or (value and value[0] == MARK):
                newest.update(self._taken(key, value))
            else:
                newest[key] = value
        return newest

    def _taken(self, key: bytes, value: bytes | None) -> dict[bytes, bytes | None]:
        """What one record leaves in the store."""
        if key.startswith(PART_MARK):
            self._keep(*part_of(key), value)
        elif value and value[0] == MARK:
            return self._ended(key, value)
        return {key: value}

    def _keep(self, key: bytes, number: int, part: bytes | None) -> None:
        if part is not None:
            self._waiting[key][number] = part
        elif key in self._waiting:
            self._waiting[key].pop(number, None)

    def _ended(self, key: bytes, end: bytes) -> dict[bytes, bytes | None]:
        """What the end of a value leaves in the store."""
        parts = self._waiting.pop(key, {})
        left: dict[bytes, bytes | None] = {part_key(key, number): _IN_CHANGELOG for number in parts}
        value = b"".join([*(parts[number] for number in sorted(parts)), end[END_BYTES:]])
        if xxh3_64_digest(value) == end[1:END_BYTES]:
            left[key] = value
        return left


def newest_whole(key: bytes, records: Iterable[KeyValue]) -> bytes | None:
    """The newest value of the key, put together from the end of a log; None where it has none, or begins before them.

    `records` are those of the value, in the order of the log, see `value_key`.
    """
    return PartReader(MemoryStore()).newest(records).get(key)
