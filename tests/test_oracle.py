"""Worked examples, each answer derived by hand, that pin what the oracle says; and that the cases are as they claim."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cases import Fields, case
from tests.oracle import Outcome, Rejected, replay

SECOND = 1_000
DAY = 86_400_000
VISIT = {"kind": "page_visit", "within": "10s"}
AT_LEAST_1 = {"kind": "page_visit"}


def segment(*conditions: Fields, segment_id: str = "s", **fields: Any) -> Fields:
    return {"id": segment_id, "name": f"Segment {segment_id}", "conditions": list(conditions), **fields}


def event(
    event_id: str, event_type: str, time: Any, *, customer: Any = "ann", at: Any = None, **properties: Any
) -> Fields:
    """An event with the time as written, in seconds where it is an integer; `at` is when it arrived."""
    content = {"event_id": event_id, "type": event_type, "customer_id": customer, "properties": properties}
    times = {"time": time, "received_at": at}
    return content | {
        name: each * SECOND if isinstance(each, int) else each for name, each in times.items() if each is not None
    }


def visit(event_id: str, time: Any, *, url: str = "https://shop.example/", **fields: Any) -> Fields:
    return event(event_id, "page.visit", time, url=url, **fields)


def update(event_id: str, time: Any, *, at: Any = None, **attributes: Any) -> Fields:
    return event(event_id, "customer.update", time, at=at, attributes=attributes)


def order(event_id: str, time: Any, total: Any, **fields: Any) -> Fields:
    return event(event_id, "purchase.order", time, order_id=event_id, total=total, **fields)


def run(segments: Fields | list[Fields], *events: Fields | bytes, until: int | None = None) -> Outcome:
    document = {"segments": segments if isinstance(segments, list) else [segments]}
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in events]
    return replay(document, lines, None if until is None else until * SECOND)


def brief(outcome: Outcome) -> list[tuple[str, str, str, str]]:
    """Customer, type, segment and the time of day of each change."""
    return [
        (each["customer_id"], each["type"], each["segment_id"], each["effective_at"][11:-1].removesuffix(".000"))
        for each in outcome.changes
    ]


def holds(condition: Fields, *events: Fields) -> bool:
    """Whether the customer of the events is in a segment of this one condition after them."""
    outcome = run(segment(condition), *events)
    assert outcome.rejected == []
    return outcome.members["s"] == {"ann"}


def rejected(content: Fields | bytes) -> tuple[str, str | None]:
    outcome = run(segment({"kind": "page_visit", "negate": True}), content)
    assert outcome.changes == []
    [fault] = outcome.rejected
    assert fault.line == 1
    return fault.code, fault.path


# Time, windows and deadlines


def test_a_visit_expires_exactly_at_its_event_time_plus_the_window() -> None:
    outcome = run(segment(VISIT, version=4), visit("e1", 100), until=200)
    common = {"segment_id": "s", "segment_name": "Segment s", "definition_version": 4, "customer_id": "ann"}
    cause = {
        "topic": None,
        "partition": 0,
        "offset": 0,
        "event_id": "e1",
        "event_type": "page.visit",
        "event_time": "1970-01-01T00:01:40.000Z",
    }
    assert outcome.changes == [
        common
        | {
            "type": "entered",
            "sequence": 1,
            "effective_at": "1970-01-01T00:01:40.000Z",
            "valid_until": "1970-01-01T00:01:50.000Z",
            "reason": "event",
            "cause": cause,
            "conditions": [True],
        },
        common
        | {
            "type": "left",
            "sequence": 2,
            "effective_at": "1970-01-01T00:01:50.000Z",
            "valid_until": None,
            "reason": "deadline",
            "cause": None,
            "conditions": [False],
        },
    ]
    assert outcome.members == {"s": set()}


def test_a_deadline_has_not_come_a_millisecond_before_it() -> None:
    early = "1970-01-01T00:00:10.999Z"
    events = [visit("e1", 1), event("e2", "other", early, customer="bob")]
    assert brief(run(segment(VISIT), *events)) == [("ann", "entered", "s", "00:00:01")]
    late = event("e3", "other", 11, customer="bob")
    assert brief(run(segment(VISIT), *events, late))[1:] == [("ann", "left", "s", "00:00:11")]


def test_a_renewal_at_the_very_deadline_is_left_and_then_entered() -> None:
    outcome = run(segment(VISIT), visit("e1", 1), visit("e2", 11))
    assert brief(outcome) == [
        ("ann", "entered", "s", "00:00:01"),
        ("ann", "left", "s", "00:00:11"),
        ("ann", "entered", "s", "00:00:11"),
    ]
    assert [each["sequence"] for each in outcome.changes] == [1, 2, 3]
    assert [each["reason"] for each in outcome.changes] == ["event", "deadline", "event"]


def test_a_renewal_before_the_deadline_moves_it_without_a_change() -> None:
    assert brief(run(segment(VISIT), visit("e1", 1), visit("e2", 9), until=30)) == [
        ("ann", "entered", "s", "00:00:01"),
        ("ann", "left", "s", "00:00:19"),
    ]


def test_a_negated_window_is_held_from_the_start_and_again_when_the_window_has_passed() -> None:
    outcome = run(segment(VISIT | {"negate": True}), event("e1", "other", 1), visit("e2", 2), until=12)
    assert brief(outcome) == [
        ("ann", "entered", "s", "00:00:01"),
        ("ann", "left", "s", "00:00:02"),
        ("ann", "entered", "s", "00:00:12"),
    ]
    assert [each["valid_until"] for each in outcome.changes] == [None, "1970-01-01T00:00:12.000Z", None]


def test_deadlines_fire_in_order_of_instant_then_customer_then_segment() -> None:
    segments = [segment(VISIT, segment_id="z"), segment(VISIT, segment_id="a-b"), segment(VISIT, segment_id="a")]
    events = [visit("e1", 3, customer="bob"), visit("e1", 2, customer="zoe"), visit("e1", 3, customer="ann")]
    outcome = run(segments, *events, until=60)
    assert brief(outcome)[9:] == [
        *(("zoe", "left", each, "00:00:12") for each in ("a", "a-b", "z")),
        *(("ann", "left", each, "00:00:13") for each in ("a", "a-b", "z")),
        *(("bob", "left", each, "00:00:13") for each in ("a", "a-b", "z")),
    ]


def test_the_clock_moves_to_until_only_forwards() -> None:
    assert brief(run(segment(VISIT), visit("e1", 100), until=5)) == [("ann", "entered", "s", "00:01:40")]
    assert brief(run(segment(VISIT), visit("e1", 100), until=110))[1:] == [("ann", "left", "s", "00:01:50")]


def test_a_window_may_close_and_open_segments_more_than_once_before_the_next_event() -> None:
    exactly_one = {"kind": "page_visit", "within": "10s", "at_least": 1, "at_most": 1}
    outcome = run(segment(exactly_one), visit("e1", 1), visit("e2", 5), until=60)
    assert brief(outcome) == [
        ("ann", "entered", "s", "00:00:01"),
        ("ann", "left", "s", "00:00:05"),
        ("ann", "entered", "s", "00:00:11"),
        ("ann", "left", "s", "00:00:15"),
    ]
    assert [each["valid_until"] and each["valid_until"][17:] for each in outcome.changes] == [
        "11.000Z",
        "11.000Z",
        "15.000Z",
        None,
    ]


def test_valid_until_looks_at_the_whole_segment() -> None:
    either = segment({"kind": "page_visit", "within": "5s"}, {"kind": "app_screen", "within": "1m"}, match="any")
    outcome = run(either, event("e1", "app.screen", 1, screen="home"), visit("e2", 3), until=100)
    assert [each["valid_until"] for each in outcome.changes] == ["1970-01-01T00:01:01.000Z", None]
    assert [each["conditions"] for each in outcome.changes] == [[False, True], [False, False]]


def test_valid_until_knows_no_year_after_9999() -> None:
    outcome = run(segment({"kind": "page_visit", "within": "2d"}), visit("e1", "9999-12-31T00:00:00Z"))
    assert outcome.changes[0]["valid_until"] is None


def test_a_fixed_period_takes_its_start_and_not_its_end() -> None:
    period = {"kind": "page_visit", "since": "1970-01-01T00:00:10Z", "until": "1970-01-01T01:00:20+01:00"}
    assert not holds(period, visit("e1", "1970-01-01T00:00:09.999Z"))
    assert holds(period, visit("e1", 10))
    assert holds(period, visit("e1", "1970-01-01T00:00:19.999Z"))
    assert not holds(period, visit("e1", 20))
    assert run(segment(period), visit("e1", 10)).changes[0]["valid_until"] is None


def test_at_most_alone_counts_from_none() -> None:
    at_most = {"kind": "page_visit", "at_most": 1}
    assert holds(at_most, event("e0", "other", 1))
    assert holds(at_most, visit("e1", 1))
    assert not holds(at_most, visit("e1", 1), visit("e2", 1))


# Late, early, repeated and erased


def test_a_late_event_dates_its_change_back() -> None:
    outcome = run(segment(VISIT | {"within": "1m"}), event("e1", "other", 50), visit("e2", 20, at=50))
    assert brief(outcome) == [("ann", "entered", "s", "00:00:20")]
    assert outcome.changes[0]["valid_until"] == "1970-01-01T00:01:20.000Z"


def test_a_late_event_dates_its_change_back_no_further_than_the_customers_last_change() -> None:
    segments = [segment(AT_LEAST_1, segment_id="a"), segment({"kind": "location"}, segment_id="b")]
    outcome = run(segments, visit("e1", 30), event("e2", "location.visit", 20, at=31, location_id=1))
    assert brief(outcome) == [("ann", "entered", "a", "00:00:30"), ("ann", "entered", "b", "00:00:30")]
    assert outcome.changes[1]["cause"]["event_time"] == "1970-01-01T00:00:20.000Z"


def test_the_last_change_of_another_customer_is_no_bound() -> None:
    outcome = run(segment(AT_LEAST_1), visit("e1", 30), visit("e2", 20, at=31, customer="bob"))
    assert brief(outcome)[1] == ("bob", "entered", "s", "00:00:20")


def test_a_late_event_whose_window_has_passed_changes_nothing() -> None:
    assert brief(run(segment(VISIT), event("e1", "other", 50), visit("e2", 40, at=50), until=99)) == []
    assert brief(run(segment(VISIT), event("e1", "other", 50), visit("e2", 41, at=50), until=99)) == [
        ("ann", "entered", "s", "00:00:41"),
        ("ann", "left", "s", "00:00:51"),
    ]


def test_a_clock_that_runs_ahead_cannot_reach_into_the_future() -> None:
    outcome = run(segment(VISIT), visit("e1", 999, at=5), until=100)
    assert brief(outcome) == [("ann", "entered", "s", "00:00:05"), ("ann", "left", "s", "00:00:15")]


def test_a_record_that_arrives_out_of_order_leaves_the_clock_where_it_is() -> None:
    segments = segment({"kind": "app_screen", "within": "10s"})
    outcome = run(segments, visit("e1", 50), event("e2", "app.screen", None, at=39, screen="home"))
    assert brief(outcome) == []


def test_the_same_event_counts_once_however_often_it_comes() -> None:
    twice = {"kind": "page_visit", "at_least": 2}
    first = visit("e1", 1, at=1)
    assert not holds(twice, first, first, event("e2", "other", 2), first)
    assert not holds(twice, first, visit("e1", 1, at=999))


def test_the_same_id_under_another_time_counts_again() -> None:
    assert holds({"kind": "page_visit", "at_least": 2}, visit("e1", 1), visit("e1", 2))


def test_a_repetition_still_moves_the_clock() -> None:
    assert brief(run(segment(VISIT), visit("e1", 1), visit("e1", 1, at=20))) == [
        ("ann", "entered", "s", "00:00:01"),
        ("ann", "left", "s", "00:00:11"),
    ]


def test_erasure_leaves_every_segment_and_a_later_event_starts_anew() -> None:
    never_seen = {"kind": "app_screen", "negate": True}
    outcome = run(
        segment(VISIT, never_seen), visit("e1", 10), event("d", "customer.delete", 12), visit("e2", 11, at=13), until=15
    )
    assert brief(outcome) == [
        ("ann", "entered", "s", "00:00:10"),
        ("ann", "left", "s", "00:00:12"),
        ("ann", "entered", "s", "00:00:11"),
    ]
    erased = outcome.changes[1]
    assert (erased["reason"], erased["valid_until"], erased["conditions"]) == ("erasure", None, [True, True])
    assert (erased["cause"]["event_id"], erased["cause"]["event_type"]) == ("d", "customer.delete")
    assert outcome.changes[2]["sequence"] == 3


def test_an_erased_customer_is_in_no_segment_and_has_no_deadlines() -> None:
    outcome = run(
        [segment(VISIT), segment(VISIT | {"negate": True}, segment_id="not-s")],
        visit("e1", 1),
        event("d", "customer.delete", 2),
        until=99,
    )
    assert brief(outcome) == [("ann", "entered", "s", "00:00:01"), ("ann", "left", "s", "00:00:02")]
    assert outcome.members == {"s": set(), "not-s": set()}


def test_deadlines_due_before_an_erasure_fire_first() -> None:
    outcome = run(segment(VISIT), visit("e1", 1), event("d", "customer.delete", 20))
    assert [each["reason"] for each in outcome.changes] == ["event", "deadline"]


def test_a_late_erasure_acts_at_once_and_is_dated_no_earlier_than_the_last_change() -> None:
    outcome = run(segment(AT_LEAST_1), visit("e1", 30), event("d", "customer.delete", 5, at=31))
    assert brief(outcome)[1] == ("ann", "left", "s", "00:00:30")


def test_what_was_seen_before_an_erasure_counts_anew_after_it() -> None:
    first = visit("e1", 1, at=1)
    outcome = run(segment(AT_LEAST_1), first, event("d", "customer.delete", 2), first)
    assert [each["type"] for each in outcome.changes] == ["entered", "left", "entered"]
    assert outcome.changes[2]["effective_at"] == "1970-01-01T00:00:01.000Z"


def test_erasing_an_unknown_customer_changes_nothing_but_the_clock() -> None:
    segments = [segment(VISIT, segment_id="a"), segment({"kind": "sms", "action": "sent", "negate": True})]
    outcome = run(segments, visit("e1", 1), event("d", "customer.delete", 11, customer="bob"))
    assert brief(outcome)[2:] == [("ann", "left", "a", "00:00:11")]
    assert outcome.members["s"] == {"ann"}


def test_members_are_those_who_are_in_at_the_end() -> None:
    outcome = run(segment(VISIT), visit("e1", 1), visit("e2", 7, customer=70), visit("e3", 8, customer="Zoë"), until=12)
    assert outcome.members == {"s": {"70", "Zoë"}}


# Attributes and agreements


def test_the_newest_attribute_wins_whatever_the_order_of_arrival() -> None:
    gold = {"kind": "customer", "attribute": "plan", "operator": "equals", "value": "gold"}
    assert holds(gold, update("e1", 20, plan="gold"), update("e2", 10, at=30, plan="old"))
    assert not holds(gold, update("e1", 20, plan="old"), update("e2", 10, at=30, plan="gold"))
    assert holds(gold, update("e1", 10, plan="gold"), update("e2", 20, city="Oslo"))


def test_of_attributes_written_at_the_same_time_the_later_record_wins_but_no_repetition_does() -> None:
    gold = {"kind": "customer", "attribute": "plan", "operator": "equals", "value": "gold"}
    old, new = update("e1", 5, plan="old"), update("e2", 5, plan="gold")
    assert holds(gold, old, new)
    assert not holds(gold, new, old)
    assert holds(gold, old, new, old)


def test_null_removes_an_attribute_as_of_its_event_time() -> None:
    exists = {"kind": "customer", "attribute": "plan", "operator": "exists"}
    assert not holds(exists, update("e1", 1, plan="gold"), update("e2", 2, plan=None))
    assert not holds(exists, update("e2", 2, plan=None), update("e1", 1, at=3, plan="gold"))
    assert holds(exists, update("e2", 2, plan=None), update("e1", 3, plan="gold"))


def test_a_top_level_attribute_is_replaced_whole() -> None:
    city = {"kind": "customer", "attribute": "address.city", "operator": "exists"}
    assert holds(city, update("e1", 1, address={"city": "Oslo"}))
    assert not holds(city, update("e1", 1, address={"city": "Oslo"}), update("e2", 2, address={"zip": 1}))
    assert not holds(city, update("e1", 1, address={"city": None}))
    assert not holds(city, update("e1", 1, **{"address.city": "Oslo"}))


@pytest.mark.parametrize(
    ("operator", "value", "attribute", "expected"),
    [
        ("equals", 1, 1.0, True),
        ("equals", 1, True, False),
        ("equals", True, True, True),
        ("equals", "1", 1, False),
        ("equals", [1, "a"], [1.0, "a"], True),
        ("equals", ["a"], ["a", None], True),
        ("equals", 9007199254740992, 9007199254740993, True),
        ("contains", "old", "gold", True),
        ("contains", "old", ["gold"], False),
        ("contains", "gold", ["old", "gold"], True),
        ("contains", 1, [True], False),
        ("contains", 1, [1.0], True),
        ("contains", 1, 1, False),
        ("starts_with", "go", "gold", True),
        ("starts_with", "go", ["gold"], False),
        ("ends_with", "ld", "gold", True),
        ("ends_with", "go", "gold", False),
        ("in", ["a", 2], 2.0, True),
        ("in", ["a", 2], "2", False),
        ("in", ["a"], ["a"], False),
        ("in", [["a"]], ["a"], True),
        ("at_least", 18, 18, True),
        ("at_least", 18, 17.9, False),
        ("at_least", 18, "19", False),
        ("at_least", 0, True, False),
        ("at_most", 0.3, 0.3, True),
        ("at_most", 0.3, 0.31, False),
    ],
)
def test_operators_compare_as_json_does(operator: str, value: Any, attribute: Any, expected: bool) -> None:
    condition = {"kind": "customer", "attribute": "x", "operator": operator, "value": value}
    assert holds(condition, update("e1", 1, x=attribute)) is expected
    where = {"kind": "event", "type": "quiz", "where": [{"property": "x", "operator": operator, "value": value}]}
    if None not in (attribute if isinstance(attribute, list) else []):
        assert holds(where, event("e1", "quiz", 1, x=attribute)) is expected


@pytest.mark.parametrize(
    ("operator", "value", "attribute"),
    [
        ("equals", "STRASSE", "straße"),
        ("contains", "ß", "MASSE"),
        ("starts_with", "k", "\u212aiev"),
        ("ends_with", "İ", "xi\u0307"),
        ("contains", "GOLD", ["Old", "gold"]),
        ("in", ["GOLD"], "gold"),
        ("equals", ["A", 1], ["a", 1]),
    ],
)
def test_ignore_case_folds_both_sides(operator: str, value: Any, attribute: Any) -> None:
    condition = {"kind": "customer", "attribute": "x", "operator": operator, "value": value}
    assert not holds(condition, update("e1", 1, x=attribute))
    assert holds(condition | {"ignore_case": True}, update("e1", 1, x=attribute))


def test_a_missing_attribute_matches_nothing_and_so_holds_negated() -> None:
    missing = {"kind": "customer", "attribute": "x.y", "operator": "at_most", "value": 5}
    assert not holds(missing, update("e1", 1, x=4))
    assert holds(missing | {"negate": True}, update("e1", 1, x=4))


def test_the_newest_agreement_counts_and_null_is_none() -> None:
    condition = {"kind": "agreement", "channel": "sms"}
    agreed = event("e1", "customer.update", 1, agreements={"sms": True, "fax": False})
    assert holds(condition, agreed)
    assert not holds(condition, agreed, event("e2", "customer.update", 2, agreements={"sms": False}))
    assert holds(condition, agreed, event("e2", "customer.update", 2, agreements={"sms": None, "push": False}))
    assert not holds({"kind": "agreement", "channel": "fax"}, agreed)


# Pages


@pytest.mark.parametrize(
    ("fields", "url", "expected"),
    [
        ({}, "https://any.example", True),
        ({"domain": "shop.example"}, "HTTPS://me:pw@SHOP.example:443/a", True),
        ({"domain": "shop.example"}, "http://shop.example:80?x", True),
        ({"domain": "shop.example"}, "http://shop.example:443/", False),
        ({"domain": "shop.example"}, "https://shop.example:8080/", False),
        ({"domain": "shop.example:8080"}, "https://shop.example:8080/", True),
        ({"domain": "shop.example"}, "https://www.shop.example/", False),
        ({"domain": "shop.example", "subdomains": True}, "https://eu.www.shop.example/", True),
        ({"domain": "shop.example", "subdomains": True}, "https://shop.example/", True),
        ({"domain": "shop.example", "subdomains": True}, "https://notshop.example/", False),
        ({"path": "/"}, "https://shop.example", True),
        ({"path": "/a"}, "https://shop.example/a/?x#y", True),
        ({"path": "/a/"}, "https://shop.example/a", True),
        ({"path": "/a"}, "https://shop.example/a//", False),
        ({"path": "/a"}, "https://shop.example/A", False),
        ({"path": "/a"}, "https://shop.example/%61", False),
        ({"path": "/a/*"}, "https://shop.example/a/", True),
        ({"path": "/a/*"}, "https://shop.example/a/b", True),
        ({"path": "/a/*"}, "https://shop.example/a", False),
        ({"path": "/a*"}, "https://shop.example/ab", True),
        ({"domain": "blog.example", "path": "/a"}, "https://shop.example/a", False),
        ({"url": "https://shop.example/a"}, "http://shop.example/a/?x=1#top", True),
        ({"url": "https://shop.example/a"}, "https://blog.example/a", False),
        ({"url": "https://shop.example/a?x=1", "query": "ignore"}, "https://shop.example/a?y", True),
        ({"url": "https://shop.example/a?x=1", "query": "exact"}, "https://shop.example/a/?x=1#top", True),
        ({"url": "https://shop.example/a?x=1", "query": "exact"}, "https://shop.example/a?X=1", False),
        ({"url": "https://shop.example/a?", "query": "exact"}, "https://shop.example/a", True),
        ({"url": "https://shop.example/a", "query": "exact"}, "https://shop.example/a?x", False),
    ],
)
def test_pages_compare_by_host_and_path(fields: Fields, url: str, expected: bool) -> None:
    assert holds({"kind": "page_visit", **fields}, visit("e1", 1, url=url)) is expected
    referred = visit("e1", 1, url="https://here.example/", referrer=url)
    assert holds({"kind": "referral", **fields}, referred) is expected


def test_a_referrer_that_is_no_absolute_url_counts_as_absent() -> None:
    for referrer in ("/a", "", "shop.example/a", None):
        assert not holds({"kind": "referral"}, visit("e1", 1, referrer=referrer))


# The other kinds


def test_integer_ids_are_their_decimal_strings_on_both_sides() -> None:
    assert holds({"kind": "email", "action": "sent", "campaign_id": "7"}, event("e1", "email.sent", 1, campaign_id=7))
    assert holds({"kind": "location", "location_id": 7}, event("e1", "location.visit", 1, location_id="7"))
    assert not holds({"kind": "location", "location_id": 7}, event("e1", "location.visit", 1, location_id="07"))
    outcome = run(segment(AT_LEAST_1), visit("e1", 1, customer=7) | {"event_id": 12})
    assert (outcome.changes[0]["customer_id"], outcome.changes[0]["cause"]["event_id"]) == ("7", "12")


def test_a_message_matches_by_channel_action_and_campaign() -> None:
    late = event("e1", "sms.opened.late", 1, campaign_id="spring")
    assert holds({"kind": "sms", "action": "opened.late"}, late)
    assert holds({"kind": "sms", "action": "opened.late", "campaign_id": "spring"}, late)
    assert not holds({"kind": "sms", "action": "opened"}, late)
    assert not holds({"kind": "push", "action": "opened.late"}, late)
    assert not holds({"kind": "sms", "action": "opened.late", "campaign_id": "Spring"}, late)
    assert not holds({"kind": "sms", "action": "sent", "campaign_id": "spring"}, event("e1", "sms.sent", 1))


def test_an_order_counts_once_however_many_of_its_items_match() -> None:
    items = [{"product_id": "a", "category": ["Hats", "Shoes"]}, {"product_id": "b", "category": "Shoes"}]
    condition = {"kind": "purchase_category", "category": "Shoes"}
    assert holds(condition | {"at_most": 1, "at_least": 1}, order("e1", 1, 5, items=items))
    assert not holds(condition, order("e1", 1, 5, items=[{"product_id": "Shoes"}]))


def test_a_product_condition_without_a_product_takes_orders_with_any_item() -> None:
    assert holds({"kind": "purchase_product"}, order("e1", 1, 5, items=[{"product_id": 5}]))
    assert not holds({"kind": "purchase_product"}, order("e1", 1, 5, items=[]))
    assert not holds({"kind": "purchase_product"}, order("e1", 1, 5))


def test_a_price_is_of_the_product_that_is_asked_for() -> None:
    items = [{"product_id": "a", "price": 5}, {"product_id": "b", "price": 50}, {"product_id": "c"}]
    bought = order("e1", 1, 55, items=items, currency="EUR")
    assert holds({"kind": "purchase_price", "min": 50}, bought)
    assert not holds({"kind": "purchase_price", "min": 50, "product_id": "a"}, bought)
    assert not holds({"kind": "purchase_price", "max": 4.99}, bought)
    assert not holds({"kind": "purchase_price", "min": 50, "currency": "USD"}, bought)
    assert not holds({"kind": "purchase_price", "min": 0, "product_id": "c"}, bought)


def test_money_is_exact_and_rounded_half_even_to_six_places() -> None:
    spent = {"kind": "spend", "min": 0.3, "max": 0.3}
    assert holds(spent, order("e1", 1, 0.1), order("e2", 2, 0.2))
    assert holds({"kind": "transaction", "min": 1, "max": 1}, order("e1", 1, 1.0000005))
    assert holds({"kind": "transaction", "min": 1.000002, "max": 1.000002}, order("e1", 1, 1.0000015))
    assert not holds({"kind": "transaction", "max": 19.99}, order("e1", 1, 19.990001))


def test_spend_sums_the_orders_in_the_window_and_is_zero_without_any() -> None:
    outcome = run(
        segment({"kind": "spend", "max": 50, "within": "10s", "currency": "EUR"}),
        order("e1", 1, 50, currency="EUR"),
        order("e2", 2, 1000, currency="USD"),
        order("e3", 5, 0.01, currency="EUR"),
        until=20,
    )
    assert brief(outcome) == [
        ("ann", "entered", "s", "00:00:01"),
        ("ann", "left", "s", "00:00:05"),
        ("ann", "entered", "s", "00:00:11"),
    ]
    assert outcome.changes[1]["valid_until"] == "1970-01-01T00:00:11.000Z"


def test_an_event_condition_asks_for_every_entry_and_reads_the_properties_as_they_came() -> None:
    where = [
        {"property": "order_id", "operator": "equals", "value": 5},
        {"property": "extra.gift", "operator": "exists"},
    ]
    condition = {"kind": "event", "type": "purchase.order", "where": where}
    content = {"total": 1, "extra": {"gift": False}}
    assert holds(condition, event("e1", "purchase.order", 1, order_id=5, **content))
    assert not holds(condition, event("e1", "purchase.order", 1, order_id="5", **content))
    assert not holds(condition, event("e1", "purchase.order", 1, order_id=5, total=1, extra={"gift": None}))
    assert holds({"kind": "event", "type": "Quiz"}, event("e1", "Quiz", 1))
    assert not holds({"kind": "event", "type": "Quiz"}, event("e1", "quiz", 1))


def test_all_and_any_combine_conditions_after_negation() -> None:
    conditions = ({"kind": "page_visit"}, {"kind": "app_screen", "negate": True})
    screen = event("e1", "app.screen", 1, screen="home")
    assert brief(run(segment(*conditions), screen, visit("e2", 2))) == []
    outcome = run(segment(*conditions, match="any"), screen, visit("e2", 2))
    assert brief(outcome) == [("ann", "entered", "s", "00:00:02")]
    assert outcome.changes[0]["conditions"] == [True, False]


# Lines


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (1_709_164_800_123, "2024-02-29T00:00:00.123Z"),
        ("2024-02-29T00:00:00.123999Z", "2024-02-29T00:00:00.123Z"),
        ("2024-02-29 02:00:00.1+02:00", "2024-02-29T00:00:00.100Z"),
        ("2024-02-28T18:30:00-05:30", "2024-02-29T00:00:00.000Z"),
        ("1970-01-01T00:00:00.0009Z", "1970-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_cut_to_milliseconds(time: int | str, expected: str) -> None:
    outcome = run(segment(AT_LEAST_1), visit("e1", None) | {"time": time})
    assert outcome.changes[0]["effective_at"] == expected


def test_blank_lines_and_a_byte_order_mark_are_skipped_and_lines_counted_all_the_same() -> None:
    first = b"\xef\xbb\xbf" + json.dumps(visit("e1", 1)).encode() + b"\r"
    outcome = run(segment(VISIT), first, b"  ", b"nonsense", b"", visit("e2", 20))
    assert outcome.rejected == [Rejected(3, "not_json", None)]
    assert [each["cause"] and each["cause"]["offset"] for each in outcome.changes] == [0, None, 4]


def test_an_invalid_line_moves_nothing() -> None:
    outcome = run(segment(VISIT), visit("e1", 1), visit("e2", 99, url="/a"), event("e3", "", 99))
    assert brief(outcome) == [("ann", "entered", "s", "00:00:01")]
    assert outcome.rejected == [(2, "bad_url", "properties.url"), (3, "out_of_range", "type")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff", ("not_utf8", None)),
        (b'{"total": NaN}', ("not_json", None)),
        (b"[]", ("not_object", None)),
        (visit("", 1), ("out_of_range", "event_id")),
        (visit("x" * 129, 1), ("out_of_range", "event_id")),
        (visit("e1", None), ("missing", "time")),
        (visit("e1", "1969-12-31T23:59:59.9999Z"), ("bad_time", "time")),
        (visit("e1", 1, at="tomorrow"), ("bad_time", "received_at")),
        (visit("e1", 1, customer=None), ("missing", "customer_id")),
        (visit("e1", 1, customer=1.5), ("wrong_type", "customer_id")),
        (visit("e1", 1) | {"properties": None}, ("missing", "properties")),
        (visit("e1", 1, url=""), ("bad_url", "properties.url")),
        (visit("e1", 1, referrer=7), ("wrong_type", "properties.referrer")),
        (order("e1", 1, -0.01), ("out_of_range", "properties.total")),
        (order("e1", 1, 10**12), ("out_of_range", "properties.total")),
        (order("e1", 1, True), ("wrong_type", "properties.total")),
        (order("e1", 1, 1, items=[{"price": 1}]), ("missing", "properties.items[0].product_id")),
        (event("e1", "customer.update", 1, agreements={"sms": 1}), ("wrong_type", "properties.agreements.sms")),
    ],
)
def test_the_first_wrong_field_is_named(content: Fields | bytes, expected: tuple[str, str | None]) -> None:
    assert rejected(content) == expected


def test_lengths_count_code_points() -> None:
    assert run(segment(AT_LEAST_1), visit("\U0001d538" * 128, 1)).rejected == []


# Cases


@pytest.mark.parametrize("seed", range(12))
def test_a_case_is_the_same_each_time_and_knows_its_faults(seed: int) -> None:
    drawn = case(seed)
    assert drawn == case(seed)
    outcome = replay(drawn.document, drawn.lines, drawn.until_ms)
    assert [tuple(each) for each in outcome.rejected] == drawn.faults


def test_cases_hold_every_kind_operator_and_fault() -> None:
    cases = [case(seed) for seed in range(40)]
    conditions = [each for drawn in cases for segment in drawn.document["segments"] for each in segment["conditions"]]
    tests = [test for each in conditions for test in [each, *each.get("where", [])] if "operator" in test]
    assert len({each["kind"] for each in conditions}) == 15
    assert len({each["operator"] for each in tests}) == 8
    assert {each["within"][-1] for each in conditions if "within" in each} == set("smhdw")
    assert {code for drawn in cases for _, code, _ in drawn.faults} == {
        "not_utf8",
        "not_json",
        "not_object",
        "missing",
        "wrong_type",
        "out_of_range",
        "bad_time",
        "bad_url",
    }
