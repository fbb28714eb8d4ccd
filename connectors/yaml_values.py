"""YAML as JSON values: the core schema of YAML 1.2, without what surprises or explodes.

Texts stay what they look like: `yes`, `2026-01-31`, `12:30`, `007`, `0x1F` are strings. Tags, merge keys and keys that
are no text are refused, keys may not repeat, and aliases may not blow up the document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from conditions.documents import MAX_DEPTH, MAX_SEGMENTS, DocumentError, join_path
from conditions.exact_numbers import exact_integer, exact_number
from conditions.wording import shorten

MAX_VALUES = 5_000_000
"""Values of one document, keys included: each takes memory."""
MAX_ENTRIES = MAX_SEGMENTS
"""Entries of one list."""
MAX_ALIASED_CHARACTERS = 10_000_000
"""What the aliases of a document may add to it, by the text that they stand for; a value without text counts one."""
MAX_KEY_FAULTS = 1_000

_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_CONSTANTS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
}
# As JSON writes them, and with a plus, or without digits before or behind the point. A number with leading zeros is
# the name of something.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_FIRST_OF_NUMBERS = frozenset("+-.0123456789")
_MERGE = "<<"


class YamlFault(Exception):
    """The first place where the text is no YAML, or YAML that is refused; the message begins with line and column."""


def load_yaml(text: str) -> tuple[Any, list[DocumentError]]:
    """The value of the only document in the text, and the faults of keys, which leave it readable.

    Raises YamlFault.
    """
    try:
        return _Builder().build(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        raise YamlFault(_syntax_fault(error, text)) from None
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        raise YamlFault(f"line {line}, column {column}: {error.reason}: {chr(error.character)!a}") from None


def _syntax_fault(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{_place(mark)}: " if mark is not None else ""
    if mark is not None and text[mark.index : mark.index + 1] == "\t":
        return f"{where}a tab: YAML is indented by spaces"
    context = f" ({error.context})" if error.context else ""
    return f"{where}{error.problem or 'no YAML'}{context}"


def _place(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def scalar(text: str) -> Any:
    """What a text without quotes stands for."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _FIRST_OF_NUMBERS:
        return text
    if _INTEGER.fullmatch(text):
        return exact_integer(text)
    return exact_number(text) if _NUMBER.fullmatch(text) else text


class _Level:
    """An object or a list that is being read."""

    __slots__ = ("anchor", "before", "height", "key", "value")

    def __init__(self, value: Any, anchor: str | None, before: int) -> None:
        self.value = value
        self.anchor = anchor
        self.before = before  # characters of the document before it
        self.key: str | None = None  # of the object, once read
        self.height = 1  # levels inside it, with itself


class _Builder:
    """Makes values from the parser's events, without recursion."""

    def __init__(self) -> None:
        self.levels: list[_Level] = []
        self.faults: list[DocumentError] = []
        self.anchored: dict[str, tuple[Any, int, int] | None] = {}  # value, characters, height; None while it is read
        self.values = 0
        self.characters = 0
        self.aliased = 0
        self.result: Any = None
        self.documents = 0

    def build(self, events: Iterator[yaml.Event]) -> tuple[Any, list[DocumentError]]:
        for event in events:
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self.take_scalar(event)
            elif kind is yaml.MappingStartEvent:
                self.open({}, event)
            elif kind is yaml.SequenceStartEvent:
                self.open([], event)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self.close()
            elif kind is yaml.AliasEvent:
                self.take_alias(event)
            elif kind is yaml.DocumentStartEvent:
                self.documents += 1
                if self.documents > 1:
                    raise self.fault(event, "expected one document, got a second one")
        return self.result, self.faults

    def fault(self, event: Any, message: str) -> YamlFault:
        return YamlFault(f"{_place(event.start_mark)}: {message}")

    def key_fault(self, event: Any, name: str, message: str) -> None:
        if len(self.faults) == MAX_KEY_FAULTS:
            raise self.fault(event, f"{message}, and so in {MAX_KEY_FAULTS:,} places before")
        self.faults.append(DocumentError(join_path(self.path(), name), f"{_place(event.start_mark)}: {message}"))

    def path(self) -> str:
        """Where the innermost level stands."""
        path = ""
        for level in self.levels[:-1]:
            path = join_path(path, level.key) if level.key is not None else f"{path}[{len(level.value)}]"
        return path

    def take_scalar(self, event: Any) -> None:
        text: str = event.value
        self.characters += len(text) + 1
        self.check(event)
        level = self.levels[-1] if self.levels else None
        if level is not None and level.key is None and type(level.value) is dict:
            self.take_key(event, level, text)
            return
        self.check_room(event)
        value = scalar(text) if event.implicit[0] else text
        if event.anchor is not None:
            self.anchored[event.anchor] = (value, len(text) + 1, 0)
        self.put(value)

    def take_key(self, event: Any, level: _Level, text: str) -> None:
        if text in level.value:
            self.key_fault(event, text, "the key stands twice in one object")
        elif text == _MERGE:
            self.key_fault(event, text, "merge keys (<<) are not supported: write the fields out")
        if event.anchor is not None:
            self.anchored[event.anchor] = (text, len(text) + 1, 0)
        level.key = text

    def check(self, event: Any) -> None:
        """Refuse tags, and more values than a document may have."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise self.fault(event, f"more than {MAX_VALUES:,} values in one document")
        if event.tag is not None:
            raise self.fault(event, f"tags are not supported: write the value without {shorten(event.tag)}")

    def open(self, value: Any, event: Any) -> None:
        self.check(event)
        self.refuse_as_key(event)
        self.check_room(event)
        if len(self.levels) == MAX_DEPTH:
            raise self.fault(event, f"more than {MAX_DEPTH} levels of objects and lists inside each other")
        if event.anchor is not None:
            self.anchored[event.anchor] = None
        self.levels.append(_Level(value, event.anchor, self.characters))
        self.characters += 1

    def check_room(self, event: Any) -> None:
        if self.levels and len(self.levels[-1].value) == MAX_ENTRIES:
            raise self.fault(event, f"more than {MAX_ENTRIES:,} entries in one list or object")

    def refuse_as_key(self, event: Any) -> None:
        if self.levels and self.levels[-1].key is None and type(self.levels[-1].value) is dict:
            raise self.fault(event, "expected a text as key")

    def close(self) -> None:
        level = self.levels.pop()
        if level.anchor is not None:
            self.anchored[level.anchor] = (level.value, self.characters - level.before, level.height)
        if self.levels:
            self.levels[-1].height = max(self.levels[-1].height, level.height + 1)
        self.put(level.value)

    def take_alias(self, event: Any) -> None:
        self.refuse_as_key(event)
        self.check_room(event)
        name = shorten(event.anchor)
        if event.anchor not in self.anchored:
            raise self.fault(event, f"the alias *{name} stands before its anchor &{name}, or without one")
        found = self.anchored[event.anchor]
        if found is None:
            raise self.fault(event, f"the alias *{name} stands inside the value it repeats")
        value, characters, height = found
        self.characters += characters
        self.aliased += characters
        if self.aliased > MAX_ALIASED_CHARACTERS:
            raise self.fault(event, f"aliases make the document longer by over {MAX_ALIASED_CHARACTERS:,} characters")
        if len(self.levels) + height > MAX_DEPTH:
            raise self.fault(event, f"more than {MAX_DEPTH} levels of objects and lists inside each other")
        if self.levels:
            self.levels[-1].height = max(self.levels[-1].height, height + 1)
        self.put(value)

    def put(self, value: Any) -> None:
        if not self.levels:
            self.result = value
            return
        level = self.levels[-1]
        if type(level.value) is list:
            level.value.append(value)
        else:
            if level.key != _MERGE:
                # of two values of one key the first stays, so that what follows from it is checked
                level.value.setdefault(level.key, value)
            level.key = None
