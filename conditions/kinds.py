"""Every kind of condition. A kind is one record: its fields, what it means, examples, and the predicate it stands for.

To add a kind, write its record here: the parser, the JSON Schema, the reference page and the engine all read it from
`KINDS`. The class docstring is the first line of the kind's entry in the reference; `examples` run as tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
from msgspec import Meta

from conditions.events import Event, Order, Url
from conditions.features import FOREVER, Atom, CountAtom, EventSet, Predicate, SumAtom, ValueAtom
from conditions.index import Access, Anything, Exact, Part, Prefix, Range, Slot, Test
from conditions.money import to_micros
from conditions.times import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, parse_time
from conditions.urls import parse_url
from conditions.value_access import value_access
from conditions.values import NUMBER_OPERATORS, TEXT_OPERATORS, Operator, canonical, is_number, look_up, operator_test
from conditions.wording import describe

UNITS_MS = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": 7 * DAY_MS}
LONGEST_WINDOW_MS = 36_500 * DAY_MS
UNBOUNDED = float("inf")

# A JSON integer stands for its decimal digits, in documents as in events.
IDENTIFIER = {"identifier": True}
Identifier = Annotated[str, Meta(min_length=1, max_length=1000, extra=IDENTIFIER, extra_json_schema=IDENTIFIER)]
AMOUNT_LIMIT = 10**18
# A Decimal where a double does not tell all the digits that were written.
Amount = Annotated[int, Meta(ge=0, lt=AMOUNT_LIMIT)] | Annotated[float, Meta(ge=0, lt=AMOUNT_LIMIT)] | Decimal
Duration = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,12}[smhdw]\Z",
        description="an integer and s, m, h, d or w: `30d`",
        extra={"words": "a duration: an integer and s, m, h, d or w, such as 30d"},
    ),
]
Timestamp = Annotated[
    str,
    Meta(
        description="RFC 3339 with offset: `2026-01-31T00:00:00Z`",
        extra={"words": "a time: RFC 3339 with offset, such as 2026-01-31T00:00:00Z"},
    ),
]

Problem = tuple[str, str]  # the field, and what is wrong with it
Term = tuple[Atom, bool]  # an atom, and the truth the condition wants of it


class Example(NamedTuple):
    """A condition, an event's type and properties, and whether that event alone makes the condition hold."""

    condition: dict[str, Any]
    event_type: str
    properties: dict[str, Any]
    holds: bool


class Condition(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="kind"
):
    """What every condition has."""

    examples: ClassVar[tuple[Example, ...]] = ()
    negate: Annotated[bool, Meta(description="customers who do not fulfil the condition: the exact complement")] = False

    def problems(self) -> Iterator[Problem]:
        """Contradictions between fields that are each valid by themselves."""
        return iter(())

    def terms(self) -> list[Term]:
        """The atoms whose conjunction the condition is, before negation."""
        raise NotImplementedError

    def identity(self, *without: str) -> str:
        """The kind and its fields as text, the same in every release; fields at their default are left out."""
        fields = msgspec.to_builtins(self)
        for name in ("negate", *without):
            fields.pop(name, None)
        return msgspec.json.encode(fields, order="deterministic").decode()


class EventCondition(Condition, frozen=True, kw_only=True):
    """A condition on events, in a window of event time."""

    within: Annotated[Duration | None, Meta(description="only events younger than this")] = None
    since: Annotated[Timestamp | None, Meta(description="only events at or after this instant")] = None
    until: Annotated[Timestamp | None, Meta(description="only events before this instant")] = None

    def problems(self) -> Iterator[Problem]:
        bounds = {}
        for field in ("since", "until"):
            text = getattr(self, field)
            try:
                bounds[field] = None if text is None else parse_time(text)
            except ValueError as error:
                yield field, f"{error}, got {describe(text)}"
        if self.within is not None:
            yield from self._window_problems(self.within)
        since_ms, until_ms = bounds.get("since"), bounds.get("until")
        if since_ms is not None and until_ms is not None and since_ms >= until_ms:
            yield "until", f"must come after since ({self.since}), is {self.until}"

    def _window_problems(self, within: str) -> Iterator[Problem]:
        if self.since is not None or self.until is not None:
            yield "within", "does not mix with since and until: use one or the other"
        if duration_ms(within) == 0:
            yield "within", f"a window of zero holds no event: expected at least 1s, got {within}"
        elif duration_ms(within) > LONGEST_WINDOW_MS:
            yield "within", f"expected at most 36500d, got {within}"

    def events(self) -> EventSet:
        """The events that count, but for those that `within` leaves out."""
        since_ms = 0 if self.since is None else parse_time(self.since)
        until_ms = FOREVER if self.until is None else parse_time(self.until)
        return EventSet(self.predicate_identity(), self.predicate(), since_ms, until_ms)

    def window_ms(self) -> int:
        """How young an event has to be."""
        return FOREVER if self.within is None else duration_ms(self.within)

    def predicate(self) -> Predicate:
        """The events that count."""
        raise NotImplementedError

    def predicate_identity(self) -> str:
        return self.identity("within", "since", "until", "at_least", "at_most")


class CountCondition(EventCondition, frozen=True, kw_only=True):
    """A condition on how many matching events the window holds."""

    at_least: Annotated[
        Annotated[int, Meta(ge=1, le=1000)] | None,
        Meta(description="so many matching events or more (default 1, or 0 where at_most is given)"),
    ] = None
    at_most: Annotated[
        Annotated[int, Meta(ge=0, le=1000)] | None, Meta(description="so many matching events or fewer")
    ] = None

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            yield "at_least", f"must not be over at_most ({self.at_most}), is {self.at_least}"

    def terms(self) -> list[Term]:
        events, window_ms = self.events(), self.window_ms()
        terms: list[Term] = []
        at_least = self.at_least or (0 if self.at_most is not None else 1)
        if at_least:
            terms.append((CountAtom(events, at_least, window_ms), True))
        if self.at_most is not None:
            terms.append((CountAtom(events, self.at_most + 1, window_ms), False))
        return terms


def duration_ms(within: str) -> int:
    return int(within[:-1]) * UNITS_MS[within[-1]]


def bounds_problems(low: Amount | None, high: Amount | None) -> Iterator[Problem]:
    for field, bound in (("min", low), ("max", high)):
        if isinstance(bound, Decimal) and not (bound.is_finite() and 0 <= bound < AMOUNT_LIMIT):
            yield field, f"expected a number from 0 to below {AMOUNT_LIMIT:,}, got {bound:.6e}"
            return
    if low is None and high is None:
        yield "min", "expected min, max or both, got neither"
    elif low is not None and high is not None and low > high:
        yield "min", f"must not be over max ({high}), is {low}"


def micros_range(low: Amount | None, high: Amount | None) -> tuple[float, float]:
    return (0 if low is None else to_micros(low)), (UNBOUNDED if high is None else to_micros(high))


# --- pages -----------------------------------------------------------------------------------------------------------


def bare_path(path: str) -> str:
    """The path without one trailing slash; the root stays."""
    return path[:-1] if path.endswith("/") and len(path) > 1 else path or "/"


def hosts_above(host: str) -> list[str]:
    """The host and every domain above it."""
    hosts = [host]
    while "." in host:
        host = host.partition(".")[2]
        hosts.append(host)
    return hosts


Address = tuple[str, str]  # host and path
QUERY_OR_FRAGMENT = re.compile("[?#]")
NEVER_IN_PATHS = (
    "the path of a URL ends before ? and #, so this matches no page: for a query write the whole address as url, with "
    "query: exact"
)


def url_slots(
    whole: Part, url_of: Callable[[Any], Url | None], page: Part, address_of: Callable[[Any], Address | None]
) -> dict[str, Slot]:
    """The slots of one URL of a page visit, the only events that are asked; where there is no URL, nothing is found.

    `url_of` and `address_of` take what those parts read.
    """
    side = page.name

    def single(name: str, read: Callable[[Address], Any]) -> Slot:
        return Slot(f"{side}.{name}", lambda part: (at := address_of(part)) and read(at), part=page)

    def several(name: str, read: Callable[[Address], Any]) -> Slot:
        return Slot(
            f"{side}.{name}", lambda part: read(at) if (at := address_of(part)) else (), several=True, part=page
        )

    def whole_url(part: Any) -> tuple[str, str, str] | None:
        url = url_of(part)
        return None if url is None else (url.host, bare_path(url.path), url.query)

    return {
        "present": single("present", lambda _: True),
        "host": single("host", lambda at: at[0]),
        "path": single("path", lambda at: bare_path(at[1])),
        "host_path": single("host_path", lambda at: (at[0], bare_path(at[1]))),
        "url": Slot(f"{side}.url", whole_url, part=whole),
        "hosts": several("hosts", lambda at: hosts_above(at[0])),
        "hosts_path": several("hosts_path", lambda at: [(host, bare_path(at[1])) for host in hosts_above(at[0])]),
        "prefix": several("prefix", lambda at: ((None, at[1]),)),
        "host_prefix": several("host_prefix", lambda at: (at,)),
        "hosts_prefix": several("hosts_prefix", lambda at: [(host, at[1]) for host in hosts_above(at[0])]),
    }


def referrer_page(event: Event) -> str | None:
    """The referrer without its query: the same ones come again and again."""
    referrer: str | None = event.payload.referrer  # type: ignore[union-attr]  # page.visit events only
    return referrer and referrer.partition("?")[0]


def url_of_text(text: str | None) -> Url | None:
    return None if text is None else parse_url(text)


def address_of_text(text: str | None) -> Address | None:
    url = url_of_text(text)
    return None if url is None else (url.host, url.path)


PAGE_SLOTS = url_slots(
    Part("page.whole", attrgetter("payload.url")),
    lambda url: url,
    Part("page", attrgetter("payload.url.host", "payload.url.path")),
    lambda address: address,
)
REFERRER_SLOTS = url_slots(
    Part("referrer.whole", attrgetter("payload.referrer")),
    url_of_text,
    Part("referrer", referrer_page),
    address_of_text,
)


class UrlCondition(CountCondition, frozen=True, kw_only=True):
    """Matches one URL of a page visit: any; by domain and path; or whole."""

    slots: ClassVar[dict[str, Slot]]

    domain: Annotated[
        Annotated[str, Meta(min_length=1, max_length=300)] | None,
        Meta(description="the whole host, with its port where that is not the default one"),
    ] = None
    subdomains: Annotated[bool, Meta(description="also hosts below the domain")] = False
    path: Annotated[
        Annotated[
            str,
            Meta(
                max_length=8192,
                pattern=r"^(/|\*\Z|\Z)",
                extra={"words": "a path that begins with / (or * alone) of at most 8,192 characters"},
            ),
        ]
        | None,
        Meta(description="that path; a trailing `*` makes it a prefix"),
    ] = None
    url: Annotated[
        Annotated[str, Meta(max_length=8192)] | None,
        Meta(description="an absolute URL, compared by host and path; scheme and fragment never matter"),
    ] = None
    query: Annotated[
        Literal["ignore", "exact"] | None,
        Meta(description="with `url`: whether the raw query string counts (default ignore)"),
    ] = None

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.url is not None:
            if self.domain is not None or self.path is not None:
                yield "url", "does not go with domain or path: use one or the other"
            if parse_url(self.url) is None:
                yield "url", f"expected an absolute URL such as https://shop.example/cart, got {describe(self.url)}"
        if self.path is not None and QUERY_OR_FRAGMENT.search(self.path):
            yield "path", f"{NEVER_IN_PATHS}, got {describe(self.path)}"
        if self.subdomains and self.domain is None:
            yield "subdomains", "needs a domain"
        if self.query is not None and self.url is None:
            yield "query", "needs a url"
        if self.domain is not None and self.domain.startswith("*."):
            yield "domain", f"* stands for nothing here: expected {describe(self.domain[2:])} with subdomains: true"
        elif self.domain is not None and not is_host(self.domain):
            yield "domain", f"expected a host such as shop.example, without scheme or path, got {describe(self.domain)}"

    def predicate(self) -> Predicate:
        return Predicate("page.visit", self.access())

    def access(self) -> Access:
        slots = self.slots
        if self.url is not None:
            url = parse_url(self.url)
            assert url is not None, "a checked document holds absolute URLs only"
            path = bare_path(url.path)
            if self.query == "exact":
                return Exact(slots["url"], ((url.host, path, url.query),))
            return Exact(slots["host_path"], ((url.host, path),))
        hosts, host = ("hosts" if self.subdomains else "host"), self.domain and self.domain.lower()
        if self.path is None:
            return Exact(slots["present"], (True,)) if host is None else Exact(slots[hosts], (host,))
        if self.path.endswith("*"):
            return Prefix(slots["prefix" if host is None else f"{hosts}_prefix"], host, self.path[:-1])
        path = bare_path(self.path)
        return Exact(slots["path"], (path,)) if host is None else Exact(slots[f"{hosts}_path"], ((host, path),))


def is_host(text: str) -> bool:
    url = parse_url(f"none://{text}")
    return url is not None and url.host == text.lower() and url.path == "/"


class PageVisitCondition(UrlCondition, frozen=True, kw_only=True, tag="page_visit"):
    """A visit to any page, to a host, to a path, or to one URL."""

    slots = PAGE_SLOTS
    examples = (
        Example({"domain": "shop.example"}, "page.visit", {"url": "https://SHOP.example:443/cart?x=1"}, True),
        Example({"domain": "shop.example"}, "page.visit", {"url": "https://www.shop.example/"}, False),
        Example({"domain": "shop.example", "subdomains": True}, "page.visit", {"url": "http://www.shop.example"}, True),
        Example({"path": "/sale/*"}, "page.visit", {"url": "https://shop.example/sale/shoes"}, True),
        Example({"path": "/sale/*"}, "page.visit", {"url": "https://shop.example/sale"}, False),
        Example({"path": "/sale"}, "page.visit", {"url": "https://shop.example/sale/"}, True),
        Example({"url": "https://shop.example/cart"}, "page.visit", {"url": "http://shop.example/cart/?a=b#c"}, True),
        Example(
            {"url": "https://shop.example/cart?a=b", "query": "exact"},
            "page.visit",
            {"url": "https://shop.example/cart?a=c"},
            False,
        ),
    )


class ReferralCondition(UrlCondition, frozen=True, kw_only=True, tag="referral"):
    """A page visit that came from another page: from any, from a host, from a path, or from one URL."""

    slots = REFERRER_SLOTS
    examples = (
        Example(
            {"domain": "search.example"},
            "page.visit",
            {"url": "https://shop.example/", "referrer": "https://search.example/?q=shoes"},
            True,
        ),
        Example({}, "page.visit", {"url": "https://shop.example/"}, False),
        Example({}, "page.visit", {"url": "https://shop.example/", "referrer": "no url"}, False),
    )


# --- messages --------------------------------------------------------------------------------------------------------


def payload_slot(name: str, read: Callable[[Any], Any], *, several: bool = False) -> Slot:
    """A slot of a built-in event's payload; only events of the types that have that payload are asked."""
    return Slot(name, lambda event: read(event.payload), several)


def payload_field(name: str) -> Slot:
    """A slot that is one field of the payload; only events of the types that have it are asked."""
    return Slot(name, lambda value: value, part=Part(name, attrgetter(f"payload.{name}")))


CAMPAIGN = payload_field("campaign_id")


class MessageCondition(CountCondition, frozen=True, kw_only=True):
    """Something done with a message of a channel."""

    channel: ClassVar[str]

    action: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{1,122}\Z",
            description="sent, delivered, opened, clicked, bounced, unsubscribed …",
            extra={"words": "1 to 122 of the characters A–Z, a–z, 0–9, _, . and -, such as opened"},
        ),
    ]
    campaign_id: Annotated[Identifier | None, Meta(description="only messages of this campaign")] = None

    def predicate(self) -> Predicate:
        event_type = f"{self.channel}.{self.action}"
        if self.campaign_id is None:
            return Predicate(event_type)
        return Predicate(event_type, Exact(CAMPAIGN, (self.campaign_id,)))


class EmailCondition(MessageCondition, frozen=True, kw_only=True, tag="email"):
    """An email sent, opened, clicked …, of any campaign or of one."""

    channel = "email"
    examples = (
        Example({"action": "opened", "campaign_id": "spring"}, "email.opened", {"campaign_id": "spring"}, True),
        Example({"action": "opened", "campaign_id": "spring"}, "email.opened", {"campaign_id": "autumn"}, False),
        Example({"action": "clicked"}, "email.opened", {"campaign_id": "spring"}, False),
    )


class SmsCondition(MessageCondition, frozen=True, kw_only=True, tag="sms"):
    """A text message sent, delivered, answered …, of any campaign or of one."""

    channel = "sms"
    examples = (Example({"action": "delivered"}, "sms.delivered", {}, True),)


class PushCondition(MessageCondition, frozen=True, kw_only=True, tag="push"):
    """A push notification sent, opened …, of any campaign or of one."""

    channel = "push"
    examples = (Example({"action": "opened", "campaign_id": 7}, "push.opened", {"campaign_id": "7"}, True),)


# --- places and screens ----------------------------------------------------------------------------------------------


LOCATION = payload_field("location_id")
SCREEN = payload_field("screen")


class LocationCondition(CountCondition, frozen=True, kw_only=True, tag="location"):
    """A visit to a location (a shop, a beacon's zone): any, or one."""

    location_id: Annotated[Identifier | None, Meta(description="only this location")] = None
    examples = (
        Example({"location_id": "berlin-1"}, "location.visit", {"location_id": "berlin-1"}, True),
        Example({"location_id": "berlin-1"}, "location.visit", {"location_id": "berlin-2"}, False),
    )

    def predicate(self) -> Predicate:
        access = Anything() if self.location_id is None else Exact(LOCATION, (self.location_id,))
        return Predicate("location.visit", access)


class AppScreenCondition(CountCondition, frozen=True, kw_only=True, tag="app_screen"):
    """A screen of the app: any, or one."""

    screen: Annotated[Identifier | None, Meta(description="only this screen")] = None
    examples = (
        Example({"screen": "basket"}, "app.screen", {"screen": "basket"}, True),
        Example({"screen": "basket"}, "app.screen", {"screen": "Basket"}, False),
    )

    def predicate(self) -> Predicate:
        return Predicate("app.screen", Anything() if self.screen is None else Exact(SCREEN, (self.screen,)))


# --- purchases -------------------------------------------------------------------------------------------------------

ORDER = "purchase.order"


def _prices(order: Order) -> Iterator[tuple[str, int]]:
    return ((item.product_id, item.price_micros) for item in order.items if item.price_micros is not None)


CATEGORIES = payload_slot(
    "order.categories", lambda order: {each for item in order.items for each in item.categories}, several=True
)
PRODUCTS = payload_slot("order.products", lambda order: {item.product_id for item in order.items}, several=True)
HAS_ITEMS = payload_slot("order.has_items", lambda order: bool(order.items))
CURRENCY = payload_slot("order.currency", lambda order: order.currency)
TOTAL = payload_slot("order.total", lambda order: ((None, order.total_micros),))
CURRENCY_TOTAL = payload_slot("order.currency_total", lambda order: ((order.currency, order.total_micros),))
PRICE = payload_slot("order.price", lambda order: ((None, price) for _, price in _prices(order)))
PRODUCT_PRICE = payload_slot("order.product_price", _prices)
CURRENCY_PRICE = payload_slot(
    "order.currency_price", lambda order: ((order.currency, price) for _, price in _prices(order))
)
CURRENCY_PRODUCT_PRICE = payload_slot(
    "order.currency_product_price",
    lambda order: (((order.currency, product), price) for product, price in _prices(order)),
)


class PurchaseCategoryCondition(CountCondition, frozen=True, kw_only=True, tag="purchase_category"):
    """An order with an item in the category."""

    category: Annotated[Identifier, Meta(description="the category, as the items name it")]
    examples = (
        Example(
            {"category": "Shoes"},
            ORDER,
            {"order_id": "1", "total": 5, "items": [{"product_id": "p", "category": ["Sale", "Shoes"]}]},
            True,
        ),
        Example(
            {"category": "Shoes", "at_least": 2},
            ORDER,
            {
                "order_id": "1",
                "total": 5,
                "items": [{"product_id": "p", "category": "Shoes"}, {"product_id": "q", "category": "Shoes"}],
            },
            False,
        ),
    )

    def predicate(self) -> Predicate:
        return Predicate(ORDER, Exact(CATEGORIES, (self.category,)))


class PurchaseProductCondition(CountCondition, frozen=True, kw_only=True, tag="purchase_product"):
    """An order with any item, or with one product."""

    product_id: Annotated[Identifier | None, Meta(description="only this product")] = None
    examples = (
        Example({}, ORDER, {"order_id": "1", "total": 5, "items": [{"product_id": "p"}]}, True),
        Example({"product_id": "q"}, ORDER, {"order_id": "1", "total": 5, "items": [{"product_id": "p"}]}, False),
        Example({}, ORDER, {"order_id": "1", "total": 5}, False),
    )

    def predicate(self) -> Predicate:
        if self.product_id is None:
            return Predicate(ORDER, Exact(HAS_ITEMS, (True,)))
        return Predicate(ORDER, Exact(PRODUCTS, (self.product_id,)))


class AmountCondition(CountCondition, frozen=True, kw_only=True):
    """A condition on an amount of money of each order."""

    min: Annotated[Amount | None, Meta(description="this amount or more")] = None
    max: Annotated[Amount | None, Meta(description="this amount or less")] = None
    currency: Annotated[Identifier | None, Meta(description="only orders in this currency")] = None

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from bounds_problems(self.min, self.max)


class PurchasePriceCondition(AmountCondition, frozen=True, kw_only=True, tag="purchase_price"):
    """An order with an item (of that product, if one is named) whose unit price lies from min to max."""

    product_id: Annotated[Identifier | None, Meta(description="only items of this product")] = None
    examples = (
        Example(
            {"min": 10, "max": 19.99},
            ORDER,
            {"order_id": "1", "total": 40, "items": [{"product_id": "p", "price": 19.99, "quantity": 2}]},
            True,
        ),
        Example({"min": 1}, ORDER, {"order_id": "1", "total": 40, "items": [{"product_id": "p"}]}, False),
    )

    def predicate(self) -> Predicate:
        low, high = micros_range(self.min, self.max)
        if self.currency is None:
            slot = PRICE if self.product_id is None else PRODUCT_PRICE
            return Predicate(ORDER, Range(slot, self.product_id, low, high))
        if self.product_id is None:
            return Predicate(ORDER, Range(CURRENCY_PRICE, self.currency, low, high))
        return Predicate(ORDER, Range(CURRENCY_PRODUCT_PRICE, (self.currency, self.product_id), low, high))


class TransactionCondition(AmountCondition, frozen=True, kw_only=True, tag="transaction"):
    """An order whose total lies from min to max."""

    examples = (
        Example({"min": 0.3}, ORDER, {"order_id": "1", "total": 0.3}, True),
        Example({"max": 99.99}, ORDER, {"order_id": "1", "total": 100}, False),
        Example({"min": 1, "currency": "EUR"}, ORDER, {"order_id": "1", "total": 5, "currency": "USD"}, False),
    )

    def predicate(self) -> Predicate:
        low, high = micros_range(self.min, self.max)
        slot = TOTAL if self.currency is None else CURRENCY_TOTAL
        return Predicate(ORDER, Range(slot, self.currency, low, high))


def order_total_micros(event: Event) -> int:
    return event.payload.total_micros  # type: ignore[union-attr]  # only purchase.order events are asked


class SpendCondition(EventCondition, frozen=True, kw_only=True, tag="spend"):
    """The totals of the orders in the window add up to an amount from min to max; without orders to 0."""

    min: Annotated[Amount | None, Meta(description="this sum or more")] = None
    max: Annotated[Amount | None, Meta(description="this sum or less")] = None
    currency: Annotated[
        Identifier | None, Meta(description="only orders in this currency; name one where there are several")
    ] = None
    examples = (
        Example({"min": 100, "within": "365d"}, ORDER, {"order_id": "1", "total": 100}, True),
        Example({"max": 50}, "app.screen", {"screen": "home"}, True),
        Example({"max": 50}, ORDER, {"order_id": "1", "total": 50.01}, False),
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from bounds_problems(self.min, self.max)

    def predicate(self) -> Predicate:
        return Predicate(ORDER, Anything() if self.currency is None else Exact(CURRENCY, (self.currency,)))

    def predicate_identity(self) -> str:
        return self.identity("within", "since", "until", "min", "max")

    def terms(self) -> list[Term]:
        events, window_ms = self.events(), self.window_ms()
        terms: list[Term] = []
        if self.min is not None:
            terms.append((SumAtom(events, order_total_micros, to_micros(self.min), window_ms), True))
        if self.max is not None:
            terms.append((SumAtom(events, order_total_micros, to_micros(self.max) + 1, window_ms), False))
        return terms


# --- properties and attributes ---------------------------------------------------------------------------------------


OperatorField = Annotated[Operator, Meta(description="how the value is compared")]
ValueField = Annotated[Any, Meta(description="what with; `exists` takes none, `in` a list")]
IgnoreCaseField = Annotated[bool, Meta(description="compare by Unicode case folding, inside lists too")]


class Comparison:
    """What records with an operator, and a value it compares with, have in common."""

    __slots__ = ()
    operator: Operator
    value: Any
    ignore_case: bool

    def problems(self) -> Iterator[Problem]:
        if self.operator == "exists":
            if self.value is not None:
                yield "value", "exists takes no value"
        elif self.value is None:
            yield "value", f"{self.operator} needs a value"
        elif self.operator == "in" and not (isinstance(self.value, list) and self.value and None not in self.value):
            yield "value", f"in needs a list of one or more values, none of them null, got {describe(self.value)}"
        elif self.operator in TEXT_OPERATORS and not isinstance(self.value, str):
            yield "value", f"{self.operator} needs a text, got {describe(self.value)}"
        elif self.operator in NUMBER_OPERATORS and not is_number(self.value):
            yield "value", f"{self.operator} needs a number, got {describe(self.value)}"

    def test(self) -> Test:
        return operator_test(self.operator, self.value, self.ignore_case)


class Where(Comparison, msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One property of an event and how it compares."""

    property: Annotated[
        str, Meta(min_length=1, max_length=500, description="the property; dots address nested objects")
    ]
    operator: OperatorField
    value: ValueField = None
    ignore_case: IgnoreCaseField = False


class EventNameCondition(CountCondition, frozen=True, kw_only=True, tag="event"):
    """An event of the type, custom or built in, whose properties satisfy every entry of `where`."""

    type: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z",
            description="the event's type",
            extra={"words": "1 to 128 of the characters A–Z, a–z, 0–9, _, . and -, the first a letter or digit"},
        ),
    ]
    where: Annotated[
        Annotated[list[Where], Meta(max_length=100)], Meta(description="all of them must hold for the event")
    ] = msgspec.field(default_factory=list)
    examples = (
        Example({"type": "quiz.finished"}, "quiz.finished", {}, True),
        Example(
            {"type": "quiz.finished", "where": [{"property": "score.total", "operator": "at_least", "value": 8}]},
            "quiz.finished",
            {"score": {"total": 8.5}},
            True,
        ),
        Example(
            {"type": "quiz.finished", "where": [{"property": "team", "operator": "equals", "value": "red"}]},
            "quiz.finished",
            {"team": "Red"},
            False,
        ),
        Example(
            {
                "type": "quiz.finished",
                "where": [{"property": "team", "operator": "equals", "value": "red", "ignore_case": True}],
            },
            "quiz.finished",
            {"team": "Red"},
            True,
        ),
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        for index, where in enumerate(self.where):
            for field, message in where.problems():
                yield f"where[{index}].{field}", message

    def predicate(self) -> Predicate:
        accesses = [value_access(where, path_names(where.property), event_properties) for where in self.where]
        exact = [access for access in accesses if isinstance(access, Exact)]
        other = [access for access in accesses if not isinstance(access, Anything)]
        access: Access = (exact or other or [Anything()])[0]
        return Predicate(self.type, access, _all_of(self.where) if self.where else None)


def path_names(dotted: str) -> tuple[str, ...]:
    """The names that lead to a property or attribute; a name may be empty."""
    return tuple(dotted.split("."))


def event_properties(event: Event) -> Any:
    return event.read_properties()


def _all_of(wheres: list[Where]) -> Test:
    tests = [(path_names(where.property), where.test()) for where in wheres]
    return lambda event: all(test(look_up(event.read_properties(), path)) for path, test in tests)


class CustomerCondition(Comparison, Condition, frozen=True, kw_only=True, tag="customer"):
    """The newest value of an attribute satisfies the operator; a missing attribute never does."""

    attribute: Annotated[
        str, Meta(min_length=1, max_length=500, description="the attribute; dots address nested objects")
    ]
    operator: OperatorField
    value: ValueField = None
    ignore_case: IgnoreCaseField = False
    examples = (
        Example(
            {"attribute": "address.city", "operator": "in", "value": ["Berlin", "Bonn"]},
            "customer.update",
            {"attributes": {"address": {"city": "Bonn"}}},
            True,
        ),
        Example(
            {"attribute": "age", "operator": "equals", "value": 1},
            "customer.update",
            {"attributes": {"age": True}},
            False,
        ),
        Example(
            {"attribute": "tags", "operator": "contains", "value": "vip", "ignore_case": True},
            "customer.update",
            {"attributes": {"tags": ["new", "VIP"]}},
            True,
        ),
    )

    def terms(self) -> list[Term]:
        name, *path = path_names(self.attribute)
        test, inner = self.test(), tuple(path)
        access = value_access(self, inner, lambda value: value)
        atom = ValueAtom(f"attribute:{name}", self.identity(), access, lambda value: test(look_up(value, inner)))
        return [(atom, True)]


class AgreementCondition(Condition, frozen=True, kw_only=True, tag="agreement"):
    """The customer's newest agreement for the channel is yes."""

    channel: Annotated[Identifier, Meta(description="newsletter, sms, push or any other")]
    examples = (
        Example({"channel": "sms"}, "customer.update", {"agreements": {"sms": True}}, True),
        Example({"channel": "sms"}, "customer.update", {"agreements": {"sms": False}}, False),
    )

    def terms(self) -> list[Term]:
        access = Exact(AGREED, (canonical(True),))
        return [(ValueAtom(f"agreement:{self.channel}", "yes", access, lambda value: value is True), True)]


AGREED = Slot("agreement", canonical)

KINDS: tuple[type[Condition], ...] = (
    CustomerCondition,
    PageVisitCondition,
    ReferralCondition,
    EmailCondition,
    SmsCondition,
    PushCondition,
    LocationCondition,
    AgreementCondition,
    PurchaseCategoryCondition,
    PurchaseProductCondition,
    PurchasePriceCondition,
    TransactionCondition,
    AppScreenCondition,
    EventNameCondition,
    SpendCondition,
)
