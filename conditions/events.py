"""What an event is, once its bytes have been understood.

Every time is an integer of milliseconds since the Unix epoch; money is an integer of millionths (micros).
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

MICROS_PER_UNIT = 1_000_000


class Url(msgspec.Struct, frozen=True, gc=False):
    """An absolute URL as conditions compare it: scheme, user and fragment are gone."""

    host: str  # lower case; with its port unless that is the scheme's default
    path: str  # as written; "/" when it was empty
    query: str  # raw, without the question mark; "" when there was none


class PageVisit(msgspec.Struct, frozen=True, gc=False):
    url: Url
    referrer: str | None = None  # as written; seldom asked for


class Message(msgspec.Struct, frozen=True, gc=False):
    """An email, sms or push event; its action is the rest of the event's type."""

    campaign_id: str | None = None


class LocationVisit(msgspec.Struct, frozen=True, gc=False):
    location_id: str
    beacon_id: str | None = None


class Item(msgspec.Struct, frozen=True, gc=False):
    product_id: str
    categories: tuple[str, ...] = ()
    price_micros: int | None = None


class Order(msgspec.Struct, frozen=True, gc=False):
    order_id: str
    total_micros: int
    currency: str | None = None
    items: tuple[Item, ...] = ()


class AppScreen(msgspec.Struct, frozen=True, gc=False):
    screen: str


class CustomerUpdate(msgspec.Struct, frozen=True):
    """`attributes`: top-level name to its new value, None to remove it; values hold no nulls inside.

    `agreements`: channel to whether the customer agreed.
    """

    attributes: dict[str, Any]
    agreements: dict[str, bool]


Payload = PageVisit | Message | LocationVisit | Order | AppScreen | CustomerUpdate | None

CUSTOMER_DELETE = "customer.delete"
CUSTOMER_UPDATE = "customer.update"


class Encoded(Protocol):
    """Properties that nobody has asked for yet."""

    def read(self) -> dict[str, Any]:
        """Decode them."""


class Event(msgspec.Struct, gc=False):
    """One valid event. `payload` is None for `customer.delete` and for custom types."""

    event_id: str
    type: str
    customer_id: str
    time_ms: int  # event time: min(the event's own time, record_time_ms)
    record_time_ms: int  # the record's timestamp, which alone moves the partition's clock
    offset: int
    properties: dict[str, Any] | Encoded  # as they came; see `read_properties`
    payload: Payload = None
    topic: str | None = None
    partition: int = 0

    def read_properties(self) -> dict[str, Any]:
        """The properties as they came, for `event` conditions; decoded when first asked for."""
        properties = self.properties
        if not isinstance(properties, dict):
            properties = self.properties = properties.read()
        return properties


class Rejected(msgspec.Struct, frozen=True):
    """An invalid record, on its way to the dead letters.

    `path` names the first wrong field ("" for the record itself); `message` says what was expected and what was there.
    `trace` is the traceback where the decoder itself failed, and empty for all that it foresees.
    """

    code: str
    path: str
    message: str
    key: bytes | None
    value: bytes | None
    offset: int
    topic: str | None = None
    partition: int = 0
    trace: str = ""
