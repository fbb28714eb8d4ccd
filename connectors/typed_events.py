"""The quick reading of an event: by types known beforehand, from bytes to its payload without a dictionary between.

It takes what nearly all records are and raises for every other; those are read with care, which finds the event after
all or names what is wrong (`connectors/json_events.py`). Where both give an event, it is the same one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import orjson

from conditions.events import (
    CUSTOMER_UPDATE,
    AppScreen,
    CustomerUpdate,
    Item,
    LocationVisit,
    Message,
    Order,
    PageVisit,
    Payload,
)
from conditions.money import micros_of_float
from conditions.urls import parse_url
from connectors.payloads import (
    MAX_CUSTOMER_ID_CHARACTERS,
    MAX_EVENT_ID_CHARACTERS,
    MONEY_LIMIT_MICROS,
    FieldError,
    customer_update,
    is_message,
    payload_parser,
)

MAX_SLOW_DEPTH = 500
"""How many objects and lists may lie inside each other where the standard library's parser reads: it takes stack."""

_CACHED_TYPES = 4_096
_LEAST_INTEGER, _FIRST_ABOVE, _LONGEST_INTEGER = -(1 << 63), 1 << 64, 20  # what orjson reads as integers


class OddEvent(Exception):
    """Not for the quick reading."""


class _Item(msgspec.Struct, gc=False):
    product_id: str
    category: str | list[str] | None = None
    price: float | None = None
    quantity: float | None = None


class _Properties(msgspec.Struct, gc=False):
    """The properties that any built-in type reads, so that an event is one decoding, whatever its type."""

    url: str | None = None
    referrer: str | None = None
    campaign_id: str | None = None
    location_id: str | None = None
    beacon_id: str | None = None
    screen: str | None = None
    order_id: str | None = None
    total: float | None = None
    currency: str | None = None
    items: list[_Item | None] | None = None


class Envelope(msgspec.Struct, gc=False):
    """An event as it is written."""

    event_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_EVENT_ID_CHARACTERS)]
    type: str
    customer_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CUSTOMER_ID_CHARACTERS)]
    time: str | int | None = None
    received_at: str | int | None = None
    properties: _Properties = msgspec.field(default_factory=_Properties)
    # The whole record, laid here once it was read; a member of that name, which no event has, is decoded for nothing.
    encoded: bytes = msgspec.field(default=b"", name="")

    def read(self) -> dict[str, Any]:
        """All properties, decoded."""
        properties: dict[str, Any] = load_json(self.encoded).get("properties", {})
        return properties


decode_envelope = msgspec.json.Decoder(Envelope).decode

# What makes the payload of an event of one type. Raises OddEvent for properties that are not for the quick reading.
PayloadMaker = Callable[[Envelope], Payload]


def load_json(value: bytes) -> Any:
    """JSON whose numbers are doubles where they are no 64-bit integers; those beyond doubles are infinite.

    Raises orjson.JSONDecodeError, and FieldError where there are numbers beyond doubles in what is nested too deeply.
    """
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        # It stops at the first number beyond doubles, which is JSON all the same; is the rest, too?
        if "infinity" not in str(error):
            raise
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            _check_grammar(value)
            return load_numbers(value, _integer_or_double, float)
        raise


def load_numbers(value: bytes, integer: Callable[[str], Any], fraction: Callable[[str], Any]) -> Any:
    """Sound JSON with numbers as the functions make them of what is written.

    Raises FieldError where it is nested so deeply that how much stack is in use would decide whether it can be read.
    """
    if _nests_deeply(value):
        expected = f"expected at most {MAX_SLOW_DEPTH} objects and lists inside each other"
        raise FieldError("not_json", "", f"{expected} beside a number that is read as it is written")
    return json.loads(value.decode(), parse_int=integer, parse_float=fraction)


def _nests_deeply(value: bytes) -> bool:
    if value.count(b"[") + value.count(b"{") <= MAX_SLOW_DEPTH:
        return False
    depth = 0
    for bracket in _BRACKET.findall(_TEXT.sub(b"", value)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_SLOW_DEPTH:
            return True
    return False


_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_BRACKET = re.compile(rb"[][{}]")


def _integer_or_double(text: str) -> int | float:
    number = int(text) if len(text) <= _LONGEST_INTEGER else _FIRST_ABOVE
    return number if _LEAST_INTEGER <= number < _FIRST_ABOVE else float(text)


def new_payload_maker(kind: str) -> PayloadMaker:
    """What makes the payloads of events of a type that is not among PAYLOAD_MAKERS yet.

    Raises FieldError for a bad type.
    """
    payload_parser(kind)
    if len(PAYLOAD_MAKERS) >= _CACHED_TYPES:
        PAYLOAD_MAKERS.clear()
        PAYLOAD_MAKERS.update(_BUILT_IN)
    maker = PAYLOAD_MAKERS[kind] = _message if is_message(kind) else _nothing
    return maker


_check_grammar = msgspec.json.Decoder(msgspec.Raw).decode


def _nothing(_read: Envelope) -> None:
    return None


def _page_visit(read: Envelope) -> PageVisit:
    text = read.properties.url
    url = None if text is None else parse_url(text)
    if url is None:
        raise OddEvent
    return PageVisit(url, read.properties.referrer)


def _message(read: Envelope) -> Message:
    return Message(read.properties.campaign_id)


def _location_visit(read: Envelope) -> LocationVisit:
    return LocationVisit(_required(read.properties.location_id), read.properties.beacon_id)


def _app_screen(read: Envelope) -> AppScreen:
    return AppScreen(_required(read.properties.screen))


def _order(read: Envelope) -> Order:
    properties = read.properties
    if properties.total is None:
        raise OddEvent
    items = tuple([_item(item) for item in properties.items if item is not None]) if properties.items else ()
    return Order(_required(properties.order_id), _micros(properties.total), properties.currency, items)


def _required(text: str | None) -> str:
    if text is None:
        raise OddEvent
    return text


def _item(item: _Item) -> Item:
    category = item.category
    if type(category) is str:
        categories: tuple[str, ...] = (category,)
    else:
        categories = tuple(category) if category else ()
    return Item(item.product_id, categories, None if item.price is None else _micros(item.price))


def _micros(amount: float) -> int:
    """Raises OddEvent where the digits as written must decide, or the amount is out of range."""
    micros = micros_of_float(amount)
    if micros is None or amount < 0 or micros >= MONEY_LIMIT_MICROS:
        raise OddEvent
    return micros


def _customer_update(read: Envelope) -> CustomerUpdate:
    return customer_update(read.read())


_BUILT_IN: dict[str, PayloadMaker] = {
    "page.visit": _page_visit,
    "location.visit": _location_visit,
    "purchase.order": _order,
    "app.screen": _app_screen,
    CUSTOMER_UPDATE: _customer_update,
}
PAYLOAD_MAKERS = dict(_BUILT_IN)
"""By event type; other types come to be here with their first event."""
