"""The published JSON Schema says what the reader takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from conditions.documents import CONDITION_TYPES, DocumentErrors, parse_segments
from conditions.kinds import AMOUNT_LIMIT, KINDS
from conditions.schema import json_schema

SHOES = {"kind": "purchase_category", "category": "Shoes"}


def segment(*conditions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"segments": [{"id": "shoes", "name": "Shoes", "conditions": list(conditions) or [SHOES], **fields}]}


VALID = [
    segment(),
    segment(id=7, name=2024, version=None, match=None),
    segment(match="any", version=3),
    segment({"kind": "push", "action": "opened", "campaign_id": 7}),
    segment({"kind": "spend", "min": 0, "max": 1.5, "within": "30d"}),
    segment({"kind": "spend", "min": None, "max": 1, "negate": None, "since": None}),
    segment({"kind": "page_visit", "path": "*"}, {"kind": "page_visit", "path": ""}, {"kind": "page_visit"}),
    segment({"kind": "event", "type": "a", "where": None}),
    segment({"kind": "event", "type": "a", "where": [{"property": "p", "operator": "exists", "ignore_case": None}]}),
    *(segment({"kind": name, **each.condition}) for name, kind in CONDITION_TYPES.items() for each in kind.examples),
]
INVALID = [
    [],
    {},
    {"segments": []},
    segment() | {"more": 1},
    segment(id="Not OK"),
    segment(id=-5),
    segment(id=None),
    segment(name=""),
    segment(name="n" * 201),
    segment(match="none"),
    segment(version=0),
    segment(description="…"),
    segment(conditions=[]),
    segment(*[SHOES] * 101),
    segment({"kind": "shoes"}),
    segment({"category": "Shoes"}),
    segment({"kind": "purchase_category"}),
    segment({**SHOES, "within": 30}),
    segment({**SHOES, "within": "30"}),
    segment({**SHOES, "negate": "yes"}),
    segment({**SHOES, "at_least": 0}),
    segment({**SHOES, "at_least": 1001}),
    segment({**SHOES, "category": 1.5}),
    segment({**SHOES, "min": 1}),
    segment({"kind": "spend", "min": "1"}),
    segment({"kind": "spend", "min": -1}),
    segment({"kind": "spend", "min": AMOUNT_LIMIT}),
    segment({"kind": "page_visit", "path": "cart"}),
    segment({"kind": "page_visit", "url": "https://a.example", "query": "all"}),
    segment({"kind": "event", "type": "a", "where": [{"property": "p", "operator": "is"}]}),
    segment({"kind": "event", "type": "a", "where": [{"property": "p", "operator": "exists", "more": 1}]}),
]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from nodes(inner)


def test_every_kind_is_a_definition_that_its_tag_selects() -> None:
    definitions = json_schema()["$defs"]
    choices = definitions["SegmentDocument"]["properties"]["conditions"]["items"]["oneOf"]
    assert [each["$ref"] for each in choices] == [f"#/$defs/{kind.__name__}" for kind in KINDS]
    for name, kind in CONDITION_TYPES.items():
        definition = definitions[kind.__name__]
        assert definition["properties"]["kind"] == {"enum": [name]}
        assert "kind" in definition["required"]
        assert [each["kind"] for each in definition["examples"]] == [name] * len(kind.examples)


def test_no_object_takes_unknown_fields_and_every_field_is_described() -> None:
    schema = json_schema()
    records = [schema, *schema["$defs"].values()]
    assert len(records) == len(KINDS) + 3
    for record in records:
        assert record["additionalProperties"] is False
        for name, field in record["properties"].items():
            assert name == "kind" or field["description"], name


def test_references_lead_somewhere_and_only_words_of_the_dialect_are_used() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for node in nodes({name: each for name, each in schema.items() if name != "examples"}):
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/$defs/") in schema["$defs"]
        assert not {"discriminator", "identifier"} & node.keys()
        assert r"\Z" not in str(node.get("pattern", ""))


def test_identifiers_take_integers_and_optional_fields_take_null() -> None:
    definitions = json_schema()["$defs"]
    assert definitions["PurchaseCategoryCondition"]["properties"]["category"]["type"] == ["string", "integer"]
    assert definitions["PushCondition"]["properties"]["campaign_id"]["type"] == ["string", "integer", "null"]
    assert definitions["PushCondition"]["properties"]["action"]["type"] == "string"
    assert definitions["SpendCondition"]["properties"]["min"]["type"] == ["number", "null"]
    assert definitions["SegmentDocument"]["properties"]["match"]["enum"] == ["all", "any", None]


def test_the_schema_is_made_anew_each_time() -> None:
    json_schema()["$defs"].clear()
    assert json_schema()["$defs"]


@pytest.mark.parametrize("document", VALID)
def test_what_the_reader_takes_the_schema_takes(document: Any) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json_schema())
    parse_segments(document)
    assert not list(validator.iter_errors(document))


@pytest.mark.parametrize("document", INVALID)
def test_what_the_schema_refuses_the_reader_refuses(document: Any) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json_schema())
    assert list(validator.iter_errors(document))
    with pytest.raises(DocumentErrors):
        parse_segments(document)


def test_the_schema_is_one_of_its_dialect() -> None:
    pytest.importorskip("jsonschema").Draft202012Validator.check_schema(json_schema())
