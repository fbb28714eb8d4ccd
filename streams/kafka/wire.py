"""Shapes of Kafka's flexible messages (KIP-482), for requests that aiokafka does not have."""

from __future__ import annotations

from typing import Any

from aiokafka.protocol.types import CompactArray, CompactString, Schema, TaggedFields

STRING = CompactString("utf-8")
TAGS = ("tags", TaggedFields)  # every message and every row of a table ends with them

Field = tuple[str, Any]


def message(*fields: Field) -> Schema:
    return Schema(*fields, TAGS)


def table(*columns: Field) -> CompactArray:
    return CompactArray(*columns, TAGS)
