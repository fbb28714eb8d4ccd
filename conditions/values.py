"""JSON values as conditions compare them, and the operators of `customer` and `event` conditions.

Equality is JSON's: 1 equals 1.0, true is not 1; numbers compare as doubles. A null does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal

Operator = Literal["equals", "contains", "starts_with", "ends_with", "exists", "in", "at_least", "at_most"]
Test = Callable[[Any], bool]

MAX_COMPARED_DEPTH = 32
"""What lies deeper inside objects and lists equals nothing, and is not looked at: documents nest no deeper."""

TEXT_OPERATORS = frozenset({"starts_with", "ends_with"})
NUMBER_OPERATORS = frozenset({"at_least", "at_most"})


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def canonical(value: Any, depth: int = 0) -> Hashable:
    """A hashable form: a value is JSON-equal to one of a document exactly when their forms are equal."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, list | dict):
        return None
    if depth == MAX_COMPARED_DEPTH:
        return _TOO_DEEP
    if isinstance(value, list):
        return ("list", tuple([canonical(inner, depth + 1) for inner in value]))
    members = [(name, canonical(inner, depth + 1)) for name, inner in value.items() if inner is not None]
    return ("object", frozenset(members))


_TOO_DEEP = ("too deep",)


def fold(value: Any, depth: int = 0) -> Any:
    """The value with the case of every string folded (Unicode default case folding), inside lists too."""
    if isinstance(value, str):
        return value.casefold()
    if isinstance(value, list) and depth < MAX_COMPARED_DEPTH:
        return [fold(inner, depth + 1) for inner in value]
    return value


def look_up(value: Any, path: tuple[str, ...]) -> Any:
    """What stands at the path inside nested objects, or None."""
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def operator_test(operator: Operator, expected: Any, ignore_case: bool = False) -> Test:
    """The operator as a function of one value; a missing value (None) never satisfies it."""
    if not ignore_case:
        return OPERATORS[operator](expected)
    test = OPERATORS[operator](fold(expected))
    return lambda value: test(fold(value))


def _equals(expected: Any) -> Test:
    form = canonical(expected)
    return lambda value: value is not None and canonical(value) == form


def _contains(expected: Any) -> Test:
    form = canonical(expected)

    def test(value: Any) -> bool:
        if isinstance(value, str):
            return isinstance(expected, str) and expected in value
        return isinstance(value, list) and any(canonical(inner) == form for inner in value)

    return test


def _in(expected: list[Any]) -> Test:
    forms = frozenset(map(canonical, expected))
    return lambda value: value is not None and canonical(value) in forms


OPERATORS: dict[Operator, Callable[[Any], Test]] = {
    "equals": _equals,
    "contains": _contains,
    "starts_with": lambda expected: lambda value: isinstance(value, str) and value.startswith(expected),
    "ends_with": lambda expected: lambda value: isinstance(value, str) and value.endswith(expected),
    "exists": lambda _: lambda value: value is not None,
    "in": _in,
    "at_least": lambda expected: lambda value: is_number(value) and float(value) >= float(expected),
    "at_most": lambda expected: lambda value: is_number(value) and float(value) <= float(expected),
}
