"""A preview says of every customer what saving the segment would make of it, or that it cannot know."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from conditions.documents import SegmentDocument, parse_segment
from conditions.json_values import load_json
from conditions.segments import SegmentCompiler
from state.live_engine import LiveEngine
from state.lookup import CommittedState
from state.memory_store import MemoryStore
from state.preview import Preview, preview_features
from state.redefinition import read_coverage
from tests.state.test_live_engine import TOPICS, Stream, variants


def documents_of(seed: int, count: int) -> list[SegmentDocument]:
    return [each for other in range(count) for each in variants(seed + 31 * other)][:count]


@pytest.mark.parametrize("seed", range(12))
def test_certain_answers_are_those_that_saving_would_give(seed: int) -> None:
    stream = Stream(seed, crashes=False, erasures=False, topics=TOPICS)
    for document in variants(seed * 7 + 1):
        stream.edit(document, document.id)
    while stream.applied < len(stream.records):
        stream.background()
        stream.live()
    while stream.background():
        pass
    # Half the candidates are edits of what is kept, so that both known and unknown conditions come up.
    candidates = [*documents_of(seed + 1000, 4), *variants(seed * 7 + 1)]
    for candidate in candidates:
        previewed = preview_all(stream, candidate)
        saved = saved_members(stream, candidate)
        for customer_id, answer in previewed.items():
            if answer is not None:
                assert answer is (customer_id in saved), (candidate, customer_id)
    for document in stream.wanted.values():
        assert None not in preview_all(stream, document).values()


def test_a_condition_is_told_as_it_stands_in_the_document() -> None:
    condition, _ = load_json('{"kind": "spend", "min": 123456789.12345678901}')
    document = parse_segment({"id": "s", "name": "S", "conditions": [condition]})
    [told] = Preview(document, {}).result().conditions
    assert load_json(msgspec.json.encode(told.condition).decode()) == (condition, [])


def preview_all(stream: Stream, document: SegmentDocument) -> dict[str, bool | None]:
    state = CommittedState(stream.store, stream.engine.definitions)
    preview = Preview(document, read_coverage(stream.store, preview_features(document)))
    found: dict[str, bool | None] = {}
    for customer_id in known_customers(stream):
        customer = state.customer(customer_id)
        assert customer is not None
        found[customer_id] = preview.ask(customer, state.marker.clock_ms)
    result = preview.result()
    answers = list(found.values())
    assert (result.members, result.others, result.unknown) == tuple(map(answers.count, (True, False, None)))
    assert result.sampled == len(found)
    assert all(found[each] is True for each in result.examples["members"])
    assert all(found[each] is None for each in result.examples["unknown"])
    return found


def known_customers(stream: Stream) -> list[str]:
    return [key.decode() for key, _ in stream.store.scan() if b"\xff" not in key]


def saved_members(stream: Stream, document: SegmentDocument) -> set[str]:
    """Who is in once the segment was saved, in a copy of the state."""
    copy = Stream(0, crashes=False, erasures=False, topics=TOPICS)
    copy.records, copy.applied = stream.records, stream.applied
    copy.store._customers.update(stream.store._customers)
    copy.store._deadlines.update(stream.store._deadlines)
    copy.store._meta.update(stream.store._meta)
    copy.engine = LiveEngine(copy.store, SegmentCompiler(), cache_bytes=3_000)
    copy.wanted, copy.position = dict(stream.wanted), stream.position
    copy.versions = dict(stream.versions)
    copy.edit(document, "candidate")
    while copy.background():
        pass
    return copy.members()["candidate"]


def condition(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, **fields}


@pytest.mark.parametrize(
    ("match", "known", "expected"),
    [("all", True, None), ("all", False, False), ("any", True, True), ("any", False, None)],
)
def test_one_known_condition_may_decide(match: str, known: bool, expected: bool | None) -> None:
    engine = LiveEngine(MemoryStore(), SegmentCompiler())
    document = {"id": "a", "name": "A", "conditions": [condition("app_screen")]}
    engine.begin_redefinition(1, engine.differences(["a"], lambda _: parse_segment(document), lambda _: 1), {})
    engine.commit()
    wanted = parse_segment(
        {
            "id": "b",
            "name": "B",
            "match": match,
            "conditions": [condition("app_screen", negate=known), condition("page_visit", domain="shop.example")],
        }
    )
    preview = Preview(wanted, read_coverage(engine.store, preview_features(wanted)))
    customer = engine._cache.prefetch(["anna"])[0]
    assert preview.ask(customer, 0) is expected
    first, second = preview.result().conditions
    assert (first.known, first.holds) == (True, int(known))
    assert (second.known, second.holds) == (False, None)
