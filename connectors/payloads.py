"""The `properties` of each built-in event type, checked and read into payloads."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from conditions.events import (
    CUSTOMER_DELETE,
    CUSTOMER_UPDATE,
    MICROS_PER_UNIT,
    AppScreen,
    CustomerUpdate,
    Item,
    LocationVisit,
    Message,
    Order,
    PageVisit,
    Payload,
)
from conditions.money import micros_of_float, to_micros
from conditions.urls import parse_url

MAX_EVENT_ID_CHARACTERS = 128
MAX_CUSTOMER_ID_CHARACTERS = 256

MAX_ATTRIBUTE_DEPTH = 100
"""How many objects and lists may lie inside each other in one attribute's value."""

MONEY_LIMIT_MICROS = 10**18
"""Amounts stay below this: 10^12 units."""

PayloadParser = Callable[[dict[str, Any]], Payload]

_CHANNEL_PREFIXES = ("email.", "sms.", "push.")
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_CACHED_TYPES = 4_096
_SHOWN_CHARACTERS = 80
_MOST_DIGITS = 1_000  # reading digits takes quadratic time, and of more than 4,300 Python reads none


class FieldError(Exception):
    """The first wrong field of an event: its dead-letter `code`, its `path` and a `message` for people."""

    def __init__(self, code: str, path: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.path = path
        self.message = message


class InexactNumberError(Exception):
    """A number's double does not tell what was written: read the record again with `exact_number` and
    `exact_integer`.

    Never raised for records read that way, whose fractional numbers are Decimals.
    """


def exact_number(text: str) -> Decimal:
    """The fractional JSON number as written, whatever its digits."""
    try:
        return Decimal(text)
    except InvalidOperation:
        # its exponent is beyond even Decimal's: it is as good as its double, which is zero or infinite
        return Decimal(float(text))


class LongInteger(int):
    """An integer of very many digits, which are told as written; as a number it is beyond the limits of all fields."""

    _text: str

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text[:_MOST_DIGITS])
        number._text = text
        return number

    def __str__(self) -> str:
        return self._text


def exact_integer(text: str) -> int:
    """The JSON integer as written, whatever its digits."""
    return int(text) if len(text) <= _MOST_DIGITS else LongInteger(text)


def payload_parser(kind: object) -> PayloadParser | None:
    """The parser for events of this type, None where the type has no payload. Raises FieldError for a bad type."""
    if type(kind) is not str:
        raise missing("type", "a string") if kind is None else wrong_type("type", "a string", kind)
    try:
        return _parsers[kind]
    except KeyError:
        return _remember_type(kind)


def is_message(kind: str) -> bool:
    """Whether events of this type tell of a message; a channel with no action, `email.`, is a custom type."""
    return kind.startswith(_CHANNEL_PREFIXES) and kind not in _CHANNEL_PREFIXES


def absent_properties(kind: str) -> dict[str, Any]:
    """What an event without `properties` has: none, or FieldError where its type cannot do without."""
    if kind in _NEED_PROPERTIES:
        raise missing("properties", f"an object, which {kind} needs")
    return {}


def identifier(value: object, path: str) -> str:
    """A required id or name: a string, or an integer as its decimal string."""
    if type(value) is str:
        return value
    if value is None:
        raise missing(path, "a string")
    return _integer_text(value, path, "a string")


def optional_identifier(value: object, path: str) -> str | None:
    """An id or name that may be absent: a string, or an integer as its decimal string."""
    if value is None or type(value) is str:
        return value
    return _integer_text(value, path, "a string")


def missing(path: str, expected: str) -> FieldError:
    return FieldError("missing", path, f"expected {expected}, got nothing")


def wrong_type(path: str, expected: str, value: object) -> FieldError:
    return FieldError("wrong_type", path, f"expected {expected}, got {describe(value)}")


def describe(value: object) -> str:
    """A JSON value for a message, shortened."""
    if isinstance(value, str):
        return f'the string "{shorten(value)}"'
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"the number {shorten(str(value))}"


def shorten(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _integer_text(value: object, path: str, expected: str) -> str:
    if type(value) in _INTEGERS:
        return str(value)
    if type(value) is float:
        # an integer beyond 64 bits arrives as a float too
        raise InexactNumberError
    raise wrong_type(path, expected, value)


def _remember_type(kind: str) -> PayloadParser | None:
    if _TYPE.fullmatch(kind) is None:
        expected = "expected 1 to 128 letters, digits, _ . -, of which a letter or digit comes first"
        raise FieldError("out_of_range", "type", f"{expected}, got {describe(kind)}")
    parser = _message if is_message(kind) else None
    if len(_parsers) >= _CACHED_TYPES:
        _parsers.clear()
        _parsers.update(_BUILT_IN)
    _parsers[kind] = parser
    return parser


def _page_visit(properties: dict[str, Any]) -> PageVisit:
    text = properties.get("url")
    url = parse_url(text) if type(text) is str else None
    if url is None:
        raise _no_url(text)
    referrer = properties.get("referrer")
    if referrer is not None and type(referrer) is not str:
        raise wrong_type("properties.referrer", "a string", referrer)
    return PageVisit(url, referrer)


def _no_url(value: object) -> FieldError:
    path = "properties.url"
    if value is None:
        return missing(path, "an absolute URL")
    if type(value) is str:
        return FieldError("bad_url", path, f"expected an absolute URL, scheme://host, got {describe(value)}")
    return wrong_type(path, "an absolute URL", value)


def _message(properties: dict[str, Any]) -> Message:
    return Message(optional_identifier(properties.get("campaign_id"), "properties.campaign_id"))


def _location_visit(properties: dict[str, Any]) -> LocationVisit:
    return LocationVisit(
        identifier(properties.get("location_id"), "properties.location_id"),
        optional_identifier(properties.get("beacon_id"), "properties.beacon_id"),
    )


def _app_screen(properties: dict[str, Any]) -> AppScreen:
    return AppScreen(identifier(properties.get("screen"), "properties.screen"))


def _order(properties: dict[str, Any]) -> Order:
    get = properties.get
    order_id = identifier(get("order_id"), "properties.order_id")
    total_micros = _amount(get("total"), "properties.total")
    if total_micros is None:
        raise missing("properties.total", "a number")
    currency = optional_identifier(get("currency"), "properties.currency")
    items = get("items")
    return Order(order_id, total_micros, currency, () if items is None else _items(items))


def _items(items: object) -> tuple[Item, ...]:
    if type(items) is not list:
        raise wrong_type("properties.items", "a list of objects", items)
    return tuple([_item(item, index) for index, item in enumerate(items) if item is not None])


def _item(item: object, index: int) -> Item:
    """One item. Its path is only put together once something is wrong with it: items are many."""
    try:
        if type(item) is not dict:
            raise wrong_type("", "an object", item)
        get = item.get
        product_id = identifier(get("product_id"), ".product_id")
        categories = _categories(get("category"))
        price_micros = _amount(get("price"), ".price")
        quantity = get("quantity")
        if quantity is not None and type(quantity) not in _NUMBERS:
            raise wrong_type(".quantity", "a number", quantity)
        return Item(product_id, categories, price_micros)
    except FieldError as invalid:
        invalid.path = f"properties.items[{index}]{invalid.path}"
        raise


def _categories(category: object) -> tuple[str, ...]:
    if type(category) is str:
        return (category,)
    if category is None:
        return ()
    if type(category) is list:
        return tuple([_listed(name, i) for i, name in enumerate(category) if name is not None])
    return (_integer_text(category, ".category", "a string or a list of strings"),)


def _listed(category: object, index: int) -> str:
    return category if type(category) is str else _integer_text(category, f".category[{index}]", "a string")


def _amount(value: Any, path: str) -> int | None:
    """Money in micros: 0 or more and below the limit; None where absent."""
    micros: int | None
    if type(value) is float:
        micros = micros_of_float(value)
        if micros is None:
            raise InexactNumberError
    elif type(value) in _INTEGERS:
        micros = value * MICROS_PER_UNIT
    elif value is None:
        return None
    elif type(value) is Decimal:
        # comparing, unlike abs, is exact whatever the exponent
        in_reach = -MONEY_LIMIT_MICROS < value < MONEY_LIMIT_MICROS
        micros = to_micros(value) if in_reach else MONEY_LIMIT_MICROS
    else:
        raise wrong_type(path, "a number", value)
    if micros >= MONEY_LIMIT_MICROS or value < 0:
        raise FieldError("out_of_range", path, f"expected a number from 0 to below 10^12, got {describe(value)}")
    return micros


def customer_update(properties: dict[str, Any]) -> CustomerUpdate:
    """Raises FieldError, never InexactNumberError: numbers in attributes are what JSON made of them."""
    attributes = properties.get("attributes")
    if attributes is None:
        attributes = {}
    elif type(attributes) is not dict:
        raise wrong_type("properties.attributes", "an object", attributes)
    elif not _FLAT.issuperset(map(type, attributes.values())):
        attributes = {name: _without_nulls(value, name, 1) for name, value in attributes.items()}
    return CustomerUpdate(attributes, _agreements(properties.get("agreements")))


def _without_nulls(value: Any, name: str, depth: int) -> Any:
    """An attribute's value without the nulls anywhere inside it; the very same where it holds nothing to look into."""
    kind = type(value)
    if kind is not dict and kind is not list:
        return value
    if depth > MAX_ATTRIBUTE_DEPTH:
        expected = f"expected at most {MAX_ATTRIBUTE_DEPTH} objects and lists inside each other"
        raise FieldError("out_of_range", f"properties.attributes.{shorten(name)}", expected)
    if _NULL_OR_NESTED.isdisjoint(map(type, value.values() if kind is dict else value)):
        return value
    if kind is dict:
        return {key: _without_nulls(member, name, depth + 1) for key, member in value.items() if member is not None}
    return [_without_nulls(member, name, depth + 1) for member in value if member is not None]


def _agreements(agreements: object) -> dict[str, bool]:
    if agreements is None:
        return {}
    if type(agreements) is not dict:
        raise wrong_type("properties.agreements", "an object of channel to boolean", agreements)
    for channel, agreed in agreements.items():
        if agreed is not None and type(agreed) is not bool:
            raise wrong_type(f"properties.agreements.{shorten(channel)}", "a boolean", agreed)
    return {channel: agreed for channel, agreed in agreements.items() if agreed is not None}


_INTEGERS = (int, LongInteger)
_NUMBERS = (*_INTEGERS, float, Decimal)
_NULL_OR_NESTED = frozenset((dict, list, type(None)))
# what an attribute may be without a look inside; a null at the top removes it
_FLAT = frozenset((str, int, float, bool, type(None)))

_BUILT_IN: dict[str, PayloadParser | None] = {
    "page.visit": _page_visit,
    "location.visit": _location_visit,
    "purchase.order": _order,
    "app.screen": _app_screen,
    CUSTOMER_UPDATE: customer_update,
    CUSTOMER_DELETE: None,
}
_NEED_PROPERTIES = frozenset(("page.visit", "location.visit", "purchase.order", "app.screen"))
_parsers = dict(_BUILT_IN)
