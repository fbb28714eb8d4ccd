"""A map whose copies cost little: a copy and its original share all but what has changed since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar
from zlib import crc32

BUCKETS = 1024

Value = TypeVar("Value")


class FrozenMap(Mapping[str, Value]):
    """What a SharedMap held when it was frozen. Its order says nothing."""

    __slots__ = ("_size", "buckets")

    def __init__(self, buckets: tuple[dict[str, Value], ...], size: int) -> None:
        self.buckets = buckets
        self._size = size

    def __getitem__(self, key: str) -> Value:
        return self.buckets[_bucket_of(key)][key]

    def __iter__(self) -> Iterator[str]:
        for bucket in self.buckets:
            yield from bucket

    def __len__(self) -> int:
        return self._size


class SharedMap(Generic[Value]):
    """A map of strings to values that never change, to be frozen at any time.

    To freeze costs BUCKETS pointers; the first write to a bucket after that copies the bucket, and nothing else.
    """

    def __init__(self) -> None:
        self._buckets: list[dict[str, Value]] = [{} for _ in range(BUCKETS)]
        self._shared = bytearray(BUCKETS)  # 1: a frozen map has this bucket too
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def get(self, key: str) -> Value | None:
        return self._buckets[_bucket_of(key)].get(key)

    def put(self, key: str, value: Value) -> None:
        bucket = self._own(key)
        self._size += key not in bucket
        bucket[key] = value

    def remove(self, key: str) -> None:
        """Forget the key, if it is there."""
        bucket = self._own(key)
        self._size -= key in bucket
        bucket.pop(key, None)

    def freeze(self) -> FrozenMap[Value]:
        self._shared = bytearray(b"\1") * BUCKETS
        return FrozenMap(tuple(self._buckets), self._size)

    def _own(self, key: str) -> dict[str, Value]:
        """The key's bucket, no longer shared."""
        place = _bucket_of(key)
        if self._shared[place]:
            self._buckets[place] = dict(self._buckets[place])
            self._shared[place] = 0
        return self._buckets[place]


def _bucket_of(key: str) -> int:
    # Python's own hash differs from process to process, and the order would with it.
    return crc32(key.encode()) % BUCKETS
