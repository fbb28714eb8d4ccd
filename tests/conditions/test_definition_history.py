"""The log of definitions, record by record: what counts, what is ignored, and that all readers come to the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conditions.definition_history import Applied, DefinitionHistory, DefinitionRecord, Ignored
from conditions.definition_plans import plan_mending
from conditions.documents import SegmentDocument, parse_segment
from conditions.shared_map import FrozenMap
from conditions.times import MAX_TIME_MS, format_time, parse_time

VISIT = {"kind": "page_visit", "domain": "shop.example"}


def document(segment_id: str, name: str = "", **fields: Any) -> SegmentDocument:
    value = {"id": segment_id, "name": name or segment_id.upper(), "conditions": [VISIT], **fields}
    return parse_segment(value)


def deletion(segment_id: str, version: int) -> bytes:
    return DefinitionRecord(segment_id, version, None).encode()


class Log:
    """A log, and a history of all of it."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes | None, bytes | None]] = []
        self.history = DefinitionHistory()

    def write(self, value: SegmentDocument | bytes | None, key: bytes | None = b"a") -> Applied | Ignored:
        if isinstance(value, SegmentDocument):
            key, value = value.id.encode(), DefinitionRecord(value.id, value.version, value).encode()
        self.records.append((key, value))
        offset = len(self.records) - 1
        return self.history.apply(key, value, offset, 1_000 * offset)


@pytest.fixture
def log() -> Log:
    return Log()


def reason(found: Applied | Ignored) -> str:
    return found.reason if isinstance(found, Ignored) else found.change.kind


def errors(found: Applied | Ignored) -> dict[str, str]:
    assert isinstance(found, Ignored)
    return dict(found.errors)


def test_a_new_log_holds_nothing(log: Log) -> None:
    assert (log.history.position, len(log.history), log.history.is_empty) == (0, 0, True)
    assert log.history.snapshot() == (0, {})


def test_versions_rise_and_what_changed_is_told(log: Log) -> None:
    assert reason(log.write(document("a", "First", version=7))) == "created"
    found = log.write(document("a", "Second", version=8, match="any"))
    assert isinstance(found, Applied)
    assert (found.before, found.document) == (
        document("a", "First", version=7),
        document("a", "Second", version=8, match="any"),
    )
    assert list(map(str, found.change.differences)) == ['~ name: "First" → "Second"', '~ match: "all" → "any"']
    definition = log.history.definition("a")
    assert definition is not None
    assert (definition.version, definition.offset, definition.deleted, definition.at_ms) == (8, 1, False, 1_000)
    assert [change.version for change in definition.changes] == [7, 8]


def test_of_two_records_with_one_version_the_first_counts(log: Log) -> None:
    log.write(document("a"))
    log.write(document("a", "Winner", version=2))
    found = log.write(document("a", "Loser", version=2))
    assert errors(found) == {"version": "expected over 2, the version in force, got 2"}
    assert reason(log.write(document("a", "Older", version=1))) == "stale"
    assert log.history.snapshot().documents == {"a": document("a", "Winner", version=2)}
    assert (log.history.ignored["stale"], len(log.history.problems)) == (2, 2)


def test_the_record_in_force_once_more_changes_nothing_and_is_no_problem(log: Log) -> None:
    log.write(document("a"))
    assert reason(log.write(document("a"))) == "repeated"
    assert not log.history.problems
    assert not log.history.unsettled


def test_a_deleted_segment_goes_on_counting_when_it_comes_back(log: Log) -> None:
    log.write(document("a"))
    assert reason(log.write(deletion("a", 2))) == "deleted"
    assert (log.history.document("a"), log.history.next_version("a"), log.history.is_empty) == (None, 3, False)
    assert reason(log.write(document("a", version=2))) == "stale"
    assert reason(log.write(document("a", version=3))) == "created"


def test_a_tombstone_deletes_and_forgets_the_count(log: Log) -> None:
    log.write(document("a", version=5))
    assert reason(log.write(None)) == "deleted"
    assert log.history.is_empty
    assert reason(log.write(None)) == "repeated"
    assert reason(log.write(None, b"never-there")) == "repeated"
    assert reason(log.write(document("a", version=1))) == "created"


@pytest.mark.parametrize(
    ("key", "value", "path", "message"),
    [
        (b"a", b"\xff", "", "UTF-8"),
        (b"a", b"{", "", "line 1"),
        (b"a", b"[]", "", "expected an object"),
        (None, b'{"id": "a", "name": "A", "conditions": [{"kind": "app_screen"}]}', "", "key"),
        (b"b", b'{"id": "a", "name": "A", "conditions": [{"kind": "app_screen"}]}', "id", 'expected "b"'),
        (b"a", b'{"id": "a", "name": "A", "name": "B", "conditions": [{"kind": "app_screen"}]}', "name", "twice"),
        (b"a", b'{"id": "a", "name": "A", "conditions": [{"kind": "spend"}]}', "conditions[0].min", "min"),
        (b"a", b'{"id": "a", "version": 0, "deleted": true}', "version", "1 or more"),
        (b"a", b'{"id": "a", "version": 2, "deleted": false}', "deleted", "expected true"),
        (b"a", b'{"version": 2, "deleted": true, "name": "A"}', "name", "unknown field"),
        (b"a", b'{"version": 2, "deleted": true}', "id", "missing: expected 1 to 64 of the characters"),
        (b"A", b'{"id": "A", "version": 2, "deleted": true}', "id", "expected 1 to 64 of the characters"),
        (b"?", b'{"id": "\\ud800", "version": 2, "deleted": true}', "id", "expected 1 to 64 of the characters"),
        (b"{'a': 1}", b'{"id": {"a": 1}, "version": 2, "deleted": true}', "id", "got an object"),
        (b"True", b'{"id": true, "version": 2, "deleted": true}', "id", "got true"),
        (b"a", b'{"id": %b, "version": 2, "deleted": true}' % (b"[" * 700 + b"]" * 700), "id", "got a list"),
    ],
)
def test_what_is_invalid_is_reported_and_the_last_valid_version_stays(
    log: Log, key: bytes | None, value: bytes, path: str, message: str
) -> None:
    log.write(document("a", "Kept"))
    log.write(document("b", "Kept too"))
    found = log.write(value, key)
    assert reason(found) == "invalid"
    assert message in errors(found)[path]
    assert log.history.snapshot() == (3, {"a": document("a", "Kept"), "b": document("b", "Kept too")})
    assert log.history.unsettled == ({key.decode()} & {"a", "b"} if key else set())
    assert str(found).startswith("definition of")


def test_a_deletion_takes_an_integer_for_its_digits_as_documents_do(log: Log) -> None:
    log.write(document("7"))
    assert reason(log.write(b'{"id": 7, "version": 2, "deleted": true}', b"7")) == "deleted"
    assert len(log.history) == 0


def test_all_errors_of_a_record_come_at_once(log: Log) -> None:
    found = log.write(b'{"id": "B", "colour": 1, "conditions": []}')
    assert sorted({error.path for error in found.errors}) == ["colour", "conditions", "id", "name"]  # type: ignore[union-attr]  # it is ignored


def test_a_name_belongs_to_one_segment(log: Log) -> None:
    log.write(document("a", "Same"))
    found = log.write(document("b", "Same", version=4))
    assert errors(found) == {"name": 'expected a unique name, got "Same" as of segment a'}
    assert (log.history.holder_of("Same"), log.history.document("b")) == ("a", None)
    assert log.history.next_version("b") == 5
    log.write(document("a", "Other", version=2))
    assert reason(log.write(document("b", "Same", version=5))) == "created"
    log.write(deletion("b", 6), b"b")
    assert log.history.holder_of("Same") is None


def test_an_offset_that_lies_behind_is_refused(log: Log) -> None:
    log.write(document("a"))
    with pytest.raises(ValueError, match="lies behind"):
        log.history.apply(b"a", None, 0, 0)


def test_only_the_last_versions_are_kept(log: Log) -> None:
    for version in range(1, 60):
        log.write(document("a", f"Name {version}", version=version))
    definition = log.history.definition("a")
    assert definition is not None
    assert [change.version for change in definition.changes] == list(range(40, 60))


# --- snapshots and cost ----------------------------------------------------------------------------------------------


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_change_has_an_instant_that_can_be_told_whatever_timestamp_its_record_has(timestamp_ms: int) -> None:
    history = DefinitionHistory()
    for offset, value in enumerate((DefinitionRecord("a", 1, document("a")).encode(), None)):
        found = history.apply(b"a", value, offset, timestamp_ms)
        assert isinstance(found, Applied)
        assert parse_time(format_time(found.change.at_ms)) == min(max(timestamp_ms, 0), MAX_TIME_MS)


def test_a_snapshot_stays_as_it_is(log: Log) -> None:
    log.write(document("a"))
    before = log.history.snapshot()
    log.write(document("a", "New", version=2))
    log.write(document("b"))
    assert (before.position, before.documents) == (1, {"a": document("a")})
    assert set(log.history.snapshot().documents) == {"a", "b"}
    assert len(before.documents) == 1


def lines_run(act: Callable[[], object]) -> int:
    """How many lines of Python the call runs."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def edit_cost(segments: int) -> tuple[int, int]:
    """Lines run by an edit with a snapshot behind it, and entries of the snapshot that were copied for it."""
    history = DefinitionHistory()
    for number in range(segments):
        value = DefinitionRecord(f"s{number}", 1, msgspec.structs.replace(ONE, id=f"s{number}", name=f"S{number}"))
        history.apply(value.id.encode(), value.encode(), number, 0)
    before = history.snapshot().documents
    edited = DefinitionRecord("s7", 2, document("s7", "New", version=2)).encode()
    lines = lines_run(lambda: (history.apply(b"s7", edited, segments, 0), history.snapshot()))
    after = history.snapshot().documents
    assert isinstance(before, FrozenMap)
    assert isinstance(after, FrozenMap)
    copied = [len(new) for old, new in zip(before.buckets, after.buckets, strict=True) if old is not new]
    return lines, sum(copied)


ONE = document("one")


def test_an_edit_among_a_hundred_thousand_segments_costs_what_it_costs_among_ten() -> None:
    few, _ = edit_cost(10)
    many, copied = edit_cost(100_000)
    assert many == few
    assert copied < 200


# --- every reader ----------------------------------------------------------------------------------------------------

IDS = ("a", "b", "c")
records = st.one_of(
    st.builds(
        lambda segment_id, name, version: (segment_id.encode(), document(segment_id, name, version=version)),
        st.sampled_from(IDS),
        st.sampled_from(("X", "Y", "Z")),
        st.integers(1, 5),
    ),
    st.tuples(st.sampled_from([each.encode() for each in IDS]), st.sampled_from([b"no JSON", None, b'{"version": 3}'])),
    st.builds(
        lambda segment_id, version: (segment_id.encode(), deletion(segment_id, version)),
        st.sampled_from(IDS),
        st.integers(1, 5),
    ),
)


RAW = st.one_of(
    st.sampled_from(
        ('"a"', '"b"', '"\\ud800"', '"A b"', "7", "true", "null", "1", "2", "NaN", "1e999", f"1e{10**20}", "{")
    ),
    st.sampled_from((json.dumps([VISIT]), '[{"kind": "spend", "min": 1e-999}]', '[{"kind": "\\ud800"}]', '{"a": 1}')),
    st.builds(str.__mul__, st.sampled_from("19"), st.sampled_from((20, 400, 1_001, 4_301))),
    st.builds(
        lambda depth, inner: "[" * depth + inner + "]" * depth, st.sampled_from((1, 30, 480, 700, 2_000)), st.text()
    ),
)
RAW_FIELDS = st.sampled_from(("id", "name", "version", "deleted", "conditions", "match", "\\ud800"))
raw_objects = st.lists(st.tuples(RAW_FIELDS, RAW), max_size=5).map(
    lambda fields: "".join(("{", ",".join(f'"{name}":{raw}' for name, raw in fields), "}"))
)
raw_values = st.none() | st.binary() | (raw_objects | RAW).map(lambda text: text.encode(errors="replace"))
raw_keys = st.none() | st.binary(max_size=3) | st.sampled_from((b"a", b"b", b"7", b"?", b"{'a': 1}", b"[]", b"True"))


@settings(max_examples=1_000, deadline=None)
@given(st.lists(st.tuples(raw_keys, raw_values), max_size=3))
def test_whatever_bytes_stand_in_the_log_it_is_read(written: list[tuple[bytes | None, bytes | None]]) -> None:
    log = Log()
    log.write(document("a"))
    for key, value in written:
        assert str(log.write(value, key))
    plan_mending(log.history)
    assert {each.id for each in log.history.definitions()} == set(log.history.snapshot().documents)
    assert all(document(each).id == each for each in log.history.snapshot().documents)


def read(log: Sequence[tuple[int, bytes | None, bytes | None]]) -> DefinitionHistory:
    history = DefinitionHistory()
    for offset, key, value in log:
        history.apply(key, value, offset, 0)
    return history


def compacted(log: list[tuple[int, bytes | None, bytes | None]], below: int) -> list[Any]:
    last = {key: offset for offset, key, _ in log[:below]}
    return [each for each in log[:below] if last[each[1]] == each[0]] + log[below:]


@settings(max_examples=400, deadline=None)
@given(st.lists(records, max_size=14))
def test_once_settled_every_reader_comes_to_the_same_from_wherever_compaction_lets_it_begin(
    written: list[tuple[bytes, SegmentDocument | bytes | None]],
) -> None:
    log = Log()
    for key, value in written:
        log.write(value, key)
    for record in plan_mending(log.history):
        assert reason(log.write(record.encode(), record.id.encode())) != "stale"
    assert not log.history.unsettled
    assert plan_mending(log.history) == []
    numbered = [(offset, key, value) for offset, (key, value) in enumerate(log.records)]
    for below in range(len(numbered) + 1):
        reader = read(compacted(numbered, below))
        if below in {0, len(numbered)}:
            assert reader.snapshot() == log.history.snapshot()
            assert not reader.unsettled
        for record in plan_mending(reader):  # what it saw of the time before the mending, it mends itself
            reader.apply(record.id.encode(), record.encode(), reader.position, 0)
        assert not reader.unsettled


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(("X", "Y", "Z", ""))), max_size=20), st.data())
def test_writers_that_read_first_leave_a_log_that_any_compaction_leaves_readable(
    wishes: list[tuple[str, str]], data: st.DataObject
) -> None:
    log = Log()
    for segment_id, name in wishes:
        if log.history.holder_of(name) not in {None, segment_id}:
            continue  # a writer sees that the name is taken
        version = log.history.next_version(segment_id)
        log.write(
            document(segment_id, name, version=version) if name else deletion(segment_id, version),
            b"%s" % segment_id.encode(),
        )
    numbered = [(offset, key, value) for offset, (key, value) in enumerate(log.records)]
    below = data.draw(st.integers(0, len(numbered)))
    reader = read(compacted(numbered, below))
    assert reader.snapshot() == log.history.snapshot()
    assert not reader.problems
    assert {each.id: each.version for each in reader.definitions()} == {
        each.id: each.version for each in log.history.definitions()
    }


def test_the_history_tells_which_segments_changed_behind_a_position() -> None:
    log = Log()
    for segment_id in ("a", "b", "c"):
        log.write(document(segment_id), segment_id.encode())
    log.write(b"no JSON", b"a")
    log.write(document("a", "New", version=2))
    log.write(deletion("b", 2), b"b")

    assert sorted(log.history.changed_since(0)) == ["a", "b", "c"]
    assert sorted(log.history.changed_since(3)) == ["a", "b"]
    assert log.history.changed_since(5) == ["b"]
    assert log.history.changed_since(log.history.position) == []


def test_a_record_that_cannot_be_read_for_a_reason_nobody_foresaw_is_ignored_and_the_segments_stay(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise RecursionError("too \ud800 deep")

    log.write(document("a", "First"))
    with monkeypatch.context() as broken:
        broken.setattr("conditions.definition_history.parse_segment", fail)
        found = log.write(document("a", "Second", version=2))
    assert isinstance(found, Ignored)
    assert found.reason == "internal"
    assert "RecursionError: too \\ud800 deep" in str(found)
    assert "Traceback" in found.trace
    assert log.history.document("a") == document("a", "First")
    assert log.history.unsettled == {"a"}
    assert reason(log.write(document("a", "Third", version=3))) == "changed"
