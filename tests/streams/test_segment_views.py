"""Segments over several workers: sums that leave nothing out, and previews of unsaved segments."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from conditions.documents import SegmentDocument, parse_segment
from connectors.json_events import decode_line
from streams import segment_views
from streams.definitions import DefinitionsFollower, DefinitionsWriter
from streams.definitions_log import MemoryDefinitionsLog
from streams.segment_views import SegmentViews
from streams.segments_api import routes
from streams.settings import load_settings
from streams.wall_time import wall_time_ms
from tests.streams.owned import Owned, OwnedPartition

Client = TestClient[web.Request, web.Application]
PATIENCE_S = 60.0
ACTIVE = {"stage": "active", "progress": 1.0, "history_from": None}
START_MS = 1_700_000_000_000  # long ago

VISITED = {"id": "visited", "name": "Visited", "conditions": [{"kind": "page_visit", "domain": "shop.example"}]}
ABSENT = {"id": "absent", "name": "Absent", "conditions": [{"kind": "page_visit", "within": "2d", "negate": True}]}


def document(value: dict[str, Any]) -> SegmentDocument:
    return parse_segment(dict(value))


def event(customer: str, number: int, kind: str = "page.visit", **properties: Any) -> bytes:
    at_ms = START_MS + number
    fields = {"event_id": f"e{number}", "type": kind, "customer_id": customer, "time": at_ms}
    return json.dumps({**fields, "properties": properties}).encode()


def visits(customers: int, prefix: str) -> list[bytes]:
    """Every third customer visits the shop, the others another site."""
    return [
        event(f"{prefix}{each}", each, url=f"https://{'blog' if each % 3 else 'shop'}.example/")
        for each in range(customers)
    ]


class Workers:
    """Web servers of workers that know each other, over one log of definitions."""

    def __init__(self) -> None:
        self.log = MemoryDefinitionsLog()
        self.follower = DefinitionsFollower(self.log)
        self.owned: list[Owned] = []
        self.clients: list[Client] = []
        self.views: list[SegmentViews] = []

    async def start(self, *partitions: tuple[OwnedPartition, ...]) -> list[Client]:
        await self.follower.start()
        writer = DefinitionsWriter(self.log, self.follower)
        await writer.apply([document(VISITED), document(ABSENT)])
        for each in partitions:
            owned = Owned(*each)
            views = SegmentViews(owned, lambda _, owned=owned: dict.fromkeys(owned.answers, ACTIVE))  # type: ignore[misc]  # a lambda's default
            app = web.Application()
            app.add_routes(routes(self.follower, writer, load_settings(), views))
            client = TestClient(TestServer(app, host="127.0.0.1"))
            await client.start_server()
            self.owned.append(owned)
            self.views.append(views)
            self.clients.append(client)
        self.tell({number: place for place, each in enumerate(self.owned) for number in each.answers})
        return self.clients

    def tell(self, owners: dict[int, int]) -> None:
        for each in self.owned:
            each.owners = {number: str(self.clients[place].make_url("")) for number, place in owners.items()}

    async def stop(self) -> None:
        for each in self.views:
            await each.stop()
        for client in self.clients:
            await client.close()
        await self.follower.stop()


@pytest_asyncio.fixture
async def workers() -> AsyncIterator[Workers]:
    made = Workers()
    yield made
    await made.stop()


def partition(number: int, customers: int) -> OwnedPartition:
    made = OwnedPartition(number)
    made.define(document(VISITED), document(ABSENT))
    made.apply(visits(customers, f"p{number}-"), START_MS)
    return made


async def status_of(client: Client, segment_id: str = "visited") -> dict[str, Any]:
    response = await client.get(f"/api/segments/{segment_id}")
    assert response.status == 200, await response.text()
    found: dict[str, Any] = (await response.json())["status"]
    return found


async def counted(client: Client, segment_id: str = "visited") -> dict[str, Any]:
    """The status once all customers are counted."""
    deadline = monotonic() + PATIENCE_S
    while (found := await status_of(client, segment_id))["size"] is None:
        assert monotonic() < deadline, found
    return found


async def test_sizes_and_flows_are_summed_over_all_workers(workers: Workers) -> None:
    partitions = [partition(number, customers) for number, customers in enumerate((600, 45, 0))]
    clients = await workers.start((partitions[0], partitions[2]), (partitions[1],))
    for client in clients:
        status = await counted(client)
        assert (status["size"], status["customers"], status["counted"]) == (215, 645, 645)
        assert {number: each["size"] for number, each in status["partitions"].items()} == {"0": 200, "1": 15, "2": 0}
        assert (status["unanswered"], status["status"]) == ([], "active")
        assert {each["version"] for each in status["partitions"].values()} == {1}
    # Entered now, and followed as it is committed.
    now_ms = wall_time_ms()
    partitions[1].apply([event("new", 1, url="https://shop.example/")], now_ms)
    partitions[1].apply([event("p1-0", 2, "customer.delete"), event("p1-1", 3, "customer.delete")], now_ms)
    status = await counted(clients[0])
    assert status["size"] == 215
    assert (status["last_hour"]["entered"], status["last_hour"]["left"]) == (1, 1)
    assert (status["last_day"]["entered"], status["last_day"]["left"]) == (1, 1)
    assert status["counted_from"] is None


async def test_one_answer_missing_means_no_number_and_names_the_partition(workers: Workers) -> None:
    clients = await workers.start((partition(0, 30),), (partition(1, 30),))
    assert (await counted(clients[0]))["size"] == 20
    await clients[1].close()
    status = await status_of(clients[0])
    assert status["unanswered"] == [1]
    assert [status[name] for name in ("size", "counted", "customers", "last_hour", "last_day")] == [None] * 5
    assert (status["status"], status["partitions"]["0"]["size"]) == ("unknown", 10)


async def test_a_worker_that_is_silent_is_waited_for_only_a_moment(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_views, "OTHERS_TIMEOUT_S", 0.2)
    [client] = await workers.start((partition(0, 3),))

    async def never(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError("nobody ends the wait")

    app = web.Application()
    app.router.add_get("/{rest:.*}", never)
    async with TestServer(app) as silent:
        workers.owned[0].owners = {**workers.owned[0].owners, 1: str(silent.make_url(""))}
        assert (await status_of(client))["unanswered"] == [1]


async def test_partitions_nobody_tells_of_are_unanswered(workers: Workers) -> None:
    [client] = await workers.start((partition(0, 3),))
    workers.owned[0].owners = {**workers.owned[0].owners, 1: ""}
    assert (await status_of(client))["unanswered"] == [1]
    workers.owned[0].owners = {}
    status = await status_of(client)
    assert (status["unanswered"], status["size"]) == (None, None)


async def test_flows_are_those_of_the_changes_read_back(workers: Workers) -> None:
    made = partition(0, 0)
    now_ms = wall_time_ms()
    made.apply(visits(60, "c"), now_ms - 3 * 3_600_000)
    made.apply([event(f"c{each}", 100 + each, "customer.delete") for each in range(0, 60, 6)], now_ms - 60_000)
    [client] = await workers.start((made,))
    deadline = monotonic() + PATIENCE_S
    while (status := await counted(client))["counted_from"] is not None:
        assert monotonic() < deadline, status
    kinds = Counter(change.type for change in made.changes if change.segment_id == "visited")
    assert kinds == {"entered": 20, "left": 10}
    assert (status["last_hour"]["entered"], status["last_hour"]["left"]) == (0, 10)
    assert (status["last_day"]["entered"], status["last_day"]["left"], status["size"]) == (20, 10, 10)


async def test_counts_survive_an_opening_that_brought_nothing_new_and_no_other(workers: Workers) -> None:
    made = partition(0, 9)
    [client] = await workers.start((made,))
    assert (await counted(client))["size"] == 3
    tally = made.answers._tally
    made.engine.discard()
    made.answers.reopened()
    assert made.answers._tally is tally
    # Another worker has gone on meanwhile: its changes came with the restored state, and not through this one.
    result = made.engine.run([decode_line(event("x", 3, url="https://shop.example/"), 99)], START_MS)
    made.engine.commit()
    made.changes += result.changes
    made.engine.discard()
    made.answers.reopened()
    assert (await counted(client))["size"] == 4


# -- previews ---------------------------------------------------------------------------------------------------------


async def preview(client: Client, value: dict[str, Any], query: str = "") -> dict[str, Any]:
    response = await client.post(f"/api/segments/preview{query}", json=value)
    assert response.status == 200, await response.text()
    found: dict[str, Any] = await response.json()
    return found


def unsaved(*conditions: dict[str, Any], match: str = "all") -> dict[str, Any]:
    return {"name": "Unsaved", "match": match, "conditions": list(conditions)}


SHOP: dict[str, Any] = {"kind": "page_visit", "domain": "shop.example"}
BLOG: dict[str, Any] = {"kind": "page_visit", "domain": "blog.example"}


async def test_a_preview_counts_a_sample_and_names_what_it_cannot_know(workers: Workers) -> None:
    [client] = await workers.start((partition(0, 90),))
    found = await preview(client, unsaved(SHOP))
    assert (found["partition"], found["customers"], found["sampled_from"]) == (0, 90, 90)
    sample = found["sample"]
    assert (sample["sampled"], sample["members"], sample["others"], sample["unknown"]) == (90, 30, 60, 0)
    assert len(sample["examples"]["members"]) == 5
    assert {int(each.removeprefix("p0-")) % 3 for each in sample["examples"]["members"]} == {0}
    assert [(each["known"], each["holds"]) for each in sample["conditions"]] == [(True, 30)]
    sample = (await preview(client, unsaved(SHOP, BLOG)))["sample"]
    assert (sample["members"], sample["others"], sample["unknown"]) == (0, 60, 30)
    assert [(each["known"], each["holds"]) for each in sample["conditions"]] == [(True, 30), (False, None)]
    sample = (await preview(client, unsaved(SHOP, BLOG, match="any")))["sample"]
    assert (sample["members"], sample["others"], sample["unknown"]) == (30, 0, 60)


async def test_the_sample_is_as_large_as_asked_for_and_even(workers: Workers) -> None:
    [client] = await workers.start((partition(0, 900),))
    for size in (1, 7, 300):
        sample = (await preview(client, unsaved(SHOP), f"?sample={size}"))["sample"]
        assert sample["sampled"] == size
    sample = (await preview(client, unsaved(SHOP), "?sample=300"))["sample"]
    assert 80 <= sample["members"] <= 120  # a third are members, in whatever order ids sort
    for wrong in ("0", "10001", "x"):
        response = await client.post(f"/api/segments/preview?sample={wrong}", json=unsaved(SHOP))
        assert response.status == 400


async def test_a_preview_has_the_faults_of_saving(workers: Workers) -> None:
    [client] = await workers.start((partition(0, 3),))
    response = await client.post("/api/segments/preview", json=unsaved({"kind": "page_visit", "within": "0d"}))
    faults = await response.json()
    assert (response.status, faults["title"]) == (422, "Invalid segment document")
    saving = await client.put("/api/segments/x", json=unsaved({"kind": "page_visit", "within": "0d"}))
    assert (await saving.json())["errors"] == faults["errors"]
    taken = await client.post("/api/segments/preview", json={**unsaved(SHOP), "name": "Visited"})
    assert (taken.status, (await taken.json())["detail"]) == (409, "the name is taken")
    edited = await preview(client, {**unsaved(SHOP), "id": "visited", "name": "Visited"})
    assert edited["sample"]["members"] == 1
    assert (await client.post("/api/segments/preview", data="{}")).status == 415


async def test_a_preview_of_another_workers_partition_is_sent_there(workers: Workers) -> None:
    clients = await workers.start((partition(0, 3),), (partition(1, 6),))
    assert (await preview(clients[0], unsaved(SHOP), "?partition=1"))["customers"] == 6
    response = await clients[0].post("/api/segments/preview?partition=2", json=unsaved(SHOP))
    assert (response.status, (await response.json())["detail"]) == (400, "there is no partition 2; there are 2")


async def test_a_preview_writes_nothing(workers: Workers) -> None:
    made = partition(0, 30)
    [client] = await workers.start((made,))
    before = dict(made.store.scan()), dict(made.store.scan_meta(b""))
    await preview(client, unsaved(SHOP, BLOG))
    assert (dict(made.store.scan()), dict(made.store.scan_meta(b""))) == before
    assert set(made.engine.definitions.segments) == {"absent", "visited"}
