"""What `rollcall segments …` does: each function answers a JSON value and the lines that say the same to people."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import msgspec

from conditions.definition_history import (
    Definition,
    DefinitionChange,
    DefinitionHistory,
    Ignored,
    encode_document,
)
from conditions.definition_plans import Action, Outcome, UnknownSegment
from conditions.documents import SegmentDocument
from conditions.times import format_time
from streams.definitions import DefinitionsFollower, DefinitionsWriter
from streams.definitions_log import DefinitionsLog

Result = TypeVar("Result")

WORDS: dict[Action, tuple[str, str]] = {
    "new": ("created", "would be created"),
    "changed": ("changed", "would be changed"),
    "unchanged": ("unchanged", "unchanged"),
    "deleted": ("deleted", "would be deleted"),
}


class Answer(NamedTuple):
    value: Any
    lines: list[str]
    notes: Sequence[str] = ()  # for people, whatever the form of the answer


def on_log(log: DefinitionsLog, use: Callable[[DefinitionsWriter], Awaitable[Result]]) -> Result:
    """The outcome of `use`, called with a writer that knows all that is in the log by now."""

    async def run() -> Result:
        async with _writer(log) as writer:
            return await use(writer)

    return asyncio.run(run())


@asynccontextmanager
async def _writer(log: DefinitionsLog) -> AsyncIterator[DefinitionsWriter]:
    follower = DefinitionsFollower(log, on_ignored=_keep_silent)
    await follower.start()
    try:
        yield DefinitionsWriter(log, follower)
    finally:
        await follower.stop()


def _keep_silent(ignored: Ignored) -> None:
    """`list` tells of what was ignored."""


# --- changing --------------------------------------------------------------------------------------------------------


def apply_segments(
    log: DefinitionsLog, documents: Sequence[SegmentDocument], expect_version: int | None, *, dry_run: bool
) -> Answer:
    """Create and change. Raises DefinitionRefused and StreamsError."""
    outcomes = on_log(log, lambda writer: writer.apply(documents, expect_version, dry_run=dry_run))
    return _answer_of(outcomes, dry_run)


def delete_segment(log: DefinitionsLog, segment_id: str, expect_version: int | None) -> Answer:
    """Delete. Raises DefinitionRefused, UnknownSegment among them, and StreamsError."""
    outcome = on_log(log, lambda writer: writer.delete(segment_id, expect_version))
    return _answer_of([outcome], dry_run=False)


def _answer_of(outcomes: Sequence[Outcome], dry_run: bool) -> Answer:
    lines = []
    for each in outcomes:
        lines.append(f"{WORDS[each.action][dry_run]:<9}  {each.id}  version {each.version}")
        lines += [f"  {difference}" for difference in each.differences]
    return Answer([msgspec.to_builtins(each) for each in outcomes], lines)


# --- looking ---------------------------------------------------------------------------------------------------------


def list_segments(log: DefinitionsLog) -> Answer:
    """All that are not deleted, and what the log holds of use to nobody."""
    return on_log(log, _listed)


async def _listed(writer: DefinitionsWriter) -> Answer:
    history = writer.follower.history
    rows = [summary(each) for each in history.definitions()]
    width = max((len(row["id"]) for row in rows), default=0)
    lines = [f"{row['id']:<{width}}  version {row['version']}  {row['name']}" for row in rows]
    return Answer(rows, lines, [str(each) for each in history.problems])


def show_segment(log: DefinitionsLog, segment_id: str) -> Answer:
    """The document in force. Raises UnknownSegment."""

    async def show(writer: DefinitionsWriter) -> Answer:
        document = definition_in_force(writer.follower.history, segment_id).document
        assert document is not None, "a definition in force has a document"
        encoded = encode_document(document)
        return Answer(msgspec.Raw(encoded), msgspec.json.format(encoded, indent=2).decode().splitlines())

    return on_log(log, show)


def segment_history(log: DefinitionsLog, segment_id: str) -> Answer:
    """The last versions, the oldest first, also of a deleted segment. Raises UnknownSegment."""

    async def tell(writer: DefinitionsWriter) -> Answer:
        definition = writer.follower.history.definition(segment_id)
        if definition is None:
            raise UnknownSegment(segment_id)
        lines = [line for change in definition.changes for line in _change_lines(change)]
        return Answer([change_value(change) for change in definition.changes], lines)

    return on_log(log, tell)


def definition_in_force(history: DefinitionHistory, segment_id: str) -> Definition:
    """Raises UnknownSegment."""
    definition = history.definition(segment_id)
    if definition is None or definition.deleted:
        raise UnknownSegment(segment_id, deleted_in=None if definition is None else definition.version)
    return definition


def summary(definition: Definition) -> dict[str, Any]:
    """One line of a list."""
    assert definition.document is not None, "lists have what is not deleted"
    return {"id": definition.id, "name": definition.document.name, "version": definition.version}


def change_value(change: DefinitionChange) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(change)
    del value["at_ms"]
    return value | {"at": format_time(change.at_ms)}


def _change_lines(change: DefinitionChange) -> list[str]:
    return [
        f"version {change.version}  {format_time(change.at_ms)}  {change.kind}",
        *(f"  {each}" for each in change.differences),
    ]
