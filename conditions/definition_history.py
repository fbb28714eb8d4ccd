"""The log of segment definitions, record by record: which document of each segment is in force, and how it came about.

A record counts if its document is valid and its version is higher than the one in force; of two with the same version
the first counts. Whoever reads the log, from wherever compaction lets it begin, comes to the same documents, once every
segment's last record is the one in force. Where it is not (somebody wrote by hand), `unsettled` has the segment, and
its definition has to be written again, under `next_version`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any, Literal, NamedTuple

import msgspec

from conditions.document_diff import Difference, differences
from conditions.documents import (
    DocumentError,
    DocumentErrors,
    SegmentDocument,
    join_path,
    parse_segment,
    parse_segment_id,
    to_document,
)
from conditions.json_values import JsonFault, load_json
from conditions.shared_map import SharedMap
from conditions.times import MAX_TIME_MS
from conditions.unforeseen import innermost_calls, unforeseen
from conditions.wording import describe, shorten

KEPT_CHANGES = 20
KEPT_PROBLEMS = 100
HIGHEST_VERSION = 2**63 - 1

Reason = Literal["invalid", "duplicate_name", "stale", "repeated", "internal"]


class DefinitionChange(msgspec.Struct, frozen=True):
    """One record that counted. A change without differences wrote the same document again."""

    version: int
    kind: Literal["created", "changed", "deleted"]
    at_ms: int
    offset: int
    differences: tuple[Difference, ...] = ()


class Definition(msgspec.Struct, frozen=True):
    """What is known of one segment that is, or was."""

    id: str
    version: int
    offset: int
    document: SegmentDocument | None  # None: deleted
    changes: tuple[DefinitionChange, ...]  # the last of them, the newest at the end
    counts_on: bool = True  # False behind a tombstone: whatever version comes next counts

    @property
    def deleted(self) -> bool:
        return self.document is None

    @property
    def at_ms(self) -> int:
        return self.changes[-1].at_ms


class Applied(msgspec.Struct, frozen=True):
    """The record counts: from its offset on the segment is defined by `document`; None: it is deleted."""

    id: str
    change: DefinitionChange
    before: SegmentDocument | None
    document: SegmentDocument | None


class Ignored(msgspec.Struct, frozen=True):
    """The record changes nothing. All but repetitions of what is in force are worth a report.

    `trace` is the traceback where reading it failed in a way that nobody foresaw, which the reason `internal` says.
    """

    key: str
    offset: int
    reason: Reason
    errors: tuple[DocumentError, ...]
    trace: str = ""

    def __str__(self) -> str:
        return f'definition of "{self.key}" at offset {self.offset} ignored: {"; ".join(map(str, self.errors))}'


class DefinitionsSnapshot(NamedTuple):
    """The documents in force behind all records below the position. Never changes; its order says nothing."""

    position: int
    documents: Mapping[str, SegmentDocument]


class DefinitionRecord(NamedTuple):
    """A record's value as read. A document of None deletes the segment; its versions count on."""

    id: str
    version: int
    document: SegmentDocument | None

    def encode(self) -> bytes:
        if self.document is None:
            return msgspec.json.encode({"id": self.id, "version": self.version, "deleted": True})
        return encode_document(msgspec.structs.replace(self.document, version=self.version))


class DefinitionHistory:
    """Applies the records of the log in their order. The cost of one does not grow with the number of segments."""

    def __init__(self) -> None:
        self._definitions: dict[str, Definition] = {}
        self._in_force: SharedMap[SegmentDocument] = SharedMap()
        self._holders: dict[str, str] = {}  # name, and the segment that has it
        self._highest_refused: dict[str, int] = {}  # versions that another reader may have seen in force
        self._unsettled: set[str] = set()
        self._changed_at: dict[str, int] = {}  # the offset of each segment's last change, the newest at the end
        self.position = 0
        self.problems: deque[Ignored] = deque(maxlen=KEPT_PROBLEMS)
        self.ignored: Counter[Reason] = Counter()

    # -- reading ------------------------------------------------------------------------------------------------------

    def definition(self, segment_id: str) -> Definition | None:
        """What is known of the segment, also when it is deleted."""
        return self._definitions.get(segment_id)

    def document(self, segment_id: str) -> SegmentDocument | None:
        return self._in_force.get(segment_id)

    def definitions(self) -> Iterator[Definition]:
        """All that are not deleted, in order of id."""
        return (each for _, each in sorted(self._definitions.items()) if each.document is not None)

    def holder_of(self, name: str) -> str | None:
        """The segment in force that has this name."""
        return self._holders.get(name)

    def next_version(self, segment_id: str) -> int:
        """The version that the segment's next record is to have, so that it counts for every reader."""
        definition = self._definitions.get(segment_id)
        known = 0 if definition is None else definition.version
        return max(known, self._highest_refused.get(segment_id, 0)) + 1

    @property
    def unsettled(self) -> frozenset[str]:
        """The segments whose last record is not the one in force: compaction would keep the wrong one."""
        return frozenset(self._unsettled)

    def changed_since(self, position: int) -> list[str]:
        """The segments with a change at this position or behind it, deleted ones too. Costs what it answers."""
        return [*takewhile(lambda each: self._changed_at[each] >= position, reversed(self._changed_at))]

    @property
    def is_empty(self) -> bool:
        """Whether no segment was ever defined, as far as the log still tells."""
        return not any(each.counts_on for each in self._definitions.values())

    def __len__(self) -> int:
        return len(self._in_force)

    def snapshot(self) -> DefinitionsSnapshot:
        return DefinitionsSnapshot(self.position, self._in_force.freeze())

    # -- applying -----------------------------------------------------------------------------------------------------

    def apply(self, key: bytes | None, value: bytes | None, offset: int, timestamp_ms: int) -> Applied | Ignored:
        """Take the next record of the log. Raises ValueError for an offset that lies behind."""
        if offset < self.position:
            raise ValueError(f"offset {offset} lies behind the position, {self.position}")
        self.position = offset + 1
        timestamp_ms = min(max(timestamp_ms, 0), MAX_TIME_MS)  # producers may set any, and -1 stands for none
        segment_id = "" if key is None else key.decode(errors="backslashreplace")
        if value is None:
            return self._forget(segment_id, offset, timestamp_ms)
        try:
            record = read_definition(key, value)
        except DocumentErrors as error:
            self._settle(segment_id, None)
            return self._ignore(segment_id, offset, "invalid", *error.errors)
        except MemoryError:
            raise  # it says nothing of the record
        except Exception as error:  # noqa: BLE001 - the last line of defence: the segments that are in force stay so
            self._settle(segment_id, None)
            fault = DocumentError("", unforeseen(error, report_with="it"))
            return self._ignore(segment_id, offset, "internal", fault, trace=innermost_calls(error))
        found = self._refusal(record, offset) or self._take(record, offset, timestamp_ms)
        self._settle(segment_id, record)
        return found

    def _refusal(self, record: DefinitionRecord, offset: int) -> Ignored | None:
        known = self._definitions.get(record.id)
        if known is not None and known.counts_on and record.version <= known.version:
            if record == _as_record(known):
                return self._ignore(record.id, offset, "repeated", DocumentError("", "it is in force already"))
            message = f"expected over {known.version}, the version in force, got {record.version}"
            return self._ignore(record.id, offset, "stale", DocumentError("version", message))
        holder = None if record.document is None else self._holders.get(record.document.name)
        if holder not in {None, record.id}:
            self._highest_refused[record.id] = max(record.version, self._highest_refused.get(record.id, 0))
            assert record.document is not None
            return self._ignore(record.id, offset, "duplicate_name", duplicate_name(record.document.name, str(holder)))
        return None

    def _take(self, record: DefinitionRecord, offset: int, timestamp_ms: int) -> Applied:
        before = self._in_force.get(record.id)
        kind: Literal["created", "changed", "deleted"] = "created" if before is None else "changed"
        if record.document is None:
            kind = "deleted"
        both = before is not None and record.document is not None
        differing = differences(before, record.document) if both else ()  # type: ignore[arg-type]  # neither is None
        change = DefinitionChange(record.version, kind, timestamp_ms, offset, differing)
        self._put(record.id, record.document, change)
        return Applied(record.id, change, before, record.document)

    def _put(self, segment_id: str, document: SegmentDocument | None, change: DefinitionChange) -> None:
        known = self._definitions.get(segment_id)
        if known is not None and known.document is not None:
            del self._holders[known.document.name]
        changes = (*(known.changes if known is not None else ()), change)[-KEPT_CHANGES:]
        self._definitions[segment_id] = Definition(segment_id, change.version, change.offset, document, changes)
        self._changed_at.pop(segment_id, None)
        self._changed_at[segment_id] = change.offset
        if document is None:
            self._in_force.remove(segment_id)
        else:
            self._in_force.put(segment_id, document)
            self._holders[document.name] = segment_id

    def _forget(self, segment_id: str, offset: int, timestamp_ms: int) -> Applied | Ignored:
        """A tombstone deletes, and as it vanishes itself one day, so does what was counted."""
        known = self._definitions.get(segment_id)
        self._unsettled.discard(segment_id)
        if known is not None and known.document is not None:
            change = DefinitionChange(known.version, "deleted", timestamp_ms, offset)
            self._put(segment_id, None, change)
            found: Applied | Ignored = Applied(segment_id, change, known.document, None)
        else:
            found = self._ignore(segment_id, offset, "repeated", DocumentError("", "there is nothing to delete"))
        if known is not None:
            self._definitions[segment_id] = msgspec.structs.replace(self._definitions[segment_id], counts_on=False)
        return found

    def _ignore(self, key: str, offset: int, reason: Reason, *errors: DocumentError, trace: str = "") -> Ignored:
        ignored = Ignored(key, offset, reason, errors, trace)
        self.ignored[reason] += 1
        if reason != "repeated":
            self.problems.append(ignored)
        return ignored

    def _settle(self, segment_id: str, last: DefinitionRecord | None) -> None:
        """Compare what is in force with what the last record alone would make of it."""
        known = self._definitions.get(segment_id)
        in_force = _as_record(known) if known is not None and known.counts_on else None
        if last == in_force:
            self._unsettled.discard(segment_id)
        else:
            self._unsettled.add(segment_id)


def _as_record(definition: Definition) -> DefinitionRecord:
    return DefinitionRecord(definition.id, definition.version, definition.document)


def duplicate_name(name: str, holder: str, path: str = "name") -> DocumentError:
    return DocumentError(path, f'expected a unique name, got "{shorten(name)}" as of segment {holder}')


def encode_document(document: SegmentDocument) -> bytes:
    """The document as JSON, its version always named, and every digit of amounts."""
    first = {"id": document.id, "name": document.name, "version": document.version}
    return _encoder.encode(first | to_document(document))


_encoder = msgspec.json.Encoder(decimal_format="number")

# --- records ---------------------------------------------------------------------------------------------------------


def read_definition(key: bytes | None, value: bytes) -> DefinitionRecord:
    """The record of a segment's document, or of its deletion. Raises DocumentErrors with all that is wrong."""
    loaded, errors = _load(value)
    errors += _key_errors(key, loaded)
    try:
        record = _read_deletion(loaded) if isinstance(loaded, dict) and "deleted" in loaded else _read_document(loaded)
    except DocumentErrors as error:
        raise DocumentErrors([*errors, *error.errors], complete=error.complete) from None
    if errors:
        raise DocumentErrors(errors)
    return record


def _load(value: bytes) -> tuple[Any, list[DocumentError]]:
    try:
        return load_json(value.decode())
    except UnicodeDecodeError as error:
        message = f"expected UTF-8, got the byte 0x{value[error.start]:02x} at offset {error.start:,}"
    except JsonFault as fault:
        message = str(fault)
    raise DocumentErrors([DocumentError("", message)])


def _key_errors(key: bytes | None, loaded: Any) -> list[DocumentError]:
    if key is None:
        return [DocumentError("", "expected the segment's id as the record's key, got no key")]
    given = loaded.get("id") if isinstance(loaded, dict) else None
    if type(given) not in (str, int) or str(given).encode(errors="backslashreplace") == key:
        return []  # anything else is no id, which is said where the id is read
    expected = shorten(key.decode(errors="backslashreplace"))
    return [DocumentError("id", f'expected "{expected}", the record\'s key, got {describe(given)}')]


def _read_document(loaded: Any) -> DefinitionRecord:
    document = parse_segment(loaded)
    return DefinitionRecord(document.id, document.version, document)


def _read_deletion(loaded: dict[str, Any]) -> DefinitionRecord:
    known = ("id", "version", "deleted")
    errors = [DocumentError(join_path("", name), "unknown field of a deletion") for name in loaded if name not in known]
    segment_id, version = "", loaded.get("version")
    try:
        segment_id = parse_segment_id(loaded.get("id"))
    except DocumentErrors as error:
        errors += error.errors
    if type(version) is not int or not 1 <= version <= HIGHEST_VERSION:
        errors.append(DocumentError("version", f"expected an integer of 1 or more, got {describe(version)}"))
    if loaded["deleted"] is not True:
        errors.append(DocumentError("deleted", f"expected true, got {describe(loaded['deleted'])}"))
    if errors:
        raise DocumentErrors(errors)
    return DefinitionRecord(segment_id, version, None)  # type: ignore[arg-type]  # an integer, as was checked
