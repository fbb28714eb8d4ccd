"""What a replay must put out, worked out the slow way: each customer's whole history is kept, and every answer is taken
from it afresh. It shares no code with what it judges.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cached_property, lru_cache
from math import inf
from typing import Any, NamedTuple, NoReturn, TypeAlias

TYPE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
TIME_PATTERN = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
URL_PATTERN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
LONGEST_LINE = 1 << 20
UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
CHANNELS = ("email", "sms", "push")
MISSING = object()

Fields: TypeAlias = Mapping[str, Any]
Hit: TypeAlias = tuple[int, int]  # event time, total in micros


class Rejected(NamedTuple):
    """A line that is no event; `path` is None where the fault is not of one field."""

    line: int
    code: str
    path: str | None


@dataclass(frozen=True)
class Outcome:
    """All changes in order, without `change_id` and `decided_at`; the rejected lines; who is in at the end."""

    changes: list[dict[str, Any]]
    rejected: list[Rejected]
    members: dict[str, set[str]]


def replay(document: Fields, lines: Sequence[bytes], until_ms: int | None = None) -> Outcome:
    """The outcome of the lines of one file, then of moving the clock to `until_ms`."""
    run = Run(document)
    rejected = []
    for number, line in enumerate(lines, start=1):
        content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not content.strip(b" \t\r\n"):
            continue
        try:
            event = read_event(content, number - 1)
        except Invalid as fault:
            rejected.append(Rejected(number, fault.code, fault.path))
        else:
            run.record(event)
    if until_ms is not None:
        run.advance(until_ms)
    return Outcome(run.changes, rejected, run.members())


# Time, numbers and texts


def rfc3339(time_ms: int) -> str:
    return (EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(value: int | str) -> int | None:
    """Milliseconds since the epoch, cut; None for what is no time from 1970 to 9999."""
    time_ms = value if isinstance(value, int) else parse_rfc3339(value)
    return time_ms if time_ms is not None and 0 <= time_ms <= LAST_MS else None


def parse_rfc3339(text: str) -> int | None:
    found = TIME_PATTERN.fullmatch(text)
    if found is None:
        return None
    day, clock, fraction, sign, hours, minutes = found.groups()
    try:
        local = datetime.fromisoformat(f"{day}T{clock}+00:00")
    except ValueError:
        return None
    if int(hours or 0) > 23 or int(minutes or 0) > 59:
        return None
    offset_ms = (int(hours or 0) * 60 + int(minutes or 0)) * 60_000
    local_ms = (local - EPOCH) // timedelta(milliseconds=1) + int((fraction or "")[:3].ljust(3, "0"))
    return local_ms + offset_ms if sign == "-" else local_ms - offset_ms


def duration_ms(text: str) -> int:
    return int(text[:-1]) * UNIT_MS[text[-1]]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def decimal_of(value: float | Decimal) -> Decimal:
    """The decimal as written: of a float, its shortest form."""
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


@lru_cache(maxsize=4096, typed=True)
def micros(value: float | Decimal) -> int:
    return int(decimal_of(value).quantize(Decimal("0.000001"), ROUND_HALF_EVEN).scaleb(6))


def text_of(value: Any) -> str | None:
    """A string, or an integer as its decimal string; None for anything else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


# URLs


class Page(NamedTuple):
    host: str
    path: str
    query: str


@lru_cache(maxsize=4096)
def parse_url(text: str) -> Page | None:
    """What of an absolute URL is compared; None for what is none."""
    found = URL_PATTERN.fullmatch(text)
    if found is None:
        return None
    scheme, authority, path, query = found.groups()
    host = authority.rpartition("@")[2].lower().removesuffix(":")
    if scheme.lower() in DEFAULT_PORTS:
        host = host.removesuffix(DEFAULT_PORTS[scheme.lower()])
    if not host or host.startswith(":"):
        return None
    return Page(host, path or "/", query or "")


def without_slash(path: str) -> str:
    return path.removesuffix("/") or "/"


def page_matches(fields: Fields, page: Page) -> bool:
    if "url" in fields:
        wanted = parse_url(fields["url"])
        assert wanted is not None, fields["url"]
        same = page.host == wanted.host and without_slash(page.path) == without_slash(wanted.path)
        return same and (fields.get("query") != "exact" or page.query == wanted.query)
    return host_matches(fields, page.host) and path_matches(fields.get("path"), page.path)


def host_matches(fields: Fields, host: str) -> bool:
    if "domain" not in fields:
        return True
    domain = fields["domain"].lower()
    return bool(host == domain or (fields.get("subdomains", False) and host.endswith(f".{domain}")))


def path_matches(wanted: str | None, path: str) -> bool:
    if wanted is None:
        return True
    if wanted.endswith("*"):
        return path.startswith(wanted[:-1])
    return without_slash(path) == without_slash(wanted)


# From a line to an event


class Invalid(Exception):
    def __init__(self, code: str, path: str | None = None) -> None:
        super().__init__(code, path)
        self.code = code
        self.path = path


@dataclass(frozen=True)
class Event:
    """A valid event: `time_ms` is its event time, `record_ms` its record's timestamp."""

    event_id: str
    type: str
    customer_id: str
    time_ms: int
    record_ms: int
    offset: int
    properties: dict[str, Any]

    def cause(self) -> dict[str, Any]:
        return {
            "topic": None,
            "partition": 0,
            "offset": self.offset,
            "event_id": self.event_id,
            "event_type": self.type,
            "event_time": rfc3339(self.time_ms),
        }

    def text(self, name: str) -> str | None:
        return text_of(self.properties.get(name))

    def items(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.properties.get("items") or []
        return items


def read_event(line: bytes, offset: int) -> Event:
    fields = read_object(line)
    event_id = read_name(fields, "event_id", longest=128)
    event_type = read_type(fields)
    customer_id = read_name(fields, "customer_id", longest=256)
    time_ms, received_ms = read_time(fields, "time"), read_time(fields, "received_at")
    record_ms = time_ms if received_ms is None else received_ms
    if record_ms is None:
        raise Invalid("missing", "time")
    own_ms = record_ms if time_ms is None else min(time_ms, record_ms)
    properties = read_properties(fields, event_type)
    return Event(event_id, event_type, customer_id, own_ms, record_ms, offset, properties)


def read_object(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise Invalid("too_large")
    try:
        content = json.loads(line.decode("utf-8"), parse_float=Decimal, parse_constant=refuse_constant)
    except UnicodeDecodeError:
        raise Invalid("not_utf8") from None
    except ValueError:
        raise Invalid("not_json") from None
    if not isinstance(content, dict):
        raise Invalid("not_object")
    return content


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def read_name(fields: Fields, name: str, longest: int) -> str:
    text = require_text(fields, name, name)
    if not 1 <= len(text) <= longest:
        raise Invalid("out_of_range", name)
    return text


def read_type(fields: Fields) -> str:
    value = require(fields, "type", "type")
    if not isinstance(value, str):
        raise Invalid("wrong_type", "type")
    if TYPE_PATTERN.fullmatch(value) is None:
        raise Invalid("out_of_range", "type")
    return value


def read_time(fields: Fields, name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise Invalid("wrong_type", name)
    time_ms = parse_time(value)
    if time_ms is None:
        raise Invalid("bad_time", name)
    return time_ms


def read_properties(fields: Fields, event_type: str) -> dict[str, Any]:
    properties = fields.get("properties")
    check = CHECKS.get(event_type)
    if event_type.startswith(tuple(f"{channel}." for channel in CHANNELS)):
        check = check_message
    if properties is None:
        if event_type in NEEDS_PROPERTIES:
            raise Invalid("missing", "properties")
        return {}
    if not isinstance(properties, dict):
        raise Invalid("wrong_type", "properties")
    if check is not None:
        check(properties)
    return properties


def require(fields: Fields, name: str, path: str) -> Any:
    value = fields.get(name)
    if value is None:
        raise Invalid("missing", path)
    return value


def require_text(fields: Fields, name: str, path: str) -> str:
    require(fields, name, path)
    text = check_text(fields, name, path)
    assert text is not None
    return text


def check_text(fields: Fields, name: str, path: str) -> str | None:
    value = fields.get(name)
    if value is not None and text_of(value) is None:
        raise Invalid("wrong_type", path)
    return text_of(value)


def check_money(fields: Fields, name: str, path: str) -> None:
    value = fields.get(name)
    if value is None:
        return
    if not is_number(value):
        raise Invalid("wrong_type", path)
    if not 0 <= value < 10**12 or micros(value) >= 10**18:
        raise Invalid("out_of_range", path)


def check_visit(properties: Fields) -> None:
    url = require(properties, "url", "properties.url")
    if not isinstance(url, str):
        raise Invalid("wrong_type", "properties.url")
    if parse_url(url) is None:
        raise Invalid("bad_url", "properties.url")
    if not isinstance(properties.get("referrer"), str | None):
        raise Invalid("wrong_type", "properties.referrer")


def check_message(properties: Fields) -> None:
    check_text(properties, "campaign_id", "properties.campaign_id")


def check_location(properties: Fields) -> None:
    require_text(properties, "location_id", "properties.location_id")
    check_text(properties, "beacon_id", "properties.beacon_id")


def check_order(properties: Fields) -> None:
    require_text(properties, "order_id", "properties.order_id")
    require(properties, "total", "properties.total")
    check_money(properties, "total", "properties.total")
    check_text(properties, "currency", "properties.currency")
    items = properties.get("items")
    if not isinstance(items, list | None):
        raise Invalid("wrong_type", "properties.items")
    for number, item in enumerate(items or []):
        check_item(item, f"properties.items[{number}]")


def check_item(item: Any, path: str) -> None:
    if not isinstance(item, dict):
        raise Invalid("wrong_type", path)
    require_text(item, "product_id", f"{path}.product_id")
    category = item.get("category")
    if isinstance(category, list):
        for number, each in enumerate(category):
            if text_of(each) is None:
                raise Invalid("wrong_type", f"{path}.category[{number}]")
    else:
        check_text(item, "category", f"{path}.category")
    check_money(item, "price", f"{path}.price")
    if not (item.get("quantity") is None or is_number(item["quantity"])):
        raise Invalid("wrong_type", f"{path}.quantity")


def check_screen(properties: Fields) -> None:
    require_text(properties, "screen", "properties.screen")


def check_update(properties: Fields) -> None:
    for name in ("attributes", "agreements"):
        if not isinstance(properties.get(name), dict | None):
            raise Invalid("wrong_type", f"properties.{name}")
    for channel, agreed in (properties.get("agreements") or {}).items():
        if not isinstance(agreed, bool | None):
            raise Invalid("wrong_type", f"properties.agreements.{channel}")


CHECKS: dict[str, Callable[[Fields], None]] = {
    "page.visit": check_visit,
    "location.visit": check_location,
    "purchase.order": check_order,
    "app.screen": check_screen,
    "customer.update": check_update,
}
NEEDS_PROPERTIES = {"page.visit", "location.visit", "purchase.order", "app.screen"}


# Attributes and properties against operators


def look_up(value: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        if not isinstance(value, dict) or value.get(name) is None:
            return MISSING
        value = value[name]
    return value


def satisfies(found: Any, test: Fields) -> bool:
    """Whether a value satisfies the operator of `test`; what is missing satisfies none."""
    if found is MISSING:
        return False
    if test["operator"] == "exists":
        return True
    wanted = test["value"]
    if test.get("ignore_case", False):
        found, wanted = fold(found), fold(wanted)
    return OPERATORS[test["operator"]](found, wanted)


def fold(value: Any) -> Any:
    if isinstance(value, list):
        return [fold(each) for each in value]
    return value.casefold() if isinstance(value, str) else value


def json_equal(left: Any, right: Any) -> bool:
    if is_number(left) and is_number(right):
        return float(left) == float(right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(json_equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(json_equal(left[name], right[name]) for name in left)
    return type(left) is type(right) and bool(left == right)


def contains(found: Any, wanted: Any) -> bool:
    if isinstance(found, list):
        return any(json_equal(each, wanted) for each in found)
    return isinstance(found, str) and isinstance(wanted, str) and wanted in found


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "equals": json_equal,
    "contains": contains,
    "starts_with": lambda found, wanted: isinstance(found, str) and found.startswith(wanted),
    "ends_with": lambda found, wanted: isinstance(found, str) and found.endswith(wanted),
    "in": lambda found, wanted: any(json_equal(found, each) for each in wanted),
    "at_least": lambda found, wanted: is_number(found) and float(found) >= float(wanted),
    "at_most": lambda found, wanted: is_number(found) and float(found) <= float(wanted),
}


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in value if each is not None]
    return value


# Which events each kind counts


def same_if_asked(fields: Fields, name: str, found: Any) -> bool:
    return name not in fields or text_of(fields[name]) == text_of(found)


def is_visit(fields: Fields, event: Event) -> bool:
    page = parse_url(event.properties["url"]) if event.type == "page.visit" else None
    return page is not None and page_matches(fields, page)


def is_referral(fields: Fields, event: Event) -> bool:
    page = parse_url(event.properties.get("referrer") or "") if event.type == "page.visit" else None
    return page is not None and page_matches(fields, page)


def is_message(fields: Fields, event: Event) -> bool:
    wanted = f"{fields['kind']}.{fields['action']}"
    return event.type == wanted and same_if_asked(fields, "campaign_id", event.properties.get("campaign_id"))


def is_at_location(fields: Fields, event: Event) -> bool:
    return event.type == "location.visit" and same_if_asked(fields, "location_id", event.properties["location_id"])


def is_on_screen(fields: Fields, event: Event) -> bool:
    return event.type == "app.screen" and same_if_asked(fields, "screen", event.properties["screen"])


def is_order(fields: Fields, event: Event) -> bool:
    return event.type == "purchase.order" and same_if_asked(fields, "currency", event.properties.get("currency"))


def is_order_in_category(fields: Fields, event: Event) -> bool:
    return is_order({}, event) and any(text_of(fields["category"]) in categories(item) for item in event.items())


def categories(item: Fields) -> list[str | None]:
    category = item.get("category")
    if category is None:
        return []
    return [text_of(each) for each in (category if isinstance(category, list) else [category])]


def is_order_of_product(fields: Fields, event: Event) -> bool:
    return is_order({}, event) and any(
        same_if_asked(fields, "product_id", item["product_id"]) for item in event.items()
    )


def is_order_at_price(fields: Fields, event: Event) -> bool:
    return is_order(fields, event) and any(
        same_if_asked(fields, "product_id", item["product_id"])
        and item.get("price") is not None
        and lies_within(fields, micros(item["price"]))
        for item in event.items()
    )


def is_order_of_total(fields: Fields, event: Event) -> bool:
    return is_order(fields, event) and lies_within(fields, micros(event.properties["total"]))


def lies_within(fields: Fields, amount_micros: int) -> bool:
    enough = "min" not in fields or amount_micros >= micros(fields["min"])
    return enough and ("max" not in fields or amount_micros <= micros(fields["max"]))


def is_event(fields: Fields, event: Event) -> bool:
    return event.type == fields["type"] and all(
        satisfies(look_up(event.properties, test["property"]), test) for test in fields.get("where", [])
    )


MATCHERS: dict[str, Callable[[Fields, Event], bool]] = {
    "page_visit": is_visit,
    "referral": is_referral,
    **dict.fromkeys(CHANNELS, is_message),
    "location": is_at_location,
    "purchase_category": is_order_in_category,
    "purchase_product": is_order_of_product,
    "purchase_price": is_order_at_price,
    "transaction": is_order_of_total,
    "app_screen": is_on_screen,
    "event": is_event,
    "spend": is_order,
}


# Conditions, segments, customers


@dataclass(frozen=True, eq=False)
class Condition:
    fields: Fields

    @cached_property
    def within_ms(self) -> int | None:
        return duration_ms(self.fields["within"]) if "within" in self.fields else None

    @cached_property
    def fixed_window(self) -> tuple[float, float]:
        since, until = self.fields.get("since"), self.fields.get("until")
        since_ms, until_ms = since and parse_time(since), until and parse_time(until)
        return (-inf if since_ms is None else since_ms, inf if until_ms is None else until_ms)

    def holds(self, customer: Customer, now_ms: int) -> bool:
        return self.is_met(customer, now_ms) is not self.fields.get("negate", False)

    def is_met(self, customer: Customer, now_ms: int) -> bool:
        kind = self.fields["kind"]
        if kind == "customer":
            return satisfies(look_up(customer.attributes, self.fields["attribute"]), self.fields)
        if kind == "agreement":
            return customer.agreements.get(text_of(self.fields["channel"]), False)
        hits = self.hits_in_window(customer.hits[self], now_ms)
        if kind == "spend":
            return lies_within(self.fields, sum(total for _, total in hits))
        least = self.fields.get("at_least", 0 if "at_most" in self.fields else 1)
        return bool(least <= len(hits) <= self.fields.get("at_most", inf))

    def hits_in_window(self, hits: list[Hit], now_ms: int) -> list[Hit]:
        low, high = self.fixed_window if self.within_ms is None else (now_ms - self.within_ms + 1, now_ms + 1)
        return hits[bisect_left(hits, (low,)) : bisect_left(hits, (high,))]

    def is_hit(self, event: Event) -> bool:
        matches = MATCHERS.get(self.fields["kind"])
        return matches is not None and matches(self.fields, event)


@dataclass(frozen=True)
class Segment:
    segment_id: str
    name: str
    version: int
    needs_all: bool
    conditions: list[Condition]

    @classmethod
    def of(cls, fields: Fields) -> Segment:
        conditions = [Condition(each) for each in fields["conditions"]]
        needs_all = fields.get("match", "all") == "all"
        return cls(str(fields["id"]), str(fields["name"]), fields.get("version", 1), needs_all, conditions)

    def holds(self, customer: Customer, now_ms: int) -> bool:
        quantifier = all if self.needs_all else any
        return quantifier(condition.holds(customer, now_ms) for condition in self.conditions)

    def flips_at(self, customer: Customer, now_ms: int) -> int | None:
        """The first instant after `now_ms` with another answer, if nothing more arrives."""
        answer = self.holds(customer, now_ms)
        instants = {instant for each in self.conditions for instant in customer.expiries(each) if instant > now_ms}
        return next((each for each in sorted(instants) if self.holds(customer, each) != answer), None)


@dataclass
class Customer:
    """A known customer: all events since the last erasure, and what they come to."""

    customer_id: str
    hits: dict[Condition, list[Hit]]
    events: list[Event] = field(default_factory=list)
    instants: list[int] = field(default_factory=list)
    segments: set[str] = field(default_factory=set)
    last_effective_ms: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)
    agreements: dict[str | None, bool] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        if any((each.event_id, each.time_ms) == (event.event_id, event.time_ms) for each in self.events):
            return
        self.events.append(event)
        self.read_registers()
        total = micros(event.properties["total"]) if event.type == "purchase.order" else 0
        for condition, hits in self.hits.items():
            if condition.is_hit(event):
                insort(hits, (event.time_ms, total))
                if condition.within_ms is not None:
                    insort(self.instants, event.time_ms + condition.within_ms)

    def read_registers(self) -> None:
        self.attributes, self.agreements = {}, {}
        updates = [each for each in self.events if each.type == "customer.update"]
        for event in sorted(updates, key=lambda each: (each.time_ms, each.offset)):
            self.attributes |= event.properties.get("attributes") or {}
            agreements = event.properties.get("agreements") or {}
            self.agreements |= {channel: agreed for channel, agreed in agreements.items() if agreed is not None}
        self.attributes = without_nulls(self.attributes)

    def expiries(self, condition: Condition) -> list[int]:
        if condition.within_ms is None:
            return []
        return [time_ms + condition.within_ms for time_ms, _ in self.hits[condition]]

    def instants_between(self, after_ms: int, to_ms: int) -> set[int]:
        return set(self.instants[bisect_right(self.instants, after_ms) : bisect_right(self.instants, to_ms)])


class Run:
    """One partition: its clock, its customers and the changes so far."""

    def __init__(self, document: Fields) -> None:
        self.segments = sorted(map(Segment.of, document["segments"]), key=lambda each: each.segment_id)
        self.customers: dict[str, Customer] = {}
        self.now_ms = -1
        self.changes: list[dict[str, Any]] = []

    def members(self) -> dict[str, set[str]]:
        return {
            segment.segment_id: {
                each.customer_id for each in self.customers.values() if segment.segment_id in each.segments
            }
            for segment in self.segments
        }

    def record(self, event: Event) -> None:
        self.advance(event.record_ms)
        customer = self.customers.get(event.customer_id)
        if event.type == "customer.delete":
            if customer is not None:
                self.erase(customer, event)
            return
        if customer is None:
            hits: dict[Condition, list[Hit]] = {each: [] for segment in self.segments for each in segment.conditions}
            customer = self.customers[event.customer_id] = Customer(event.customer_id, hits)
        customer.add(event)
        self.settle(customer, self.now_ms, event)

    def advance(self, to_ms: int) -> None:
        """Moves the clock, never back, and settles every customer at each instant on the way at which a hit expires."""
        due = [
            (instant, customer_id)
            for customer_id, customer in self.customers.items()
            for instant in customer.instants_between(self.now_ms, to_ms)
        ]
        for instant, customer_id in sorted(due):
            self.settle(self.customers[customer_id], instant, None)
        self.now_ms = max(self.now_ms, to_ms)

    def settle(self, customer: Customer, instant_ms: int, event: Event | None) -> None:
        for segment in self.segments:
            if segment.holds(customer, instant_ms) != (segment.segment_id in customer.segments):
                reason = "deadline" if event is None else "event"
                self.change(customer, segment, instant_ms, reason, event)

    def erase(self, customer: Customer, event: Event) -> None:
        for segment in self.segments:
            if segment.segment_id in customer.segments:
                self.change(customer, segment, self.now_ms, "erasure", event)
        del self.customers[customer.customer_id]

    def change(self, customer: Customer, segment: Segment, instant_ms: int, reason: str, event: Event | None) -> None:
        entered = segment.segment_id not in customer.segments
        customer.segments ^= {segment.segment_id}
        own_ms = instant_ms if event is None else event.time_ms
        customer.last_effective_ms = max(own_ms, customer.last_effective_ms)
        flips_ms = None if reason == "erasure" else segment.flips_at(customer, instant_ms)
        self.changes.append(
            {
                "type": "entered" if entered else "left",
                "segment_id": segment.segment_id,
                "segment_name": segment.name,
                "definition_version": segment.version,
                "customer_id": customer.customer_id,
                "sequence": len(self.changes) + 1,
                "effective_at": rfc3339(customer.last_effective_ms),
                "valid_until": None if flips_ms is None or flips_ms > LAST_MS else rfc3339(flips_ms),
                "reason": reason,
                "cause": None if event is None else event.cause(),
                "conditions": [each.holds(customer, instant_ms) for each in segment.conditions],
            }
        )
