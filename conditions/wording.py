"""Types, values and near misses in words, for error messages and the reference page."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from msgspec import inspect

SHOWN_CHARACTERS = 60
LONGEST_SUGGESTED = 64  # a search for the nearest word takes time that grows with the word's length
LONGEST_SHOWN_BITS = 4_000  # longer integers are not turned into digits, which takes quadratic time


def describe(value: object) -> str:
    """A value of a document, as a message names what it got: shortened, and on one line."""
    if isinstance(value, str):
        return f'the string "{shorten(value)}"{_length(value)}'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > LONGEST_SHOWN_BITS:
        return "a number of more than 1,000 digits"
    if isinstance(value, int | float | Decimal):
        return f"the number {shorten(str(value))}"
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    return f"a value of type {type(value).__name__}"


def shorten(text: str) -> str:
    """The text's beginning; what cannot be printed comes as escapes."""
    shown = escape_unprintable(text[:SHOWN_CHARACTERS])
    return shown if len(text) <= SHOWN_CHARACTERS else shown + "…"


def escape_unprintable(text: str) -> str:
    """The text on one line and harmless to a terminal: what cannot be printed comes as escapes."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _length(text: str) -> str:
    return f" of {len(text):,} characters" if len(text) > SHOWN_CHARACTERS else ""


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """A question to put behind a message, or nothing where no known word is near."""
    found = nearest_word(word, known) if isinstance(word, str) else None
    return "" if found is None else f"; did you mean {found}?"


def nearest_word(word: str, known: Iterable[str]) -> str | None:
    """The known word, in lower case as all of them, that is most like the given one; None where none is near."""
    if len(word) > LONGEST_SUGGESTED:
        return None
    return next(iter(difflib.get_close_matches(word.lower(), list(known), n=1)), None)


def expectation(kind: inspect.Type) -> str:
    """What values of the type are, as it stands behind "expected": "an integer from 1 to 1000". Null is not named."""
    if isinstance(kind, inspect.Metadata):
        extra = kind.extra or {}
        if "words" in extra:
            return str(extra["words"])
        return expectation(kind.type) + (", or an integer" if extra.get("identifier") else "")
    if isinstance(kind, inspect.UnionType):
        return _union(kind)
    if isinstance(kind, inspect.LiteralType):
        # msgspec sorts the values
        return f"one of {', '.join(map(str, kind.values))}"
    if isinstance(kind, inspect.ListType | inspect.VarTupleType):
        return f"a list of {_bounds(kind.min_length, kind.max_length)}{_items(kind.item_type)}"
    if isinstance(kind, inspect.StrType):
        return "a string" + _characters(kind)
    if isinstance(kind, inspect.IntType):
        return "an integer" + _range(kind)
    return {
        inspect.BoolType: "true or false",
        inspect.AnyType: "a value",
        inspect.FloatType: "a number",
        inspect.StructType: "an object",
    }[type(kind)]


def _union(kind: inspect.UnionType) -> str:
    members = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
    numbers = [each for each in members if isinstance(each, inspect.IntType | inspect.FloatType)]
    if len(numbers) > 1:
        return "a number" + _range(numbers[0])
    return expectation(members[0])


def _items(kind: inspect.Type) -> str:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    return "objects" if isinstance(kind, inspect.StructType | inspect.UnionType) else "values"


def _characters(kind: inspect.StrType) -> str:
    bounds = _bounds(kind.min_length, kind.max_length)
    return f" of {bounds}characters" if bounds else ""


def _bounds(low: int | None, high: int | None) -> str:
    if high is None:
        return f"{low:,} or more " if low else ""
    return f"{low:,} to {high:,} " if low else f"at most {high:,} "


def _range(kind: Any) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {kind.ge} to {kind.le}"
    if kind.ge is not None and kind.lt is not None:
        return f" from {kind.ge} to below {kind.lt:,}"
    return "" if kind.ge is None else f" of {kind.ge} or more"
