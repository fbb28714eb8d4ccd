"""What a batch says to the outside: membership changes, in the form the changes topic has."""

from __future__ import annotations

from typing import Literal

import msgspec
import xxhash

Reason = Literal["event", "deadline", "definition", "erasure"]


class Cause(msgspec.Struct, frozen=True, gc=False):
    """The event that decided a change; `event_time` as RFC 3339."""

    topic: str | None
    partition: int
    offset: int
    event_id: str
    event_type: str
    event_time: str


class Change(msgspec.Struct, frozen=True, gc=False):
    """One customer entered or left one segment. Times are RFC 3339 with milliseconds, in UTC."""

    change_id: str
    type: Literal["entered", "left"]
    segment_id: str
    segment_name: str
    definition_version: int
    customer_id: str
    sequence: int
    effective_at: str
    decided_at: str
    valid_until: str | None
    reason: Reason
    cause: Cause | None
    conditions: list[bool]


def change_id(customer_id: str, segment_id: str, kind: str, sequence: int, effective_ms: int) -> str:
    """The same for the same change, whoever decides it and how often."""
    return xxhash.xxh3_128_hexdigest(f"{sequence}|{effective_ms}|{kind}|{segment_id}|{customer_id}".encode())
