"""What has to be written so that the definitions become what somebody wants, or why that cannot be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from conditions.definition_history import (
    HIGHEST_VERSION,
    DefinitionHistory,
    DefinitionRecord,
    duplicate_name,
)
from conditions.document_diff import Difference, differences, same_but_for_version
from conditions.documents import DocumentError, SegmentDocument

Action = Literal["new", "changed", "unchanged", "deleted"]


class Outcome(msgspec.Struct, frozen=True):
    """What becomes, or became, of one segment; `version` is the one in force then."""

    id: str
    action: Action
    version: int
    differences: tuple[Difference, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """Outcomes in the order of what was asked for; records in the order in which they have to stand in the log."""

    outcomes: list[Outcome]
    records: list[DefinitionRecord]
    bases: dict[str, int]  # the versions in force that the records follow; 0: none

    def as_before(self, first: Plan) -> bool:
        """Whether what this plan changes is what the first one saw."""
        return all(first.bases.get(segment_id) == base for segment_id, base in self.bases.items())


class DefinitionRefused(Exception):
    """The definitions in force do not allow the change; the message says why."""


class DuplicateName(DefinitionRefused):
    """Names that other segments in force have. The paths are those of the list of documents, `segments[0].name`."""

    def __init__(self, errors: Sequence[DocumentError]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = list(errors)


class StaleVersion(DefinitionRefused):
    """The version in force, `found`, is not what was `expected`, in words. 0 stands for none."""

    def __init__(self, segment_id: str, expected: str, found: int) -> None:
        is_there = f"version {found} is in force" if found else "there is no such segment"
        super().__init__(f"segment {segment_id}: expected {expected}, but {is_there}")
        self.segment_id = segment_id
        self.found = found


class UnknownSegment(DefinitionRefused):
    """No segment of this id is in force."""

    def __init__(self, segment_id: str, *, deleted_in: int | None = None) -> None:
        more = "" if deleted_in is None else f" any more: version {deleted_in} deleted it"
        super().__init__(f"there is no segment {segment_id}{more}")
        self.segment_id = segment_id


class DefinitionConflict(DefinitionRefused):
    """Somebody else changed these segments in the meantime."""

    def __init__(self, ids: Collection[str]) -> None:
        super().__init__(f"somebody else has just changed {', '.join(sorted(ids))}: look at it, and try again")
        self.ids = sorted(ids)


def plan_documents(
    history: DefinitionHistory, documents: Sequence[SegmentDocument], expect_version: int | None = None
) -> Plan:
    """How to bring these documents into force, whatever versions they name.

    A new segment begins with the version of its document. Raises StaleVersion, also where several documents come with
    `expect_version`, DuplicateName, or DefinitionRefused where a version cannot rise.
    """
    for document in documents:
        _require_version(history, document.id, expect_version)
    by_id = {document.id: document for document in reversed(documents)}  # the first of each
    _require_unique(documents, by_id, history)
    outcomes = [_outcome(history, document) for document in documents]
    changed = {each.id: each for each in outcomes if each.action != "unchanged"}
    records = [
        _record(segment_id, changed[segment_id].version, by_id[segment_id])
        for segment_id in _in_order(history, [by_id[segment_id] for segment_id in changed])
    ]
    return Plan(outcomes, records, {segment_id: version_in_force(history, segment_id) for segment_id in changed})


def plan_deletion(history: DefinitionHistory, segment_id: str, expect_version: int | None = None) -> Plan:
    """How to delete the segment. Raises UnknownSegment or StaleVersion."""
    known = history.definition(segment_id)
    if known is None or known.deleted:
        raise UnknownSegment(segment_id, deleted_in=None if known is None else known.version)
    _require_version(history, segment_id, expect_version)
    record = _record(segment_id, history.next_version(segment_id), None)
    return Plan([Outcome(segment_id, "deleted", record.version)], [record], {segment_id: known.version})


def plan_mending(history: DefinitionHistory, but: Iterable[DefinitionRecord] = ()) -> list[DefinitionRecord]:
    """What makes every unsettled segment's last record the one in force, but for those that are written anyway."""
    return [
        _record(segment_id, history.next_version(segment_id), history.document(segment_id))
        for segment_id in sorted(history.unsettled - {record.id for record in but})
        if history.next_version(segment_id) <= HIGHEST_VERSION
    ]


def version_in_force(history: DefinitionHistory, segment_id: str) -> int:
    """0 where there is no such segment."""
    document = history.document(segment_id)
    return 0 if document is None else document.version


def _record(segment_id: str, version: int, document: SegmentDocument | None) -> DefinitionRecord:
    if version > HIGHEST_VERSION:
        raise DefinitionRefused(
            f"segment {segment_id} has the highest version there is: delete it by a record without a value, which "
            "forgets the version"
        )
    placed = None if document is None else msgspec.structs.replace(document, version=version)
    return DefinitionRecord(segment_id, version, placed)


def _require_version(history: DefinitionHistory, segment_id: str, expected: int | None) -> None:
    found = version_in_force(history, segment_id)
    if expected is not None and expected != found:
        raise StaleVersion(segment_id, f"version {expected}" if expected else "no such segment", found)


def _outcome(history: DefinitionHistory, document: SegmentDocument) -> Outcome:
    before = history.document(document.id)
    version = history.next_version(document.id)
    if before is None:
        return Outcome(document.id, "new", max(version, document.version))
    if same_but_for_version(before, document):
        return Outcome(document.id, "unchanged", before.version)
    return Outcome(document.id, "changed", version, differences(before, document))


# --- names -----------------------------------------------------------------------------------------------------------


def _require_unique(
    documents: Sequence[SegmentDocument], by_id: Mapping[str, SegmentDocument], history: DefinitionHistory
) -> None:
    errors = []
    taken: dict[str, str] = {}
    for at, document in enumerate(documents):
        if by_id[document.id] is not document:
            errors.append(DocumentError(f"segments[{at}].id", f"expected a unique id, got {document.id} once more"))
            continue
        holder = history.holder_of(document.name)
        if holder in by_id:  # what it will be called stands in these documents
            holder = None
        holder = taken.setdefault(document.name, document.id) if holder is None else holder
        if holder != document.id:
            errors.append(duplicate_name(document.name, holder, f"segments[{at}].name"))
    if errors:
        raise DuplicateName(errors)


def _in_order(history: DefinitionHistory, documents: Sequence[SegmentDocument]) -> list[str]:
    """The ids in an order in which nobody takes a name before it is given up. Raises DuplicateName where none is."""
    by_id = {document.id: at for at, document in enumerate(documents)}
    ordered: dict[str, None] = {}
    for document in documents:
        chain: dict[str, None] = {}
        at: str | None = document.id
        # Whoever holds the name has to give it up first.
        while at is not None and at in by_id and at not in ordered:
            if at in chain:
                path = f"segments[{by_id[at]}].name"
                message = f"{' and '.join(chain)} exchange names: give one of them another name first"
                raise DuplicateName([DocumentError(path, message)])
            chain[at] = None
            holder = history.holder_of(documents[by_id[at]].name)
            at = None if holder == at else holder
        ordered.update(reversed(chain.items()))
    return list(ordered)
