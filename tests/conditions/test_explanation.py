"""What an explanation says of a condition."""

from __future__ import annotations

import msgspec
import pytest

from conditions.definitions import compile_definitions
from conditions.documents import parse_segment, to_document
from conditions.explanation import explain_segment
from conditions.features import Summaries
from conditions.json_values import load_json
from conditions.kinds import KINDS, Condition

EXACT = '{"kind": "transaction", "min": 123456789.12345678901}'


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_is_told_as_it_stands_in_the_document(kind: type[Condition]) -> None:
    exact, _ = load_json(EXACT)
    conditions = [{"kind": kind.__struct_config__.tag, **each.condition} for each in kind.examples]
    document = parse_segment({"id": "s", "name": "S", "conditions": [*conditions, exact]})
    definitions = compile_definitions([document])
    answer = explain_segment(definitions.segments["s"], definitions, Summaries(), 5, False)
    *told, told_exact = [msgspec.json.encode(each.condition) for each in answer.conditions]
    assert [*map(msgspec.json.decode, told)] == to_document(document)["conditions"][:-1]
    assert load_json(told_exact.decode()) == (exact, [])
