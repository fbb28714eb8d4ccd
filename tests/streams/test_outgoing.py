"""What a batch writes to Kafka, from what it decided bit by bit."""

from __future__ import annotations

from conditions.changes import Cause, Change
from conditions.events import Rejected
from connectors.changes import decode_change
from state.changelog import Checkpoint
from state.engine import Marker
from state.store import WriteSet
from streams.outgoing import Outbox
from streams.settings import Settings, load_settings

INSTANT = "2026-03-01T10:00:00.000Z"
CHECKPOINT = Checkpoint(Marker(), "writer", "definitions")


def settings(**more: object) -> Settings:
    return load_settings({"topics": ("visits",), "app_id": "shop", **more})


def change(number: int, kind: str) -> Change:
    cause = Cause("visits", 0, number, f"e{number}", "page.visit", INSTANT)
    customer, reason = f"Zoë{number % 2}", "event" if number % 2 else "deadline"
    return Change(f"id{number}", kind, "vip", "VIP", 1, customer, number, INSTANT, INSTANT, None, reason, cause, [True])  # type: ignore[arg-type]  # kind and reason are two of theirs


CHANGES = [change(number, kind) for number, kind in enumerate(["entered", "entered", "left", "left", "entered"])]
REJECTED = [Rejected("bad_time", "time", "expected a time", b"k", b"v", 7, "visits", 0)]


def filled(outbox: Outbox) -> Outbox:
    for at in range(len(CHANGES)):
        outbox.add(CHANGES[at : at + 1], REJECTED if at == 2 else [])
    return outbox


def test_changes_stand_on_their_topic_in_the_order_in_which_they_were_decided() -> None:
    changes, memberships, letters, changelog = filled(Outbox(3, settings())).outgoing(
        WriteSet(customers=[(b"Zo", b"record")]), CHECKPOINT
    )
    assert {each.partition for each in (changes, memberships, letters, changelog)} == {3}
    assert changes.topic == "segment-changes"
    assert [decode_change(value or b"") for _, value, _, _ in changes.records] == CHANGES
    assert [key for key, _, _, _ in changes.records] == [each.customer_id.encode() for each in CHANGES]
    assert [key for key, _, _, _ in letters.records] == [b"k"]
    assert [key for key, _, _, _ in changelog.records] == [b"Zo", b"\xffcheckpoint"]


def test_a_membership_is_the_change_that_made_it_until_the_customer_leaves() -> None:
    changes, memberships, *_ = filled(Outbox(0, settings())).outgoing(WriteSet(), CHECKPOINT)
    keys = [f"{each.customer_id}|vip".encode() for each in CHANGES]
    assert [key for key, _, _, _ in memberships.records] == keys
    for each, (_, value, _, _), (_, membership, _, _) in zip(
        CHANGES, changes.records, memberships.records, strict=True
    ):
        assert membership == (value if each.type == "entered" else None)


def test_no_memberships_are_made_without_a_topic_for_them() -> None:
    _, memberships, *_ = filled(Outbox(0, settings(memberships_topic=""))).outgoing(WriteSet(), CHECKPOINT)
    assert memberships.records == []


def test_it_counts_what_it_holds_and_reads_its_changes_back() -> None:
    outbox = filled(Outbox(0, settings()))
    assert len(outbox) == len(CHANGES)
    assert outbox.changes() == CHANGES
    assert outbox.changed == {
        ("entered", "deadline"): 2,
        ("entered", "event"): 1,
        ("left", "deadline"): 1,
        ("left", "event"): 1,
    }
    assert outbox.rejected == {"bad_time": 1}
