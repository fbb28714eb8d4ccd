"""The examples that the reference prints, run through the engine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from conditions.definitions import compile_definitions
from conditions.documents import parse_segments
from conditions.events import Event
from conditions.kinds import KINDS, Condition, Example
from connectors.json_events import decode_line
from state.engine import PartitionEngine
from state.memory_store import MemoryStore

EXAMPLES = [(kind, example) for kind in KINDS for example in kind.examples]


def kind_name(kind: type[Condition]) -> str:
    return str(kind.__struct_config__.tag)


def entered(condition: dict[str, Any], example: Example) -> bool:
    document = {"segments": [{"id": "s", "name": "s", "conditions": [condition]}]}
    engine = PartitionEngine(MemoryStore(), compile_definitions(parse_segments(document)))
    line = {
        "event_id": "1",
        "type": example.event_type,
        "customer_id": "c",
        "time": 1_000_000,
        "properties": example.properties,
    }
    event = decode_line(msgspec.json.encode(line), 0)
    assert isinstance(event, Event), event
    return [change.type for change in engine.run([event], 0).changes] == ["entered"]


@pytest.mark.parametrize(("kind", "example"), EXAMPLES, ids=lambda each: getattr(each, "event_type", None))
def test_an_example_holds_as_it_says_and_its_negation_does_not(kind: type[Condition], example: Example) -> None:
    condition = {"kind": kind_name(kind), **example.condition}

    assert entered(condition, example) is example.holds
    assert entered({**condition, "negate": True}, example) is not example.holds


def test_every_kind_has_an_example_that_holds() -> None:
    for kind in KINDS:
        assert any(example.holds for example in kind.examples), kind_name(kind)
