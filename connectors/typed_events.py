"""The quick reading of an event: by types known beforehand, from bytes to its payload without a dictionary between.

It takes what nearly all records are and raises for every other; those are read with care, which finds the event after
all or names what is wrong (`connectors/json_events.py`). Where both give an event, it is the same one.
"""

from __future__ import annotations

import json
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
    customer_update,
    is_message,
    payload_parser,
)

_CACHED_TYPES = 4_096
_LEAST_INTEGER, _FIRST_ABOVE, _LONGEST_INTEGER = -(1 << 63), 1 << 64, 20  # what orjson reads as integers

QuickPayload = Callable[[msgspec.Raw], Payload]


class OddEvent(Exception):
    """Not for the quick reading."""


class Envelope(msgspec.Struct, gc=False):
    """An event as it is written, its properties still encoded."""

    event_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_EVENT_ID_CHARACTERS)]
    type: str
    customer_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CUSTOMER_ID_CHARACTERS)]
    time: str | int | None = None
    received_at: str | int | None = None
    properties: msgspec.Raw = msgspec.Raw(b"{}")

    def read(self) -> dict[str, Any]:
        """The properties, decoded."""
        properties: dict[str, Any] = load_json(bytes(self.properties))
        return properties


decode_envelope = msgspec.json.Decoder(Envelope).decode


def load_json(value: bytes) -> Any:
    """JSON whose numbers are doubles where they are no 64-bit integers; those beyond doubles are infinite.

    Raises orjson.JSONDecodeError.
    """
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        # It stops at the first number beyond doubles, which is JSON all the same; is the rest, too?
        if "infinity" not in str(error):
            raise
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            _check_grammar(value)
            return json.loads(value.decode(), parse_int=_integer_or_double)
        raise


def _integer_or_double(text: str) -> int | float:
    number = int(text) if len(text) <= _LONGEST_INTEGER else _FIRST_ABOVE
    return number if _LEAST_INTEGER <= number < _FIRST_ABOVE else float(text)


def quick_payload(kind: str) -> QuickPayload:
    """What reads the encoded properties of events of this type. Raises FieldError for a bad type.

    It raises OddEvent, FieldError or one of msgspec's errors for properties that are not for the quick reading.
    """
    try:
        return _readers[kind]
    except KeyError:
        return _remember_type(kind)


def _remember_type(kind: str) -> QuickPayload:
    payload_parser(kind)
    if len(_readers) >= _CACHED_TYPES:
        _readers.clear()
        _readers.update(_BUILT_IN)
    reader = _readers[kind] = _decode_message if is_message(kind) else _nothing
    return reader


class _Object(msgspec.Struct, gc=False):
    """Any JSON object."""


class _Page(msgspec.Struct, gc=False):
    url: str
    referrer: str | None = None


class _Item(msgspec.Struct, gc=False):
    product_id: str
    category: str | list[str] | None = None
    price: float | None = None
    quantity: float | None = None


class _Order(msgspec.Struct, gc=False):
    order_id: str
    total: float
    currency: str | None = None
    items: list[_Item | None] | None = None


_check_grammar = msgspec.json.Decoder(msgspec.Raw).decode
_decode_object = msgspec.json.Decoder(_Object).decode
_decode_page = msgspec.json.Decoder(_Page).decode
_decode_order = msgspec.json.Decoder(_Order).decode
_decode_message = msgspec.json.Decoder(Message).decode


def _nothing(encoded: msgspec.Raw) -> None:
    _decode_object(encoded)


def _page_visit(encoded: msgspec.Raw) -> PageVisit:
    page = _decode_page(encoded)
    url = parse_url(page.url)
    if url is None:
        raise OddEvent
    return PageVisit(url) if page.referrer is None else PageVisit(url, parse_url(page.referrer))


def _order(encoded: msgspec.Raw) -> Order:
    order = _decode_order(encoded)
    items = tuple([_item(item) for item in order.items if item is not None]) if order.items else ()
    return Order(order.order_id, _micros(order.total), order.currency, items)


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


def _customer_update(encoded: msgspec.Raw) -> CustomerUpdate:
    properties = load_json(bytes(encoded))
    if type(properties) is not dict:
        raise OddEvent
    return customer_update(properties)


_BUILT_IN: dict[str, QuickPayload] = {
    "page.visit": _page_visit,
    "location.visit": msgspec.json.Decoder(LocationVisit).decode,
    "purchase.order": _order,
    "app.screen": msgspec.json.Decoder(AppScreen).decode,
    CUSTOMER_UPDATE: _customer_update,
}
_readers = dict(_BUILT_IN)
