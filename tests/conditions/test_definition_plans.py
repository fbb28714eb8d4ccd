"""What a wish makes of the definitions: new, changed, unchanged, or why it cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from conditions.definition_history import HIGHEST_VERSION, DefinitionHistory, DefinitionRecord
from conditions.definition_plans import (
    DefinitionRefused,
    DuplicateName,
    Plan,
    StaleVersion,
    UnknownSegment,
    plan_deletion,
    plan_documents,
    plan_mending,
)
from conditions.documents import SegmentDocument, parse_segment


def document(segment_id: str, name: str = "", **fields: Any) -> SegmentDocument:
    value = {"id": segment_id, "name": name or segment_id.upper(), "conditions": [{"kind": "app_screen"}], **fields}
    return parse_segment(value)


def history_of(*documents: SegmentDocument) -> DefinitionHistory:
    history = DefinitionHistory()
    for each in documents:
        write(history, DefinitionRecord(each.id, each.version, each))
    return history


def write(history: DefinitionHistory, record: DefinitionRecord) -> None:
    history.apply(record.id.encode(), record.encode(), history.position, 0)


def actions(plan: Plan) -> list[tuple[str, str, int]]:
    return [(each.id, each.action, each.version) for each in plan.outcomes]


def test_each_document_is_new_changed_or_unchanged() -> None:
    history = history_of(document("a", version=3), document("b", version=4))
    plan = plan_documents(history, [document("c", version=9), document("a", "New"), document("b")])
    assert actions(plan) == [("c", "new", 9), ("a", "changed", 4), ("b", "unchanged", 4)]
    assert [(each.id, each.version) for each in plan.records] == [("c", 9), ("a", 4)]
    assert plan.records[1].document == document("a", "New", version=4)
    assert plan.bases == {"c": 0, "a": 3}
    assert list(map(str, plan.outcomes[1].differences)) == ['~ name: "A" → "New"']


def test_a_segment_that_comes_back_counts_on() -> None:
    history = history_of(document("a", version=3))
    write(history, plan_deletion(history, "a").records[0])
    assert actions(plan_documents(history, [document("a")])) == [("a", "new", 5)]
    assert actions(plan_documents(history, [document("a", version=9)])) == [("a", "new", 9)]


@pytest.mark.parametrize(("expected", "found"), [(1, 2), (0, 2)])
def test_another_version_than_the_expected_one_is_refused(expected: int, found: int) -> None:
    history = history_of(document("a", version=2))
    with pytest.raises(StaleVersion, match=f"version {found} is in force"):
        plan_documents(history, [document("a", "New")], expected)
    with pytest.raises(StaleVersion):
        plan_deletion(history, "a", expected)
    assert actions(plan_documents(history, [document("a", "New")], 2)) == [("a", "changed", 3)]


def test_a_segment_that_is_not_there_has_version_0() -> None:
    assert actions(plan_documents(DefinitionHistory(), [document("a")], 0)) == [("a", "new", 1)]
    with pytest.raises(StaleVersion, match="there is no such segment"):
        plan_documents(DefinitionHistory(), [document("a")], 1)


def test_only_what_is_there_can_be_deleted() -> None:
    history = history_of(document("a"))
    with pytest.raises(UnknownSegment, match="no segment b"):
        plan_deletion(history, "b")
    write(history, plan_deletion(history, "a").records[0])
    with pytest.raises(UnknownSegment, match="version 2 deleted it"):
        plan_deletion(history, "a")


def test_a_name_that_another_segment_has_is_refused_with_its_place() -> None:
    history = history_of(document("a", "Taken"))
    with pytest.raises(DuplicateName) as raised:
        plan_documents(history, [document("c"), document("b", "Taken"), document("d", "C")])
    assert [each.path for each in raised.value.errors] == ["segments[1].name", "segments[2].name"]
    with pytest.raises(DuplicateName) as raised:
        plan_documents(history, [document("c"), document("c", "Else")])
    assert [each.path for each in raised.value.errors] == ["segments[1].id"]


def test_names_that_move_on_are_given_up_before_they_are_taken() -> None:
    history = history_of(document("a", "1"), document("b", "2"), document("c", "3"))
    plan = plan_documents(history, [document("a", "2"), document("b", "3"), document("c", "4"), document("d", "1")])
    assert [each.id for each in plan.records] == ["c", "b", "a", "d"]
    for record in plan.records:
        write(history, record)
    assert not history.problems
    assert {each.id: each.document.name for each in history.definitions() if each.document} == {
        "a": "2",
        "b": "3",
        "c": "4",
        "d": "1",
    }


def test_names_cannot_be_exchanged_at_once() -> None:
    history = history_of(document("a", "1"), document("b", "2"))
    with pytest.raises(DuplicateName, match="a and b exchange names"):
        plan_documents(history, [document("a", "2"), document("b", "1")])


def test_what_was_refused_is_written_again_as_it_was() -> None:
    history = history_of(document("a", "1"), document("b", "2", version=3))
    history.apply(b"a", b"by hand", history.position, 0)
    history.apply(b"c", DefinitionRecord("c", 2, document("c", "1", version=2)).encode(), history.position, 0)
    mending = plan_mending(history)
    assert [(each.id, each.version, each.document is None) for each in mending] == [("a", 2, False), ("c", 3, True)]
    assert [each.id for each in plan_mending(history, [mending[0]])] == ["c"]


def test_a_version_that_cannot_rise_is_said() -> None:
    history = history_of(document("a", version=HIGHEST_VERSION))
    with pytest.raises(DefinitionRefused, match="highest version"):
        plan_documents(history, [document("a", "New")])
    with pytest.raises(DefinitionRefused, match="highest version"):
        plan_deletion(history, "a")
    history.apply(b"a", b"by hand", history.position, 0)
    assert plan_mending(history) == []
