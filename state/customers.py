"""A customer in memory, and its record in the store.

A record is the customer's next deadline (8 bytes, big-endian milliseconds, at a fixed place so that the deadline index
can be rebuilt without decoding) and a msgpack array. A summary of more than `INLINE_ENTRIES` entries lives under a key
of its own, `customer id, 0xFF, feature key`, so that it is written only when it changes: 0xFF never occurs in UTF-8.
The amounts of a sum, which may be very many, are cut into parts of `PART_ENTRIES`, so that only those are written that
changed: all but the first part have their number behind the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from conditions.amounts import AmountEntry, Amounts, ManyAmounts
from conditions.features import FOREVER, INLINE_ENTRIES, NO_KEYS, NOTHING, Register, Summaries

SPILL_MARK = b"\xff"
NEVER_MS = FOREVER
_DEADLINE_BYTES = 8
_COUNTS, _SUMS = b"c", b"s"  # the first byte of a spilled summary
_FEATURE_BYTES = 8
_PART_BYTES = 6
PART_ENTRIES = 256
EMPTY_BYTES = 48  # of an unknown customer: what it takes in memory is what a record of this size would
_ENTRY_BYTES = 25  # of an amount in a part
_INT_BYTES = 9  # of a number of a count


class Extent(NamedTuple):
    """What of a spilled summary is stored: so many entries, behind those that were dropped.

    `WHOLE` is all that is in the one record.
    """

    dropped: int
    kept: int

    @property
    def parts(self) -> range:
        """The numbers of its records."""
        return range(self.dropped // PART_ENTRIES, max(0, self.dropped + self.kept - 1) // PART_ENTRIES + 1)


WHOLE = Extent(0, 0)
NONE_SPILLED: Mapping[int, Extent] = MappingProxyType({})


class Record(msgspec.Struct, array_like=True):
    """The msgpack part of a customer's record; field order is the format."""

    last_effective_ms: int
    differing: set[int]
    counts: dict[int, tuple[int, ...]]
    sums: dict[int, Amounts]
    registers: dict[int, Register]
    spilled: list[int | tuple[int, int, int]]  # feature keys: alone, or with the extent of a sum
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
    write it, `is_cached` once a cache keeps it. `stored_bytes` are those of all its records as read or last written,
    about; `whole_bytes` are those of them that one change may write anew: all but amounts.
    """

    __slots__ = (
        "asked",
        "born",
        "differing",
        "id",
        "is_cached",
        "is_dirty",
        "known",
        "last_effective_ms",
        "spilled",
        "stored_bytes",
        "stored_deadline_ms",
        "whole_bytes",
    )

    def __init__(self, customer_id: str) -> None:
        self.id = customer_id
        self.stored_deadline_ms = NEVER_MS
        self.spilled = NONE_SPILLED
        self.is_dirty = self.is_cached = False
        self.stored_bytes = self.whole_bytes = EMPTY_BYTES
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


def spill_key(customer: bytes, feature_key: int, part: int = 0) -> bytes:
    suffix = part.to_bytes(_PART_BYTES, "big") if part else b""
    return customer + SPILL_MARK + feature_key.to_bytes(_FEATURE_BYTES, "big") + suffix


def spill_keys(customer: Customer) -> list[tuple[int, list[bytes]]]:
    """The spilled summaries' feature keys, each with the keys of its records."""
    key = customer_key(customer.id)
    return [(each, [spill_key(key, each, part) for part in stored.parts]) for each, stored in customer.spilled.items()]


def is_spill(key: bytes) -> bool:
    return SPILL_MARK in key


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
    if fields.spilled:
        customer.spilled = dict(_extent(each) for each in fields.spilled)
    customer.asked = fields.asked
    customer.born = fields.born
    customer.stored_bytes = customer.whole_bytes = len(record) + len(customer_id)
    return customer


def _extent(spilled: int | tuple[int, int, int]) -> tuple[int, Extent]:
    return (spilled, WHOLE) if isinstance(spilled, int) else (spilled[0], Extent(*spilled[1:]))


def add_spilled(customer: Customer, feature_key: int, records: Sequence[bytes]) -> None:
    """Add a summary from the records that it has of its own."""
    size_bytes = sum(map(len, records))
    customer.stored_bytes += size_bytes
    if records[0][:1] == _COUNTS:
        customer.whole_bytes += size_bytes
        customer.counts[feature_key] = _decode_counts(memoryview(records[0])[1:])
        return
    stored = customer.spilled[feature_key]
    entries = [entry for record in records for entry in _decode_sums(memoryview(record)[1:])]
    # The first part may hold some that have been dropped since. What is whole counts as changed: it becomes parts.
    amounts = ManyAmounts(entries[-stored.kept :], stored.dropped)
    amounts.changed_from = stored.dropped + stored.kept
    customer.own_sums()[feature_key] = amounts


def encode_customer(customer: Customer) -> list[tuple[bytes, bytes | None]]:
    """The records to write, None for those to delete; the customer counts as written then."""
    key = customer_key(customer.id)
    touched = customer.touched
    if touched:
        customer.touched = NO_KEYS
    if not customer.known:
        customer.stored_bytes = customer.whole_bytes = EMPTY_BYTES
        return [(key, None), *((each, None) for _, keys in spill_keys(customer) for each in keys)]
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
    record = customer.deadline_ms.to_bytes(_DEADLINE_BYTES, "big") + _encode(fields)
    customer.stored_bytes = customer.whole_bytes = len(record) + len(key)
    return [(key, record)]


def _large(customer: Customer) -> dict[int, Sequence[Any]]:
    """The summaries that are written under a key of their own."""
    counts = {key: entries for key, entries in customer.counts.items() if len(entries) > 2 * INLINE_ENTRIES}
    sums = {key: amounts for key, amounts in customer.sums.items() if len(amounts) > INLINE_ENTRIES}
    return {**counts, **sums}


def _encode_spilling(
    customer: Customer, key: bytes, large: dict[int, Sequence[Any]], touched: frozenset[int]
) -> list[tuple[bytes, bytes | None]]:
    before = customer.spilled
    parts: list[tuple[bytes, bytes | None]] = []
    spilled: dict[int, Extent] = {}
    for feature_key, entries in large.items():
        is_stored = feature_key in before
        if feature_key in customer.sums:
            amounts = entries if isinstance(entries, ManyAmounts) else ManyAmounts(entries)
            spilled[feature_key] = Extent(amounts.dropped, len(amounts))
            parts += _changed_parts(key, feature_key, amounts, is_stored)
        else:
            spilled[feature_key] = WHOLE
            if feature_key in touched or not is_stored:
                parts.append((spill_key(key, feature_key), _COUNTS + _encode(entries)))
    customer.spilled = spilled
    gone = [
        (spill_key(key, each, part), None)
        for each, stored in before.items()
        for part in _gone(stored, spilled.get(each))
    ]
    fields = (
        customer.last_effective_ms,
        list(customer.differing),
        {each: entries for each, entries in customer.counts.items() if each not in large},
        {each: entries for each, entries in customer.sums.items() if each not in large},
        customer.registers or {},
        [each if stored is WHOLE else (each, *stored) for each, stored in spilled.items()],
        customer.asked,
        customer.born,
    )
    record = customer.deadline_ms.to_bytes(_DEADLINE_BYTES, "big") + _encode(fields)
    numbers = sum([len(large[each]) for each, stored in spilled.items() if stored is WHOLE])
    kept = sum([stored.kept for stored in spilled.values()])
    customer.whole_bytes = len(record) + len(key) + _INT_BYTES * numbers
    customer.stored_bytes = customer.whole_bytes + _ENTRY_BYTES * kept
    return [(key, record), *parts, *gone]


def _gone(before: Extent, after: Extent | None) -> Iterator[int]:
    """The parts that are stored and not to be any more."""
    stored, kept = before.parts, range(0) if after is None else after.parts
    yield from range(stored.start, min(stored.stop, kept.start))
    yield from range(max(stored.start, kept.stop), stored.stop)


def _changed_parts(
    key: bytes, feature_key: int, amounts: ManyAmounts, is_stored: bool
) -> Iterator[tuple[bytes, bytes | None]]:
    """The records of the parts of a sum that changed, or of all where none is stored; they count as written then."""
    dropped, end = amounts.dropped, amounts.dropped + len(amounts)
    begin = max(dropped, amounts.changed_from) if is_stored else dropped
    amounts.changed_from = end
    for part in Extent(begin, end - begin).parts if begin < end else ():
        first = part * PART_ENTRIES - dropped
        yield spill_key(key, feature_key, part), _SUMS + _encode(amounts[max(0, first) : first + PART_ENTRIES])
