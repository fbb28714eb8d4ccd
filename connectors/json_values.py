"""JSON as values, with every digit, and with the names that stand twice in an object."""

from __future__ import annotations

import json
from typing import Any

from conditions.documents import MAX_DEPTH, DocumentError, join_path
from connectors.exact_numbers import exact_integer, exact_number

MAX_OBJECTS = 5_000_000
"""Objects and lists of one document: each takes memory."""


class JsonFault(Exception):
    """The first place where the text is no JSON, or exceeds a limit."""


def load_json(text: str) -> tuple[Any, list[DocumentError]]:
    """The value, and the names that stand twice in an object. Raises JsonFault.

    NaN and infinities are read as such, and left to whoever checks the numbers.
    """
    if text.count("{") + text.count("[") > MAX_OBJECTS:
        raise JsonFault(f"more than {MAX_OBJECTS:,} objects and lists in one document")
    repeating: list[_Repeating] = []

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        repeating.append(_Repeating(pairs))
        return repeating[-1]

    try:
        value = json.loads(
            text, object_pairs_hook=to_object, parse_int=exact_integer, parse_float=exact_number, parse_constant=float
        )
    except json.JSONDecodeError as error:
        message = error.msg[0].lower() + error.msg[1:]
        raise JsonFault(f"line {error.lineno}, column {error.colno}: {message}") from None
    except RecursionError:
        raise JsonFault(f"more than {MAX_DEPTH} levels of objects and lists inside each other") from None
    return value, _repeats(value, "", 1) if repeating else []


class _Repeating(dict[str, Any]):
    """An object some of whose names stand twice; the first value of each stays."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(reversed(pairs))
        seen: set[str] = set()
        self.repeated = [name for name, _ in pairs if name in seen or seen.add(name)]


def _repeats(value: Any, path: str, depth: int) -> list[DocumentError]:
    if depth > MAX_DEPTH:
        return []
    found: list[DocumentError] = []
    if isinstance(value, _Repeating):
        found += [
            DocumentError(join_path(path, name), "the name stands twice in one object") for name in value.repeated
        ]
    if isinstance(value, dict):
        inner = [(join_path(path, name), each) for name, each in value.items()]
    else:
        inner = [(f"{path}[{at}]", each) for at, each in enumerate(value)]
    for where, each in inner:
        if isinstance(each, dict | list):
            found += _repeats(each, where, depth + 1)
    return found
