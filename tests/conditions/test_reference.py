"""The reference page of the conditions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conditions.documents import CONDITION_TYPES, parse_segments
from conditions.reference import reference_markdown
from connectors.yaml_values import load_yaml

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conditions.md"


def section(name: str) -> str:
    return reference_markdown().split(f"\n## {name}\n")[1].split("\n## ")[0]


def blocks(text: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)\n```", text, re.DOTALL)


def test_the_page_is_the_one_that_the_code_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference_markdown(), "run `make docs`"


@pytest.mark.parametrize("name", CONDITION_TYPES)
def test_every_kind_has_its_meaning_its_fields_and_its_examples(name: str) -> None:
    kind, text = CONDITION_TYPES[name], section(name)
    assert (kind.__doc__ or "?") in text
    for field in kind.__struct_fields__:
        assert f"| `{field}`" in text
    examples, faults = load_yaml(blocks(text)[0])
    assert faults == []
    assert examples == [{"kind": name, **example.condition} for example in kind.examples]
    ends = re.findall(r"^# .*: (holds|does not hold)$", text, re.MULTILINE)
    assert [end == "holds" for end in ends] == [example.holds for example in kind.examples]


def test_required_fields_are_marked_and_come_first() -> None:
    rows = re.findall(r"^\| (`\w+`\*?) \|", section("email"), re.MULTILINE)
    names = ["action", "campaign_id", "at_least", "at_most", "within", "since", "until", "negate"]
    assert rows == [f"`{name}`" + ("*" if name == "action" else "") for name in names]


def test_entries_of_where_are_described_with_the_events() -> None:
    assert "| `property`* | a string of 1 to 500 characters | the property; dots address" in section("event")


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    rows = [line for line in reference_markdown().splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} <= {3, 4}


def test_the_document_at_the_head_is_valid() -> None:
    value, _ = load_yaml(blocks(reference_markdown())[0])
    assert [each.id for each in parse_segments(value)] == ["lapsed-shoe-buyers"]
