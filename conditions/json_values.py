"""JSON as values, with every digit, and with the names that stand twice in an object."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from conditions.documents import (
    MAX_DEPTH,
    DocumentError,
    DocumentErrors,
    SegmentDocument,
    join_path,
    restore_segment,
)
from conditions.exact_numbers import exact_integer, exact_number

MAX_MARKS = 10_000_000
"""Brackets, braces, colons and commas of one document: what stands between them takes memory."""
MAX_REPEATING = 1_000


class JsonFault(Exception):
    """The first place where the text is no JSON."""


class JsonLimit(JsonFault):
    """The text may be JSON, but exceeds a limit."""


def load_json(text: str) -> tuple[Any, list[DocumentError]]:
    """The value, and the names that stand twice in an object. Raises JsonFault.

    NaN and infinities are read as such, and left to whoever checks the numbers.
    """
    if sum(map(text.count, "{[:,")) > MAX_MARKS:
        raise JsonLimit(f"more than {MAX_MARKS:,} brackets, braces, colons and commas in one document")
    if text.startswith("\ufeff"):
        raise JsonFault("line 1, column 1: unexpected UTF-8 BOM (decode using utf-8-sig)")
    try:
        return _load(text)
    except json.JSONDecodeError as error:
        message = _MESSAGES.get(error.msg) or error.msg[0].lower() + error.msg[1:].replace("xpecting", "xpected")
        raise JsonFault(f"line {error.lineno}, column {error.colno}: {message}") from None
    except RecursionError:
        raise JsonLimit(f"more than {MAX_DEPTH} levels of objects and lists inside each other") from None


def _load(text: str) -> tuple[Any, list[DocumentError]]:
    try:
        return _sound_decoder.decode(text), []
    except _NameRepeated:
        repeating: list[_Repeating] = []
        value = _decoder(lambda pairs: _object(pairs, repeating)).decode(text)
        return value, _repeats(value, "", 1)


_MESSAGES = {
    "Extra data": "expected the end of the document",
    "Invalid control character at": "a control character that is not escaped",
    "Unterminated string starting at": "a string without end",
}


def decode_segment(content: bytes) -> SegmentDocument:
    """One segment's document as `encode_segment` wrote it, every digit kept. Raises DocumentErrors."""
    value, errors = load_json(content.decode())
    if errors:
        raise DocumentErrors(errors)
    return restore_segment(value)


def decode_segments(content: bytes) -> list[SegmentDocument]:
    """The segments of `{"segments": […]}` as `encode_segment` wrote each, with every digit. Raises DocumentErrors."""
    value, _ = load_json(content.decode())
    return [restore_segment(each) for each in value["segments"]]


# --- objects ---------------------------------------------------------------------------------------------------------

Pairs = list[tuple[str, Any]]


def _decoder(to_object: Callable[[Pairs], dict[str, Any]]) -> json.JSONDecoder:
    # The standard library's parser is the one that tells digits as written, and names that stand twice.
    return json.JSONDecoder(
        object_pairs_hook=to_object, parse_int=exact_integer, parse_float=exact_number, parse_constant=float
    )


class _NameRepeated(Exception):
    """A name stands twice in some object."""


def _sound_object(pairs: Pairs) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NameRepeated
    return found


_sound_decoder = _decoder(_sound_object)  # made once, as that takes longer than to read a segment


def _object(pairs: Pairs, repeating: list[_Repeating]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs) or len(repeating) == MAX_REPEATING:
        return found
    repeating.append(_Repeating(pairs))
    return repeating[-1]


class _Repeating(dict[str, Any]):
    """An object some of whose names stand twice; the first value of each stays."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(reversed(pairs))
        seen: set[str] = set()
        self.repeated: dict[str, None] = {}
        for name, _ in pairs:
            if name in seen:
                self.repeated[name] = None
            seen.add(name)


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
