"""What differs between two versions of a document, as people read it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from conditions.document_diff import differences, same_but_for_version
from conditions.documents import SegmentDocument, parse_segment

VISIT = {"kind": "page_visit", "domain": "shop.example", "within": "30d"}
SPEND = {"kind": "spend", "min": 10.10, "within": "30d"}
SCREEN = {"kind": "app_screen", "screen": "cart"}
EXACT = Decimal("0.12345678901234567890")


def document(*conditions: Any, **fields: Any) -> SegmentDocument:
    return parse_segment({"id": "a", "name": "A", "conditions": list(conditions), **fields})


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (document(VISIT), document(VISIT, version=7), []),
        (document(VISIT), document(VISIT, name="B", match="any"), ['~ name: "A" → "B"', '~ match: "all" → "any"']),
        (document(VISIT), document({**VISIT, "within": "7d"}), ['~ conditions[0].within: "30d" → "7d"']),
        (document(VISIT), document({**VISIT, "negate": True}), ["+ conditions[0].negate: true"]),
        (
            document(SPEND, VISIT),
            document({**SPEND, "min": 20, "max": 30}, VISIT),
            ["~ conditions[0].min: 10.1 → 20", "+ conditions[0].max: 30"],
        ),
        (
            document(VISIT, SPEND, SCREEN),
            document(VISIT, SCREEN),
            ['- conditions[1]: {"kind":"spend","within":"30d","min":10.1}'],
        ),
        (
            document(VISIT),
            document(SCREEN, VISIT),
            ['+ conditions[0]: {"kind":"app_screen","screen":"cart"}'],
        ),
        (
            document(SPEND),
            document(SCREEN),
            [
                '- conditions[0]: {"kind":"spend","within":"30d","min":10.1}',
                '+ conditions[0]: {"kind":"app_screen","screen":"cart"}',
            ],
        ),
    ],
)
def test_differences_name_field_before_and_after(
    before: SegmentDocument, after: SegmentDocument, said: list[str]
) -> None:
    assert list(map(str, differences(before, after))) == said
    assert same_but_for_version(before, after) == (not said)


def test_amounts_keep_every_digit() -> None:
    before = document({"kind": "spend", "min": 1})
    [found] = differences(before, document({"kind": "spend", "min": EXACT}))
    assert str(found) == f"~ conditions[0].min: 1 → {EXACT}"


def test_long_values_are_cut_for_people_only() -> None:
    [found] = differences(document(VISIT), document(VISIT, name="B" * 200))
    assert found.after == '"' + "B" * 200 + '"'
    assert len(str(found)) < 200
