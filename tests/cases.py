"""Random segment documents with the events to try them on, the same for the same seed.

Everything is drawn from small pools, so that events meet conditions and each other, and windows are as long as the gaps
between the events, so that they expire.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any, TypeAlias

Fields: TypeAlias = dict[str, Any]

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
UNIT_MS = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": 7 * DAY_MS}
LONGEST_WITHIN_MS = 36_500 * DAY_MS
LAST_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SPANS_MS = (90 * SECOND_MS, 20 * MINUTE_MS, 9 * HOUR_MS, 5 * DAY_MS, 60 * DAY_MS, 3 * 365 * DAY_MS)

# The last two sort the other way round in UTF-16.
CUSTOMERS = ("ann", "Ann", "bob", "7", "70", "Zoë", "customer|7", "a b", "\uff21", "\U0001d538")
SEGMENTS = ("a", "a-b", "a_b", "a1", "ab", "b", "b--", "c_", "c0", "d", "e-1", "e-10", "e-2", "f", "g", "h")
TYPES = ("quiz.finished", "Quiz.finished", "loyalty_joined", "purchase.refund", "7")

HOSTS = ("shop.example", "www.shop.example", "notshop.example", "shop.example:8080", "blog.example")
DOMAINS = (*HOSTS, "Shop.Example", "example")
AUTHORITIES = (*HOSTS, "SHOP.Example", "me@shop.example", "me:pass@blog.example", "eu.www.shop.example")
PATHS = ("", "/", "/a", "/a/", "/a/b", "/ab", "/A", "/a/b/c/", "/%61", "/a//")
WANTED_PATHS = ("/", "/a", "/a/", "/a/b", "/a/*", "/a/*", "/a*", "/*", "/A", "/%61", "/ab", "/a/b*")
QUERIES = ("", "", "?", "?x=1", "?x=1&y=2", "?y=2&x=1", "?X=1")
FRAGMENTS = ("", "", "", "#top", "#/a?x=1")
NO_URLS = ("/a", "shop.example/a", "//shop.example/a", "", "http://", "not a url")

ACTIONS = ("sent", "opened", "clicked", "opened.late")
CAMPAIGNS = ("spring", "Spring", 7, "7", "70")
LOCATIONS = ("store-1", "store-2", 12, "12")
SCREENS = ("home", "Home", "cart")
PRODUCTS = ("shoe", "hat", 5, "5", "Shoe")
CATEGORIES = ("Shoes", "shoes", "Hats", 3, "3")
CURRENCIES = ("EUR", "USD", "eur")
AMOUNTS = (0, 0.1, 0.2, 0.3, 10, 19.99, 39.98, 59.97, 1.000001, 1.000002, 100, 999999999.999999)
# As the lines write them: seven decimals to round half-even, exponents and trailing zeros among them.
WRITTEN = ("0", "0.0", "0.1", "0.10", "0.2", "0.3", "10", "1e1", "1E-1", "19.99", "19.990", "39.98", "100", "100.0")
WRITTEN_FINE = ("1.0000005", "1.0000015", "1.0000025", "1.00000150000001", "0.0000005", "0.29999995", "0.3000005")

ATTRIBUTES = (
    "plan",
    "city",
    "age",
    "tags",
    "vip",
    "address",
    "address.city",
    "address.geo.lat",
    "address.tags",
    "nope",
)
WORDS = ("gold", "Gold", "straße", "STRASSE", "İstanbul", "i̇stanbul", "istanbul", "\u212aiev", "kiev", "old", "")
NUMBERS = (0, 1, 1.0, 17.5, 18, 42, -3, 0.3, 9007199254740993, 9007199254740992, 1e15)
CHANNELS = ("newsletter", "sms", "push", "fax")


@dataclass
class Case:
    """A document and the lines of an events file; `faults` are the invalid lines in it: line from 1, code, path."""

    document: Fields
    lines: list[bytes]
    until_ms: int | None
    faults: list[tuple[int, str, str | None]]


def case(seed: int) -> Case:
    """The case of this seed: mostly 60 to 300 events on 6 to 14 segments."""
    random = Random(seed)
    span_ms = random.choice(SPANS_MS)
    start_ms = random.choice((0, 1_709_200_000_000, 1_709_164_799_900, 1_735_689_600_000)) + random.randrange(50)
    if random.random() < 0.04:
        start_ms = LAST_MS - span_ms - random.randrange(1_000)
    documents = Documents(random, start_ms, span_ms)
    document = documents.document()
    events = Events(random, document, documents.edges, start_ms, span_ms)
    lines, faults = events.lines(random.choice((12, 60, 100, 150, 200, 200, 300)))
    until_ms = random.choice((None, events.clock_ms + random.randrange(2 * span_ms), start_ms + span_ms // 2))
    return Case(document, lines, None if until_ms is None else min(until_ms, LAST_MS), faults)


def maybe(random: Random, chance: float, fields: Callable[[], Fields]) -> Fields:
    return fields() if random.random() < chance else {}


class Documents:
    """Draws segment documents, valid ones only."""

    def __init__(self, random: Random, start_ms: int, span_ms: int) -> None:
        self.random = random
        self.start_ms = start_ms
        self.span_ms = span_ms
        self.edges: list[int] = []  # where fixed periods begin and end
        self.kinds: dict[str, Callable[[], Fields]] = {
            "customer": self.customer,
            "page_visit": self.page,
            "referral": self.page,
            "email": self.message,
            "sms": self.message,
            "push": self.message,
            "location": lambda: self.some("location_id", LOCATIONS),
            "agreement": lambda: {"channel": self.random.choice(CHANNELS)},
            "purchase_category": lambda: {"category": self.random.choice(CATEGORIES)},
            "purchase_product": lambda: self.some("product_id", PRODUCTS),
            "purchase_price": lambda: (
                self.bounds() | self.some("product_id", PRODUCTS) | self.some("currency", CURRENCIES)
            ),
            "transaction": lambda: self.bounds() | self.some("currency", CURRENCIES),
            "app_screen": lambda: self.some("screen", SCREENS),
            "event": self.event,
            "spend": lambda: self.bounds() | self.some("currency", CURRENCIES),
        }

    def document(self) -> Fields:
        # Few kinds a document: its events then meet several conditions each.
        kinds = self.random.sample(sorted(self.kinds), self.random.choice((3, 5, 5, 8, 15)))
        kinds += self.random.choice(([], [], ["customer"] * 3, ["event", "page_visit"]))
        ids = self.random.sample(SEGMENTS, self.random.choice((1, 6, 8, 10, 12, 14)))
        return {"segments": [self.segment(segment_id, kinds) for segment_id in ids]}

    def segment(self, segment_id: str, kinds: list[str]) -> Fields:
        size = self.random.choice((1, 1, 1, 2, 2, 3, 4))
        return {
            "id": segment_id,
            "name": f"Segment {segment_id}",
            **maybe(self.random, 0.2, lambda: {"version": self.random.randint(1, 9)}),
            **maybe(self.random, 0.6, lambda: {"match": self.random.choice(("all", "any", "any"))}),
            "conditions": [self.condition(self.random.choice(kinds)) for _ in range(size)],
        }

    def condition(self, kind: str) -> Fields:
        fields = {"kind": kind, **self.kinds[kind]()}
        if kind not in {"customer", "agreement"}:
            fields |= self.window()
            if kind != "spend":
                fields |= self.count()
        return fields | maybe(self.random, 0.3, lambda: {"negate": self.random.random() < 0.9})

    def some(self, name: str, values: tuple[Any, ...], chance: float = 0.5) -> Fields:
        return maybe(self.random, chance, lambda: {name: self.random.choice(values)})

    def window(self) -> Fields:
        drawn = self.random.random()
        if drawn < 0.7:
            return {"within": self.duration()}
        if drawn < 0.85:
            since_ms, until_ms = sorted((self.instant(), self.instant()))
            ends = {"since": written_time(self.random, since_ms), "until": written_time(self.random, until_ms)}
            dropped = self.random.choice(("since", "until", None if since_ms < until_ms else "since"))
            return {name: text for name, text in ends.items() if name != dropped}
        return {}

    def instant(self) -> int:
        if self.edges and self.random.random() < 0.3:
            return self.random.choice(self.edges)
        time_ms = self.start_ms + self.span_ms * self.random.randint(-50, 1_050) // 1_000
        self.edges.append(min(max(time_ms, 0), LAST_MS))
        return self.edges[-1]

    def duration(self) -> str:
        drawn = self.random.random()
        if drawn < 0.06:
            return self.random.choice(("1s", "3s", "36500d", "5000w", "876000h"))
        wanted_ms = max(SECOND_MS, self.span_ms * 10 ** self.random.uniform(-2.3, 0.1))
        unit = self.random.choice([unit for unit, unit_ms in UNIT_MS.items() if unit_ms <= wanted_ms])
        return f"{max(1, round(wanted_ms / UNIT_MS[unit]))}{unit}"

    def count(self) -> Fields:
        least, most = sorted((self.random.choice((1, 1, 2, 2, 3, 5, 8)), self.random.choice((0, 1, 2, 3, 4, 10, 20))))
        return self.random.choice(
            (
                {},
                {},
                {"at_least": max(1, least)},
                {"at_most": self.random.choice((0, 1, 2, 3))},
                {"at_least": max(1, least), "at_most": max(1, most)},
                {"at_least": 1, "at_most": self.random.choice((1, 1_000))},
            )
        )

    def bounds(self) -> Fields:
        low, high = sorted(self.random.choices(AMOUNTS, k=2))
        return self.random.choice(({"min": low}, {"max": high}, {"min": low, "max": high}, {"min": low, "max": low}))

    def page(self) -> Fields:
        drawn = self.random.random()
        if drawn < 0.15:
            return {}
        if drawn < 0.45:
            url = random_url(self.random)
            return {
                "url": url,
                **maybe(self.random, 0.7, lambda: {"query": self.random.choice(("ignore", "exact", "exact"))}),
            }
        fields = {}
        if drawn < 0.85:
            fields = self.some("domain", DOMAINS, 1) | maybe(
                self.random, 0.5, lambda: {"subdomains": self.random.random() < 0.8}
            )
        return fields | self.some("path", WANTED_PATHS, 0.4 if fields else 1)

    def message(self) -> Fields:
        return {"action": self.random.choice(ACTIONS)} | self.some("campaign_id", CAMPAIGNS)

    def customer(self) -> Fields:
        return {"attribute": self.random.choice(ATTRIBUTES)} | self.operator()

    def event(self) -> Fields:
        if self.random.random() < 0.35:
            event_type, tests = self.built_in_event()
        else:
            event_type = self.random.choice(TYPES)
            tests = [
                {"property": self.random.choice(ATTRIBUTES)} | self.operator()
                for _ in range(self.random.choice((1, 2)))
            ]
        return {"type": event_type} | maybe(self.random, 0.7, lambda: {"where": tests})

    def built_in_event(self) -> tuple[str, list[Fields]]:
        return self.random.choice(
            (
                ("purchase.order", [{"property": "total", "operator": "at_least", "value": 19.99}]),
                ("purchase.order", [{"property": "order_id", "operator": "equals", "value": 5}]),
                ("page.visit", [{"property": "url", "operator": "contains", "value": "SHOP", "ignore_case": True}]),
                ("page.visit", [{"property": "referrer", "operator": "exists"}]),
                ("email.sent", [{"property": "campaign_id", "operator": "equals", "value": 7}]),
                ("email.sent", [{"property": "campaign_id", "operator": "in", "value": ["7", "spring"]}]),
                ("customer.update", [{"property": "attributes.plan", "operator": "exists"}]),
                ("customer.update", [{"property": "agreements.sms", "operator": "equals", "value": True}]),
                ("customer.delete", [{"property": "plan", "operator": "exists"}]),
            )
        )

    def operator(self) -> Fields:
        operator = self.random.choice(
            ("equals", "equals", "contains", "starts_with", "ends_with", "exists", "in", "at_least", "at_most")
        )
        if operator == "exists":
            return {"operator": operator}
        if operator in {"at_least", "at_most"}:
            return {"operator": operator, "value": self.random.choice(NUMBERS)}
        value = self.operand(operator)
        text = value[0] if isinstance(value, list) and value else value
        ignored = maybe(self.random, 0.8, lambda: {"ignore_case": self.random.random() < 0.9})
        return {"operator": operator, "value": value, **(ignored if isinstance(text, str) else {})}

    def operand(self, operator: str) -> Any:
        if operator in {"starts_with", "ends_with"}:
            return self.random.choice(("g", "G", "st", "STRASS", "SSE", "e", "i", "i̇", "k", "K", "old"))
        if operator == "in":
            return [self.scalar() for _ in range(self.random.randint(1, 4))]
        if operator == "equals" and self.random.random() < 0.25:
            return [self.random.choice(("gold", "old", 1, True)) for _ in range(self.random.randint(1, 2))]
        if operator == "contains" and self.random.random() < 0.4:
            return self.random.choice(("ol", "ss", "ß", "İ", "S", "k"))
        return self.scalar()

    def scalar(self) -> Any:
        return self.random.choice((self.random.choice(WORDS[:-1]), self.random.choice(NUMBERS), True, False, "1"))


def written_time(random: Random, time_ms: int) -> str:
    """One of the ways to write this instant; digits beyond the millisecond are drawn, and must be cut."""
    zone = random.choice((timedelta(0), timedelta(hours=2), timedelta(hours=-5, minutes=-30), timedelta(hours=14)))
    if not DAY_MS < time_ms < LAST_MS - DAY_MS:
        zone = timedelta(0)
    local = (EPOCH + timedelta(milliseconds=time_ms)).astimezone(timezone(zone))
    text = local.replace(tzinfo=None).isoformat(sep=random.choice("TTT "), timespec="seconds")
    millis = f"{time_ms % 1_000:03}"
    fraction = random.choice((f".{millis}", f".{millis}", f".{millis}999", f".{millis}000000", f".{millis}5"))
    if time_ms % 100 == 0 and random.random() < 0.5:
        fraction = f".{millis[0]}" if millis != "000" else ""
    offset = local.strftime("%z")
    return f"{text}{fraction}" + ("Z" if offset == "+0000" and random.random() < 0.9 else f"{offset[:3]}:{offset[3:]}")


def random_url(random: Random) -> str:
    scheme = random.choice(("https", "https", "http", "HTTPS", "ftp"))
    authority = random.choice(AUTHORITIES)
    if ":" not in authority.rpartition("@")[2]:
        port = {"https": ":443", "http": ":80"}.get(scheme.lower(), "")
        authority += random.choice(("", "", "", port, ":8080"))
    return f"{scheme}://{authority}{random.choice(PATHS)}{random.choice(QUERIES)}{random.choice(FRAGMENTS)}"


def related(random: Random, value: Any) -> Any:
    """The value itself, or one that differs from it in what equality, order or case may turn on."""
    if isinstance(value, list):
        return random.choice((value, related(random, random.choice(value)))) if value else value
    if isinstance(value, str):
        kin = (value.upper(), value.lower(), value.swapcase(), value.casefold(), f"x{value}", f"{value}x")
        return random.choice((value, value, *kin))
    if isinstance(value, bool):
        return random.choice((value, value, not value, int(value), str(value)))
    return random.choice((value, value, float(value), value + 1, value - 1, -value, True, str(value)))


def literal(text: str) -> str:
    """Stands for a number to be written in just this way."""
    return f"number={text}="


def encode(random: Random, content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=random.random() < 0.3)
    return re.sub(r'"number=([^="]+)="', r"\1", text).encode()


@dataclass
class Draft:
    """An event without its times: whatever is sent again keeps all of it, so that an id never has two contents."""

    fields: Fields
    times: list[tuple[int | None, int | None]] = field(default_factory=list)  # time and received_at of each sending


class Events:
    """Draws the lines of an events file, most of them of use to the document."""

    def __init__(self, random: Random, document: Fields, edges: list[int], start_ms: int, span_ms: int) -> None:
        self.random = random
        self.edges = edges
        self.start_ms = start_ms
        self.span_ms = span_ms
        self.clock_ms = start_ms
        self.drafts: list[Draft] = []
        self.instants: list[int] = []  # of the events so far
        self.windows_ms = windows_of(document)
        self.customers = random.choice((list(CUSTOMERS[-2:]), [])) + random.sample(CUSTOMERS[:-2], random.randint(2, 6))
        self.counts = dict.fromkeys(self.customers, 0)
        conditions = conditions_of(document)
        self.wanted = [maker_for(each) for each in conditions]
        self.urls: list[str] = [each["url"] for each in conditions if "url" in each]
        self.messages = [f"{each['kind']}.{each['action']}" for each in conditions if "action" in each]
        self.pages = [each for each in conditions if "domain" in each or "path" in each]
        self.tests = [each for each in conditions if "attribute" in each]
        self.customs = [each for each in conditions if each.get("type") in TYPES]
        self.updates: dict[str, int] = {}  # when each customer's attributes were written last
        self.grid_ms = random.choice((1, max(1, span_ms // 500), max(1, span_ms // 60)))
        self.late_share = random.choice((0.0, 0.1, 0.4))
        self.makers: dict[str, Callable[[], tuple[str, Fields | None]]] = {
            "page": self.visit,
            "message": self.message,
            "location": lambda: ("location.visit", {"location_id": self.random.choice(LOCATIONS), "beacon_id": 1}),
            "order": self.order,
            "screen": lambda: ("app.screen", {"screen": self.random.choice(SCREENS)}),
            "update": self.update,
            "custom": self.custom,
            "delete": lambda: ("customer.delete", None),
        }

    def lines(self, count: int) -> tuple[list[bytes], list[tuple[int, str, str | None]]]:
        lines: list[bytes] = []
        faults: list[tuple[int, str, str | None]] = []
        step_ms = self.span_ms / count
        while len(lines) < count:
            self.clock_ms += int(self.random.expovariate(1 / step_ms)) if self.random.random() < 0.85 else 0
            self.clock_ms = min(self.clock_ms - self.clock_ms % self.grid_ms, LAST_MS)
            drawn = self.random.random()
            if drawn < 0.05:
                line, code, path = self.invalid()
                faults.append((len(lines) + 1, code, path))
            elif drawn < 0.06:
                line = self.random.choice((b"", b"  ", b"\r", b"\t"))
            elif drawn < 0.11 and any(lines):
                line = self.random.choice([each for each in lines if each.startswith(b"{")] or [b""])
                faults += [(len(lines) + 1, code, path) for at, code, path in faults if lines[at - 1] == line][:1]
            else:
                line = self.event() + self.random.choice((b"", b"", b"", b" ", b"\r"))
            lines.append(line)
        if self.random.random() < 0.1:
            lines[0] = b"\xef\xbb\xbf" + lines[0]
        return lines, faults

    def event(self) -> bytes:
        drawn = self.random.random()
        if drawn < 0.05 and self.drafts:
            draft = self.random.choice(self.drafts)
            time_ms, received_ms = self.sent_again(*self.random.choice(draft.times))
        elif drawn < 0.1 and self.drafts:
            draft = self.random.choice(self.drafts)
            time_ms, received_ms = self.times()
        else:
            draft = self.draft()
            time_ms, received_ms = self.times_of_new(draft)
        draft.times.append((time_ms, received_ms))
        self.instants.append(min(each for each in (time_ms, received_ms) if each is not None))
        return self.written(draft.fields, time_ms, received_ms)

    def written(self, fields: Fields, time_ms: int | None, received_ms: int | None) -> bytes:
        times = {"time": time_ms, "received_at": received_ms}
        texts = {name: self.time_text(each) for name, each in times.items() if each is not None}
        nulls: Fields = {name: None for name, each in times.items() if each is None and self.random.random() < 0.2}
        content = list((fields | texts | nulls).items())
        if self.random.random() < 0.2:
            self.random.shuffle(content)
        return encode(self.random, dict(content))

    def time_text(self, time_ms: int) -> int | str:
        return time_ms if self.random.random() < 0.4 else written_time(self.random, time_ms)

    def sent_again(self, time_ms: int | None, received_ms: int | None) -> tuple[int | None, int | None]:
        """The times of an event that arrives once more: now, or as late as the first time."""
        return self.random.choice(((time_ms, received_ms), (time_ms, self.clock_ms)))

    def times_of_new(self, draft: Draft) -> tuple[int | None, int | None]:
        """As `times`, but attributes of one customer are often written at the very same instant."""
        time_ms, received_ms = self.times()
        if draft.fields["type"] == "customer.update":
            customer_id = str(draft.fields["customer_id"])
            written_ms = self.updates.get(customer_id, LAST_MS)
            if self.random.random() < 0.25 and received_ms is not None and written_ms <= received_ms:
                time_ms = written_ms
            self.updates[customer_id] = min(each for each in (time_ms, received_ms) if each is not None)
        return time_ms, received_ms

    def times(self) -> tuple[int | None, int | None]:
        """Time and arrival of the next event: on the clock, late, ahead of it or upon an instant of note."""
        received_ms = self.clock_ms
        if self.random.random() < 0.12 and self.instants and self.windows_ms:
            received_ms = self.near_a_deadline()
        elif self.random.random() < 0.08:
            received_ms -= self.random.randrange(max(1, self.span_ms // 5))
        received_ms = min(max(received_ms, 0), LAST_MS)
        time_ms = received_ms
        drawn = self.random.random()
        if drawn < self.late_share:
            time_ms = self.late(received_ms)
        elif drawn < self.late_share + 0.06:
            time_ms = min(received_ms + self.random.randrange(1, self.span_ms), LAST_MS)
        elif drawn < self.late_share + 0.2:
            return self.random.choice(((None, received_ms), (time_ms, None)))
        return time_ms, received_ms

    def late(self, received_ms: int) -> int:
        edges = [each for edge in self.edges for each in (edge - 1, edge, edge + 1) if 0 <= each <= received_ms]
        if edges and self.random.random() < 0.4:
            return self.random.choice(edges)
        if self.instants and self.random.random() < 0.3:
            return min(self.random.choice(self.instants), received_ms)
        return max(0, received_ms - int(self.span_ms * 10 ** self.random.uniform(-3, 0)))

    def near_a_deadline(self) -> int:
        """At a deadline or one millisecond beside it, if the clock is about to reach one."""
        horizon_ms = self.clock_ms + self.span_ms // 8
        ahead = [
            instant + window_ms
            for instant in self.instants[-40:]
            for window_ms in self.windows_ms
            if self.clock_ms - 1 <= instant + window_ms <= horizon_ms
        ]
        if not ahead:
            return self.clock_ms
        received_ms = min(ahead) if self.random.random() < 0.5 else self.random.choice(ahead)
        received_ms = min(received_ms + self.random.choice((0, 0, 0, -1, 1)), LAST_MS)
        self.clock_ms = max(self.clock_ms, received_ms)
        return received_ms

    def draft(self) -> Draft:
        if self.random.random() < 0.025:
            maker = "delete"
        elif self.random.random() < 0.85:
            maker = self.random.choice(self.wanted)
        else:
            maker = self.random.choice(sorted(self.makers.keys() - {"delete"}))
        event_type, properties = self.makers[maker]()
        customer_id = self.random.choice(self.customers)
        self.counts[customer_id] += 1  # ids are counted per customer, so that those of two customers are often the same
        number = self.counts[customer_id]
        fields: Fields = {
            "event_id": number if self.random.random() < 0.2 else f"e{number}",
            "type": event_type,
            "customer_id": int(customer_id) if customer_id.isascii() and customer_id.isdigit() else customer_id,
        }
        if properties is not None:
            fields["properties"] = properties
        draft = Draft(fields)
        self.drafts.append(draft)
        return draft

    def visit(self) -> tuple[str, Fields]:
        properties: Fields = {"url": self.url()}
        if self.random.random() < 0.6:
            properties["referrer"] = self.random.choice((*(self.url() for _ in range(10)), *NO_URLS, None))
        return "page.visit", properties

    def url(self) -> str:
        drawn = self.random.random()
        if drawn < 0.3 and self.urls:
            return self.random.choice(self.urls)
        if drawn < 0.7 and self.pages:
            page = self.random.choice(self.pages)
            authority = self.random.choice(("", "", "", "", "www.", "not", "me@")) + str(
                page.get("domain", "shop.example")
            )
            path = str(page.get("path", "/")).replace("*", self.random.choice(("", "", "b", "/", "b/c")))
            path += self.random.choice(("", "", "", "/", "b"))
            return f"https://{authority}{path.removesuffix(self.random.choice(('', '', '/')))}"
        return random_url(self.random)

    def message(self) -> tuple[str, Fields | None]:
        event_type = f"{self.random.choice(('email', 'sms', 'push'))}.{self.random.choice(ACTIONS)}"
        if self.messages and self.random.random() < 0.7:
            event_type = self.random.choice(self.messages)
        return event_type, self.random.choice(
            (None, {}, {"campaign_id": None}, *({"campaign_id": each} for each in CAMPAIGNS * 2))
        )

    def money(self) -> Any:
        return literal(self.random.choice(WRITTEN_FINE if self.random.random() < 0.2 else WRITTEN))

    def order(self) -> tuple[str, Fields]:
        properties: Fields = {"order_id": self.random.choice((5, "5", "o-1")), "total": self.money()}
        if self.random.random() < 0.8:
            properties["currency"] = self.random.choice((*CURRENCIES, None))
        if self.random.random() < 0.85:
            properties["items"] = [self.item() for _ in range(self.random.choice((0, 1, 1, 2, 3)))]
        return "purchase.order", properties

    def item(self) -> Fields:
        some_categories = self.random.sample(CATEGORIES, self.random.randint(0, 3))
        category = self.random.choice((*CATEGORIES, some_categories, None))
        item = {
            "product_id": self.random.choice(PRODUCTS),
            "category": category,
            "price": self.random.choice((self.money(), self.money(), self.money(), None)),
            "quantity": self.random.choice((1, 2, None)),
        }
        return {name: value for name, value in item.items() if value is not None or self.random.random() < 0.3}

    def update(self) -> tuple[str, Fields | None]:
        drawn = self.random.random()
        if drawn < 0.03:
            return "customer.update", None
        agreements = {each: self.random.choice((True, True, False, None)) for each in self.random.sample(CHANNELS, 2)}
        if drawn < 0.3:
            return "customer.update", {"agreements": agreements}
        properties: Fields = {"attributes": self.attributes()}
        if drawn < 0.45:
            properties["agreements"] = agreements
        return "customer.update", properties

    def attributes(self) -> Fields:
        names = self.random.sample(("plan", "city", "age", "tags", "vip", "address", "address.city"), 3)
        attributes = {name: self.attribute(name, nulls=True) for name in names[: self.random.choice((0, 0, 1, 3))]}
        if self.tests and self.random.random() < 0.8:
            test = self.random.choice(self.tests)
            attributes |= self.tested(test["attribute"], test, nulls=True)
        return attributes

    def tested(self, dotted: str, test: Fields, *, nulls: bool) -> Fields:
        """The attribute or property of a test, with a value that is likely to satisfy it, or only just not."""
        if nulls and self.random.random() < 0.15:
            return {dotted.split(".", maxsplit=1)[0]: None}
        value = related(self.random, test.get("value", "gold"))
        if self.random.random() < 0.2:
            value = self.random.choice(([value], ["x", value], [[value]], [value, None] if nulls else []))
        if nulls and isinstance(value, list) and self.random.random() < 0.4:
            value = [None, *value]
        if not nulls and self.random.random() < 0.1:
            value = None  # which is no value of a property
        first, *inner = dotted.split(".")
        for name in reversed(inner):
            value = {name: value} | maybe(self.random, 0.2, lambda: {"zip": None if nulls else 1})
        return {first: value}

    def attribute(self, name: str, *, nulls: bool) -> Any:
        if nulls and self.random.random() < 0.15:
            return None
        if name == "address":
            inner = {"city": self.word(nulls), "geo": {"lat": self.number()}, "tags": self.listed(nulls), "x.y": 1}
            kept = self.random.sample(sorted(inner), self.random.randint(0, 4))
            return {each: inner[each] for each in kept}
        return self.random.choice((self.word(nulls), self.word(nulls), self.number(), True, False, self.listed(nulls)))

    def word(self, nulls: bool) -> Any:
        return self.random.choice((*WORDS, None)) if nulls else self.random.choice(WORDS)

    def number(self) -> Any:
        return self.random.choice((*NUMBERS, literal("1.0"), literal("42.0"), literal("0.30"), literal("1e15")))

    def listed(self, nulls: bool) -> list[Any]:
        pool = ["gold", "Gold", "old", "STRASSE", 1, 1.0, 18, True, "1", {"a": 1}, ["gold"]]
        return self.random.choices([*pool, None] if nulls else pool, k=self.random.randint(0, 3))

    def custom(self) -> tuple[str, Fields | None]:
        names = self.random.sample(("plan", "city", "age", "tags", "vip", "address", "nope"), self.random.randint(0, 4))
        properties = {name: self.attribute(name, nulls=False) for name in names}
        if names and self.random.random() < 0.1:
            properties[names[0]] = None
        event_type = self.random.choice(TYPES)
        if self.customs and self.random.random() < 0.8:
            condition = self.random.choice(self.customs)
            event_type = condition["type"]
            for test in condition.get("where", []):
                properties |= self.tested(test["property"], test, nulls=False)
        return event_type, properties if self.random.random() < 0.95 else None

    def invalid(self) -> tuple[bytes, str, str | None]:
        """A line that is no event, with the code and path of its first fault."""
        if self.random.random() < 0.25:
            content, code = self.random.choice(BROKEN)
            return content, code, None
        event_type, properties, code, path = self.random.choice(FAULTS)
        fields: Fields = {"event_id": "bad", "type": event_type, "customer_id": self.random.choice(self.customers)}
        fields |= {"time": min(self.clock_ms + self.span_ms, LAST_MS), "properties": properties}
        if self.random.random() < 0.6:
            changes, code, path = self.random.choice(TOP_FAULTS)
            fields = {name: value for name, value in (fields | changes).items() if value is not MISSING}
        return encode(self.random, fields), code, path


MISSING = object()

BROKEN: tuple[tuple[bytes, str], ...] = (
    (b'{"event_id": "\xff"}', "not_utf8"),
    (b"\xc3", "not_utf8"),
    (base64.b64decode("7aCA"), "not_utf8"),  # a surrogate, which UTF-8 has no bytes for
    (b"{", "not_json"),
    (b'{"event_id": "a",}', "not_json"),
    (b"{'event_id': 'a'}", "not_json"),
    (b'{"event_id": NaN}', "not_json"),
    (b'{"total": -Infinity}', "not_json"),
    (b'{"event_id": "a"} {}', "not_json"),
    (b"nonsense", "not_json"),
    (b"[]", "not_object"),
    (b"null", "not_object"),
    (b'"text"', "not_object"),
    (b"17", "not_object"),
)

# The value of each field stands in the place of a right one; a later fault never shows.
TOP_FAULTS: tuple[tuple[Fields, str, str], ...] = (
    ({"event_id": MISSING, "type": None}, "missing", "event_id"),
    ({"event_id": None}, "missing", "event_id"),
    ({"event_id": ""}, "out_of_range", "event_id"),
    ({"event_id": "x" * 129}, "out_of_range", "event_id"),
    ({"event_id": ["a"]}, "wrong_type", "event_id"),
    ({"event_id": 1.5, "time": "never"}, "wrong_type", "event_id"),
    ({"event_id": True}, "wrong_type", "event_id"),
    ({"type": MISSING}, "missing", "type"),
    ({"type": "with space", "customer_id": ""}, "out_of_range", "type"),
    ({"type": ""}, "out_of_range", "type"),
    ({"type": "x" * 129}, "out_of_range", "type"),
    ({"type": ".hidden"}, "out_of_range", "type"),
    ({"type": "page.visit\n"}, "out_of_range", "type"),
    ({"type": "besøk"}, "out_of_range", "type"),
    ({"type": {}}, "wrong_type", "type"),
    ({"customer_id": MISSING, "time": True}, "missing", "customer_id"),
    ({"customer_id": ""}, "out_of_range", "customer_id"),
    ({"customer_id": "é" * 257}, "out_of_range", "customer_id"),
    ({"customer_id": {"id": 7}}, "wrong_type", "customer_id"),
    ({"time": MISSING}, "missing", "time"),
    ({"time": None, "received_at": None}, "missing", "time"),
    ({"time": "yesterday"}, "bad_time", "time"),
    ({"time": ""}, "bad_time", "time"),
    ({"time": -1}, "bad_time", "time"),
    ({"time": LAST_MS + 1}, "bad_time", "time"),
    ({"time": "2024-01-01T00:00:00"}, "bad_time", "time"),
    ({"time": "2024-02-30T00:00:00Z"}, "bad_time", "time"),
    ({"time": "1969-12-31T23:59:59.999Z"}, "bad_time", "time"),
    ({"time": "1970-01-01T00:30:00+01:00"}, "bad_time", "time"),
    ({"time": "9999-12-31T23:59:59-01:00"}, "bad_time", "time"),
    ({"time": False}, "wrong_type", "time"),
    ({"time": [], "received_at": "soon"}, "wrong_type", "time"),
    ({"received_at": "soon"}, "bad_time", "received_at"),
    ({"received_at": {}}, "wrong_type", "received_at"),
    ({"received_at": -5}, "bad_time", "received_at"),
    ({"properties": []}, "wrong_type", "properties"),
    ({"properties": "none"}, "wrong_type", "properties"),
    ({"type": "customer.delete", "properties": 1}, "wrong_type", "properties"),
    ({"type": "quiz.finished", "properties": [1]}, "wrong_type", "properties"),
    ({"type": "page.visit", "properties": MISSING}, "missing", "properties"),
    ({"type": "app.screen", "properties": None}, "missing", "properties"),
)

ORDER: Fields = {"order_id": "o", "total": 5}
ITEM: Fields = {"product_id": "shoe"}
FAULTS: tuple[tuple[str, Fields, str, str], ...] = (
    ("page.visit", {}, "missing", "properties.url"),
    ("page.visit", {"url": None}, "missing", "properties.url"),
    ("page.visit", {"url": "/a"}, "bad_url", "properties.url"),
    ("page.visit", {"url": ""}, "bad_url", "properties.url"),
    ("page.visit", {"url": "shop.example/a"}, "bad_url", "properties.url"),
    ("page.visit", {"url": "http://"}, "bad_url", "properties.url"),
    ("page.visit", {"url": ["https://shop.example/"]}, "wrong_type", "properties.url"),
    ("page.visit", {"url": "https://shop.example/", "referrer": {}}, "wrong_type", "properties.referrer"),
    ("email.sent", {"campaign_id": True}, "wrong_type", "properties.campaign_id"),
    ("push.opened", {"campaign_id": ["spring"]}, "wrong_type", "properties.campaign_id"),
    ("location.visit", {"beacon_id": "b"}, "missing", "properties.location_id"),
    ("location.visit", {"location_id": 1.5}, "wrong_type", "properties.location_id"),
    ("location.visit", {"location_id": 1, "beacon_id": {}}, "wrong_type", "properties.beacon_id"),
    ("app.screen", {}, "missing", "properties.screen"),
    ("app.screen", {"screen": False}, "wrong_type", "properties.screen"),
    ("purchase.order", {"total": 5}, "missing", "properties.order_id"),
    ("purchase.order", {"order_id": "o"}, "missing", "properties.total"),
    ("purchase.order", {"order_id": "o", "total": "5"}, "wrong_type", "properties.total"),
    ("purchase.order", {"order_id": "o", "total": True}, "wrong_type", "properties.total"),
    ("purchase.order", {"order_id": "o", "total": -0.01}, "out_of_range", "properties.total"),
    ("purchase.order", {"order_id": "o", "total": 1_000_000_000_000}, "out_of_range", "properties.total"),
    ("purchase.order", {"order_id": "o", "total": literal("1e12")}, "out_of_range", "properties.total"),
    ("purchase.order", ORDER | {"currency": []}, "wrong_type", "properties.currency"),
    ("purchase.order", ORDER | {"items": {}}, "wrong_type", "properties.items"),
    ("purchase.order", ORDER | {"items": [ITEM, "shoe"]}, "wrong_type", "properties.items[1]"),
    ("purchase.order", ORDER | {"items": [{}]}, "missing", "properties.items[0].product_id"),
    ("purchase.order", ORDER | {"items": [{"product_id": []}]}, "wrong_type", "properties.items[0].product_id"),
    ("purchase.order", ORDER | {"items": [ITEM, ITEM | {"price": -1}]}, "out_of_range", "properties.items[1].price"),
    ("purchase.order", ORDER | {"items": [ITEM | {"price": "1"}]}, "wrong_type", "properties.items[0].price"),
    ("purchase.order", ORDER | {"items": [ITEM | {"category": True}]}, "wrong_type", "properties.items[0].category"),
    ("customer.update", {"attributes": ["plan"]}, "wrong_type", "properties.attributes"),
    ("customer.update", {"attributes": "plan"}, "wrong_type", "properties.attributes"),
    ("customer.update", {"agreements": []}, "wrong_type", "properties.agreements"),
    ("customer.update", {"agreements": {"sms": "yes"}}, "wrong_type", "properties.agreements.sms"),
    ("customer.update", {"agreements": {"sms": 1}}, "wrong_type", "properties.agreements.sms"),
)

# What makes the events that a kind counts, and those of the built-in types that conditions of kind `event` name.
MAKERS = {
    "customer": "update",
    "agreement": "update",
    "page_visit": "page",
    "referral": "page",
    "email": "message",
    "sms": "message",
    "push": "message",
    "location": "location",
    "purchase_category": "order",
    "purchase_product": "order",
    "purchase_price": "order",
    "transaction": "order",
    "spend": "order",
    "app_screen": "screen",
    "page.visit": "page",
    "purchase.order": "order",
    "email.sent": "message",
    "customer.update": "update",
}


def conditions_of(document: Fields) -> list[Fields]:
    return [condition for segment in document["segments"] for condition in segment["conditions"]]


def maker_for(condition: Fields) -> str:
    name = condition["type"] if condition["kind"] == "event" else condition["kind"]
    return MAKERS.get(name, "custom")


def windows_of(document: Fields) -> list[int]:
    texts = {condition["within"] for condition in conditions_of(document) if "within" in condition}
    return sorted(int(text[:-1]) * UNIT_MS[text[-1]] for text in texts)
