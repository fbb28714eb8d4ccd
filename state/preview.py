"""What an unsaved segment would say of customers, as far as their summaries already know.

A condition is known where its features are kept with enough entries and window; saving the segment would read the
others back from the topics. With one that is unknown, a customer may still be certainly in or certainly out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from conditions.definitions import Definitions, compile_definitions
from conditions.documents import SegmentDocument, condition_to_document
from conditions.features import Feature
from conditions.segments import CompiledCondition
from conditions.times import format_time
from state.customers import Customer
from state.redefinition import Coverage, coverage_of, covers

EXAMPLES = 5


class ConditionPreview(msgspec.Struct):
    """One condition over the sample. `holds` is None where it cannot be known before the segment is saved."""

    condition: dict[str, Any]
    known: bool
    holds: int | None
    complete_from: str | None  # where the topics had lost what was before, when it was read back


class SamplePreview(msgspec.Struct):
    """How many of the sampled customers would be in, would be out, or are not known; and some of them."""

    sampled: int
    members: int
    others: int
    unknown: int
    examples: dict[str, list[str]]
    conditions: list[ConditionPreview]


class Preview:
    """Asks customers, one after the other, about a segment that is not saved."""

    def __init__(self, document: SegmentDocument, kept: Mapping[int, Coverage]) -> None:
        """`kept` says what the summaries hold, by feature key; see `preview_features`."""
        definitions = _compiled(document)
        self._segment = definitions.segments[document.id]
        self._kept = kept
        self._known = [
            all(self._covers(definitions.feature_of(atom)) for atom, _ in each.terms)
            for each in self._segment.conditions
        ]
        self._holds = [0] * len(self._known)
        self._found: dict[bool | None, int] = {True: 0, False: 0, None: 0}
        self._examples: dict[bool | None, list[str]] = {True: [], False: [], None: []}

    def ask(self, customer: Customer, at_ms: int) -> bool | None:
        """Whether the customer would be in; None: that depends on what is not known. Counts it."""
        truths = [
            condition.holds(customer, at_ms) if known else None
            for condition, known in zip(self._segment.conditions, self._known, strict=True)
        ]
        for place, truth in enumerate(truths):
            self._holds[place] += truth is True
        found = _joined(truths, self._segment.any_of)
        self._found[found] += 1
        if len(self._examples[found]) < EXAMPLES:
            self._examples[found].append(customer.id)
        return found

    def result(self) -> SamplePreview:
        """What was found so far."""
        return SamplePreview(
            sum(self._found.values()),
            self._found[True],
            self._found[False],
            self._found[None],
            {"members": self._examples[True], "unknown": self._examples[None]},
            [self._condition(*each) for each in zip(self._segment.conditions, self._known, self._holds, strict=True)],
        )

    def _condition(self, condition: CompiledCondition, known: bool, holds: int) -> ConditionPreview:
        since = [kept.history_from_ms for kept in map(self._kept.get, _keys(condition)) if kept is not None]
        lost_ms = max((each for each in since if each is not None), default=None)
        complete_from = None if lost_ms is None or not known else format_time(lost_ms)
        document = condition_to_document(condition.document)
        return ConditionPreview(document, known, holds if known else None, complete_from)

    def _covers(self, feature: Feature) -> bool:
        return covers(self._kept.get(feature.key), coverage_of(feature))


def preview_features(document: SegmentDocument) -> list[Feature]:
    """The features that the segment reads, with the entries and window that it needs."""
    return list(_compiled(document).features())


def _compiled(document: SegmentDocument) -> Definitions:
    """By itself, so that nothing is asked of its features but what it asks."""
    return compile_definitions([document])


def _keys(condition: CompiledCondition) -> list[int]:
    return [atom.key for atom, _ in condition.terms]


def _joined(truths: list[bool | None], any_of: bool) -> bool | None:
    if any_of in truths:
        return any_of
    return None if None in truths else not any_of
