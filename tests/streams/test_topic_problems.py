"""What is said of topics that do not fit together, or not to the state."""

from __future__ import annotations

import pytest

from streams.kafka.topics import Topic
from streams.topic_problems import Output, Problem, Severity, find_problems


@pytest.mark.parametrize(
    ("found", "cause"), [(4, "partitions were probably added"), (1, "it was probably deleted and made anew with fewer")]
)
def test_inputs_with_another_number_than_the_state_was_made_with_are_the_fault_and_nothing_else_is(
    found: int, cause: str
) -> None:
    topics = {"same": Topic("same", 2, 1, {}), "other": Topic("other", found, 1, {}), "out": Topic("out", 2, 1, {})}
    [problem] = find_problems(["same", "other"], [Output("out")], topics, 1_000_000, made_with=2)
    assert (problem.code, problem.severity, problem.topic) == ("repartitioned", Severity.ERROR, "other")
    assert f"topic other has {found} partitions, and had 2 when" in problem.message
    assert cause in problem.message
    both = topics | {"same": Topic("same", found, 1, {})}
    problems = find_problems(["same", "other"], [Output("out")], both, 1_000_000, made_with=2)
    assert [each.topic for each in problems] == ["same", "other"]


def test_an_input_that_is_gone_is_not_to_be_made_anew_without_a_thought() -> None:
    for made_with, is_warned in ((0, False), (2, True)):
        [problem] = find_problems(["gone"], [], {}, 1_000_000, made_with=made_with)
        assert problem.code == "missing"
        assert ("If it was deleted" in problem.message) is is_warned


def test_compaction_with_deletion_is_not_enough() -> None:
    topics = {"state": Topic("state", 1, 1, {"cleanup.policy": "compact,delete"})}
    problems: list[Problem] = find_problems([], [Output("state", compacted=True)], topics, 1_000_000)
    assert [each.code for each in problems] == ["not_compacted"]


def test_more_processes_than_partitions_are_warned_of() -> None:
    topics = {"few": Topic("few", 2, 1, {}), "many": Topic("many", 3, 1, {})}
    assert find_problems(["few"], [], topics, 1_000_000, processes=2) == []
    [problem] = find_problems(["few"], [], topics, 1_000_000, processes=5)
    assert (problem.code, problem.severity, problem.topic) == ("idle_processes", Severity.WARNING, "few")
    assert problem.message == (
        "5 processes share the 2 partitions of few, so at least 3 of them have nothing to do: "
        "set --processes 2 or fewer"
    )
