"""Which names a worker answers under: its own, so that no page can lead a browser here under another."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from streams.asking import WorkerUnanswering, explain_over_http
from streams.inspection import UnknownCustomerError
from streams.metrics import Metrics
from streams.settings import load_settings, worker_url
from streams.web import WebServer
from tests.streams.owned import AnsweringWorker, OwnedPartition

ASKED = "/api/customers/nobody"
TOKEN = "correct horse battery"

Ask = Callable[..., Any]


@pytest_asyncio.fixture
async def ask() -> AsyncIterator[Ask]:
    """The status and text of what a worker with these settings answers under this host."""
    servers: list[WebServer] = []

    async def ask(path: str, host: str, token: str = "", **settings: Any) -> tuple[int, str]:
        worker: Any = AnsweringWorker(OwnedPartition())
        server = WebServer(load_settings({"web_port": 0, **settings}), worker, Metrics())
        servers.append(server)
        await server.start()
        where = f"http://127.0.0.1:{server.port}{path}"
        headers = {"Host": host, "Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession() as session, session.get(where, headers=headers) as response:
            return response.status, await response.text()

    yield ask
    for each in servers:
        await each.stop()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:6066", "localhost.evil.example", "127.0.0.1.evil.example", "["]
)
@pytest.mark.parametrize("settings", [{}, {"api_token": TOKEN}])
async def test_a_name_that_somebody_else_leads_here_is_answered_nothing(
    ask: Ask, host: str, settings: dict[str, Any]
) -> None:
    status, text = await ask(ASKED, host, **settings)
    problem = msgspec.json.decode(text)
    assert (status, problem["status"], problem["title"]) == (403, 403, "Forbidden")
    assert "is no name of this worker" in problem["detail"]
    assert "Set web_advertise to the URL that you ask, or set api_token" in problem["detail"]
    assert "is not known" not in text


@pytest.mark.parametrize(
    "host", ["localhost:6066", "LOCALHOST", "127.0.0.1", "192.0.2.7:6066", "[::1]:6066", "[2001:db8::1]"]
)
async def test_addresses_and_localhost_are_answered(ask: Ask, host: str) -> None:
    assert (await ask(ASKED, host))[0] == 404


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_probes_and_prometheus_are_answered_under_any_name(ask: Ask, path: str) -> None:
    assert (await ask(path, "worker-1.monitoring.svc"))[0] == 200


async def test_the_host_of_the_advertised_url_is_answered_beside_the_bound_one(ask: Ask) -> None:
    advertised = {"web_advertise": "https://Rollcall.example/worker-1", "web_host": "localhost"}
    assert (await ask(ASKED, "rollcall.example", **advertised))[0] == 404
    assert (await ask(ASKED, "localhost", **advertised))[0] == 404
    assert (await ask(ASKED, "worker-1", **advertised))[0] == 403


@pytest.mark.parametrize("settings", [{}, {"web_host": "0.0.0.0"}, {"web_advertise": "http://a.example:1"}])
async def test_where_a_worker_sends_others_it_answers(ask: Ask, settings: dict[str, Any]) -> None:
    host = urlsplit(worker_url(load_settings(settings), 6066)).netloc
    assert (await ask(ASKED, host, **settings))[0] == 404


async def test_who_shows_the_token_is_answered_under_any_name(ask: Ask) -> None:
    assert (await ask(ASKED, "rollcall.default.svc", TOKEN, api_token=TOKEN))[0] == 404
    assert (await ask(ASKED, "rollcall.default.svc", TOKEN + "!", api_token=TOKEN))[0] == 403
    assert (await ask(ASKED, "rollcall.default.svc", TOKEN))[0] == 403
    assert (await ask(ASKED, "rollcall.default.svc", api_token=TOKEN))[0] == 403


async def test_under_its_own_names_a_worker_with_a_token_answers_without(ask: Ask) -> None:
    assert (await ask(ASKED, "localhost", api_token=TOKEN))[0] == 404


async def test_the_command_shows_the_token_to_a_worker_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    worker: Any = AnsweringWorker(OwnedPartition())
    server = WebServer(load_settings({"web_port": 0, "api_token": TOKEN}), worker, Metrics())
    await server.start()
    resolved = socket.getaddrinfo

    def resolve(host: str, *rest: Any, **more: Any) -> Any:
        return resolved("127.0.0.1" if host == "rollcall.default.svc" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = f"http://rollcall.default.svc:{server.port}"
    try:
        with pytest.raises(WorkerUnanswering, match=r'answered 403: the string "rollcall.* set api_token \(flag'):
            await asyncio.to_thread(explain_over_http, url, "nobody", None)
        with pytest.raises(UnknownCustomerError):
            await asyncio.to_thread(explain_over_http, url, "nobody", None, TOKEN)
    finally:
        await server.stop()
