"""Segment documents as YAML and JSON: two ways to write the same, and what neither may do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conditions.documents import DocumentError, DocumentErrors, SegmentDocument
from conditions.json_values import JsonFault, load_json
from conditions.kinds import CustomerCondition, PushCondition, SpendCondition
from connectors.segment_files import Format, load_segment, load_segments
from connectors.yaml_values import YamlFault, load_yaml

YAML = b"""\
segments:
  - id: lapsed-shoe-buyers          # a comment
    name: Lapsed shoe buyers
    version: 1
    match: all
    conditions:
      - {kind: purchase_category, category: Shoes, at_least: 2, within: 365d}
      - {kind: page_visit, domain: shop.example, within: 30d, negate: true}
"""
MIB = 1024 * 1024


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def yaml_value(text: str) -> Any:
    value, faults = load_yaml(text)
    assert faults == []
    return value


def json_value(text: str) -> Any:
    value, faults = load_json(text)
    assert faults == []
    return value


def errors_of(content: bytes, format: Format = "guess") -> list[DocumentError]:
    with pytest.raises(DocumentErrors) as raised:
        load_segments(content, format=format)
    return raised.value.errors


def only_condition(content: str) -> Any:
    text = f"segments: [{{id: a, name: A, conditions: [{content}]}}]"
    return load_segments(text.encode(), format="yaml")[0].conditions[0]


# --- the same in both ------------------------------------------------------------------------------------------------


def test_yaml_and_json_are_read_alike(tmp_path: Path) -> None:
    content = as_json(yaml_value(YAML.decode()))
    (tmp_path / "a.yaml").write_bytes(YAML)
    (tmp_path / "a.json").write_bytes(content)
    read = load_segments(YAML)
    assert [each.id for each in read] == ["lapsed-shoe-buyers"]
    assert read == load_segments(content) == load_segments(content, format="yaml")
    assert read == load_segments(tmp_path / "a.yaml") == load_segments(tmp_path / "a.json")


def test_a_record_holds_one_segment() -> None:
    segment = yaml_value(YAML.decode())["segments"][0]
    assert [load_segment(as_json(segment))] == load_segments(YAML)
    with pytest.raises(DocumentErrors) as raised:
        load_segment(b'{"id": "a", "id": "b", "name": "A"}')
    assert [error.path for error in raised.value.errors] == ["id", "conditions"]


def test_the_format_is_guessed_by_the_name_then_by_the_content(tmp_path: Path) -> None:
    flow = b"{segments: [{id: a, name: A, conditions: [{kind: referral}]}]}"
    assert len(load_segments(flow)) == 1
    (tmp_path / "a.json").write_bytes(flow)
    (tmp_path / "segments").write_bytes(flow)
    assert len(load_segments(tmp_path / "segments")) == 1
    with pytest.raises(DocumentErrors, match="line 1, column 2: expected property name enclosed in double quotes"):
        load_segments(tmp_path / "a.json")
    assert len(load_segments(tmp_path / "a.json", format="yaml")) == 1


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_segments(tmp_path / "none.yaml")


def test_a_byte_order_mark_is_skipped() -> None:
    assert load_segments(b"\xef\xbb\xbf" + YAML) == load_segments(YAML)


@pytest.mark.parametrize("format", ["yaml", "json"])
def test_amounts_come_through_digit_by_digit(format: Format) -> None:
    text = '{"segments": [{"id": "a", "name": "A", "conditions": [{"kind": "spend", "min": 123456789012.123456}]}]}'
    condition = load_segments(text.encode(), format=format)[0].conditions[0]
    assert condition == SpendCondition(min=Decimal("123456789012.123456"))


@pytest.mark.parametrize("read", [json_value, yaml_value])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1", 0.1),
        ("19.99", 19.99),
        ("1e3", 1000.0),
        ("1E-2", 0.01),
        ("-0.5", -0.5),
        ("1e999", float("inf")),
        ("1e-999", 0.0),
        ("1e-99999999999999999999", 0.0),
        ("0.10000000000000000", 0.1),
        ("0.30000000000000001", Decimal("0.30000000000000001")),
        ("12345678901234567890", 12345678901234567890),
        ("1" * 1_000, int("1" * 1_000)),
        ("1" * 1_001, float("inf")),
    ],
)
def test_numbers_are_exact(read: Callable[[str], Any], text: str, expected: Any) -> None:
    value = read(text)
    assert (value, type(value)) == (expected, type(expected))


# --- YAML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, None) for text in ("", "~", "null", "Null", "NULL")),
        *((text, True) for text in ("true", "True", "TRUE")),
        *((text, False) for text in ("false", "False", "FALSE")),
        *((text, text) for text in ("yes", "no", "on", "off", "y", "n", "Yes", "NO", "tRUE", "nULL")),
        *((text, text) for text in ("2026-01-31", "2026-01-31T00:00:00Z", "12:30", "12:30:45", "1_000", "0b1")),
        *((text, text) for text in ("007", "0o17", "0x1F", "-01", "00.5", "1.2.3", "+", "-x", ".", "1e", "e1", "=")),
        ("7", 7),
        ("+7", 7),
        ("-7", -7),
        ("0", 0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5e+3", -1500.0),
        ("-.inf", float("-inf")),
        ("'7'", "7"),
        ('"true"', "true"),
        ("|\n  7\n", "7\n"),
        ('"\\u00e4"', "ä"),
        ("ä😀", "ä😀"),
        ("30d", "30d"),
        ("%YAML 1.2\n---\n7\n...\n", 7),
        ("[a, [b, {}], {c: []}]", ["a", ["b", {}], {"c": []}]),
        ("{5: a, null: b, true: c}", {"5": "a", "null": "b", "true": "c"}),
        ("? a\n: b", {"a": "b"}),
        ("a:\n- b\n-\n- c: d", {"a": ["b", None, {"c": "d"}]}),
    ],
)
def test_yaml_is_read_by_the_core_schema(text: str, expected: Any) -> None:
    value = yaml_value(text)
    assert (value, type(value)) == (expected, type(expected))


def test_names_that_look_like_something_else_stay_names() -> None:
    assert only_condition("{kind: push, action: sent, campaign_id: 007}") == PushCondition(
        action="sent", campaign_id="007"
    )
    assert only_condition("{kind: push, action: sent, campaign_id: 12}").campaign_id == "12"
    assert only_condition("{kind: customer, attribute: a, operator: equals, value: no}") == CustomerCondition(
        attribute="a", operator="equals", value="no"
    )
    assert only_condition("{kind: sms, action: sent, since: 2026-01-31T00:00:00Z}").since == "2026-01-31T00:00:00Z"


def test_an_alias_repeats_the_value_of_its_anchor() -> None:
    assert yaml_value("[&a {x: [1]}, *a, &b text]") == [{"x": [1]}, {"x": [1]}, "text"]
    assert yaml_value("a: &n ~\nb: *n") == {"a": None, "b": None}
    assert yaml_value("&a a: *a") == {"a": "a"}
    assert yaml_value("[&a 1, &a 2, *a]") == [1, 2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 2, column 1: did not find expected ',' or ']' (while parsing a flow sequence)"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed in this context"),
        ("a:\n\t- b", "line 2, column 1: a tab: YAML is indented by spaces"),
        ("a: %b", "line 1, column 4: found character that cannot start any token"),
        ("a: 1\n b: 2", "line 2, column 3: mapping values are not allowed in this context"),
        ('"a', "line 1, column 3: found unexpected end of stream (while scanning a quoted scalar)"),
        ("a: 1\n--- \nb: 2", "line 2, column 1: expected one document, got a second one"),
        ("a: !!python/object/apply:os.system [x]", "line 1, column 4: tags are not supported"),
        ("a: !!str 5", "line 1, column 4: tags are not supported: write the value without tag:yaml.org,2002:str"),
        ("a: ! 5", "line 1, column 4: tags are not supported"),
        ("[1]: 2", "line 1, column 1: expected a text as key"),
        ("? {a: 1}\n: 2", "line 1, column 3: expected a text as key"),
        ("a: &a 1\n*a : 2", "line 2, column 1: expected a text as key"),
        ("a: *b", "line 1, column 4: the alias *b stands before its anchor &b, or without one"),
        ("a: &b [*b]", "line 1, column 8: the alias *b stands inside the value it repeats"),
        ("a: b\n\0", "line 2, column 1: control characters are not allowed: '\\x00'"),
        ("a: '\ufffe'", "line 1, column 5: control characters are not allowed: '\\ufffe'"),
    ],
)
def test_what_is_no_yaml_or_refused_is_told_with_line_and_column(text: str, message: str) -> None:
    with pytest.raises(YamlFault) as raised:
        load_yaml(text)
    assert str(raised.value).startswith(message)
    assert errors_of(text.encode(), "yaml") == [DocumentError("", str(raised.value))]


def test_keys_that_stand_twice_are_reported_with_everything_else() -> None:
    content = b"segments:\n- id: a\n  id: b\n  name: A\n  conditions:\n  - {kind: sms, kind: sms, action: sent, x: 1}\n"
    assert errors_of(content) == [
        DocumentError("segments[0].id", "line 3, column 3: the key stands twice in one object"),
        DocumentError("segments[0].conditions[0].kind", "line 6, column 17: the key stands twice in one object"),
        DocumentError(
            "segments[0].conditions[0].x",
            "unknown field; sms takes kind, negate, within, since, until, at_least, at_most, action, campaign_id",
        ),
    ]


def test_merge_keys_are_refused_once() -> None:
    found = errors_of(b"segments:\n- &a {id: a, name: A, conditions: [{kind: referral}]}\n- {<<: *a, id: b}\n")
    assert found[0] == DocumentError(
        'segments[1]["<<"]', "line 3, column 4: merge keys (<<) are not supported: write the fields out"
    )
    assert [error.path for error in found[1:]] == ["segments[1].name", "segments[1].conditions"]


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: expected value"),
        ('{"a": 1', "line 1, column 8: expected ',' delimiter"),
        ('{"a": 1}\n{}', "line 2, column 1: expected the end of the document"),
        ("{'a': 1}", "line 1, column 2: expected property name enclosed in double quotes"),
        ('{"a\n": 1}', "line 1, column 4: a control character that is not escaped"),
        ('{"a": "', "line 1, column 7: a string without end"),
        ('{"a": 01}', "line 1, column 8: expected ',' delimiter"),
    ],
)
def test_what_is_no_json_is_told_with_line_and_column(text: str, message: str) -> None:
    with pytest.raises(JsonFault) as raised:
        load_json(text)
    assert str(raised.value) == message
    assert errors_of(text.encode(), "json") == [DocumentError("", message)]


def test_names_that_stand_twice_are_reported_with_everything_else() -> None:
    content = (
        b'{"segments": [{"id": "a", "id": "b", "id": "c", "name": "A", "conditions": [{"kind": "x", "kind": "y"}]}]}'
    )
    found = errors_of(content)
    assert found[:2] == [
        DocumentError("segments[0].id", "the name stands twice in one object"),
        DocumentError("segments[0].conditions[0].kind", "the name stands twice in one object"),
    ]
    assert found[2].path == "segments[0].conditions[0].kind"
    assert 'got the string "x"' in found[2].message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_not_finite_are_told_with_their_path(number: str) -> None:
    condition = f'{{"kind": "customer", "attribute": "a", "operator": "in", "value": [{number}]}}'
    found = errors_of(f'{{"segments": [{{"id": "a", "name": "A", "conditions": [{condition}]}}]}}'.encode())
    assert [error.path for error in found] == ["segments[0].conditions[0].value[0]"]
    assert found[0].message.startswith("expected a finite number that a double can hold, got the number ")


def test_half_a_surrogate_pair_is_no_text() -> None:
    content = b'{"segments": [{"id": "a", "name": "\\ud83d", "conditions": [{"kind": "referral"}]}]}'
    assert [error.path for error in errors_of(content)] == ["segments[0].name"]


# --- bytes and limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["yaml", "json", "guess"])
def test_bytes_that_are_no_utf_8_are_told_with_their_line(format: Format) -> None:
    [error] = errors_of(b"segments:\n- name: \xff", format)
    assert error == DocumentError("", "line 2: expected UTF-8, got the byte 0xff at offset 18")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_told_by_its_name(encoding: str) -> None:
    [error] = errors_of("\ufeffsegments: []".encode(encoding))
    assert error == DocumentError("", "expected UTF-8, got UTF-16: save the file as UTF-8")


BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + level, 98 + level, b",".join([b"*%c" % (97 + level)] * 9)) for level in range(12)
)
SEGMENT_HEAD = b"segments:\n- id: a\n  name: A\n  conditions:\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: b" " * (64 * MIB + 1), "expected a document of at most 67,108,864 bytes"),
        (lambda: BOMB, "aliases make the document longer by over 10,000,000 characters"),
        (
            lambda: b"- &a " + b"x" * MIB + b"\n" + b"- *a\n" * 100_000,
            "aliases make the document longer by over 10,000,000 characters",
        ),
        (lambda: b"- " * 100_000, "line 1, column 65: more than 32 levels of objects and lists inside each other"),
        (lambda: b"[" * 100_000, "line 1, column 33: more than 32 levels of objects and lists inside each other"),
        (lambda: b'{"a":' * 100_000, "more than 32 levels of objects and lists inside each other"),
        (lambda: b"&a [" * 20 + b"]" * 20, "got a list"),
        (lambda: b'{"segments":[' + b"{}," * 20 * MIB, "more than 10,000,000 brackets, braces, colons and commas"),
        (lambda: b'{"segments":' + b"1" * 10 * MIB + b"}", "at most 200,000, got the number inf"),
        (lambda: b"segments: 0." + b"1" * 10 * MIB, "at most 200,000, got the number 0.1111111"),
        (lambda: SEGMENT_HEAD + b"  - {kind: sms}\n" * 1_000_000, "more than 200,000 entries in one list or object"),
        (lambda: b'{"segments":[{"id":"' + b"x" * MIB + b'"}]}', "of 1,048,576 characters"),
        (lambda: b"segments:\n- id: " + b"x" * MIB, "of 1,048,576 characters"),
        (lambda: b"segments: [{" + b"a: 1," * 100_000 + b"}]", "the key stands twice in one object, and so in 1,000"),
        (lambda: b'{"segments":[' + b'{"a":1,"a":2},' * 100_000 + b"{}]}", "and more: checking stopped after 1,000"),
        (lambda: b"a" * 10 * MIB, "expected an object with the list `segments`, got the string"),
        (lambda: b"", "expected an object with the list `segments`, got null"),
    ],
    ids=range(17),
)
def test_hostile_documents_are_refused_at_once(make: Callable[[], bytes], message: str) -> None:
    content = make()
    began = time.process_time()
    with pytest.raises(DocumentErrors) as raised:
        load_segments(content)
    assert time.process_time() - began < 5
    assert message in str(raised.value)


def test_levels_are_counted_through_aliases() -> None:
    inner = "[" * 20 + "]" * 20
    assert yaml_value(f"[&a {inner}, [*a]]")
    with pytest.raises(YamlFault, match="more than 32 levels"):
        load_yaml(f"[&a {inner}, {'[' * 12}*a{']' * 12}]")
    with pytest.raises(YamlFault, match="more than 32 levels"):
        load_yaml(f"[&a {inner}, &b [[[[[[[[*a]]]]]]]], [[[[*b]]]]]")


def outcome(content: bytes, format: Format) -> list[SegmentDocument] | list[DocumentError]:
    try:
        return load_segments(content, format=format)
    except DocumentErrors as error:
        return error.errors


@settings(deadline=1_000, max_examples=300)
@given(st.binary(max_size=200), st.sampled_from(["yaml", "json", "guess"]))
def test_any_bytes_are_refused_in_words(content: bytes, format: Format) -> None:
    found = outcome(content, format)
    assert found
    assert all(isinstance(each, DocumentError) and each.message for each in found)


@settings(deadline=1_000, max_examples=300)
@given(st.data(), st.sampled_from([YAML, as_json(yaml_value(YAML.decode()))]))
def test_broken_documents_are_read_or_refused_in_words(data: st.DataObject, content: bytes) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 8))
        patch = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"*a", b"&a ", b"- ", b": ", b"{", b"[", b"\n", b'"'])
        )
        content = content[:start] + patch + content[start + length :]
    assert outcome(content, "guess")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_json_is_read_as_any_json_parser_reads_it(value: Any) -> None:
    assert json_value(json.dumps(value)) == value


def many(count: int) -> bytes:
    entry = (
        "- id: s{0}\n  name: Segment {0}\n  conditions:\n"
        "  - {{kind: purchase_category, category: Shoes, at_least: 2, within: 365d}}\n"
        "  - {{kind: page_visit, domain: shop.example, within: 30d, negate: true}}\n"
    )
    return ("segments:\n" + "".join(entry.format(at) for at in range(count))).encode()


def test_ten_thousand_segments_are_read_within_the_time_of_a_glance() -> None:
    content = many(10_000)
    began = time.process_time()
    read = load_segments(content)
    middle = time.process_time()
    assert middle - began < 1.5
    content = as_json(yaml_value(content.decode()))
    middle = time.process_time()
    assert load_segments(content) == read
    assert time.process_time() - middle < 0.6
