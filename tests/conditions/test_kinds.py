"""The kinds of conditions: each is complete, and its examples are valid documents."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from conditions.documents import CONDITION_TYPES, parse_segment, to_document
from conditions.kinds import KINDS, Condition, Example
from conditions.wording import expectation

EVENT_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
EXAMPLES = [(name, example) for name, kind in CONDITION_TYPES.items() for example in kind.examples]


def described(kind: type[msgspec.Struct]) -> list[inspect.Field]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return list(info.fields)


def patterns(info: Any) -> list[inspect.Metadata | inspect.StrType]:
    """The texts with a pattern, together with what is said of them."""
    if isinstance(info, inspect.Metadata):
        bare = isinstance(info.type, inspect.StrType) and info.type.pattern is not None
        return [info] if bare else patterns(info.type)
    if isinstance(info, inspect.UnionType):
        return [found for each in info.types for found in patterns(each)]
    return [info] if isinstance(info, inspect.StrType) and info.pattern is not None else []


def test_the_kinds_are_those_of_the_contract() -> None:
    assert list(CONDITION_TYPES) == [
        "customer",
        "page_visit",
        "referral",
        "email",
        "sms",
        "push",
        "location",
        "agreement",
        "purchase_category",
        "purchase_product",
        "purchase_price",
        "transaction",
        "app_screen",
        "event",
        "spend",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_what_it_means_and_has_examples(kind: type[Condition]) -> None:
    assert kind.__doc__
    assert kind.__doc__.splitlines()[0].endswith(".")
    assert kind.examples


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_meaning_and_an_expectation_in_words(kind: type[Condition]) -> None:
    for field in described(kind):
        assert isinstance(field.type, inspect.Metadata), field.name
        assert (field.type.extra_json_schema or {}).get("description"), field.name
        assert expectation(field.type), field.name
        for text in patterns(field.type):
            assert isinstance(text, inspect.Metadata), f"{field.name}: give its pattern a description"
            assert "words" in (text.extra or {}), f"{field.name}: say its pattern in words"


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_every_example_is_a_valid_condition_and_reads_back(name: str, example: Example) -> None:
    document = {"id": "example", "name": "Example", "conditions": [{"kind": name, **example.condition}]}
    segment = parse_segment(document)
    assert type(segment.conditions[0]) is CONDITION_TYPES[name]
    assert parse_segment(to_document(segment)) == segment
    assert EVENT_TYPE.fullmatch(example.event_type)


@pytest.mark.parametrize("kind", KINDS)
def test_the_identity_of_a_condition_leaves_negation_and_defaults_out(kind: type[Condition]) -> None:
    for example in kind.examples:
        fields = {"kind": kind.__struct_config__.tag, **example.condition}
        conditions = [{**fields, "negate": True}, fields]
        negated, plain = parse_segment({"id": "a", "name": "A", "conditions": conditions}).conditions
        assert negated.identity() == plain.identity()
        assert msgspec.json.decode(plain.identity())["kind"] == kind.__struct_config__.tag
        assert "negate" not in plain.identity()
