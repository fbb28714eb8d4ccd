"""Which records were being applied, in words: for the error that ends it, as it must not be passed over."""

from __future__ import annotations

from collections.abc import Iterable

from conditions.events import Event, Rejected


def whereabouts(records: Iterable[Event | Rejected], at: Event | None) -> str:
    """The records' places in the log, and the one among them that was the one."""
    spans: dict[str, tuple[int, int]] = {}
    for each in records:
        place = "lines" if each.topic is None else f"{each.topic}-{each.partition} offsets"
        number = _number(each)
        first, last = spans.get(place, (number, number))
        spans[place] = min(first, number), max(last, number)
    among = ", ".join(f"{place} {first} to {last}" for place, (first, last) in spans.items()) or "no records"
    if at is None:
        return f"while applying {among}"
    place = "line" if at.topic is None else f"{at.topic}-{at.partition} offset"
    return (
        f"while applying {place} {_number(at)}: event {at.event_id!a} of type {at.type}, customer {at.customer_id!a}; "
        f"among {among}"
    )


def _number(record: Event | Rejected) -> int:
    return record.offset + 1 if record.topic is None else record.offset
