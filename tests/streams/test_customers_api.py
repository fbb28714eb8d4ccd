"""One customer over HTTP: what is answered, and where a worker sends those who ask for somebody else's customer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from conditions.documents import SegmentDocument, parse_segment
from conditions.times import DAY_MS, format_time
from connectors.json_events import decode_lines
from streams.customers_api import _known, _page, routes
from streams.kafka.keys import crc32_partition, murmur2_partition
from tests.streams.owned import Owned, OwnedPartition

Client = TestClient[web.Request, web.Application]
NOW_MS = 1_790_000_000_000


def segment(segment_id: str, version: int = 1, **condition: Any) -> SegmentDocument:
    document = {"id": segment_id, "name": segment_id.title(), "version": version, "conditions": [condition]}
    return parse_segment(document)


VISITED = segment("visited", kind="page_visit", within="2d")
ABSENT = segment("absent", 3, kind="page_visit", within="2d", negate=True)


def visit(customer: str, at_ms: int) -> bytes:
    event = {"event_id": f"{customer[:20]}{at_ms}", "type": "page.visit", "customer_id": customer, "time": at_ms}
    return json.dumps({**event, "properties": {"url": "https://shop.example/"}}).encode()


def partition_with(*customers: str, number: int = 0) -> OwnedPartition:
    made = OwnedPartition(number)
    made.define(VISITED, ABSENT)
    made.apply([visit(each, NOW_MS) for each in customers], NOW_MS)
    return made


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    clients: list[Client] = []

    async def start(owned: Owned) -> Client:
        app = web.Application()
        app.add_routes(routes(owned))
        clients.append(TestClient(TestServer(app, host="127.0.0.1")))
        await clients[-1].start_server()
        return clients[-1]

    yield start
    for each in clients:
        await each.close()


async def problem(client: Client, path: str, status: int) -> str:
    response = await client.get(path, allow_redirects=False)
    assert (response.status, response.content_type) == (status, "application/problem+json"), await response.text()
    detail: str = (await response.json())["detail"]
    return detail


async def test_a_customer_is_answered_with_memberships_conditions_and_last_changes(serve: Callable[..., Any]) -> None:
    client = await serve(Owned(partition_with("anna", "bert")))
    answer = await (await client.get("/api/customers/anna")).json()
    assert (answer["customer_id"], answer["at"], answer["partition"]) == ("anna", format_time(NOW_MS), 0)
    assert answer["memberships"] == [{"segment_id": "visited", "segment_name": "Visited", "version": 1}]
    [absent, visited] = answer["segments"]
    assert (absent["member"], visited["member"], visited["valid_until"]) == (
        False,
        True,
        format_time(NOW_MS + 2 * DAY_MS),
    )
    assert visited["conditions"][0]["seen"] == {"events": 1, "newest": [format_time(NOW_MS)], "or_more": True}
    [change] = answer["last_changes"]
    assert (change["type"], change["segment_id"], change["reason"]) == ("entered", "visited", "event")
    assert change["cause"]["event_id"] == f"anna{NOW_MS}"
    assert answer["looked_back_to"] is None
    assert answer["pending"] == []


async def test_what_is_explained_is_what_was_in_force_when_it_was_asked() -> None:
    partition = partition_with("anna")
    known = _known(0, await partition.answers.state(), "anna", None)
    assert known is not None
    before = await _page(known, None)
    partition.define()
    after = await _page(known, None)
    assert isinstance(before.body, bytes)
    assert after.body == before.body
    told = json.loads(before.body)["segments"]
    assert [each["conditions"][0]["seen"]["or_more"] for each in told] == [True, True]


async def test_one_segment_can_be_asked_for(serve: Callable[..., Any]) -> None:
    client = await serve(Owned(partition_with("anna")))
    answer = await (await client.get("/api/customers/anna?segment=absent")).json()
    assert [each["segment_id"] for each in answer["segments"]] == ["absent"]
    assert answer["last_changes"] == []
    assert "no segment 'nobody'" in await problem(client, "/api/customers/anna?segment=nobody", 400)


async def test_older_changes_are_read_back_and_then_followed(serve: Callable[..., Any]) -> None:
    partition = partition_with("anna", "bert")
    partition.apply([visit("bert", NOW_MS + 3 * DAY_MS)], NOW_MS)  # anna and bert leave, bert comes back
    client = await serve(Owned(partition))
    for _ in range(2):
        answer = await (await client.get("/api/customers/bert")).json()
        kinds = [(each["type"], each["segment_id"]) for each in answer["last_changes"]]
        assert kinds[-3:] == [("left", "visited"), ("entered", "absent"), ("entered", "visited")]
        assert [each["sequence"] for each in answer["last_changes"]] == sorted(
            (each.sequence for each in partition.changes if each.customer_id == "bert"), reverse=True
        )
        partition.apply([visit("bert", NOW_MS + 9 * DAY_MS)], NOW_MS)
    assert len((await (await client.get("/api/customers/bert?changes=2")).json())["last_changes"]) == 2
    unasked = await (await client.get("/api/customers/bert?changes=0")).json()
    assert not {"last_changes", "looked_back_to"} & set(unasked)
    assert "changes: expected an integer" in await problem(client, "/api/customers/bert?changes=-1", 400)


@pytest.mark.parametrize("digits", ["0" * 20 + "5000000", "0" * 5_001, "9" * 21])
async def test_a_number_of_too_many_digits_is_refused(serve: Callable[..., Any], digits: str) -> None:
    client = await serve(Owned(partition_with("anna")))
    detail = await problem(client, f"/api/customers/anna?changes={digits}", 400)
    assert detail.startswith("changes: expected an integer from 0 to 1,000, got ")
    assert len(detail) < 100


async def test_what_was_decided_and_not_committed_is_not_seen(serve: Callable[..., Any]) -> None:
    partition = partition_with("anna")
    client = await serve(Owned(partition))
    later = partition.engine.run(
        decode_lines([visit("anna", NOW_MS + 5 * DAY_MS), visit("carl", NOW_MS)], [99, 100]), 0
    )
    answer = await (await client.get("/api/customers/anna")).json()
    assert (answer["at"], len(answer["last_changes"])) == (format_time(NOW_MS), 1)
    assert "'carl' is not known" in await problem(client, "/api/customers/carl", 404)
    partition.commit(later)
    answer = await (await client.get("/api/customers/anna")).json()
    assert answer["at"] == format_time(NOW_MS + 5 * DAY_MS)


async def test_a_customer_still_to_be_asked_is_in_what_was_last_said(serve: Callable[..., Any]) -> None:
    partition = partition_with("anna", "bert")
    client = await serve(Owned(partition))
    changed = segment("visited", 2, kind="page_visit", within="2d", negate=True)
    changes = partition.engine.differences(["visited"], lambda _: changed, lambda _: 1)
    partition.commit(partition.engine.begin_redefinition(9, changes, {}))
    answer = await (await client.get("/api/customers/bert")).json()
    assert answer["pending"] == ["visited"]
    assert [(each["segment_id"], each["version"]) for each in answer["memberships"]] == [("visited", 1)]
    partition.commit(partition.engine.scan(0, 1, 100))  # anna
    answer = await (await client.get("/api/customers/anna")).json()
    assert (answer["pending"], answer["memberships"]) == ([], [])
    assert (await (await client.get("/api/customers/bert")).json())["pending"] == ["visited"]


@pytest.mark.parametrize("customer", ["a/b", "näme", "a b?c#d", "100%", "c" * 256])
async def test_every_id_can_be_asked_for(serve: Callable[..., Any], customer: str) -> None:
    client = await serve(Owned(partition_with(customer)))
    response = await client.get(f"/api/customers/{quote(customer, safe='')}")
    assert (await response.json())["customer_id"] == customer


# -- who answers ------------------------------------------------------------------------------------------------------

COUNT = 4
URLS = {number: f"http://worker-{number}.example:1" for number in range(COUNT)}


def placed(murmur2: int, crc32: int) -> str:
    """A customer that producers put into these partitions."""
    found = (f"c{number}" for number in range(10_000))
    return next(
        each
        for each in found
        if (murmur2_partition(each.encode(), COUNT), crc32_partition(each.encode(), COUNT)) == (murmur2, crc32)
    )


def owned(*partitions: OwnedPartition, closed: frozenset[int] = frozenset()) -> Owned:
    numbers = frozenset(each.answers.number for each in partitions)
    return Owned(*partitions, assigned=numbers | closed, owners=URLS)


async def sent_to(client: Client, path: str) -> str:
    response = await client.get(path, allow_redirects=False)
    assert response.status == 307, await response.text()
    return str(response.headers["Location"])


async def test_others_redirect_to_the_owner_of_the_partition(serve: Callable[..., Any]) -> None:
    customer = placed(2, 1)
    client = await serve(owned(partition_with(number=0)))
    path = f"/api/customers/{customer}?segment=visited"
    assert await sent_to(client, path) == f"{URLS[2]}{path}"
    elsewhere = murmur2_partition(b"a/b c", COUNT)
    client = await serve(owned(partition_with(number=(elsewhere + 1) % COUNT)))
    assert await sent_to(client, "/api/customers/a%2Fb%20c") == f"{URLS[elsewhere]}/api/customers/a%2Fb%20c"


async def test_a_customer_that_crc32_has_placed_is_found(serve: Callable[..., Any]) -> None:
    customer = placed(2, 1)
    path = f"/api/customers/{customer}"
    first = await serve(owned(partition_with(number=2)))
    onward = await sent_to(first, path)
    assert onward == f"{URLS[1]}{path}?looked_into=2"
    second = await serve(owned(partition_with(customer, number=1)))
    answer = await (await second.get(onward.removeprefix(URLS[1]))).json()
    assert (answer["customer_id"], answer["partition"]) == (customer, 1)


async def test_nobody_sends_on_for_ever(serve: Callable[..., Any]) -> None:
    customer = placed(2, 1)
    workers = {2: await serve(owned(partition_with(number=2))), 1: await serve(owned(partition_with(number=1)))}
    onward = await sent_to(workers[2], f"/api/customers/{customer}")
    assert "is not known" in await problem(workers[1], onward.removeprefix(URLS[1]), 404)
    both = await serve(owned(partition_with(number=1), partition_with(number=2)))
    assert "is not known" in await problem(both, f"/api/customers/{customer}", 404)


async def test_a_customer_in_a_partition_that_no_rule_names_is_found_by_its_owner(serve: Callable[..., Any]) -> None:
    customer = placed(2, 1)
    client = await serve(owned(partition_with(number=0), partition_with(customer, number=3)))
    assert (await (await client.get(f"/api/customers/{customer}")).json())["partition"] == 3


async def test_what_may_be_known_a_moment_later_is_503(serve: Callable[..., Any]) -> None:
    customer = placed(2, 1)
    path = f"/api/customers/{customer}"
    opening = await serve(owned(partition_with(number=0), closed=frozenset({2})))
    assert await problem(opening, path, 503) == "partition 2 is being restored"
    response = await opening.get(path)
    assert (response.headers["Retry-After"], (await response.json())["title"]) == ("5", "Not ready to answer")
    deciding = Owned()
    deciding.assigned_partitions = None
    assert "the group is deciding" in await problem(await serve(deciding), path, 503)
    untold = Owned(partition_with(number=0), owners={})
    assert "older release" in await problem(await serve(untold), path, 503)
    silent = owned(partition_with(number=0))
    silent.owners = {**URLS, 2: ""}
    assert "the owner of partition 2 runs an older release" in await problem(await serve(silent), path, 503)
