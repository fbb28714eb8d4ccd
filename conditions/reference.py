"""The reference page of the condition kinds, written from their records."""

from __future__ import annotations

import json
import re
from typing import Any

from msgspec import Struct, inspect

from conditions.documents import CONDITION_TYPES, MAX_CONDITIONS, MAX_DEPTH, MAX_SEGMENTS, MAX_TEXT, SegmentDocument
from conditions.kinds import Condition, Example, Where
from conditions.wording import expectation

_HEAD = """\
# Conditions

<!-- Written from the code by `make docs`: change conditions/kinds.py, not this page. -->

A document of segments is YAML or JSON: an object with the list `segments`. Unknown fields, wrong types and
contradictions are errors; all errors of a document are reported together, each with its path. A null counts as absent.
Where an identifier belongs, an integer stands for its decimal digits.

```yaml
segments:
  - id: lapsed-shoe-buyers
    name: Lapsed shoe buyers
    conditions:
      - {kind: purchase_category, category: Shoes, at_least: 2, within: 365d}
      - {kind: page_visit, domain: shop.example, within: 30d, negate: true}
```

YAML is read by the core schema of YAML 1.2, but for numbers with leading zeros or another base than ten, which stay
strings: so `yes`, `2026-01-31`, `12:30`, `007` and `0x1F` are strings. Tags, merge keys (`<<`) and several documents in
one file are refused, and a key may not stand twice in an object.
"""

_NOTES = f"""\
## Windows and counts

- `within` takes events younger than the duration: exactly the duration after an event it no longer counts.
- `since` takes events at that instant or after it, `until` those before it. They do not go with `within`.
- Without a window every event counts, however old.
- `at_least` and `at_most` bound the number of matching events in the window. An order is one event, however many of its
  items match. `at_most` alone also takes customers without any such event.

## URLs

URLs compare by host (in lower case, without the default port of http and https, without a user) and by path: as
written, case-sensitive, one trailing `/` ignored, an empty one the same as `/`. A prefix is held against the path with
its `/`: `/sale/*` takes `/sale/` and `/sale/shoes`, not `/sale`. Scheme and fragment never matter, the query string
only with `query: exact`. So a `path` holds neither `?` nor `#`.

## Comparing values

| operator | holds where the value |
|---|---|
| `equals` | equals the given one, as JSON: 1 equals 1.0, true does not equal 1 |
| `in` | equals one of the list |
| `contains` | is a text that contains the given one, or a list with an entry that equals it |
| `starts_with`, `ends_with` | is a text that begins, or ends, with the given one |
| `at_least`, `at_most` | is a number that is not below, or not above, the given one |
| `exists` | is there, and not null |

Texts compare by code point, with `ignore_case: true` by Unicode case folding. A missing value satisfies no operator.
Dots lead into nested objects; a name that has a dot in it cannot be addressed.

## Limits

A document has at most {MAX_SEGMENTS:,} segments, and {MAX_DEPTH} levels of objects and lists inside each other. A
segment has at most {MAX_CONDITIONS} conditions, a text inside a `value` at most {MAX_TEXT:,} characters.
"""

_KINDS_HEAD = """\
Every condition names its `kind` and has the fields of that kind. The examples show a condition, and an event that by
itself makes it hold for a customer, or does not.
"""

# What most kinds have comes after what they have of their own.
_SHARED = ("at_least", "at_most", "within", "since", "until", "negate")


def reference_markdown() -> str:
    """The whole page, as `docs/conditions.md` holds it."""
    listed = "".join(f"- [`{name}`](#{name}): {_meaning(kind)}\n" for name, kind in CONDITION_TYPES.items())
    segment = f"## A segment\n\n{_meaning(SegmentDocument)}\n\n{_fields_table(SegmentDocument)}"
    kinds = [_section(name, kind) for name, kind in CONDITION_TYPES.items()]
    return (
        "\n".join([_HEAD, segment, _NOTES, "## The kinds of conditions\n", _KINDS_HEAD, listed, *kinds]).rstrip() + "\n"
    )


def _meaning(record: type[Any]) -> str:
    return " ".join((record.__doc__ or "").split())


def _section(name: str, kind: type[Condition]) -> str:
    parts = [f"## {name}\n", _meaning(kind) + "\n", _fields_table(kind)]
    if "where" in kind.__struct_fields__:
        parts += [f"An entry of `where`: {_meaning(Where)}\n", _fields_table(Where)]
    examples = "\n".join(_example(name, example) for example in kind.examples)
    return "\n".join([*parts, f"```yaml\n{examples}\n```\n"])


def _fields_table(record: type[Struct]) -> str:
    described = inspect.type_info(record)
    assert isinstance(described, inspect.StructType)
    rows = [_row(field) for field in sorted(described.fields, key=_rank)]
    return "\n".join(["| field (* required) | value | meaning |", "|---|---|---|", *rows, ""])


def _rank(field: inspect.Field) -> tuple[bool, int]:
    """Required fields first, shared ones last; the sort keeps the others as the record has them."""
    return not field.required, _SHARED.index(field.name) if field.name in _SHARED else -1


def _row(field: inspect.Field) -> str:
    meaning = ""
    if isinstance(field.type, inspect.Metadata):
        meaning = (field.type.extra_json_schema or {}).get("description", "")
    default = f" ({_flow(field.default)})" if isinstance(field.default, bool | int | str) else ""
    cells = [f"`{field.name}`{'*' if field.required else ''}", expectation(field.type) + default, meaning]
    return f"| {' | '.join(cell.replace('|', r'&#124;') for cell in cells)} |"


def _example(name: str, example: Example) -> str:
    event = f"{example.event_type} {json.dumps(example.properties, ensure_ascii=False)}"
    return f"# {event}: {'holds' if example.holds else 'does not hold'}\n- {_flow({'kind': name, **example.condition})}"


def _flow(value: Any) -> str:
    """The value as YAML on one line, quoted only where it must be."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(name)}: {_flow(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str) and _PLAIN_TEXT.fullmatch(value) and value not in {"true", "false", "null"}:
        return value
    return json.dumps(value, ensure_ascii=False)


_PLAIN_TEXT = re.compile(r"[A-Za-z/][\w./-]*|[0-9]+[smhdw]")
