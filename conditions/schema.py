"""The JSON Schema of segment documents, made from the types that read them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from conditions.documents import MAX_SEGMENTS, SegmentDocument
from conditions.kinds import KINDS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class SegmentDocuments(msgspec.Struct, forbid_unknown_fields=True):
    """Segments of customers, by what the customers did and what is known of them."""

    segments: Annotated[
        list[SegmentDocument],
        Meta(min_length=1, max_length=MAX_SEGMENTS, description="ids and names are unique"),
    ]


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of a whole document; `#/$defs/SegmentDocument` is that of one segment by itself.

    It cannot say what depends on several fields at once: a document that it takes may still hold contradictions.
    """
    _, definitions = msgspec.json.schema_components([SegmentDocuments], ref_template="#/$defs/{name}")
    for kind in KINDS:
        definitions[kind.__name__]["examples"] = [
            {"kind": kind.__struct_config__.tag, **example.condition} for example in kind.examples
        ]
    definitions = {name: _mend_record(definition) for name, definition in definitions.items()}
    whole = definitions.pop("SegmentDocuments")
    return {"$schema": DIALECT, **whole, "title": "Segment document", "$defs": definitions}


def _mend_record(definition: dict[str, Any]) -> dict[str, Any]:
    properties = {
        name: _mend_property(schema, required=name in definition["required"])
        for name, schema in definition["properties"].items()
    }
    return definition | {"properties": properties}


def _mend_property(schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    schema = _without_choices(schema)
    if schema.pop("identifier", False):
        schema["type"] = ["string", "integer"]
    if "pattern" in schema:
        schema["pattern"] = schema["pattern"].replace(r"\Z", "$")
    if isinstance(schema.get("items"), dict) and "anyOf" in schema["items"]:
        # the kinds exclude each other; `discriminator` is a word of OpenAPI
        schema["items"] = {"oneOf": schema["items"]["anyOf"]}
    if schema.get("default", _ABSENT) is None:
        del schema["default"]
    return schema if required else _or_null(schema)


_ABSENT = object()


def _without_choices(schema: dict[str, Any]) -> dict[str, Any]:
    """One plain schema for a choice of a type and null, and for the choice of numbers that an amount is."""
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if not choices:
        return dict(schema)
    # of an amount: integer, number, and the decimal that only stands for a number
    chosen = choices[0] if len(choices) == 1 else next(each for each in choices if each["type"] == "number")
    merged: dict[str, Any] = chosen | {name: value for name, value in schema.items() if name != "anyOf"}
    if "description" in chosen and "description" in schema:
        merged["description"] = f"{schema['description']}; {chosen['description']}"
    return merged


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A null is as good as nothing."""
    if "enum" in schema:
        return schema | {"enum": [*schema["enum"], None]}
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return schema | {"type": [*types, "null"]}
    return schema
