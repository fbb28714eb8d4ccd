"""JSON bytes to events: the input format of Kafka records and of event files.

Whatever the bytes, decoding gives an Event or a Rejected and never raises. A record is read quickly first
(`connectors/typed_events.py`) and, where that does not take it, again with care. What nobody foresaw in reading one is
that record's fault alone, with the code `internal`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from conditions.events import CustomerUpdate, Event, Rejected
from conditions.times import MAX_TIME_MS, TimeError, parse_time
from conditions.unforeseen import innermost_calls, unforeseen
from connectors.lines import MAX_VALUE_BYTES, Line, OversizeLine, RejectedLine
from connectors.payloads import (
    MAX_CUSTOMER_ID_CHARACTERS,
    MAX_EVENT_ID_CHARACTERS,
    FieldError,
    InexactNumberError,
    absent_properties,
    customer_update,
    describe,
    exact_integer,
    exact_number,
    identifier,
    missing,
    payload_parser,
    shorten,
    wrong_type,
)
from connectors.typed_events import (
    MAX_SLOW_DEPTH,
    PAYLOAD_MAKERS,
    Envelope,
    OddEvent,
    decode_envelope,
    load_json,
    load_numbers,
    new_payload_maker,
)

CODES = frozenset(
    (
        "not_utf8",
        "not_json",
        "not_object",
        "missing",
        "wrong_type",
        "out_of_range",
        "bad_time",
        "bad_url",
        "no_key",
        "key_mismatch",
        "too_large",
        "internal",
    )
)
"""Every `Rejected.code` there is."""

# Nesting takes brackets: what has no more of them is read whatever else is on the stack.
MAX_PLAIN_BRACKETS = MAX_SLOW_DEPTH
PLAIN_BYTES = 2 * MAX_PLAIN_BRACKETS

# msgspec takes an exponent beyond 9,999 for 9,999, which only tells of a number with nearly as many digits before it.
# To look at each byte would take as long as all the rest; so many digits show in one byte of a thousand.
LONG_NUMBER_BYTES = 9_000
SAMPLED_BYTES = 1_024
_LONG_NUMBER = re.compile(rb"[0-9.]{8}")  # LONG_NUMBER_BYTES // SAMPLED_BYTES of them

# A record's value, key, timestamp in ms (None or negative where it has none), and offset.
Encoded = tuple[bytes | None, bytes | None, int | None, int]


def decode_records(records: Sequence[Encoded], topic: str, partition: int) -> list[Event | Rejected]:
    """The events of Kafka records of one partition, in their order. A key must be the customer id in UTF-8."""
    decoded: list[Event | Rejected] = []
    makers = PAYLOAD_MAKERS
    envelopes = _read_all([record[0] for record in records])
    for (value, key, record_time_ms, offset), read in zip(records, envelopes, strict=True):
        try:
            if read is None or key is None or record_time_ms is None or not 0 <= record_time_ms <= MAX_TIME_MS:
                raise OddEvent
            customer_id, kind, moment = read.customer_id, read.type, read.time
            if customer_id.encode() != key:
                raise OddEvent
            time_ms = record_time_ms if moment is None else parse_time(moment)
            if time_ms > record_time_ms:
                time_ms = record_time_ms
            payload = (makers.get(kind) or new_payload_maker(kind))(read)
            event = Event(
                read.event_id, kind, customer_id, time_ms, record_time_ms, offset, read, payload, topic, partition
            )
        except Exception:  # noqa: BLE001 - whatever keeps a record from being read quickly, reading with care tells it
            decoded.append(_with_care(value, key, record_time_ms, offset, topic, partition))
        else:
            decoded.append(event)
    return decoded


def decode_record(
    value: bytes | None, key: bytes | None, record_time_ms: int | None, offset: int, topic: str, partition: int
) -> Event | Rejected:
    """The event of one Kafka record, see `decode_records`."""
    return decode_records([(value, key, record_time_ms, offset)], topic, partition)[0]


def decode_lines(lines: Sequence[Line], offsets: Iterable[int]) -> list[Event | Rejected]:
    """The events of lines of an event file, in their order; an offset counts lines from 0.

    Lines have no key. The record's timestamp is the line's `received_at`, else its `time`.
    """
    decoded: list[Event | Rejected] = []
    makers = PAYLOAD_MAKERS
    for line, offset, read in zip(lines, offsets, _read_all(lines), strict=True):
        try:
            if read is None:
                raise OddEvent
            kind, moment, received_at = read.type, read.time, read.received_at
            if received_at is None:
                time_ms = record_time_ms = parse_time(moment)
            else:
                record_time_ms = parse_time(received_at)
                time_ms = record_time_ms if moment is None else min(parse_time(moment), record_time_ms)
            payload = (makers.get(kind) or new_payload_maker(kind))(read)
            event = Event(read.event_id, kind, read.customer_id, time_ms, record_time_ms, offset, read, payload)
        except Exception:  # noqa: BLE001 - as in `decode_records`
            decoded.append(_line_with_care(line, offset))
        else:
            decoded.append(event)
    return decoded


def decode_line(line: Line, offset: int) -> Event | Rejected:
    """The event of one line, see `decode_lines`."""
    return decode_lines([line], [offset])[0]


def _line_with_care(line: Line, offset: int) -> Event | Rejected:
    if isinstance(line, OversizeLine):
        message = _too_large(line.size)
        return RejectedLine("too_large", "", message, None, line.beginning, offset, size=line.size, sha256=line.sha256)
    return decode_line_with_care(line, offset)


def decode_line_with_care(line: bytes, offset: int) -> Event | Rejected:
    """The slow reading of a line, which finds out all."""
    return _with_care(line, None, None, offset, None, 0)


def _read_all(values: Sequence[Line | None]) -> Sequence[Envelope | None]:
    """Records as nearly all are written; None for any other."""
    try:
        return _read_plain(values)  # type: ignore[arg-type]  # anything but bytes raises
    except Exception:  # noqa: BLE001 - as in `decode_records`; what is no bytes raises TypeError
        return [None] if len(values) == 1 else [_read_all([value])[0] for value in values]


def _read_plain(values: Sequence[bytes]) -> list[Envelope]:
    """All records, each as nearly all are written. Raises where there is any other."""
    whole = b" ".join(values)
    if not whole.isascii():
        whole.decode()  # what msgspec passes over it does not check
    if max(map(len, values), default=0) > PLAIN_BYTES:
        for value in values:
            _require_plain(value)
    envelopes = list(map(decode_envelope, values))
    for envelope, value in zip(envelopes, values, strict=True):
        envelope.encoded = value
    return envelopes


def _require_plain(value: bytes) -> None:
    """Refuse what is too large, what is perhaps nested so deeply that its properties cannot be read later on, and what
    may hold an amount that msgspec reads wrongly.
    """
    if len(value) <= PLAIN_BYTES:
        return
    if len(value) > MAX_VALUE_BYTES or value.count(b"[") + value.count(b"{") > MAX_PLAIN_BRACKETS:
        raise OddEvent
    if len(value) > LONG_NUMBER_BYTES and _LONG_NUMBER.search(value[::SAMPLED_BYTES]) is not None:
        raise OddEvent


def _with_care(
    value: bytes | None, key: bytes | None, record_time_ms: int | None, offset: int, topic: str | None, partition: int
) -> Event | Rejected:
    """The slow reading, which finds out all; `topic` is None for a line of a file."""
    try:
        return _event_or_reason(value, key, record_time_ms, offset, topic, partition)
    except MemoryError:
        raise  # it says nothing of the record
    except Exception as error:  # noqa: BLE001 - the last line of defence: all other records go on
        message = unforeseen(error, report_with="the record")
        return Rejected("internal", "", message, key, value, offset, topic, partition, innermost_calls(error))


def _event_or_reason(
    value: bytes | None, key: bytes | None, record_time_ms: int | None, offset: int, topic: str | None, partition: int
) -> Event | Rejected:
    try:
        if value is None or (topic is not None and (key is None or len(value) > MAX_VALUE_BYTES)):
            raise _unreadable(key, value)
        if record_time_ms is not None and record_time_ms < 0:
            record_time_ms = None
        return _event(load_json(value), key, record_time_ms, offset, topic, partition)
    except (FieldError, InexactNumberError, orjson.JSONDecodeError) as problem:
        return _settle(problem, value, key, record_time_ms, offset, topic, partition)


def _event(
    record: Any, key: bytes | None, record_time_ms: int | None, offset: int, topic: str | None, partition: int
) -> Event:
    """The event of a parsed record; `key` and `topic` are None for a line of a file.

    Raises FieldError, and InexactNumberError where the record must be read again as it is written.
    """
    if type(record) is not dict:
        raise FieldError("not_object", "", f"expected an object, got {describe(record)}")
    get = record.get
    event_id = get("event_id")
    if type(event_id) is not str or not 0 < len(event_id) <= MAX_EVENT_ID_CHARACTERS:
        event_id = _bounded(event_id, "event_id", MAX_EVENT_ID_CHARACTERS)
    kind: Any = get("type")
    parser = payload_parser(kind)
    customer_id = get("customer_id")
    if type(customer_id) is not str or not 0 < len(customer_id) <= MAX_CUSTOMER_ID_CHARACTERS:
        customer_id = _bounded(customer_id, "customer_id", MAX_CUSTOMER_ID_CHARACTERS)
    if key is not None and customer_id.encode() != key:
        raise _key_mismatch(customer_id, key)
    moment = get("time")
    time_ms = None if moment is None else _time(moment, "time")
    if topic is None:
        received_at = get("received_at")
        record_time_ms = time_ms if received_at is None else _time(received_at, "received_at")
    if time_ms is None or record_time_ms is None or time_ms > record_time_ms:
        time_ms, record_time_ms = _times(time_ms, record_time_ms)
    properties = get("properties")
    if type(properties) is not dict:
        if properties is not None:
            raise wrong_type("properties", "an object", properties)
        properties = absent_properties(kind)
    payload = None if parser is None else parser(properties)
    return Event(event_id, kind, customer_id, time_ms, record_time_ms, offset, properties, payload, topic, partition)


def _bounded(value: object, path: str, limit: int) -> str:
    text = identifier(value, path)
    if 0 < len(text) <= limit:
        return text
    raise FieldError("out_of_range", path, f"expected 1 to {limit} characters, got {len(text)}")


def _key_mismatch(customer_id: str, key: bytes) -> FieldError:
    shown = shorten(key[:400].decode("utf-8", "backslashreplace"))
    message = f'expected the record\'s key "{shown}", got "{shorten(customer_id)}"'
    return FieldError("key_mismatch", "customer_id", message)


def _time(value: object, path: str) -> int:
    try:
        return parse_time(value)
    except TimeError as error:
        if type(value) is float:
            # perhaps an integer beyond 64 bits
            raise InexactNumberError from None
        raise FieldError(error.code, path, f"{error.message}, got {describe(value)}") from None


def _times(time_ms: int | None, record_time_ms: int | None) -> tuple[int, int]:
    """Event time and record timestamp: each stands in for the other, and no event is later than its record."""
    if record_time_ms is None:
        if time_ms is None:
            raise missing("time", "a time, as the record has no timestamp either")
        return time_ms, time_ms
    if time_ms is None and record_time_ms > MAX_TIME_MS:
        raise FieldError("bad_time", "time", "expected a time, as the record's timestamp is after the year 9999")
    return record_time_ms, record_time_ms


def _settle(
    problem: Exception,
    value: bytes | None,
    key: bytes | None,
    record_time_ms: int | None,
    offset: int,
    topic: str | None,
    partition: int,
) -> Event | Rejected:
    """The second look at a record that did not decode at once: the event after all, or why it is none."""
    if type(problem) is InexactNumberError and value is not None:
        try:
            return _event_as_written(value, key, record_time_ms, offset, topic, partition)
        except FieldError as invalid:
            problem = invalid
    if not isinstance(problem, FieldError):
        problem = _no_json(value or b"", problem)
    return Rejected(problem.code, problem.path, problem.message, key, value, offset, topic, partition)


def _event_as_written(
    value: bytes, key: bytes | None, record_time_ms: int | None, offset: int, topic: str | None, partition: int
) -> Event:
    """The event of a record with numbers that doubles do not hold exactly."""
    event = _event(load_numbers(value, exact_integer, exact_number), key, record_time_ms, offset, topic, partition)
    # only ids and money are taken as written; conditions on properties and attributes compare doubles
    properties = event.properties = load_json(value).get("properties") or {}
    if type(event.payload) is CustomerUpdate:
        event.payload = customer_update(properties)
    return event


def _unreadable(key: bytes | None, value: bytes | None) -> FieldError:
    if value is not None and len(value) > MAX_VALUE_BYTES:
        return FieldError("too_large", "", _too_large(len(value)))
    if key is None:
        return FieldError("no_key", "", "expected the customer id as the record's key, got no key")
    return FieldError("not_json", "", "expected a JSON object, got no value")


def _too_large(size: int) -> str:
    return f"expected at most {MAX_VALUE_BYTES} bytes, got {size}"


def _no_json(value: bytes, error: Exception) -> FieldError:
    try:
        value.decode()
    except UnicodeDecodeError as undecodable:
        return FieldError("not_utf8", "", f"expected UTF-8, got {undecodable.reason} at byte {undecodable.start}")
    return FieldError("not_json", "", f"expected JSON: {str(error)[:160]}")
