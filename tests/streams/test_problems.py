"""What the web server says of requests that nothing answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from streams.metrics import Metrics
from streams.settings import load_settings
from streams.web import WebServer
from tests.streams.owned import AnsweringWorker, OwnedPartition


@pytest_asyncio.fixture
async def server() -> AsyncIterator[WebServer]:
    worker: Any = AnsweringWorker(OwnedPartition())
    server = WebServer(load_settings({"web_port": 0}), worker, Metrics())
    await server.start()
    yield server
    await server.stop()


async def asked(server: WebServer, method: str, path: str) -> tuple[int, dict[str, Any], Any]:
    url = f"http://127.0.0.1:{server.port}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url) as response:
        assert response.content_type == "application/problem+json"
        return response.status, msgspec.json.decode(await response.read()), response.headers


@pytest.mark.parametrize("path", ["/api/nosuch", "/api/customers/", "/api/customers/a/b", "/"])
async def test_a_path_under_which_there_is_nothing_gives_problem_details(server: WebServer, path: str) -> None:
    status, problem, _ = await asked(server, "GET", path)
    assert (status, problem["status"], problem["title"]) == (404, 404, "Not found")
    assert path in problem["detail"]


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "OPTIONS"])
async def test_a_method_that_a_path_does_not_take_gives_problem_details(server: WebServer, method: str) -> None:
    status, problem, headers = await asked(server, method, "/api/customers/ada")
    assert (status, problem["status"], headers["Allow"]) == (405, 405, "GET, HEAD")
    assert problem["detail"] == f"/api/customers/ada takes GET, HEAD, not {method}"


async def test_what_nobody_foresaw_gives_problem_details(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise ValueError("unforeseen")

    monkeypatch.setattr(AnsweringWorker, "observe", fail)
    status, problem, _ = await asked(server, "GET", "/metrics")
    assert (status, problem["title"]) == (500, "Internal error")
    assert "unforeseen" not in problem["detail"]
