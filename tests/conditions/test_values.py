"""Values as conditions compare them: equality, and how deeply what is compared may be nested."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conditions.definitions import compile_definitions
from conditions.documents import MAX_DEPTH, parse_segments
from conditions.events import Event
from conditions.values import MAX_COMPARED_DEPTH, canonical, operator_test
from connectors.json_events import decode_line
from state.engine import PartitionEngine
from state.memory_store import MemoryStore
from tests.oracle import json_equal

BRACKETS = pytest.mark.parametrize("brackets", [("[", "]"), ('{"a":', "}")])
VALUES = st.recursive(
    st.booleans() | st.integers(-2, 2) | st.sampled_from((0.0, 1.0, 0.5)) | st.sampled_from(("", "a", "A")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


def entered(condition: dict[str, Any], nested: str, more: str) -> bool:
    """Whether an event whose property `p` is that JSON, with further fields, fulfils the condition."""
    document = {"segments": [{"id": "s", "name": "s", "conditions": [condition]}]}
    engine = PartitionEngine(MemoryStore(), compile_definitions(parse_segments(document)))
    line = f'{{"event_id":"e","type":"x","customer_id":"c","time":0,{more}"properties":{{"p":{nested}}}}}'
    event = decode_line(line.encode(), 0)
    assert isinstance(event, Event), event
    return bool(engine.run([event], 0).changes)


def entered_of(conditions: dict[str, dict[str, Any]], event_type: str, properties: dict[str, Any]) -> set[str]:
    """The segments, each of one condition, that an event leads into."""
    segments = [{"id": each, "name": each, "conditions": [condition]} for each, condition in conditions.items()]
    engine = PartitionEngine(MemoryStore(), compile_definitions(parse_segments({"segments": segments})))
    line = {"event_id": "e", "type": event_type, "customer_id": "c", "time": 0, "properties": properties}
    return {change.segment_id for change in engine.run([decode_line(json.dumps(line).encode(), 0)], 0).changes}


def nested_list(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@BRACKETS
@pytest.mark.parametrize("depth", [100, 497, 1_000])
@pytest.mark.parametrize("ignore_case", [False, True])
@pytest.mark.parametrize("more", ["", f'"m":"{"x" * 1_000}",'])
@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("equals", [[["v"]]], False),
        ("in", [[[["v"]]], "w"], False),
        ("contains", "v", False),
        ("starts_with", "v", False),
        ("at_least", 1, False),
        ("exists", None, True),
    ],
)
def test_a_property_is_compared_however_deeply_it_is_nested(
    operator: str, value: Any, expected: bool, more: str, ignore_case: bool, depth: int, brackets: tuple[str, str]
) -> None:
    where = {"property": "p", "operator": operator, "ignore_case": ignore_case}
    condition = {"kind": "event", "type": "x", "where": [where if value is None else where | {"value": value}]}
    assert entered(condition, brackets[0] * depth + '"v"' + brackets[1] * depth, more) is expected


@given(VALUES, VALUES)
def test_forms_are_equal_exactly_where_values_are(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) is json_equal(one, other)
    assert canonical(one) == canonical(one)


def test_whatever_a_document_may_hold_equals_itself_and_nothing_deeper() -> None:
    assert MAX_DEPTH <= MAX_COMPARED_DEPTH
    for depth in range(1, MAX_DEPTH + 1):
        for ignore_case in (False, True):
            is_equal = operator_test("equals", nested_list(depth), ignore_case)
            assert [each for each in range(1, 60) if is_equal(nested_list(each))] == [depth]


PATHS = st.lists(st.sampled_from(("", "a", "b")), min_size=1, max_size=3).map(tuple).filter(lambda path: path != ("",))
OPERATORS = (
    {"operator": "equals", "value": "X"},
    {"operator": "starts_with", "value": "X"},
    {"operator": "contains", "value": "X"},
)


@given(st.lists(PATHS, min_size=1, max_size=4, unique=True), st.sampled_from(OPERATORS))
def test_a_path_leads_to_what_stands_there_also_by_empty_names(
    asked: list[tuple[str, ...]], comparison: dict[str, Any]
) -> None:
    paths = {f"s{at}": path for at, path in enumerate(asked)}
    value: Any = "X"
    for name in reversed(paths["s0"]):
        value = {name: value}
    attributes = {each: {"kind": "customer", "attribute": ".".join(path), **comparison} for each, path in paths.items()}
    assert entered_of(attributes, "customer.update", {"attributes": value}) == {"s0"}
    wheres = {each: [{"property": ".".join(path), **comparison}] for each, path in paths.items()}
    events = {each: {"kind": "event", "type": "x", "where": where} for each, where in wheres.items()}
    assert entered_of(events, "x", value) == {"s0"}
