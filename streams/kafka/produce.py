"""The Produce request, made in one piece.

aiokafka encodes a message from the inside out, and each of six levels copies what is within. A request of megabytes of
records is copied once here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from aiokafka.protocol.api import Request
from aiokafka.protocol.produce import ProduceRequest_v7
from aiokafka.protocol.types import Array, Bytes, Int32, Schema

ALL_REPLICAS = -1


class ProduceRequestV7(ProduceRequest_v7):  # type: ignore[misc]  # aiokafka ships no types
    def encode(self) -> bytes:
        return b"".join(_pieces(self.SCHEMA, [getattr(self, name) for name in self.SCHEMA.names]))


class ProduceRequest(Request[ProduceRequestV7]):  # type: ignore[misc]  # aiokafka ships no types
    """Writes a batch to each of some partitions: topics, each with its partitions and their batches."""

    API_KEY = 0

    def __init__(
        self, transactional_id: str, timeout_ms: int, topics: Sequence[tuple[str, Sequence[tuple[int, Any]]]]
    ) -> None:
        self._transactional_id = transactional_id
        self._timeout_ms = timeout_ms
        self._topics = topics

    def build(self, request_struct_class: type[ProduceRequestV7]) -> ProduceRequestV7:
        return request_struct_class(self._transactional_id, ALL_REPLICAS, self._timeout_ms, self._topics)


def _pieces(kind: Any, value: Any) -> Iterator[Any]:
    """What the value is in bytes, the larger pieces as they are."""
    if isinstance(kind, Schema):
        for field, part in zip(kind.fields, value, strict=True):
            yield from _pieces(field, part)
    elif isinstance(kind, Array):
        yield Int32.encode(len(value))
        for part in value:
            yield from _pieces(kind.array_of, part)
    elif kind is Bytes:
        yield Int32.encode(len(value))
        yield value
    else:
        yield kind.encode(value)
