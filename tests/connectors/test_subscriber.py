"""The subscriber's core: what is news, who is in, and what is sent."""

from __future__ import annotations

from typing import Literal

import pytest

from conditions.changes import Change, Reason
from connectors.subscriber import Messenger, Roll, Rule, Send

Kind = Literal["entered", "left"]


def change(
    sequence: int, kind: Kind = "entered", customer: str = "anna", segment: str = "vip", reason: Reason = "event"
) -> Change:
    return Change(
        change_id=f"id-{sequence}",
        type=kind,
        segment_id=segment,
        segment_name=segment.title(),
        definition_version=1,
        customer_id=customer,
        sequence=sequence,
        effective_at="2024-01-01T00:00:00.000Z",
        decided_at="2024-01-01T00:00:01.000Z",
        valid_until=None,
        reason=reason,
        cause=None,
        conditions=[kind == "entered"],
    )


def test_a_change_is_news_once() -> None:
    roll = Roll()
    assert roll.apply(0, change(1))
    assert not roll.apply(0, change(1))
    assert roll.apply(0, change(2, "left"))
    assert not roll.apply(0, change(1))
    assert (roll.members("vip"), roll.size("vip")) == ([], 0)


def test_partitions_count_their_changes_each_for_itself() -> None:
    roll = Roll()
    assert roll.apply(0, change(5, customer="anna"))
    assert roll.apply(1, change(1, customer="bert"))
    assert roll.members("vip") == ["anna", "bert"]
    assert roll.sequences == {0: 5, 1: 1}


def test_a_restart_with_the_sequences_kept_takes_nothing_twice() -> None:
    before = Roll()
    before.apply(0, change(3))
    after = Roll(before.sequences)
    assert not after.apply(0, change(3))
    assert after.apply(0, change(4, customer="bert"))


def test_memberships_that_were_read_later_know_better_than_changes_made_before() -> None:
    roll = Roll()
    roll.start_with(change(10))  # entered again, after all that follows
    assert roll.apply(0, change(7))
    assert roll.apply(0, change(8, "left"))
    assert roll.members("vip") == ["anna"]
    assert roll.apply(0, change(10))
    assert roll.apply(0, change(11, "left"))
    assert roll.members("vip") == []


def test_who_left_before_the_memberships_were_read_is_out_once_the_changes_are_read() -> None:
    roll = Roll()
    assert roll.apply(0, change(7))
    assert roll.apply(0, change(9, "left"))
    assert roll.members("vip") == []


RULES = [
    Rule("vip", "welcome"),
    Rule("vip", "we miss you", on="left"),
    Rule("not-confirmed", "please confirm"),
]


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        (change(1), [Send("id-1:welcome", "anna", "welcome")]),
        (change(1, "left"), [Send("id-1:we miss you", "anna", "we miss you")]),
        (
            change(1, segment="not-confirmed", reason="deadline"),
            [Send("id-1:please confirm", "anna", "please confirm")],
        ),
        (change(1, segment="other"), []),
        (change(1, "left", reason="erasure"), []),
    ],
)
def test_a_rule_says_which_change_sends_what(given: Change, messages: list[Send]) -> None:
    assert Messenger(RULES).apply(0, given) == messages


def test_a_message_goes_out_once_for_each_time_a_customer_enters() -> None:
    messenger = Messenger(RULES[:1])
    delivered = [change(1), change(1), change(2, "left"), change(1), change(2, "left"), change(3), change(3)]
    sent = [send.key for each in delivered for send in messenger.apply(0, each)]
    assert sent == ["id-1:welcome", "id-3:welcome"]


def test_whoever_is_in_already_gets_no_message_but_is_known() -> None:
    roll = Roll()
    roll.start_with(change(1))
    messenger = Messenger(RULES, roll)
    assert messenger.roll.members("vip") == ["anna"]
    assert messenger.apply(0, change(2, customer="bert")) == [Send("id-2:welcome", "bert", "welcome")]
