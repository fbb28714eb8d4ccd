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
    answer = explain_segment(definitions.segments["s"], {}, Summaries(), 5, False)
    *told, told_exact = [msgspec.json.encode(each.condition) for each in answer.conditions]
    assert [*map(msgspec.json.decode, told)] == to_document(document)["conditions"][:-1]
    assert load_json(told_exact.decode()) == (exact, [])


@pytest.mark.parametrize(
    ("micros", "told"),
    [
        ([100_000, 200_000], b"0.3"),
        ([], b"0.0"),
        ([10_000_000], b"10.0"),
        ([1], b"1e-6"),
        ([10**18 - 1, 1], b"1000000000000.0"),
        ([10**18 - 1], b"999999999999.999999"),
        ([10**18 - 1, 10**18 - 1], b"1999999999999.999998"),
        ([12_345_678_901_234_567_100_000], b"12345678901234567.1"),
        ([90_071_992_547_409_930_000_000], b"90071992547409930.0"),
        ([9_007_199_254_740_993_000_000], b"9007199254740993.0"),
    ],
)
def test_a_sum_is_told_to_the_last_digit(micros: list[int], told: bytes) -> None:
    document = parse_segment({"id": "s", "name": "S", "conditions": [{"kind": "spend", "min": 1}]})
    [segment] = compile_definitions([document]).segments.values()
    summaries = Summaries()
    summaries.own_sums()[segment.atoms[0].key] = [(at, at, amount) for at, amount in enumerate(micros, start=1)]
    [condition] = explain_segment(segment, {}, summaries, 5, False).conditions
    assert msgspec.json.encode(condition.seen["sum"]) == told
