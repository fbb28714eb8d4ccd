"""JSON to events: what each event type reads, and how each kind of wrong input is named."""

from __future__ import annotations

import json
from math import inf
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conditions.events import (
    AppScreen,
    CustomerUpdate,
    Event,
    Item,
    LocationVisit,
    Message,
    Order,
    PageVisit,
    Payload,
    Rejected,
    Url,
)
from connectors import json_events, typed_events
from connectors.json_events import CODES, decode_line, decode_line_with_care
from connectors.lines import MAX_VALUE_BYTES, OversizeLine, RejectedLine

TIME = "2026-01-31T12:00:00.500Z"
TIME_MS = 1_769_860_800_500


def decode_record(value: bytes | None, key: bytes | None, timestamp_ms: int | None, offset: int) -> Event | Rejected:
    return json_events.decode_record(value, key, timestamp_ms, offset, "tracking", 3)


def record(**fields: Any) -> dict[str, Any]:
    """A valid event with other or further fields; those that are ... are left out."""
    whole = {"event_id": "e1", "type": "custom", "customer_id": "c1", "time": TIME} | fields
    return {name: value for name, value in whole.items() if value is not ...}


def of_type(kind: str, properties: Any) -> dict[str, Any]:
    return record(type=kind, properties=properties)


def decoded(value: dict[str, Any] | bytes) -> Event:
    event = decode_line(value if isinstance(value, bytes) else orjson.dumps(value), 0)
    assert isinstance(event, Event), event
    return event


def rejected(value: Any) -> Rejected:
    outcome = decode_line(value if isinstance(value, bytes) else json.dumps(value).encode(), 0)
    assert isinstance(outcome, Rejected), outcome
    assert outcome.code in CODES
    assert outcome.message.startswith("expected")
    assert len(outcome.message) <= 200
    return outcome


def read_whole(event: Event | Rejected) -> Event:
    """The event with its properties decoded, so that it can be compared."""
    assert isinstance(event, Event), event
    event.read_properties()
    return event


def payload_of(kind: str, properties: Any) -> Payload:
    return decoded(of_type(kind, properties)).payload


# What a valid event reads as


def test_an_event_of_a_file_has_its_line_as_offset_and_no_topic() -> None:
    properties = {"plan": "gold", "nothing": None}
    event = decode_line(orjson.dumps(record(properties=properties, more=1)), 7)
    assert read_whole(event) == Event("e1", "custom", "c1", TIME_MS, TIME_MS, 7, properties, None, None, 0)


def test_an_event_of_kafka_has_its_place_there() -> None:
    event = decode_record(orjson.dumps(record()), b"c1", TIME_MS + 5, 9)
    assert read_whole(event) == Event("e1", "custom", "c1", TIME_MS, TIME_MS + 5, 9, {}, None, "tracking", 3)


@pytest.mark.parametrize(
    ("kind", "properties", "payload"),
    [
        ("page.visit", {"url": "https://A.example/p?q"}, PageVisit(Url("a.example", "/p", "q"))),
        (
            "page.visit",
            {"url": "https://a.example/p", "referrer": "https://b.example"},
            PageVisit(Url("a.example", "/p", ""), "https://b.example"),
        ),
        ("page.visit", {"url": "https://a.example", "referrer": "/p"}, PageVisit(Url("a.example", "/", ""), "/p")),
        ("page.visit", {"url": "https://a.example", "referrer": None}, PageVisit(Url("a.example", "/", ""))),
        ("email.opened", None, Message()),
        ("email.opened", {"campaign_id": "k1"}, Message("k1")),
        ("sms.x.y", {"campaign_id": 7}, Message("7")),
        ("push.sent", {"campaign_id": None}, Message()),
        ("email.", {"campaign_id": []}, None),
        ("email", {"campaign_id": []}, None),
        ("Email.opened", {"campaign_id": []}, None),
        ("location.visit", {"location_id": "l1"}, LocationVisit("l1")),
        ("location.visit", {"location_id": 1, "beacon_id": -2}, LocationVisit("1", "-2")),
        ("app.screen", {"screen": "home"}, AppScreen("home")),
        ("app.screen", {"screen": 404}, AppScreen("404")),
        ("purchase.order", {"order_id": "o1", "total": 12.5}, Order("o1", 12_500_000)),
        ("purchase.order", {"order_id": 1, "total": 0, "currency": "EUR", "items": None}, Order("1", 0, "EUR")),
        ("purchase.order", {"order_id": "1", "total": 0, "currency": 978}, Order("1", 0, "978")),
        ("purchase.order", {"order_id": "o1", "total": 1, "items": [None]}, Order("o1", 1_000_000)),
        (
            "purchase.order",
            {
                "order_id": "o1",
                "total": 20,
                "items": [
                    {"product_id": 5, "category": 6, "price": 9.99, "quantity": 2},
                    {"product_id": "p", "category": ["Shoes", 7, None], "price": None, "quantity": 0.5},
                    {"product_id": "q", "category": None},
                ],
            },
            Order(
                "o1",
                20_000_000,
                None,
                (Item("5", ("6",), 9_990_000), Item("p", ("Shoes", "7")), Item("q")),
            ),
        ),
        ("customer.update", None, CustomerUpdate({}, {})),
        ("customer.update", {"attributes": None, "agreements": None}, CustomerUpdate({}, {})),
        (
            "customer.update",
            {"attributes": {"city": "Oslo", "age": None}, "agreements": {"sms": True, "fax": False, "push": None}},
            CustomerUpdate({"city": "Oslo", "age": None}, {"sms": True, "fax": False}),
        ),
        ("customer.delete", None, None),
        ("customer.delete", {"attributes": 1}, None),
        ("page.visited", {"url": 1}, None),
    ],
)
def test_each_type_reads_its_properties(kind: str, properties: Any, payload: Payload) -> None:
    assert payload_of(kind, properties) == payload


def test_properties_stay_as_they_came() -> None:
    properties = {"attributes": {"a": {"b": None, "c": 1e3}}, "agreements": {"sms": None}, "other": [None]}
    assert decoded(of_type("customer.update", properties)).read_properties() == properties


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"a": None}, {}),
        ({"a": {"b": None, "c": [1, None, {"d": None}]}}, {"a": {"c": [1, {}]}}),
        ([None, [None], 0, False, ""], [[], 0, False, ""]),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}),
    ],
)
def test_nulls_inside_an_attribute_do_not_exist(value: Any, kept: Any) -> None:
    assert payload_of("customer.update", {"attributes": {"x": value}}) == CustomerUpdate({"x": kept}, {})


def test_an_integer_id_is_its_decimal_string_however_large() -> None:
    digits = "123456789012345678901234567890"
    value = f'{{"event_id":{digits},"type":"location.visit","customer_id":-{digits},"time":{TIME_MS},'
    value += f'"properties":{{"location_id":18446744073709551616,"beacon_id":{digits}}}}}'
    event = decoded(value.encode())
    assert (event.event_id, event.customer_id) == (digits, f"-{digits}")
    assert event.payload == LocationVisit("18446744073709551616", digits)


def test_a_large_integer_id_leaves_the_numbers_of_the_properties_doubles() -> None:
    value = b'{"event_id":123456789012345678901234567890,"type":"customer.update","customer_id":"c",'
    value += b'"time":0,"properties":{"attributes":{"a":1.25,"b":{"c":123456789012345678901}}}}'
    event = decoded(value)
    attributes = {"a": 1.25, "b": {"c": 123456789012345678901.0}}
    assert event.payload == CustomerUpdate(attributes, {})
    assert event.read_properties() == {"attributes": attributes}
    assert type(event.payload.attributes["b"]["c"]) is float


@pytest.mark.parametrize(
    ("written", "micros"),
    [
        ("0.1", 100_000),
        ("19.99", 19_990_000),
        ("0.30000000000000004", 300_000),
        ("0.0000005", 0),
        ("0.0000015", 2),
        ("0.00000049999999999999999999999999", 0),
        ("0.00000050000000000000000000000001", 1),
        ("123456789012.123456", 123_456_789_012_123_456),
        ("999999999999.999999", 999_999_999_999_999_999),
        ("1e2", 100_000_000),
        ("-0.0", 0),
        ("1e-9999999999999999999", 0),
        ("0e9999999999999999999", 0),
    ],
)
def test_money_is_exact_as_written(written: str, micros: int) -> None:
    properties = f'{{"order_id":"o","total":{written},"items":[{{"product_id":"p","price":{written},"quantity":1.5}}]}}'
    value = f'{{"event_id":"e","type":"purchase.order","customer_id":"c","time":0,"properties":{properties}}}'
    assert decoded(value.encode()).payload == Order("o", micros, None, (Item("p", (), micros),))


def test_a_number_beyond_doubles_is_infinite_and_no_reason_to_reject() -> None:
    properties = f'{{"a":1e999,"b":-1e999,"c":{"9" * 400},"d":{2**64},"e":{2**64 - 1}}}'
    for event_id in ('"e"', "1" * 30):
        value = f'{{"event_id":{event_id},"type":"custom","customer_id":"c","time":0,"properties":{properties}}}'
        read = decoded(value.encode()).read_properties()
        assert read == {"a": inf, "b": -inf, "c": inf, "d": 2.0**64, "e": 2**64 - 1}
        assert [type(number) for number in read.values()] == [float, float, float, float, int]


@pytest.mark.parametrize("written", ["1e999", "1e9999999", f"1e{10**30}", "9" * 400, "9" * 5_000, "9" * 1_000_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_an_amount_beyond_all_bounds_is_out_of_range_however_it_is_written(sign: str, written: str) -> None:
    properties = f'{{"order_id":"o","total":{sign}{written}}}'
    value = f'{{"event_id":"e","type":"purchase.order","customer_id":"c","time":0,"properties":{properties}}}'
    outcome = rejected(value.encode())
    assert (outcome.code, outcome.path) == ("out_of_range", "properties.total")


@pytest.mark.parametrize("digits", [1_000, 1_001, 4_300, 4_301, 1_000_000])
def test_an_id_of_very_many_digits_is_told_as_it_is_written(digits: int) -> None:
    written = "-" + "7" * digits
    properties = f'{{"location_id":{written}}}'
    value = f'{{"event_id":"e","type":"location.visit","customer_id":"c","time":0,"properties":{properties}}}'
    assert decoded(value.encode()).payload == LocationVisit(written)


@pytest.mark.parametrize(
    ("field", "code"), [("event_id", "out_of_range"), ("customer_id", "out_of_range"), ("time", "bad_time")]
)
def test_an_integer_of_very_many_digits_is_rejected_where_a_field_is_bounded(field: str, code: str) -> None:
    mark = "as written"
    value = json.dumps(record(**{field: mark})).replace(json.dumps(mark), "7" * 5_000).encode()
    outcome = rejected(value)
    assert (outcome.code, outcome.path) == (code, field)
    assert decode_record(value, b"c1", 0, 0) == Rejected(code, field, outcome.message, b"c1", value, 0, "tracking", 3)


def test_an_integer_of_very_many_digits_matters_only_where_it_is_read() -> None:
    long = "7" * 5_000
    value = f'{{"event_id":{10**30},"type":"x","customer_id":"c","time":0,"more":{long},"properties":{{"a":{long}}}}}'
    event = decoded(value.encode())
    assert (event.event_id, event.read_properties()) == (str(10**30), {"a": inf})


# Event time and record timestamp


@pytest.mark.parametrize(
    ("fields", "time_ms", "record_time_ms"),
    [
        ({"time": 5000}, 5000, 5000),
        ({"time": 5000, "received_at": 7000}, 5000, 7000),
        ({"time": 7000, "received_at": 5000}, 5000, 5000),
        ({"time": None, "received_at": "1970-01-01T00:00:05Z"}, 5000, 5000),
        ({"time": "1970-01-01 01:00:05.0009+01:00", "received_at": None}, 5000, 5000),
    ],
)
def test_a_line_is_no_later_than_it_was_received(fields: dict[str, Any], time_ms: int, record_time_ms: int) -> None:
    event = decoded(record(**fields))
    assert (event.time_ms, event.record_time_ms) == (time_ms, record_time_ms)


@pytest.mark.parametrize(
    ("fields", "timestamp", "time_ms", "record_time_ms"),
    [
        ({"time": 5000}, 7000, 5000, 7000),
        ({"time": 7000}, 5000, 5000, 5000),
        ({"time": ...}, 5000, 5000, 5000),
        ({"time": None}, 5000, 5000, 5000),
        ({"time": 5000}, None, 5000, 5000),
        ({"time": 5000}, -1, 5000, 5000),
        ({"time": 5000, "received_at": "any"}, 7000, 5000, 7000),
        ({"time": 0}, 0, 0, 0),
    ],
)
def test_a_record_is_no_later_than_its_timestamp(
    fields: dict[str, Any], timestamp: int | None, time_ms: int, record_time_ms: int
) -> None:
    event = decode_record(orjson.dumps(record(**fields)), b"c1", timestamp, 0)
    assert isinstance(event, Event)
    assert (event.time_ms, event.record_time_ms) == (time_ms, record_time_ms)


# Wrong input


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"{} {}", "not_json"),
        (b"{'a': 1}", "not_json"),
        (b'{"a": NaN}', "not_json"),
        (b'{"a": -Infinity}', "not_json"),
        (b'{"a": 1e999, "b": NaN}', "not_json"),
        (b'{"a": 1e999, "b": "\\ud800"}', "not_json"),
        (b'{"a": "\\ud800"}', "not_json"),
        (b"\xef\xbb\xbf{}", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"[" * 100_000 + b"]" * 100_000, "not_json"),
        (b'{"a": "\xff"}', "not_utf8"),
        (b'{"a": "\xed\xa0\x80"}', "not_utf8"),
        (b"\xff\xfe{\x00}\x00", "not_utf8"),
        (b"null", "not_object"),
        (b"[]", "not_object"),
        (b"1.5", "not_object"),
        (b'"text"', "not_object"),
        (b" " * (MAX_VALUE_BYTES - 2) + b"{}", "missing"),
    ],
)
def test_what_is_no_json_object_is_rejected_as_a_whole(value: bytes, code: str) -> None:
    outcome = rejected(value)
    assert outcome.code == code
    assert outcome.value == value
    assert outcome.path == ("event_id" if code == "missing" else "")


LONG = "ä" * 500


@pytest.mark.parametrize(
    ("fields", "code", "path"),
    [
        ({"event_id": ...}, "missing", "event_id"),
        ({"event_id": None}, "missing", "event_id"),
        ({"event_id": ""}, "out_of_range", "event_id"),
        ({"event_id": "ä" * 129}, "out_of_range", "event_id"),
        ({"event_id": 1.5}, "wrong_type", "event_id"),
        ({"event_id": 1.0}, "wrong_type", "event_id"),
        ({"event_id": True}, "wrong_type", "event_id"),
        ({"event_id": 10**128}, "out_of_range", "event_id"),
        ({"type": ...}, "missing", "type"),
        ({"type": None}, "missing", "type"),
        ({"type": 5}, "wrong_type", "type"),
        ({"type": []}, "wrong_type", "type"),
        ({"type": ""}, "out_of_range", "type"),
        ({"type": ".x"}, "out_of_range", "type"),
        ({"type": "a b"}, "out_of_range", "type"),
        ({"type": "a\n"}, "out_of_range", "type"),
        ({"type": "ä"}, "out_of_range", "type"),
        ({"type": "a" * 129}, "out_of_range", "type"),
        ({"type": LONG}, "out_of_range", "type"),
        ({"type": "email." + "a" * 123}, "out_of_range", "type"),
        ({"customer_id": ...}, "missing", "customer_id"),
        ({"customer_id": ""}, "out_of_range", "customer_id"),
        ({"customer_id": "ä" * 257}, "out_of_range", "customer_id"),
        ({"customer_id": {}}, "wrong_type", "customer_id"),
        ({"time": ...}, "missing", "time"),
        ({"time": "yesterday"}, "bad_time", "time"),
        ({"time": LONG}, "bad_time", "time"),
        ({"time": -1}, "bad_time", "time"),
        ({"time": 10**30}, "bad_time", "time"),
        ({"time": 1e12}, "wrong_type", "time"),
        ({"time": True}, "wrong_type", "time"),
        ({"time": []}, "wrong_type", "time"),
        ({"received_at": "later"}, "bad_time", "received_at"),
        ({"received_at": 1.5}, "wrong_type", "received_at"),
        ({"received_at": {}, "time": {}}, "wrong_type", "time"),
        ({"properties": []}, "wrong_type", "properties"),
        ({"properties": "x", "type": "customer.delete"}, "wrong_type", "properties"),
        ({"properties": 0, "type": "page.visit"}, "wrong_type", "properties"),
        ({"event_id": 5.5, "type": 1, "customer_id": 1.5}, "wrong_type", "event_id"),
    ],
)
def test_the_first_wrong_field_of_an_event_is_named(fields: dict[str, Any], code: str, path: str) -> None:
    outcome = rejected(record(**fields))
    assert (outcome.code, outcome.path) == (code, path)


ORDER = {"order_id": "o", "total": 1}
ITEM = {"product_id": "p"}


@pytest.mark.parametrize(
    ("kind", "properties", "code", "path"),
    [
        ("page.visit", None, "missing", ""),
        ("location.visit", None, "missing", ""),
        ("purchase.order", None, "missing", ""),
        ("app.screen", None, "missing", ""),
        ("page.visit", {}, "missing", "url"),
        ("page.visit", {"url": None}, "missing", "url"),
        ("page.visit", {"url": 5}, "wrong_type", "url"),
        ("page.visit", {"url": "/home"}, "bad_url", "url"),
        ("page.visit", {"url": LONG}, "bad_url", "url"),
        ("page.visit", {"url": "https://a.example", "referrer": 5}, "wrong_type", "referrer"),
        ("email.opened", {"campaign_id": 1.5}, "wrong_type", "campaign_id"),
        ("push.opened", {"campaign_id": False}, "wrong_type", "campaign_id"),
        ("location.visit", {}, "missing", "location_id"),
        ("location.visit", {"location_id": []}, "wrong_type", "location_id"),
        ("location.visit", {"location_id": "l", "beacon_id": 2.0}, "wrong_type", "beacon_id"),
        ("app.screen", {"screen": None}, "missing", "screen"),
        ("app.screen", {"screen": {}}, "wrong_type", "screen"),
        ("purchase.order", {}, "missing", "order_id"),
        ("purchase.order", {"order_id": "o"}, "missing", "total"),
        ("purchase.order", {"order_id": 0.5, "total": 0.00000001234567890123}, "wrong_type", "order_id"),
        ("purchase.order", ORDER | {"total": "1"}, "wrong_type", "total"),
        ("purchase.order", ORDER | {"total": True}, "wrong_type", "total"),
        ("purchase.order", ORDER | {"total": -0.01}, "out_of_range", "total"),
        ("purchase.order", ORDER | {"total": -1e-7}, "out_of_range", "total"),
        ("purchase.order", ORDER | {"total": -1}, "out_of_range", "total"),
        ("purchase.order", ORDER | {"total": 10**12}, "out_of_range", "total"),
        ("purchase.order", ORDER | {"total": 10**40}, "out_of_range", "total"),
        ("purchase.order", ORDER | {"total": 1e300}, "out_of_range", "total"),
        ("purchase.order", ORDER | {"total": 999999999999.9999999}, "out_of_range", "total"),
        ("purchase.order", ORDER | {"currency": ["EUR"]}, "wrong_type", "currency"),
        ("purchase.order", ORDER | {"items": {}}, "wrong_type", "items"),
        ("purchase.order", ORDER | {"items": ["p"]}, "wrong_type", "items[0]"),
        ("purchase.order", ORDER | {"items": [{}]}, "missing", "items[0].product_id"),
        ("purchase.order", ORDER | {"items": [ITEM, ITEM | {"product_id": True}]}, "wrong_type", "items[1].product_id"),
        ("purchase.order", ORDER | {"items": [None, {}]}, "missing", "items[1].product_id"),
        ("purchase.order", ORDER | {"items": [ITEM | {"category": 1.5}]}, "wrong_type", "items[0].category"),
        ("purchase.order", ORDER | {"items": [ITEM | {"category": {}}]}, "wrong_type", "items[0].category"),
        ("purchase.order", ORDER | {"items": [ITEM | {"category": ["a", []]}]}, "wrong_type", "items[0].category[1]"),
        ("purchase.order", ORDER | {"items": [ITEM | {"price": -1}]}, "out_of_range", "items[0].price"),
        ("purchase.order", ORDER | {"items": [ITEM | {"price": 1e12}]}, "out_of_range", "items[0].price"),
        ("purchase.order", ORDER | {"items": [ITEM | {"price": "1"}]}, "wrong_type", "items[0].price"),
        ("purchase.order", ORDER | {"items": [ITEM | {"quantity": "1"}]}, "wrong_type", "items[0].quantity"),
        ("purchase.order", ORDER | {"items": [ITEM | {"quantity": True}]}, "wrong_type", "items[0].quantity"),
        ("customer.update", {"attributes": []}, "wrong_type", "attributes"),
        ("customer.update", {"agreements": True}, "wrong_type", "agreements"),
        ("customer.update", {"agreements": {"sms": 1}}, "wrong_type", "agreements.sms"),
        ("customer.update", {"agreements": {"sms": "yes"}}, "wrong_type", "agreements.sms"),
        ("customer.update", {"agreements": {LONG: 0}}, "wrong_type", "agreements." + LONG[:79] + "…"),
    ],
)
def test_the_first_wrong_property_is_named(kind: str, properties: Any, code: str, path: str) -> None:
    outcome = rejected(of_type(kind, properties))
    assert (outcome.code, outcome.path) == (code, f"properties.{path}".rstrip("."))


def test_a_message_says_what_was_expected_and_what_was_there() -> None:
    properties = ORDER | {"items": [ITEM | {"price": [1]}]}
    assert rejected(of_type("purchase.order", properties)).message == "expected a number, got a list"
    assert rejected(record(time="soon")).message == (
        'expected RFC 3339 with an offset, such as 2026-01-31T23:59:59.000Z, got the string "soon"'
    )


@pytest.mark.parametrize(
    ("key", "fields", "code", "path"),
    [
        (None, {}, "no_key", ""),
        (b"", {}, "key_mismatch", "customer_id"),
        (b"c2", {}, "key_mismatch", "customer_id"),
        (b"\xff", {}, "key_mismatch", "customer_id"),
        (b"x" * 100_000, {"customer_id": LONG[:256]}, "key_mismatch", "customer_id"),
        (b"c2", {"type": []}, "wrong_type", "type"),
        (b"c2", {"time": []}, "key_mismatch", "customer_id"),
    ],
)
def test_a_key_that_is_not_the_customer_is_rejected(
    key: bytes | None, fields: dict[str, Any], code: str, path: str
) -> None:
    value = orjson.dumps(record(**fields))
    outcome = decode_record(value, key, 0, 11)
    assert isinstance(outcome, Rejected)
    assert outcome == Rejected(code, path, outcome.message, key, value, 11, "tracking", 3)
    assert len(outcome.message) <= 200


@pytest.mark.parametrize(("customer_id", "key"), [("ä😀", "ä😀".encode()), (42, b"42")])
def test_the_key_is_the_customer_in_utf8(customer_id: object, key: bytes) -> None:
    assert isinstance(decode_record(orjson.dumps(record(customer_id=customer_id)), key, 0, 0), Event)


@pytest.mark.parametrize(
    ("value", "timestamp", "code", "path"),
    [
        (None, 0, "not_json", ""),
        (b"x" * (MAX_VALUE_BYTES + 1), 0, "too_large", ""),
        (orjson.dumps(record(filler="x" * MAX_VALUE_BYTES)), 0, "too_large", ""),
        (orjson.dumps(record(time=...)), None, "missing", "time"),
        (orjson.dumps(record(time=None)), -1, "missing", "time"),
        (orjson.dumps(record(time=...)), 10**15, "bad_time", "time"),
    ],
)
def test_records_without_a_usable_value_or_time_are_rejected(
    value: bytes | None, timestamp: int | None, code: str, path: str
) -> None:
    outcome = decode_record(value, b"c1", timestamp, 0)
    assert isinstance(outcome, Rejected)
    assert (outcome.code, outcome.path, outcome.value) == (code, path, value)


def test_an_oversize_line_is_rejected_with_what_is_known_of_it() -> None:
    outcome = decode_line(OversizeLine(b"abc", 2_000_000, "00ff"), 4)
    message = "expected at most 1048576 bytes, got 2000000"
    assert outcome == RejectedLine("too_large", "", message, None, b"abc", 4, size=2_000_000, sha256="00ff")


@pytest.mark.parametrize(("depth", "is_valid"), [(1, True), (100, True), (101, False), (240, False), (900, False)])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_attributes_are_nested_at_most_a_hundred_levels(opening: str, closing: str, depth: int, is_valid: bool) -> None:
    nested = opening * depth + "null" + closing * depth if opening != "[" else opening * depth + closing * depth
    properties = f'{{"attributes":{{"deep":{nested}}}}}'
    value = f'{{"event_id":"e","type":"customer.update","customer_id":"c","time":0,"properties":{properties}}}'
    if is_valid:
        decoded(value.encode())
    else:
        outcome = rejected(value.encode())
        assert (outcome.code, outcome.path) == ("out_of_range", "properties.attributes.deep")


@pytest.mark.parametrize("depth", [*range(400, 520, 20), *range(930, 1030, 3)])
def test_properties_of_an_event_can_be_read_however_deeply_they_are_nested(depth: int) -> None:
    nested = "[" * depth + "1e999" + "]" * depth
    value = f'{{"event_id":"e","type":"x","customer_id":"c","time":0,"properties":{{"a":{nested}}}}}'
    outcome = decode_line(value.encode(), 0)
    if isinstance(outcome, Event):
        assert_read_below(outcome, 40)


def assert_read_below(event: Event, frames: int) -> None:
    """That the properties can be read with so many calls more on the stack."""
    if frames:
        assert_read_below(event, frames - 1)
    else:
        assert list(event.read_properties()) == ["a"]


@pytest.mark.parametrize("frames", [0, 300])
@pytest.mark.parametrize(("event_id", "inner"), [(str(10**30), '"]["'), ('"e"', '"]\\"[",1e999')])
def test_how_deep_numbers_as_written_may_lie_does_not_depend_on_the_stack(
    frames: int, event_id: str, inner: str
) -> None:
    for depth in (10, 498, 499, 990, 1010):
        nested = "[" * depth + inner + "]" * depth
        value = f'{{"event_id":{event_id},"type":"x","customer_id":"c","time":0,"properties":{{"a":{nested}}}}}'
        outcome = decode_below(value.encode(), frames)
        assert isinstance(outcome, Event) is (depth <= 498)
        if isinstance(outcome, Rejected):
            assert outcome.code == "not_json"


def decode_below(value: bytes, frames: int) -> Event | Rejected:
    """The event of a line, read with so many calls more on the stack."""
    return decode_below(value, frames - 1) if frames else decode_line(value, 0)


# Nothing makes it raise

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SAMPLES: list[dict[str, Any]] = [
    of_type("page.visit", {"url": "https://a.example/p?q", "referrer": "https://b.example/"}),
    of_type("email.opened", {"campaign_id": "k"}),
    of_type("location.visit", {"location_id": "l", "beacon_id": 5}),
    of_type("purchase.order", ORDER | {"items": [ITEM | {"category": ["a"], "price": 1.1, "quantity": 2}]}),
    of_type("app.screen", {"screen": "s"}),
    of_type("customer.update", {"attributes": {"a": {"b": [None, 1]}}, "agreements": {"sms": True}}),
    of_type("customer.delete", None),
]


def places(value: Any) -> list[tuple[Any, ...]]:
    """The path of every value inside."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((name, *rest) for name, member in members for rest in places(member))]


def mutated(value: Any, place: tuple[Any, ...], junk: Any) -> Any:
    if not place:
        return junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = mutated(value[place[0]], place[1:], junk)
    return copy


def assert_event_or_rejected(outcome: Event | Rejected) -> None:
    if isinstance(outcome, Rejected):
        assert outcome.code in CODES
        assert len(outcome.message) <= 200
    else:
        assert 1 <= len(outcome.event_id) <= 128
        assert 1 <= len(outcome.customer_id) <= 256
        assert 0 <= outcome.time_ms <= outcome.record_time_ms
        orjson.dumps(outcome.read_properties())


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_give_an_event_or_a_rejection(value: bytes) -> None:
    assert_event_or_rejected(decode_line(value, 0))
    assert_event_or_rejected(decode_record(value, b"c1", 0, 0))


@settings(max_examples=500)
@given(st.data())
def test_a_mutated_event_gives_an_event_or_a_rejection(data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from(SAMPLES))
    place = data.draw(st.sampled_from(places(sample)))
    value = json.dumps(mutated(sample, place, data.draw(JUNK))).encode()
    assert_event_or_rejected(decode_line(value, 0))
    assert_event_or_rejected(decode_record(value, b"c1", TIME_MS, 0))


@settings(max_examples=500)
@given(st.data())
def test_the_quick_reading_gives_the_event_that_the_careful_one_gives(data: st.DataObject) -> None:
    sample = data.draw(st.sampled_from(SAMPLES))
    value = json.dumps(mutated(sample, data.draw(st.sampled_from(places(sample))), data.draw(JUNK))).encode()
    quick, careful = decode_line(value, 0), decode_line_with_care(value, 0)
    assert quick == careful if isinstance(quick, Rejected) else read_whole(quick) == careful


TYPES = (
    "page.visit",
    "email.opened",
    "location.visit",
    "purchase.order",
    "app.screen",
    "customer.update",
    "customer.delete",
    "session.started",
)


@pytest.mark.parametrize("more", [{}, {"properties": None}, {"properties": {}}, {"properties": []}])
@pytest.mark.parametrize("kind", TYPES)
def test_an_event_without_properties_is_read_alike_quickly_and_with_care(kind: str, more: dict[str, Any]) -> None:
    value = orjson.dumps({"event_id": "e", "type": kind, "customer_id": "c", "time": 5, **more})
    quick, careful = decode_line(value, 0), decode_line_with_care(value, 0)
    assert quick == careful if isinstance(quick, Rejected) else read_whole(quick) == careful


DIGITS = st.builds(str.__mul__, st.sampled_from("179"), st.sampled_from((1, 16, 20, 400, 1_001, 4_301)))
WHOLE = DIGITS | DIGITS.map("-{}".format)
EXPONENTS = st.sampled_from(("e5", "e-9", "E999", "e9999999", f"e{10**20}", f"e-{10**20}"))
RAW_NUMBERS = WHOLE | st.builds("{}.{}".format, WHOLE, DIGITS) | st.builds("{}{}".format, WHOLE, EXPONENTS)
RAW_TEXTS = st.sampled_from(("\\ud800", "\\udc00\\ud800", "\\q", "\\u12", "\x01", "\\u0000", "]", '\\"[', "😀"))
RAW_SCALARS = RAW_NUMBERS | RAW_TEXTS.map('"{}"'.format) | st.sampled_from(("NaN", "-Infinity", "+1", "01", "tru", ""))
RAW_DEEP = st.builds(
    lambda brackets, depth, inner: brackets[0] * depth + inner + brackets[1] * depth,
    st.sampled_from((("[", "]"), ('{"a":', "}"), ("[", ""))),
    st.sampled_from((1, 100, 101, 470, 490, 500, 900, 990, 1_010, 1_030, 5_000)),
    RAW_SCALARS,
)
RAW = RAW_SCALARS | RAW_DEEP
FIELDS = ("event_id", "type", "customer_id", "time", "received_at", "properties", "more")


@st.composite
def nasty_records(draw: st.DrawFn) -> bytes:
    """A sample with anything at all in one place, perhaps behind fields that stand there twice."""
    sample, mark = draw(st.sampled_from(SAMPLES)), "as written"
    value = json.dumps(mutated(sample, draw(st.sampled_from(places(sample))), mark))
    value = value.replace(json.dumps(mark), draw(RAW))
    repeated = draw(st.lists(st.tuples(st.sampled_from(FIELDS), RAW), max_size=2))
    first = "".join(f'"{name}":{raw},' for name, raw in repeated)
    return (f"{{{first}{value[1:]}" if value.startswith("{") else value).encode()


@settings(max_examples=2_000, deadline=None)
@given(nasty_records())
def test_an_event_with_nasty_json_in_it_gives_an_event_or_a_rejection(value: bytes) -> None:
    for outcome in (decode_record(value, b"c1", TIME_MS, 0), decode_line(value, 0)):
        if isinstance(outcome, Event):
            outcome.read_properties()
    careful = decode_line_with_care(value, 0)
    assert outcome == careful if isinstance(outcome, Rejected) else read_whole(outcome) == careful


@given(st.sampled_from(SAMPLES), st.integers(0, 300), st.binary(max_size=3))
def test_an_event_with_damaged_bytes_gives_an_event_or_a_rejection(
    sample: dict[str, Any], at: int, damage: bytes
) -> None:
    value = orjson.dumps(sample)
    assert_event_or_rejected(decode_line(value[:at] + damage + value[at + 1 :], 0))


# What nobody foresaw


class FailingReader:
    """Stands for `load_json`, and fails as told for records with a mark in them."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, value: bytes) -> Any:
        if b"mark" in value:
            raise self._error
        return orjson.loads(value)


UNFORESEEN = [
    (RuntimeError("no"), "RuntimeError: no"),
    (RecursionError("too deep"), "RecursionError: too deep"),
    (KeyError("a\ud800\n"), "KeyError: 'a\\\\ud800\\\\n'"),
    (ValueError("\ud800" + "x" * 1_000), "ValueError: \\ud800xxx"),
]


@pytest.mark.parametrize(("error", "words"), UNFORESEEN)
def test_a_record_that_the_decoder_fails_on_is_rejected_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    monkeypatch.setattr(json_events, "load_json", FailingReader(error))
    values = [orjson.dumps(record(event_id=each)) for each in ("e1", "e2")]
    values.insert(1, orjson.dumps(record(event_id=5, more="mark")))
    records = json_events.decode_records([(value, b"c1", 5, at) for at, value in enumerate(values)], "tracking", 3)
    lines = json_events.decode_lines(values, [0, 1, 2])
    for outcomes in (records, lines):
        assert [isinstance(each, Event) for each in outcomes] == [True, False, True]
    failed = records[1]
    assert isinstance(failed, Rejected)
    assert (failed.code, failed.path, failed.offset, failed.topic, failed.partition) == (
        "internal",
        "",
        1,
        "tracking",
        3,
    )
    assert (failed.key, failed.value) == (b"c1", values[1])
    assert words in failed.message
    assert len(failed.message) <= 200
    assert "Traceback" in failed.trace
    assert "test_json_events.py" in failed.trace


def test_a_record_that_the_quick_reading_fails_on_is_read_with_care(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(typed_events.PAYLOAD_MAKERS, "custom", {}.__getitem__)
    event = decode_record(orjson.dumps(record(properties={"a": 1})), b"c1", TIME_MS, 0)
    assert isinstance(event, Event)
    assert event.properties == {"a": 1}


@pytest.mark.parametrize("name", ["", "encoded", "value"])
@pytest.mark.parametrize("value", ["aGVsbG8=", "no base64", 5, None])
def test_a_member_that_events_do_not_have_changes_nothing_whatever_its_name(name: str, value: Any) -> None:
    assert decoded(record(properties={"a": 1}) | {name: value}).read_properties() == {"a": 1}


def test_want_of_memory_says_nothing_of_the_record_and_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_events, "load_json", FailingReader(MemoryError()))
    with pytest.raises(MemoryError):
        decode_line(orjson.dumps(record(event_id=5, more="mark")), 0)


@pytest.mark.parametrize(
    ("total", "micros"),
    [
        ("17" * 5_000 + "E-9996", 1_717_171_717),
        ("17" * 5_000 + "E-9999", 1_717_172),
        ("17" * 5_000 + "E-10003", 172),
        ("17" * 5_000 + "e-100000", 0),
        ("17" * 5_000 + "E-1000000000000000000", 0),
        ("0." + "0" * 10_000 + "17E10003", 170_000_000),
    ],
)
def test_an_amount_of_very_many_digits_counts_as_written(total: str, micros: int) -> None:
    properties = f'{{"order_id":"o","total":{total}}}'
    value = f'{{"event_id":"e","type":"purchase.order","customer_id":"c","time":0,"properties":{properties}}}'
    assert decoded(value.encode()).payload == Order("o", micros)
