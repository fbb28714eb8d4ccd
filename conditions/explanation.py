"""Why a customer is in a segment or out of it: each condition, what was seen, and when it flips by time alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from conditions.amounts import sum_since
from conditions.documents import condition_to_document
from conditions.exact_numbers import written_number
from conditions.features import FOREVER, Atom, CountAtom, SumAtom, Summaries
from conditions.money import decimal_text
from conditions.segments import CompiledCondition, Segment
from conditions.times import format_time

SHOWN_EVENTS = 5


class ConditionAnswer(msgspec.Struct):
    """One condition: `holds` after negation, `seen` in the state, `flips_at` RFC 3339 or None (not by time alone)."""

    condition: dict[str, Any]
    holds: bool
    seen: dict[str, Any]
    flips_at: str | None


class SegmentAnswer(msgspec.Struct):
    """One segment: whether the customer is in, and until when if nothing arrives (None: for ever)."""

    segment_id: str
    segment_name: str
    member: bool
    match: str
    valid_until: str | None
    conditions: list[ConditionAnswer]


def explain_segment(
    segment: Segment, kept: Mapping[int, int], summaries: Summaries, at_ms: int, member: bool
) -> SegmentAnswer:
    """The answer for one known customer at the partition's time `at_ms`; `member` is what was last said.

    `kept` is of the definitions that the summaries were folded by, see `Definitions.kept_entries`.
    """
    valid_until_ms = segment.flips_at(summaries, at_ms, member)
    return SegmentAnswer(
        segment.id,
        segment.name,
        member,
        "any" if segment.any_of else "all",
        _time(valid_until_ms),
        [_explain(condition, kept, summaries, at_ms) for condition in segment.conditions],
    )


def _explain(
    condition: CompiledCondition, kept: Mapping[int, int], summaries: Summaries, at_ms: int
) -> ConditionAnswer:
    holds = condition.holds(summaries, at_ms)
    flips = [flip for flip in sorted(condition.flips_at(summaries, at_ms)) if condition.holds(summaries, flip) != holds]
    document = condition_to_document(condition.document)
    seen = _seen(condition.terms[0][0], kept, summaries, at_ms)
    return ConditionAnswer(document, holds, seen, _time(min(flips, default=None)))


def _seen(atom: Atom, kept: Mapping[int, int], summaries: Summaries, at_ms: int) -> dict[str, Any]:
    if isinstance(atom, CountAtom):
        entries = summaries.counts.get(atom.key, [])
        times = [time_ms for time_ms in reversed(entries[::2]) if time_ms > at_ms - atom.duration_ms]
        seen: dict[str, Any] = {"events": len(times), "newest": [format_time(each) for each in times[:SHOWN_EVENTS]]}
        if len(times) == kept.get(atom.key):
            seen["or_more"] = True  # no more than this are kept, as no condition asks for more
        return seen
    if isinstance(atom, SumAtom):
        amounts = summaries.sums.get(atom.key, [])
        at, total = sum_since(amounts, at_ms - atom.duration_ms)
        newest = [format_time(time_ms) for time_ms, _, _ in reversed(amounts[at:][-SHOWN_EVENTS:])]
        return {"sum": written_number(decimal_text(total)), "events": len(amounts) - at, "newest": newest}
    register = summaries.registers.get(atom.key)
    if register is None or register[1] is None:
        return {"value": None}
    return {"value": register[1], "since": format_time(register[0])}


def _time(instant_ms: int | None) -> str | None:
    return None if instant_ms is None or instant_ms >= FOREVER else format_time(instant_ms)
