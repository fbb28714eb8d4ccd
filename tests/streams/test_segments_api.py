"""Segments over HTTP: what is answered, what is refused, and who may write."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from multidict import CIMultiDict

from streams.definitions import DefinitionsFollower, DefinitionsWriter
from streams.definitions_log import MemoryDefinitionsLog
from streams.own_hosts import own_hosts_only
from streams.segment_views import SegmentViews
from streams.segments_api import WriteGuard, WriteRefused, routes
from streams.settings import Settings
from tests.definitions_contract import by_hand, document
from tests.streams.owned import Owned, OwnedPartition

TOKEN = "correct horse battery"
DOCUMENT = {"id": "a", "name": "A", "conditions": [{"kind": "app_screen"}]}

Client = TestClient[web.Request, web.Application]


class Api:
    """The routes over a log in memory, without a token unless one is asked for."""

    def __init__(self, *partitions: OwnedPartition, **settings: Any) -> None:
        self.owned = Owned(*partitions)
        self.log = MemoryDefinitionsLog()
        self.follower = DefinitionsFollower(self.log)
        self.settings = Settings(**settings)
        self.client: Client | None = None

    async def start(self) -> Client:
        await self.follower.start()
        app = web.Application(middlewares=[own_hosts_only(self.settings)])
        writer = DefinitionsWriter(self.log, self.follower)
        views = SegmentViews(self.owned, lambda _: {})
        app.add_routes(routes(self.follower, writer, self.settings, views))
        self.client = TestClient(TestServer(app, host="127.0.0.1"))
        await self.client.start_server()
        return self.client

    async def stop(self) -> None:
        await self.follower.stop()
        if self.client is not None:
            await self.client.close()


@pytest_asyncio.fixture
async def new_client() -> AsyncIterator[Callable[..., Any]]:
    apis: list[Api] = []

    async def make(**settings: Any) -> Client:
        apis.append(Api(**settings))
        return await apis[-1].start()

    yield make
    for api in apis:
        await api.stop()


@pytest_asyncio.fixture
async def client(new_client: Callable[..., Any]) -> Client:
    made: Client = await new_client()
    return made


async def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status == status, await response.text()
    assert response.content_type == "application/problem+json"
    value: dict[str, Any] = json.loads(await response.read())
    assert value["status"] == status
    assert value["title"]
    return value


async def test_a_segment_is_created_looked_at_changed_and_deleted(client: Client) -> None:
    created = await client.put("/api/segments/a", json=DOCUMENT)
    assert (created.status, created.headers["ETag"]) == (201, '"1"')
    changed = await client.put("/api/segments/a", json=DOCUMENT | {"name": "B"}, headers={"If-Match": '"1"'})
    assert (changed.status, changed.headers["ETag"], (await changed.json())["action"]) == (200, '"2"', "changed")
    found = await client.get("/api/segments/a")
    value = await found.json()
    assert (found.headers["ETag"], value["version"]) == ('"2"', 2)
    assert value["document"] == DOCUMENT | {"name": "B", "version": 2}
    assert [each["kind"] for each in value["history"]] == ["created", "changed"]
    listed = await (await client.get("/api/segments")).json()
    assert listed["segments"] == [{"id": "a", "name": "B", "version": 2}]
    deleted = await client.delete("/api/segments/a", headers={"If-Match": '"2"'})
    assert (deleted.status, (await deleted.json())["version"]) == (200, 3)
    assert (await (await client.get("/api/segments")).json())["segments"] == []
    assert "version 3 deleted it" in (await problem(await client.get("/api/segments/a"), 404))["detail"]


async def test_the_id_may_be_left_to_the_url(client: Client) -> None:
    bare = {name: value for name, value in DOCUMENT.items() if name != "id"}
    assert (await client.put("/api/segments/b", json=bare)).status == 201
    assert (await client.put("/api/segments/b", json=bare)).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": '"7"'}, 412),
        ({"If-Match": 'W/"1"'}, 412),
        ({"If-Match": '"7", "1"'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"1","7"'}, 200),
        ({"If-Match": ', "7",, "1" ,'}, 200),
        ({"If-Match": '"-1"'}, 412),
        ({"If-Match": '"1, 2"'}, 412),
        ({"If-None-Match": "*"}, 412),
        ({"If-None-Match": '"1"'}, 412),
        ({"If-None-Match": 'W/"1"'}, 412),
        ({"If-None-Match": '"7", "1"'}, 412),
        ({"If-None-Match": '"7"'}, 200),
        ({"If-Match": '"1"', "If-None-Match": '"7"'}, 200),
        ({"If-Match": '"1"', "If-None-Match": '"1"'}, 412),
    ],
)
async def test_conditional_headers_are_honoured(client: Client, headers: dict[str, str], status: int) -> None:
    await client.put("/api/segments/a", json=DOCUMENT)
    answer = await client.put("/api/segments/a", json=DOCUMENT | {"name": "B"}, headers=headers)
    assert answer.status == status
    if status == 412:
        assert (await problem(answer, 412))["version"] == 1


async def test_several_lines_of_a_conditional_header_are_one_list(client: Client) -> None:
    await client.put("/api/segments/a", json=DOCUMENT)
    lines = CIMultiDict([("If-Match", '"7"'), ("If-Match", '"1"')])
    assert (await client.put("/api/segments/a", json=DOCUMENT | {"name": "B"}, headers=lines)).status == 200


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match"])
@pytest.mark.parametrize("text", ["1", "-1", "", '"1', '"1"x', '"1" "2"', '*, "1"', 'w/"1"', ","])
async def test_conditional_headers_that_cannot_be_read_are_refused(client: Client, header: str, text: str) -> None:
    await client.put("/api/segments/a", json=DOCUMENT)
    for send in (
        client.put("/api/segments/a", json=DOCUMENT, headers={header: text}),
        client.delete("/api/segments/a", headers={header: text}),
    ):
        detail = (await problem(await send, 400))["detail"]
        assert detail == f'expected {header}: * or versions in quotes, as "3", got the string "{text}"'


@pytest.mark.parametrize(
    ("header", "text", "expected"),
    [
        ("If-Match", '"-1"', 'If-Match: "-1"'),
        ("If-Match", '"7", W/"1"', 'If-Match: "7", W/"1"; a weak tag (W/) matches nothing'),
        ("If-None-Match", 'W/"1"', 'If-None-Match: W/"1"'),
        ("If-None-Match", "*", "If-None-Match: *"),
    ],
)
async def test_a_condition_that_does_not_hold_is_told_as_it_was_sent(
    client: Client, header: str, text: str, expected: str
) -> None:
    await client.put("/api/segments/a", json=DOCUMENT)
    for answer in (
        await client.put("/api/segments/a", json=DOCUMENT | {"name": "B"}, headers={header: text}),
        await client.delete("/api/segments/a", headers={header: text}),
    ):
        detail = (await problem(answer, 412))["detail"]
        assert detail == f"segment a: expected {expected}, but version 1 is in force"


async def test_what_is_not_there_matches_no_version(client: Client) -> None:
    for expected in ('"1"', "*"):
        answer = await client.put("/api/segments/a", json=DOCUMENT, headers={"If-Match": expected})
        assert (await problem(answer, 412))["version"] == 0
    assert (await client.put("/api/segments/a", json=DOCUMENT, headers={"If-None-Match": "*"})).status == 201
    other = DOCUMENT | {"id": "b", "name": "B"}
    assert (await client.put("/api/segments/b", json=other, headers={"If-None-Match": '"1"'})).status == 201
    await problem(await client.delete("/api/segments/never"), 404)
    for header in ("If-Match", "If-None-Match"):
        await problem(await client.delete("/api/segments/never", headers={header: "*"}), 404)


async def test_all_faults_of_a_document_come_with_their_paths(client: Client) -> None:
    wrong = {"id": "b", "name": "", "conditions": [{"kind": "spend"}]}
    value = await problem(await client.put("/api/segments/a", json=wrong), 422)
    assert [each["path"] for each in value["errors"]] == ["id", "name", "conditions[0].min"]


async def test_a_name_that_is_taken_is_a_conflict(client: Client) -> None:
    await client.put("/api/segments/a", json=DOCUMENT)
    value = await problem(await client.put("/api/segments/b", json=DOCUMENT | {"id": "b"}), 409)
    assert value["errors"] == [{"path": "name", "message": 'expected a unique name, got "A" as of segment a'}]


async def test_bodies_that_cannot_be_read_are_refused(client: Client, new_client: Callable[..., Any]) -> None:
    json_type = {"Content-Type": "application/json"}
    await problem(await client.put("/api/segments/a", data="{}", headers={"Content-Type": "text/plain"}), 415)
    value = await problem(await client.put("/api/segments/a", data="{", headers=json_type), 400)
    assert value["errors"][0]["message"].startswith("line 1")
    await problem(await client.put("/api/segments/a", data=b'"\xff"', headers=json_type), 400)
    small = await new_client(message_max_bytes=10_000)
    await problem(await small.put("/api/segments/a", data=b" " * 10_001, headers=json_type), 413)


async def test_with_a_token_only_who_knows_it_writes(new_client: Callable[..., Any]) -> None:
    client = await new_client(api_token=TOKEN)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = await client.put("/api/segments/a", json=DOCUMENT, headers=headers)
        await problem(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    right = {"Authorization": f"Bearer {TOKEN}", "Host": "rollcall.example", "Origin": "https://console.example"}
    assert (await client.put("/api/segments/a", json=DOCUMENT, headers=right)).status == 201
    await problem(await client.delete("/api/segments/a"), 401)
    assert (await client.get("/api/segments/a")).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
        {"X-Forwarded-For": "203.0.113.1"},
    ],
)
async def test_without_a_token_browsers_and_proxies_are_refused(client: Client, headers: dict[str, str]) -> None:
    await problem(await client.put("/api/segments/a", json=DOCUMENT, headers=headers), 403)
    await problem(await client.delete("/api/segments/a", headers=headers), 403)


async def test_without_a_token_the_advertised_name_is_for_asking_and_not_for_writing(
    new_client: Callable[..., Any],
) -> None:
    client = await new_client(web_advertise="https://rollcall.example")
    headers = {"Host": "rollcall.example"}
    assert (await client.get("/api/segments", headers=headers)).status == 200
    value = await problem(await client.put("/api/segments/a", json=DOCUMENT, headers=headers), 403)
    assert "the host is to be localhost" in value["detail"]


async def test_a_page_of_the_same_origin_may_write(client: Client) -> None:
    origin = f"http://127.0.0.1:{client.port}"
    headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
    assert (await client.put("/api/segments/a", json=DOCUMENT, headers=headers)).status == 201


@pytest.mark.parametrize(
    ("remote", "may"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("192.0.2.1", False), (None, False)],
)
def test_without_a_token_only_this_machine_may_write(remote: str | None, may: bool) -> None:
    request = make_mocked_request("PUT", "/api/segments/a", headers={"Host": "localhost:6066"}).clone(
        remote=remote or ""
    )
    with nullcontext() if may else pytest.raises(WriteRefused, match="this machine only"):
        WriteGuard(None).check(request)


@pytest.mark.parametrize("at", ["0", "86399999", "253402300800000", "0" * 30])
async def test_an_instant_that_cannot_be_told_is_refused_with_the_range(at: str) -> None:
    api = Api(OwnedPartition())
    client = await api.start()
    try:
        value = await problem(await client.get(f"/api/segments/a/partitions?at={at}"), 400)
        assert "at: expected an integer from 86,400,000 to 253,402,300,799,999, got" in value["detail"]
        await client.put("/api/segments/a", json=DOCUMENT)
        for told in ("86400000", "253402300799999"):
            assert (await client.get(f"/api/segments/a/partitions?at={told}")).status == 200
    finally:
        await api.stop()


async def test_partitions_are_told_of_segments_in_force_only(client: Client) -> None:
    where = "/api/segments/a/partitions"
    assert (await problem(await client.get(where), 404))["detail"] == "there is no segment a"
    await client.put("/api/segments/a", json=DOCUMENT)
    assert await (await client.get(where)).json() == {"partitions": {}}
    await client.delete("/api/segments/a")
    assert "version 2 deleted it" in (await problem(await client.get(where), 404))["detail"]


async def test_records_that_were_ignored_are_listed() -> None:
    api = Api()
    client = await api.start()
    await api.log.write([by_hand(document("a")), (b"a", b"no JSON")])
    await api.follower.wait_for(2)
    [found] = (await (await client.get("/api/segments")).json())["problems"]
    assert (found["key"], found["offset"], found["reason"]) == ("a", 1, "invalid")
    await api.stop()
