"""Purchase lists, such as a shop's export, to `purchase.order` events."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from itertools import chain
from typing import Any, TypeVar

import msgspec

from conditions.money import to_micros
from conditions.times import TimeError, format_time, parse_time
from connectors.payloads import MAX_CUSTOMER_ID_CHARACTERS, MONEY_LIMIT_MICROS, shorten

REPORTED_PROBLEMS = 20

_DATE = re.compile(r"([0-9]{4})(-?)([0-9]{2})\2([0-9]{2})")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")
_encode = msgspec.json.Encoder(decimal_format="number").encode

T = TypeVar("T")
Numbered = tuple[int, list[str]]  # a line's number, from 1, and its fields


class Columns(msgspec.Struct, frozen=True):
    """The names, in the header line, of the columns to read; an empty field of an optional column counts as absent."""

    customer: str
    date: str
    total: str
    order_id: str | None = None
    currency: str | None = None
    product: str | None = None
    quantity: str | None = None  # of the product; not read without `product`


class PurchaseListError(ValueError):
    """A wrong purchase list: `problems` are the first REPORTED_PROBLEMS of `count`, with line and column."""

    def __init__(self, problems: list[str], count: int) -> None:
        more = [f"and {count - len(problems)} more"] if count > len(problems) else []
        super().__init__("\n".join(problems + more))
        self.problems = problems
        self.count = count


def convert(
    source: Iterable[str], columns: Columns, *, separator: str | None = None, keep_order: bool = False
) -> Iterator[bytes]:
    """One `purchase.order` event a row, as JSON lines with their line feeds, sorted by time (rows of a time as listed).

    The first line names the columns. `separator` is the character between fields, " " for any run of whitespace; None
    takes it from the header line: the first of comma, semicolon and tab it contains, else whitespace. Fields between
    characters may be quoted as in CSV. Dates are YYYYMMDD or YYYY-MM-DD, taken as 00:00 UTC, or RFC 3339. With
    `keep_order` the events come in the list's order.

    An event's id follows from customer, date, total and how many rows before are the same in these, so a second
    conversion, also of a list that has grown at its end, gives the same ids; without an order id column it is the
    order's id too. The list is held in memory. Raises PurchaseListError before the first event, and ValueError for a
    separator of several characters.
    """
    if separator is not None and len(separator) != 1:
        raise ValueError(f"expected a separator of one character, got {separator!r}")
    rows = _Rows(columns)
    rows.read(_fields(source, separator))
    if rows.problems:
        raise PurchaseListError(rows.problems, rows.problem_count)
    events = rows.events if keep_order else sorted(rows.events, key=lambda event: event[0])
    return (body for _, body in events)


def _fields(source: Iterable[str], separator: str | None) -> Iterator[Numbered]:
    """The fields of each line that is not blank, the header first. Raises _UnreadableError."""
    lines = _lines(source)
    number = 1
    first = next(lines, "")
    while first and not first.strip():
        number += 1
        first = next(lines, "")
    if separator is None:
        separator = next((mark for mark in ",;\t" if mark in first), " ")
    everything = chain([first], lines)
    if separator != " ":
        yield from _separated(everything, number, separator)
        return
    for index, line in enumerate(everything):
        if fields := line.split():
            yield number + index, fields


def _separated(lines: Iterable[str], number: int, separator: str) -> Iterator[Numbered]:
    before = number - 1
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        for fields in reader:
            if fields:
                yield number, fields
            # a quoted field may hold line ends
            number = before + reader.line_num + 1
    except csv.Error as error:
        raise _UnreadableError(number, f"expected fields separated by {separator!r}: {error}") from error


def _lines(source: Iterable[str]) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(source, 1):
            yield line if number > 1 else line.removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _UnreadableError(number + 1, f"expected UTF-8 here or soon after: {error.reason}") from error


class _UnreadableError(Exception):
    """The list cannot be read on from `line`."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _Rows:
    """The events of the rows read so far, each with its time, and the problems found on the way."""

    def __init__(self, columns: Columns) -> None:
        names = msgspec.structs.asdict(columns)
        if columns.product is None:
            del names["quantity"]
        self.columns: dict[str, str] = {field: name for field, name in names.items() if name is not None}
        self.events: list[tuple[int, bytes]] = []
        self.problems: list[str] = []
        self.problem_count = 0
        self.same_rows: Counter[tuple[str, int, int]] = Counter()
        self.line_of_order: dict[tuple[str, str], int] = {}

    def read(self, lines: Iterator[Numbered]) -> None:
        try:
            number, header = next(lines, (1, []))
            places = self.places(number, header)
            for number, fields in lines if places else ():
                if len(fields) == len(header):
                    self.read_row(number, {field: fields[place].strip() for field, place in places.items()})
                else:
                    self.report(number, f"expected {len(header)} fields, as in the header, got {len(fields)}")
        except _UnreadableError as error:
            self.report(error.line, str(error))

    def places(self, number: int, header: list[str]) -> dict[str, int]:
        """Where each column stands; empty where one is missing."""
        names = [name.strip() for name in header]
        for name in self.columns.values():
            if names.count(name) != 1:
                listed = shorten(", ".join(names)) or "nothing"
                self.report(number, f'column "{name}": expected it exactly once in the header, got {listed}')
        return {} if self.problems else {field: names.index(name) for field, name in self.columns.items()}

    def read_row(self, number: int, cells: dict[str, str]) -> None:
        before = self.problem_count
        customer = self.cell(number, cells, "customer", _customer)
        time_ms = self.cell(number, cells, "date", _time_ms)
        total = self.cell(number, cells, "total", _amount)
        quantity = self.cell(number, cells, "quantity", _decimal) if cells.get("quantity") else None
        order_id = cells.get("order_id")
        if customer and order_id:
            self.check_order(number, customer, order_id)
        if customer is None or time_ms is None or total is None or self.problem_count > before:
            return
        event_id = self.event_id(customer, time_ms, total)
        properties: dict[str, Any] = {"order_id": order_id or event_id, "total": total}
        if cells.get("currency"):
            properties["currency"] = cells["currency"]
        if cells.get("product"):
            item = {"product_id": cells["product"]}
            properties["items"] = [item if quantity is None else item | {"quantity": quantity}]
        event = {"event_id": event_id, "type": "purchase.order", "customer_id": customer}
        self.events.append((time_ms, _encode(event | {"time": format_time(time_ms), "properties": properties}) + b"\n"))

    def cell(self, number: int, cells: dict[str, str], field: str, parse: Callable[[str], T]) -> T | None:
        try:
            return parse(cells[field])
        except ValueError as error:
            self.report(number, f'column "{self.columns[field]}": {error}, got "{shorten(cells[field])}"')
            return None

    def check_order(self, number: int, customer: str, order_id: str) -> None:
        """Two rows of one order would count as two orders."""
        first = self.line_of_order.setdefault((customer, order_id), number)
        if first != number:
            column = self.columns["order_id"]
            self.report(
                number, f'column "{column}": expected each order once, got "{shorten(order_id)}" as on line {first}'
            )

    def event_id(self, customer: str, time_ms: int, total: Decimal) -> str:
        row = (customer, time_ms, to_micros(total))
        self.same_rows[row] += 1
        text = "\0".join(map(str, (*row, self.same_rows[row])))
        return f"purchase-{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    def report(self, number: int, problem: str) -> None:
        self.problem_count += 1
        if len(self.problems) < REPORTED_PROBLEMS:
            self.problems.append(f"line {number}: {problem}")


def _customer(text: str) -> str:
    if not 0 < len(text) <= MAX_CUSTOMER_ID_CHARACTERS:
        raise ValueError(f"expected 1 to {MAX_CUSTOMER_ID_CHARACTERS} characters")
    return text


def _time_ms(text: str) -> int:
    date = _DATE.fullmatch(text)
    try:
        return parse_time(f"{date[1]}-{date[3]}-{date[4]}T00:00:00Z" if date else text)
    except TimeError:
        raise ValueError("expected YYYYMMDD, YYYY-MM-DD or RFC 3339, from 1970 on") from None


def _amount(text: str) -> Decimal:
    amount = _decimal(text)
    if amount < 0 or amount >= MONEY_LIMIT_MICROS or to_micros(amount) >= MONEY_LIMIT_MICROS:
        raise ValueError("expected an amount from 0 to below 10^12")
    return amount


def _decimal(text: str) -> Decimal:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError("expected a number such as 12.50")
    return Decimal(text)
