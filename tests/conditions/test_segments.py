"""Compiled segments: shared as long as somebody holds them."""

from __future__ import annotations

from typing import Any
from weakref import ref

from conditions.documents import SegmentDocument, encode_segment, parse_segment
from conditions.segments import SegmentCompiler


def document(segment_id: str, *conditions: dict[str, Any]) -> SegmentDocument:
    return parse_segment({"id": segment_id, "name": segment_id, "conditions": list(conditions)})


CART: dict[str, Any] = {"kind": "app_screen", "screen": "cart", "within": "1h"}


def test_a_document_is_compiled_once_however_it_comes() -> None:
    compiler = SegmentCompiler()

    compiled = compiler.compile(document("a", CART))

    assert compiler.compile(document("a", CART)) is compiled
    assert compiler.read(encode_segment(document("a", CART))) is compiled
    assert compiler.read(encode_segment(document("b", CART))) is not compiled


def test_a_segment_that_is_read_is_that_of_its_document() -> None:
    written = document("a", CART, {"kind": "spend", "min": 0.1, "negate": True})

    assert SegmentCompiler().read(encode_segment(written)).document == written


def test_conditions_that_ask_the_same_read_the_same_atom() -> None:
    compiler = SegmentCompiler()

    one = compiler.compile(document("a", CART))
    other = compiler.compile(document("b", CART | {"negate": True}, CART, CART | {"at_least": 2}))

    assert len(other.atoms) == 2
    assert one.atoms[0] is other.atoms[0]


def test_what_nobody_holds_any_more_is_forgotten() -> None:
    compiler = SegmentCompiler()
    segment = compiler.compile(document("a", CART, {"kind": "customer", "attribute": "plan", "operator": "exists"}))
    seen: list[ref[Any]] = [ref(segment), *map(ref, segment.atoms)]

    del segment

    assert [each() for each in seen] == [None, None, None]
