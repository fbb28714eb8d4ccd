"""Answers about customers, as lines for people."""

from __future__ import annotations

from typing import Any

import pytest

from conditions.explanation import ConditionAnswer, SegmentAnswer
from streams.inspection import CustomerAnswer, render


def seen_and_wanted(seen: Any, wanted: Any) -> tuple[str, str]:
    """How a condition on an attribute shows the value that was seen and the one it compares with."""
    document = {"kind": "customer", "attribute": "size", "operator": "equals", "value": wanted}
    condition = ConditionAnswer(document, False, {"value": seen}, None)
    segment = SegmentAnswer("large", "Large", False, "all", None, [condition])
    [*_, compared, found] = render(CustomerAnswer("anna", "2024-01-01T00:00:00.000Z", [segment]))
    return found.split("seen: ")[1], compared.split("operator equals, ")[1]


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("5", 'value "5"'),
        (5, "value 5"),
        ("null", 'value "null"'),
        ("missing", 'value "missing"'),
        (True, "value true"),
        ("a\n\x9b", r'value "a\n\x9b"'),
        (["5", 5], 'value ["5",5]'),
    ],
)
def test_values_are_explained_with_their_types(value: Any, word: str) -> None:
    assert seen_and_wanted(value, value) == (word, word)


def test_a_value_that_is_not_there_is_explained_as_missing() -> None:
    assert seen_and_wanted(None, 5) == ("value missing", "value 5")
