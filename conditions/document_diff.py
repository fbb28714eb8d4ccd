"""What differs between two versions of a segment document, field by field, in words."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

import msgspec

from conditions.documents import SegmentDocument, join_path, to_document

LONGEST_SHOWN = 120


class Difference(msgspec.Struct, frozen=True):
    """One field that differs, as JSON before and after; None where it is not there, or at its default."""

    path: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.path}: {_shorten(self.after or '')}"
        if self.after is None:
            return f"- {self.path}: {_shorten(self.before)}"
        return f"~ {self.path}: {_shorten(self.before)} → {_shorten(self.after)}"


def same_but_for_version(one: SegmentDocument, other: SegmentDocument) -> bool:
    return one == msgspec.structs.replace(other, version=one.version)


def differences(before: SegmentDocument, after: SegmentDocument) -> tuple[Difference, ...]:
    """What differs but for the version: names and matches first, then conditions in their order.

    Paths of what is gone are those of the document before; all others are those of the document after.
    """
    found = list(_of_fields("", _plain(before), _plain(after)))
    if before.conditions != after.conditions:
        old, new = to_document(before)["conditions"], to_document(after)["conditions"]
        found += _of_conditions(old, new)
    return tuple(found)


def _plain(segment: SegmentDocument) -> dict[str, Any]:
    return {"name": segment.name, "match": segment.match}


def _of_fields(path: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[Difference]:
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = (_json(each[name]) if name in each else None for each in (before, after))
        if old != new:
            yield Difference(join_path(path, name), old, new)


def _of_conditions(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Iterator[Difference]:
    matcher = SequenceMatcher(None, [*map(_json, before)], [*map(_json, after)], autojunk=False)
    for tag, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if tag == "equal":
            continue
        old, new = list(range(old_from, old_to)), list(range(new_from, new_to))
        # Of the same kind at the same place: the same condition with other fields.
        while old and new and before[old[0]]["kind"] == after[new[0]]["kind"]:
            place = new.pop(0)
            yield from _of_fields(f"conditions[{place}]", before[old.pop(0)], after[place])
        for place in old:
            yield Difference(f"conditions[{place}]", _json(before[place]), None)
        for place in new:
            yield Difference(f"conditions[{place}]", None, _json(after[place]))


def _json(value: Any) -> str:
    return _encoder.encode(value).decode()


_encoder = msgspec.json.Encoder(decimal_format="number")


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
