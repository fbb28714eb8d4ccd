"""Segment documents: what is read, what is refused, and how it is said."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conditions.documents import (
    MAX_ERRORS,
    MAX_SEGMENTS,
    MAX_TEXT,
    DocumentError,
    DocumentErrors,
    SegmentDocument,
    encode_segment,
    fingerprint,
    membership_fingerprint,
    parse_segment,
    parse_segments,
    to_document,
)
from conditions.json_values import decode_segment, decode_segments
from conditions.kinds import (
    AMOUNT_LIMIT,
    KINDS,
    Condition,
    CustomerCondition,
    EventNameCondition,
    PageVisitCondition,
    PushCondition,
)
from conditions.kinds import SpendCondition as Spend
from conditions.urls import parse_url

SHOES = {"kind": "purchase_category", "category": "Shoes"}


def segment(*conditions: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "shoes", "name": "Shoes", "conditions": list(conditions) or [SHOES], **fields}


def document(*segments: Any) -> dict[str, Any]:
    return {"segments": list(segments)}


def errors_of(value: Any) -> dict[str, str]:
    """Message by path; the test fails where a path has several."""
    with pytest.raises(DocumentErrors) as raised:
        parse_segments(value)
    found = dict(raised.value.errors)
    assert len(found) == len(raised.value.errors), raised.value
    return found


def condition_errors(**condition: Any) -> dict[str, str]:
    """As `errors_of`, with the paths of fields of the only condition."""
    prefix = "segments[0].conditions[0]"
    found = errors_of(document(segment(condition)))
    assert all(path.startswith(prefix) for path in found), found
    return {path.removeprefix(prefix).removeprefix("."): message for path, message in found.items()}


def condition_of(**condition: Any) -> Any:
    return parse_segments(document(segment(condition)))[0].conditions[0]


# --- what is read ----------------------------------------------------------------------------------------------------


def test_a_document_is_read_into_records_with_their_defaults() -> None:
    value = document(segment({"kind": "page_visit", "domain": "shop.example", "within": "30d"}))
    expected = SegmentDocument(
        id="shoes", name="Shoes", conditions=(PageVisitCondition(domain="shop.example", within="30d"),)
    )
    assert parse_segments(value) == [expected]
    assert (expected.version, expected.match) == (1, "all")


def test_segments_stay_in_their_order() -> None:
    value = document(segment(id="b", name="1"), segment(id="a", name="2", version=7, match="any"))
    assert [(each.id, each.version, each.match) for each in parse_segments(value)] == [("b", 1, "all"), ("a", 7, "any")]


def test_a_single_segment_stands_for_itself() -> None:
    assert parse_segment(segment()) == parse_segments(document(segment()))[0]
    with pytest.raises(DocumentErrors) as raised:
        parse_segment(segment({"kind": "sms"}))
    assert [error.path for error in raised.value.errors] == ["conditions[0].action"]
    with pytest.raises(DocumentErrors, match="expected an object, got an empty list"):
        parse_segment([])


def test_null_counts_as_absent_everywhere() -> None:
    assert parse_segments(document(segment(version=None, match=None))) == parse_segments(document(segment()))
    condition = {"type": "a", "where": None, "within": None, "negate": None, "at_least": None}
    assert condition_of(kind="event", **condition) == EventNameCondition(type="a")
    assert condition_errors(kind="sms", action=None) == {
        "action": "missing: expected 1 to 122 of the characters A–Z, a–z, 0–9, _, . and -, such as opened"
    }


def test_an_integer_stands_for_its_digits_where_an_identifier_belongs() -> None:
    assert condition_of(kind="push", action="opened", campaign_id=7) == PushCondition(action="opened", campaign_id="7")
    read = parse_segment(segment(id=42, name=2024))
    assert (read.id, read.name) == ("42", "2024")


@pytest.mark.parametrize("value", [7.0, True, ["7"], {"a": 1}, 10**1_500])
def test_nothing_else_stands_for_an_identifier(value: Any) -> None:
    message = condition_errors(kind="location", location_id=value)["location_id"]
    assert message.startswith("expected a string of 1 to 1,000 characters, or an integer, got ")


def test_amounts_keep_every_digit_that_was_written() -> None:
    exact = Decimal("123456789012.123456")
    assert condition_of(kind="spend", min=exact) == Spend(min=exact)
    assert condition_of(kind="spend", min=1, max=2.5) == Spend(min=1, max=2.5)


def test_a_decimal_amount_is_a_double_where_that_tells_all_but_zeros_at_the_end() -> None:
    condition = condition_of(kind="spend", min=Decimal("0.001130"), max=Decimal("123456789012.123450"))
    assert (type(condition.min), condition.min) == (float, 0.00113)
    assert condition.max == Decimal("123456789012.12345")


def test_decimals_in_values_compare_as_doubles() -> None:
    condition = condition_of(kind="customer", attribute="a", operator="in", value=[Decimal("1.5"), {"b": Decimal(2)}])
    assert condition.value == [1.5, {"b": 2.0}]
    assert type(condition.value[0]) is float


@pytest.mark.parametrize("value", ["text", 1, 1.5, True, [], {}, ["a", 1, None], {"a": None}, 10**30, "x" * MAX_TEXT])
def test_a_value_may_be_any_json(value: Any) -> None:
    assert condition_of(kind="customer", attribute="a", operator="equals", value=value).value == value


# --- what is refused -------------------------------------------------------------------------------------------------


def test_all_errors_are_reported_together_each_with_its_path() -> None:
    value = document(
        segment({"kind": "page_visit", "domian": "shop.example", "within": 30, "negate": "yes"}, {"kind": "page_vist"}),
        segment(SHOES | {"within": "0d", "at_least": 5, "at_most": 3}, id="Not OK", match="al", name="Shoes"),
        "segment",
        segment({"kind": "event", "type": "a", "where": [{"operator": "in", "value": [1]}, None]}, id="x", name="X"),
    )
    found = errors_of(value)
    assert list(found) == [
        "segments[0].conditions[0].domian",
        "segments[0].conditions[0].negate",
        "segments[0].conditions[0].within",
        "segments[0].conditions[1].kind",
        "segments[1].id",
        "segments[1].match",
        "segments[1].conditions[0].within",
        "segments[1].conditions[0].at_least",
        "segments[2]",
        "segments[3].conditions[0].where[0].property",
        "segments[3].conditions[0].where[1]",
        "segments[1].name",
    ]
    assert found["segments[1].name"] == 'expected a unique name, got "Shoes" as in segments[0].name'
    assert found["segments[2]"] == 'expected an object, got the string "segment"'
    assert found["segments[1].match"] == 'expected one of all, any, got the string "al"; did you mean all?'


def test_the_errors_read_as_lines() -> None:
    with pytest.raises(DocumentErrors) as raised:
        parse_segments({"segment": []})
    assert str(raised.value).splitlines() == [
        "segment: unknown field; did you mean segments?; expected segments only",
        "segments: expected a list of one or more segments, at most 200,000, got nothing",
    ]


@pytest.mark.parametrize("value", [None, [], "segments", 7, True, [segment()]])
def test_a_document_is_an_object(value: Any) -> None:
    assert errors_of(value)[""].startswith("expected an object with the list `segments`, got ")


@pytest.mark.parametrize(
    ("value", "got"), [([], "an empty list"), (None, "nothing"), ({}, "an empty object"), (5, "the number 5")]
)
def test_a_document_has_at_least_one_segment(value: Any, got: str) -> None:
    assert errors_of({"segments": value})["segments"].endswith(f"one or more segments, at most 200,000, got {got}")


def test_a_segment_has_at_least_one_condition() -> None:
    expected = "expected a list of 1 to 100 objects, got "
    assert errors_of(document(segment(conditions=[]))) == {"segments[0].conditions": expected + "an empty list"}
    assert errors_of(document(segment(conditions={}))) == {"segments[0].conditions": expected + "an empty object"}
    missing = errors_of(document(segment(conditions=None)))
    assert missing == {"segments[0].conditions": "missing: expected a list of 1 to 100 objects"}


def test_ids_and_names_are_unique_and_the_first_place_is_named() -> None:
    found = errors_of(document(segment(id=7), segment(id="7", name="B"), segment(id="c"), segment(id="7", name="D")))
    assert found == {
        "segments[1].id": 'expected a unique id, got "7" as in segments[0].id',
        "segments[3].id": 'expected a unique id, got "7" as in segments[0].id',
        "segments[2].name": 'expected a unique name, got "Shoes" as in segments[0].name',
    }


@pytest.mark.parametrize("bad", ["", "A", "-a", "_a", "a b", "ä", "a" * 65, "a\n", -5, 1.5, True])
def test_ids_are_explained_in_words(bad: Any) -> None:
    message = errors_of(document(segment(id=bad)))["segments[0].id"]
    assert message.startswith("expected 1 to 64 of the characters a–z, 0–9, _ and -, the first a letter or digit, got ")


@pytest.mark.parametrize("good", ["a", "0", "a-b_c", "a" * 64])
def test_ids_may_be_what_the_words_say(good: str) -> None:
    assert parse_segment(segment(id=good)).id == good


@pytest.mark.parametrize("length", [1, 200])
def test_names_are_counted_in_code_points(length: int) -> None:
    assert parse_segment(segment(name="😀" * length)).name == "😀" * length


def test_a_name_that_is_too_long_is_shortened_in_the_message() -> None:
    message = errors_of(document(segment(name="n" * 201)))["segments[0].name"]
    shown = "n" * 60
    assert message == (
        f'expected a string of 1 to 200 characters, or an integer, got the string "{shown}…" of 201 characters'
    )


@pytest.mark.parametrize("bad", [0, -1, 1.5, "1", True, 10**30])
def test_versions_are_integers_from_one_up(bad: Any) -> None:
    message = errors_of(document(segment(version=bad)))["segments[0].version"]
    assert message.startswith("expected an integer of 1 or more, got ")


def test_an_unknown_field_names_the_nearest_known_one_or_all() -> None:
    assert condition_errors(kind="spend", min=1, withn="1d") == {"withn": "unknown field; did you mean within?"}
    assert condition_errors(kind="agreement", channel="sms", within_days=1) == {
        "within_days": "unknown field; agreement takes kind, negate, channel"
    }
    assert errors_of(document(segment(description="…"))) == {
        "segments[0].description": "unknown field; expected id, name, version, match, conditions"
    }


@pytest.mark.parametrize(
    ("name", "path"),
    [("two words", '["two words"]'), ("a.b", '["a.b"]'), ("", '[""]'), (5, '["5"]'), ("\n", '["\\n"]')],
)
def test_unknown_names_that_would_be_misread_come_in_quotes(name: Any, path: str) -> None:
    assert list(errors_of(document(segment() | {name: 1}))) == [f"segments[0]{path}"]


def test_an_unknown_kind_is_told_the_kinds_there_are() -> None:
    message = condition_errors(kind="page_vist")["kind"]
    assert message.startswith("expected one of customer, page_visit, referral, email, ")
    assert message.endswith('spend, got the string "page_vist"; did you mean page_visit?')
    assert condition_errors()["kind"].startswith("missing: expected one of customer, ")
    assert condition_errors(kind=["spend"])["kind"].endswith("spend, got a list")


def test_text_where_an_integer_stands_says_what_is_expected() -> None:
    assert condition_errors(kind="spend", min=1, within=30) == {
        "within": "expected a duration: an integer and s, m, h, d or w, such as 30d, got the number 30"
    }


@pytest.mark.parametrize("within", ["", "d", "30", "30 d", "30D", "-1d", "1.5d", "30d\n", "٣d", "1" * 13 + "s"])
def test_durations_are_an_integer_and_a_unit(within: str) -> None:
    assert "such as 30d" in condition_errors(kind="spend", min=1, within=within)["within"]


@pytest.mark.parametrize(
    "bad", ["100", True, -1, -0.5, AMOUNT_LIMIT, 1.0 * AMOUNT_LIMIT, math.nan, math.inf, [1], Decimal(AMOUNT_LIMIT)]
)
def test_amounts_are_numbers_in_their_range(bad: Any) -> None:
    assert condition_errors(kind="spend", min=bad)["min"].startswith("expected a number from 0 to below 1")


@pytest.mark.parametrize("bad", [Decimal("NaN"), Decimal("Infinity"), Decimal("-0.1"), Decimal("1e999999")])
def test_decimal_amounts_are_in_the_same_range(bad: Decimal) -> None:
    assert condition_errors(kind="transaction", min=1, max=bad)["max"].startswith("expected a number from 0 to below 1")


@pytest.mark.parametrize(
    ("condition", "field", "message"),
    [
        ({"kind": "spend"}, "min", "expected min, max or both, got neither"),
        ({"kind": "transaction", "min": 2, "max": 1.5}, "min", "must not be over max (1.5), is 2"),
        ({**SHOES, "at_least": 3, "at_most": 2}, "at_least", "must not be over at_most (2), is 3"),
        ({**SHOES, "within": "0h"}, "within", "a window of zero holds no event: expected at least 1s, got 0h"),
        ({**SHOES, "within": "36501d"}, "within", "expected at most 36500d, got 36501d"),
        ({**SHOES, "within": "1d", "since": "2026-01-01T00:00:00Z"}, "within", "does not mix with since and until"),
        ({**SHOES, "since": "2026-01-01"}, "since", "expected RFC 3339 with an offset"),
        (
            {**SHOES, "since": "2026-01-01T00:00:00Z", "until": "2026-01-01T01:00:00+01:00"},
            "until",
            "must come after since (2026-01-01T00:00:00Z), is 2026-01-01T01:00:00+01:00",
        ),
        ({"kind": "page_visit", "url": "https://a.example", "domain": "a.example"}, "url", "does not go with domain"),
        ({"kind": "referral", "url": "https://a.example", "path": "/"}, "url", "does not go with domain or path"),
        ({"kind": "page_visit", "url": "/cart"}, "url", "expected an absolute URL such as"),
        ({"kind": "page_visit", "subdomains": True}, "subdomains", "needs a domain"),
        ({"kind": "page_visit", "query": "exact", "path": "/"}, "query", "needs a url"),
        ({"kind": "page_visit", "domain": "https://a.example"}, "domain", "expected a host such as shop.example"),
        ({"kind": "page_visit", "domain": "a.example/b"}, "domain", "expected a host such as shop.example"),
        ({"kind": "page_visit", "domain": "u@a.example"}, "domain", "expected a host such as shop.example"),
        ({"kind": "page_visit", "domain": "a.example?b"}, "domain", "expected a host such as shop.example"),
        ({"kind": "page_visit", "domain": "a .example"}, "domain", "expected a host such as shop.example"),
        (
            {"kind": "page_visit", "domain": "*.a.example"},
            "domain",
            '* stands for nothing here: expected the string "a.example" with subdomains: true',
        ),
        ({"kind": "page_visit", "path": "cart"}, "path", "expected a path that begins with / (or * alone)"),
        ({"kind": "customer", "attribute": "a", "operator": "equals"}, "value", "equals needs a value"),
        (
            {"kind": "customer", "attribute": "a", "operator": "exists", "value": 1},
            "value",
            "exists takes no value",
        ),
        (
            {"kind": "customer", "attribute": "a", "operator": "in", "value": [1, None]},
            "value",
            "in needs a list of one or more values, none of them null, got a list",
        ),
        (
            {"kind": "customer", "attribute": "a", "operator": "at_most", "value": "9"},
            "value",
            'at_most needs a number, got the string "9"',
        ),
        (
            {"kind": "event", "type": "a", "where": [{"property": "p", "operator": "starts_with", "value": 1}]},
            "where[0].value",
            "starts_with needs a text, got the number 1",
        ),
    ],
)
def test_contradictions_are_errors_at_the_field_that_is_to_blame(
    condition: dict[str, Any], field: str, message: str
) -> None:
    found = condition_errors(**condition)
    assert list(found) == [field]
    assert found[field].startswith(message)


@pytest.mark.parametrize("kind", ["page_visit", "referral"])
@pytest.mark.parametrize("path", ["/a?b=1", "/a#b", "/a?*", "/?"])
def test_a_path_with_a_query_is_an_error_that_says_where_the_query_goes(kind: str, path: str) -> None:
    assert condition_errors(kind=kind, path=path) == {
        "path": "the path of a URL ends before ? and #, so this matches no page: for a query write the whole address "
        f'as url, with query: exact, got the string "{path}"'
    }


def test_contradictions_are_found_beside_wrong_fields() -> None:
    found = condition_errors(kind="page_visit", negate=1, at_least=2, at_most=1, subdomains=True, nonsense=1)
    assert list(found) == ["nonsense", "negate", "at_least", "subdomains"]
    found = condition_errors(kind="customer", operator="at_least", value="x")
    assert list(found) == ["attribute", "value"]


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        ({"kind": "spend", "max": "x"}, "max"),
        ({"kind": "page_visit", "domain": 5.5, "subdomains": True}, "domain"),
        ({"kind": "page_visit", "url": 5, "query": "exact"}, "url"),
        ({"kind": "customer", "attribute": "a", "operator": "equal"}, "operator"),
        ({"kind": "customer", "attribute": "a", "operator": "equals", "value": math.nan}, "value"),
        ({"kind": "spend", "min": 1, "since": 5, "until": "2026-01-01T00:00:00Z"}, "since"),
    ],
)
def test_a_wrong_field_is_not_also_taken_for_a_missing_one(condition: dict[str, Any], field: str) -> None:
    assert list(condition_errors(**condition)) == [field]


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        (math.nan, "value", "expected a finite number that a double can hold, got the number nan"),
        (Decimal("sNaN"), "value", "expected a finite number that a double can hold, got the number sNaN"),
        ([1, -math.inf], "value[1]", "expected a finite number that a double can hold, got the number -inf"),
        ({"a": [10**400]}, "value.a[0]", "expected a finite number that a double can hold, got the number 1000"),
        ("x" * (MAX_TEXT + 1), "value", "expected at most 65,536 characters, got 65,537"),
        ({5: 1}, 'value["5"]', "expected a name that is a string, got the number 5"),
        ([b"bytes"], "value[0]", "expected a value of JSON, got a value of type bytes"),
    ],
)
def test_values_are_what_json_can_say(value: Any, path: str, message: str) -> None:
    found = condition_errors(kind="customer", attribute="a", operator="equals", value=value)
    assert list(found) == [path]
    assert found[path].startswith(message)


def test_half_a_surrogate_pair_is_no_text() -> None:
    found = errors_of(document(segment(name="a\ud800"), segment({**SHOES, "category": ["\udfff"]}, id="b", name="B")))
    assert found["segments[0].name"] == ('expected Unicode text, got half of a surrogate pair in the string "a\\ud800"')
    assert "segments[1].conditions[0].category[0]" in found


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_surrogate_pair_is_reported_in_any_field_of_a_condition(kind: type[Condition]) -> None:
    name = str(kind.__struct_config__.tag)
    for field in ("kind", *kind.__struct_fields__):
        wrong = segment({"kind": name, field: "\ud800"})
        with pytest.raises(DocumentErrors, match=f"{field}: expected Unicode text, got half of a surrogate pair"):
            parse_segments(document(wrong))


@pytest.mark.parametrize("field", SegmentDocument.__struct_fields__)
def test_half_a_surrogate_pair_is_reported_in_any_field_of_a_segment(field: str) -> None:
    with pytest.raises(DocumentErrors, match=f"{field}: expected Unicode text, got half of a surrogate pair"):
        parse_segments(document(segment() | {field: "\ud800"}))


# --- limits ----------------------------------------------------------------------------------------------------------


def nested(levels: int) -> Any:
    value: Any = "inside"
    for _ in range(levels):
        value = [value]
    return value


def test_values_nest_up_to_32_levels_of_the_document() -> None:
    assert condition_of(kind="customer", attribute="a", operator="equals", value=nested(27)).value == nested(27)
    found = condition_errors(kind="customer", attribute="a", operator="equals", value=nested(28))
    assert found == {"value" + "[0]" * 27: "expected at most 32 levels of objects and lists inside each other"}


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: document(segment(*[{}] * 1_000_000)), "expected a list of 1 to 100 objects, got 1,000,000"),
        (lambda: document(*[None] * (MAX_SEGMENTS + 1)), "at most 200,000, got 200,001"),
        (
            lambda: document(segment({"kind": "event", "type": "a", "where": [{}] * 101})),
            "at most 100 objects, got 101",
        ),
        (
            lambda: document(segment({"kind": "customer", "attribute": "a", "operator": "in", "value": circle()})),
            "32 levels",
        ),
        (circle, "expected an object"),
        (lambda: nested(100_000), "expected an object"),
        (lambda: document(nested(100_000)), "segments[0]: expected an object, got a list"),
        (lambda: document(segment(nested(100_000))), "expected an object with a kind, got a list"),
        (lambda: document(segment(SHOES | {"category": nested(100_000)})), "got a list"),
        (lambda: document({"x" * 1_000_000: 1}), "unknown field"),
        (lambda: document(segment({"kind": "x" * 1_000_000})), "of 1,000,000 characters"),
        (lambda: document(segment({"kind": "page_visit", "path": "/" * 1_000_000})), "of 1,000,000 characters"),
    ],
    ids=range(12),
)
def test_hostile_documents_are_refused_at_once(make: Callable[[], Any], expected: str) -> None:
    value = make()
    began = time.process_time()
    with pytest.raises(DocumentErrors) as raised:
        parse_segments(value)
    assert time.process_time() - began < 3
    assert expected in str(raised.value)
    assert len(str(raised.value)) < 1_000


def test_checking_stops_after_a_thousand_errors() -> None:
    with pytest.raises(DocumentErrors) as raised:
        parse_segments(document(*[None] * (MAX_ERRORS + 1)))
    assert not raised.value.complete
    assert len(raised.value.errors) == MAX_ERRORS
    assert str(raised.value).endswith("\nand more: checking stopped after 1,000 errors")
    with pytest.raises(DocumentErrors) as raised:
        parse_segments(document(*[None] * MAX_ERRORS))
    assert raised.value.complete


# --- round trips and fingerprints ------------------------------------------------------------------------------------

RICH = document(
    segment(
        {"kind": "spend", "min": Decimal("123456789012.123456")}, {**SHOES, "negate": True}, match="any", version=3
    ),
    segment(
        {"kind": "event", "type": "a", "where": [{"property": "p", "operator": "in", "value": [1, "x"]}]},
        id="b",
        name="B",
    ),
)


def test_a_segment_reads_back_from_its_document_and_its_bytes() -> None:
    segments = parse_segments(RICH)
    assert [parse_segment(to_document(each)) for each in segments] == segments
    content = b'{"segments":[' + b",".join(map(encode_segment, segments)) + b"]}"
    assert decode_segments(content) == segments
    assert to_document(segments[1]) == RICH["segments"][1]


def test_what_was_written_before_it_was_a_contradiction_is_still_read() -> None:
    [document] = parse_segments(document_with_path("/a"))
    contradicting = encode_segment(document).replace(b'"/a"', b'"/a?b"')
    assert encode_segment(decode_segment(contradicting)) == contradicting
    assert [encode_segment(each) for each in decode_segments(b'{"segments":[%s]}' % contradicting)] == [contradicting]
    assert list(errors_of(document_with_path("/a?b"))) == ["segments[0].conditions[0].path"]


def document_with_path(path: str) -> dict[str, Any]:
    return document(segment({"kind": "page_visit", "path": path}))


@given(
    st.text(alphabet="/ab*", max_size=6).map("/".__add__), st.sampled_from("?#"), st.text(alphabet="/ab*?#", max_size=6)
)
def test_a_path_that_is_refused_for_its_query_is_that_of_no_url(path: str, mark: str, rest: str) -> None:
    url = parse_url(f"https://a.example{path}{mark}{rest}")
    assert url is not None
    assert url.path == path
    assert "matches no page" in condition_errors(kind="page_visit", path=f"{path}{mark}{rest}")["path"]


def test_a_fingerprint_does_not_see_how_the_document_is_written() -> None:
    rewritten = [dict(reversed(each.items())) | {"version": each.get("version")} for each in RICH["segments"]]
    rewritten[0]["conditions"][1] = {"negate": True, "at_most": None, "category": "Shoes", "kind": "purchase_category"}
    segments = parse_segments(RICH)
    assert fingerprint(segments) == fingerprint(parse_segments(document(*reversed(rewritten))))
    assert len(fingerprint(segments)) == 32


def test_a_fingerprint_sees_every_change() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"id": "x"},
        {"name": "X"},
        {"version": 2},
        {"match": "any"},
        {"conditions": [{**SHOES, "negate": True}]},
        {"conditions": [SHOES, SHOES]},
    ]
    prints = [fingerprint(parse_segments(document({**segment(), **change}))) for change in changes]
    assert len(set(prints)) == len(prints)


def test_a_membership_fingerprint_sees_what_decides_membership_only() -> None:
    def of(**changes: Any) -> str:
        return membership_fingerprint(parse_segment({**segment(), **changes}))

    assert of() == of(name="Other") == of(version=9) == of(id="other") == of(match="any")
    two = [SHOES, {"kind": "sms", "action": "sent"}]
    assert len({of(), of(conditions=two), of(conditions=two, match="any"), of(conditions=two[::-1])}) == 4


# --- whatever comes --------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.decimals() | st.binary()
names = (
    st.sampled_from(["segments", "id", "name", "kind", "conditions", "value", "within", "where", "operator", "min"])
    | st.text(max_size=5)
    | st.integers()
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5), max_leaves=25
)
VALID = [{"kind": kind.__struct_config__.tag, **example.condition} for kind in KINDS for example in kind.examples]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid document in which some fields are replaced, removed or added."""
    conditions = draw(st.lists(st.sampled_from(VALID).map(dict), min_size=1, max_size=3))
    whole = document(segment(*conditions))
    for _ in range(draw(st.integers(0, 4))):
        target = draw(st.sampled_from([whole, whole["segments"][0], *conditions]))
        name = draw(st.sampled_from(list(target)) | names)
        target[name] = draw(anything)
        if name == "segments" or (name == "conditions" and target is whole["segments"][0]):
            break
    return whole


@settings(deadline=1_000, max_examples=300)
@given(anything | mutated())
def test_any_value_is_read_or_refused_in_words(value: Any) -> None:
    errors, segments = outcome(value)
    for path, message in errors:
        assert message
        assert (path + message).isprintable()
        assert len(message) < 1_000
    if not errors:
        content = b'{"segments":[' + b",".join(map(encode_segment, segments)) + b"]}"
        assert fingerprint(decode_segments(content)) == fingerprint(segments)


def outcome(value: Any) -> tuple[list[DocumentError], list[SegmentDocument]]:
    try:
        return [], parse_segments(value)
    except DocumentErrors as error:
        return error.errors, []


def test_ten_thousand_segments_take_less_than_a_second() -> None:
    visit = {"kind": "page_visit", "domain": "shop.example", "within": "30d", "negate": True}
    value = document(*(segment(SHOES, visit, id=f"s{at}", name=f"S {at}") for at in range(10_000)))
    began = time.process_time()
    assert len(parse_segments(value)) == 10_000
    assert time.process_time() - began < 1


def test_customer_conditions_are_read_at_a_glance_and_thoroughly_alike() -> None:
    glance = condition_of(kind="customer", attribute="a", operator="equals", value=[1, "x"])
    thorough = condition_of(kind="customer", attribute="a", operator="equals", value=[1, "x"], negate=None)
    assert glance == thorough == CustomerCondition(attribute="a", operator="equals", value=[1, "x"])
