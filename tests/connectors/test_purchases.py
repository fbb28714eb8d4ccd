"""Purchase lists: rows to orders, with ids that stay."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest

from conditions.events import Event, Item, Order
from connectors.json_events import decode_line
from connectors.purchases import Columns, PurchaseListError, convert

PLAIN = Columns("customer", "date", "total")
FULL = Columns("customer", "date", "total", "order", "currency", "product", "quantity")


def events(text: str, columns: Columns = PLAIN, **options: Any) -> list[Event]:
    decoded = [decode_line(line, 0) for line in convert(io.StringIO(text, newline=""), columns, **options)]
    assert all(isinstance(event, Event) for event in decoded)
    return [event for event in decoded if isinstance(event, Event)]


def problems(text: str, columns: Columns = PLAIN) -> list[str]:
    with pytest.raises(PurchaseListError) as caught:
        convert(io.StringIO(text, newline=""), columns)
    return caught.value.problems


WHITESPACE = " customer  date number_of_cds  total\r\n 00001 19970101  1   11.77\r\n 00002 19970112  5   77.00\r\n"


def test_a_whitespace_separated_list_becomes_orders() -> None:
    lines = list(convert(io.StringIO(WHITESPACE), PLAIN))
    first = orjson.loads(lines[0])
    assert first == {
        "event_id": first["event_id"],
        "type": "purchase.order",
        "customer_id": "00001",
        "time": "1997-01-01T00:00:00.000Z",
        "properties": {"order_id": first["event_id"], "total": 11.77},
    }
    assert [event.customer_id for event in events(WHITESPACE)] == ["00001", "00002"]
    assert all(line.endswith(b"}\n") for line in lines)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_a_separated_list_with_all_columns_becomes_orders_with_items(mark: str) -> None:
    rows = [
        ["order", "customer", "date", "total", "currency", "product", "quantity", "note"],
        ["o1", "c1", "2026-01-31", "12.50", "EUR", "p1", "2", f'"a{mark} ""b""\nc"'],
        ["o2", "c1", "2026-01-31T12:00:00+01:00", ".5", "", "p1", "", ""],
        ["", "c2", "20260201", "5.", "USD", "", "2", ""],
    ]
    text = "\ufeff" + "\r\n".join(mark.join(row) for row in rows)
    read = events(text, FULL, separator=mark if mark == "|" else None)
    assert [event.payload for event in read] == [
        Order("o1", 12_500_000, "EUR", (Item("p1"),)),
        Order("o2", 500_000, None, (Item("p1"),)),
        Order(read[2].event_id, 5_000_000, "USD"),
    ]
    assert [item.get("quantity") for event in read for item in event.read_properties().get("items", [])] == [2, None]


def test_totals_are_written_with_all_their_digits() -> None:
    (line,) = convert(["customer date total\n", "c 20260131 999999999999.999999\n"], PLAIN)
    assert b'"total":999999999999.999999}' in line


def test_events_are_sorted_by_time_unless_the_order_is_kept() -> None:
    text = "customer,date,total\na,20260103,1\nb,20260101,1\nc,20260103,1\nd,20260101,1\n"
    assert [event.customer_id for event in events(text)] == ["b", "d", "a", "c"]
    assert [event.customer_id for event in events(text, keep_order=True)] == ["a", "b", "c", "d"]


def test_the_same_row_twice_is_two_orders_and_the_ids_are_those_of_every_conversion() -> None:
    text = "customer,date,total\na,20260101,1\na,20260101,1.00\nb,20260101,1\na,2026-01-02,1\n"
    ids = [event.event_id for event in events(text)]
    assert len(set(ids)) == 4
    assert [event.event_id for event in events(text)] == ids
    assert [event.event_id for event in events(text + "a,20260103,1\n")][:4] == ids
    assert ids[0] == "purchase-3229f953701dd078cf3b6405e8946521"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", 'line 1: column "customer": expected it exactly once in the header, got nothing'),
        (
            "customer,when,total\n",
            'line 1: column "date": expected it exactly once in the header, got customer, when, total',
        ),
        ("customer,date,total,date\n", 'line 1: column "date": expected it exactly once in the header'),
        ("customer,date,total\n\na,20260101\n", "line 3: expected 3 fields, as in the header, got 2"),
        ("customer date total\na b 20260101 1\n", "line 2: expected 3 fields, as in the header, got 4"),
        ("customer,date,total\n,20260101,1\n", 'line 2: column "customer": expected 1 to 256 characters, got ""'),
        ("customer,date,total\na,20260230,1\n", 'line 2: column "date": expected YYYYMMDD, YYYY-MM-DD or RFC 3339'),
        ("customer,date,total\na,2026-0101,1\n", 'line 2: column "date": expected YYYYMMDD, YYYY-MM-DD or RFC 3339'),
        ("customer,date,total\na,01/02/2026,1\n", 'line 2: column "date": expected YYYYMMDD, YYYY-MM-DD or RFC 3339'),
        ("customer,date,total\na,19691231,1\n", 'line 2: column "date": expected YYYYMMDD, YYYY-MM-DD or RFC 3339'),
        (
            "customer,date,total\na,20260101,-1\n",
            'line 2: column "total": expected an amount from 0 to below 10^12, got "-1"',
        ),
        ("customer,date,total\na,20260101,1e3\n", 'line 2: column "total": expected a number such as 12.50, got "1e3"'),
        (
            'customer,date,total\na,20260101,"1,5"\n',
            'line 2: column "total": expected a number such as 12.50, got "1,5"',
        ),
        ("customer,date,total\na,20260101,NaN\n", 'line 2: column "total": expected a number such as 12.50, got "NaN"'),
        (
            "customer,date,total\na,20260101," + "9" * 50,
            'line 2: column "total": expected an amount from 0 to below 10^12',
        ),
        (
            'customer,date,total\na,20260101,1\n"a,20260101,1\n',
            "line 3: expected fields separated by ',': unexpected end",
        ),
    ],
)
def test_a_problem_names_its_line_and_column(text: str, problem: str) -> None:
    assert problems(text)[-1].startswith(problem) or problems(text)[0].startswith(problem)


def test_all_problems_are_reported_up_to_twenty() -> None:
    text = "customer,date,total\n" + ",20260101,x\n" * 15
    with pytest.raises(PurchaseListError, match="and 10 more") as caught:
        convert(io.StringIO(text), PLAIN)
    assert len(caught.value.problems) == 20
    assert caught.value.problems[1].startswith('line 2: column "total"')
    assert caught.value.count == 30


def test_two_rows_of_one_order_are_a_problem() -> None:
    text = "customer,date,total,o\na,20260101,1,5\nb,20260101,1,5\na,20260102,1,5\n"
    columns = Columns("customer", "date", "total", order_id="o")
    assert problems(text, columns) == ['line 4: column "o": expected each order once, got "5" as on line 2']


def test_a_quantity_is_read_only_with_a_product() -> None:
    text = "customer,date,total,q\na,20260101,1,many\n"
    assert "items" not in events(text, Columns("customer", "date", "total", quantity="q"))[0].read_properties()
    text = "customer,date,total,q,p\na,20260101,1,many,x\n"
    with pytest.raises(PurchaseListError, match='line 2: column "q": expected a number'):
        events(text, Columns("customer", "date", "total", quantity="q", product="p"))


@pytest.mark.parametrize("separator", ["", ", "])
def test_a_separator_is_one_character(separator: str) -> None:
    with pytest.raises(ValueError, match="one character"):
        convert(["customer, date, total\n"], PLAIN, separator=separator)


def test_text_that_is_not_utf8_is_a_problem() -> None:
    source = io.TextIOWrapper(io.BytesIO(b"customer date total\na\xff 20260101 1\n"), encoding="utf-8")
    with pytest.raises(PurchaseListError, match="expected UTF-8"):
        convert(source, PLAIN)
