"""A customer in memory, and its record in the store.

A record is the customer's next deadline (8 bytes, big-endian milliseconds, at a fixed place so that the deadline index
can be rebuilt without decoding) and a msgpack array. A summary of more than `INLINE_ENTRIES` entries lives under a key
of its own, `customer id, 0xFF, feature key`, so that it is written only when it changes: 0xFF never occurs in UTF-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from conditions.amounts import AmountEntry, Amounts, ManyAmounts
from conditions.features import FOREVER, INLINE_ENTRIES, NO_KEYS, NOTHING, Register, Summaries

SPILL_MARK = b"\xff"
NEVER_MS = FOREVER
_DEADLINE_BYTES = 8
_COUNTS, _SUMS = b"c", b"s"  # the first byte of a spilled summary


class Record(msgspec.Struct, array_like=True):
    """The msgpack part of a customer's record; field order is the format."""

    last_effective_ms: int
    differing: set[int]
    counts: dict[int, tuple[int, ...]]
    sums: dict[int, Amounts]
    registers: dict[int, Register]
    spilled: list[int]
    asked: int = 0
    born: int = 0


class _Head(msgspec.Struct, array_like=True, gc=False):
    """The beginning of a `Record`: decoding stops there."""

    last_effective_ms: int
    differing: list[int]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_counts = msgspec.msgpack.Decoder(list[int]).decode
_decode_sums = msgspec.msgpack.Decoder(list[AmountEntry]).decode


class Customer(Summaries):
    """One customer: its summaries, and what was last said about it.

    `differing` holds the keys of the segments whose membership is not what it is for a customer with nothing known.
    `asked` is the redefinition that it was last asked under, `born` the one during whose backfill it came to be known:
    what that backfill finds of it belongs to a life that was erased. `is_dirty` while a batch in the making will
    write it.
    """

    __slots__ = (
        "asked",
        "born",
        "differing",
        "id",
        "is_dirty",
        "known",
        "last_effective_ms",
        "spilled",
        "stored_deadline_ms",
    )

    def __init__(self, customer_id: str) -> None:
        self.id = customer_id
        self.stored_deadline_ms = NEVER_MS
        self.spilled = NO_KEYS
        self.is_dirty = False
        self.forget()

    def forget(self) -> None:
        """Become unknown. What the store still holds is remembered, so that writing removes it."""
        self.known = False
        self.counts = {}
        self.sums = NOTHING
        self.registers = NOTHING
        self.differing: set[int] = set()
        self.asked = 0
        self.born = 0
        self.last_effective_ms = 0
        self.deadline_ms = NEVER_MS
        self.touched = NO_KEYS


def customer_key(customer_id: str) -> bytes:
    return customer_id.encode()


def spill_key(customer: bytes, feature_key: int) -> bytes:
    return customer + SPILL_MARK + feature_key.to_bytes(8, "big")


def is_spill(key: bytes) -> bool:
    return len(key) > _DEADLINE_BYTES and key[-9:-8] == SPILL_MARK


def record_deadline_ms(record: bytes) -> int:
    return int.from_bytes(record[:_DEADLINE_BYTES], "big")


def record_differing(record: bytes) -> list[int]:
    """The keys of the segments in which the customer differs from one with nothing known."""
    return _decode_head(memoryview(record)[_DEADLINE_BYTES:]).differing


def decode_customer(customer_id: str, record: bytes) -> Customer:
    """The customer of a record; its spilled summaries are still to be added by `add_spilled`."""
    fields = _decode(memoryview(record)[_DEADLINE_BYTES:])
    counts: dict[int, Any] = fields.counts
    customer = Customer(customer_id)
    customer.known = True
    customer.deadline_ms = customer.stored_deadline_ms = record_deadline_ms(record)
    customer.last_effective_ms = fields.last_effective_ms
    customer.differing = fields.differing
    customer.counts = counts
    customer.sums = fields.sums or NOTHING
    customer.registers = fields.registers or NOTHING
    customer.spilled = frozenset(fields.spilled)
    customer.asked = fields.asked
    customer.born = fields.born
    return customer


def add_spilled(customer: Customer, feature_key: int, record: bytes) -> None:
    """Add a summary that has a key of its own."""
    if record[:1] == _SUMS:
        customer.own_sums()[feature_key] = ManyAmounts(_decode_sums(memoryview(record)[1:]))
    else:
        customer.counts[feature_key] = _decode_counts(memoryview(record)[1:])


def encode_customer(customer: Customer) -> list[tuple[bytes, bytes | None]]:
    """The records to write, None for those to delete; the customer counts as written then."""
    key = customer_key(customer.id)
    touched = customer.touched
    if touched:
        customer.touched = NO_KEYS
    if not customer.known:
        return [(key, None), *((spill_key(key, each), None) for each in customer.spilled)]
    # A summary that may be large is touched whenever it changes.
    if touched or customer.spilled:
        large = _large(customer)
        if large or customer.spilled:
            return _encode_spilling(customer, key, large, touched)
    fields = (
        customer.last_effective_ms,
        list(customer.differing),
        customer.counts,
        customer.sums or {},
        customer.registers or {},
        (),
        customer.asked,
        customer.born,
    )
    return [(key, customer.deadline_ms.to_bytes(_DEADLINE_BYTES, "big") + _encode(fields))]


def _large(customer: Customer) -> dict[int, Sequence[Any]]:
    """The summaries that are written under a key of their own."""
    counts = {key: entries for key, entries in customer.counts.items() if len(entries) > 2 * INLINE_ENTRIES}
    sums = {key: amounts for key, amounts in customer.sums.items() if len(amounts) > INLINE_ENTRIES}
    return {**counts, **sums}


def _encode_spilling(
    customer: Customer, key: bytes, large: dict[int, Sequence[Any]], touched: frozenset[int]
) -> list[tuple[bytes, bytes | None]]:
    fields = (
        customer.last_effective_ms,
        list(customer.differing),
        {each: entries for each, entries in customer.counts.items() if each not in large},
        {each: entries for each, entries in customer.sums.items() if each not in large},
        customer.registers or {},
        list(large),
        customer.asked,
        customer.born,
    )
    records: list[tuple[bytes, bytes | None]] = [
        (key, customer.deadline_ms.to_bytes(_DEADLINE_BYTES, "big") + _encode(fields))
    ]
    for feature_key, entries in large.items():
        if feature_key in touched or feature_key not in customer.spilled:
            mark = _SUMS if feature_key in customer.sums else _COUNTS
            records.append((spill_key(key, feature_key), mark + _encode(entries)))
    records.extend((spill_key(key, each), None) for each in customer.spilled.difference(large))
    customer.spilled = frozenset(large)
    return records
