"""The worker's web server: where it can listen, and how long it waits for somebody to ask."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from state.store import StateError
from streams import web
from streams.metrics import Metrics
from streams.settings import load_settings
from tests.streams.owned import AnsweringWorker

PATIENCE_S = 60.0


def server(**settings: Any) -> web.WebServer:
    worker: Any = AnsweringWorker()
    return web.WebServer(load_settings({"web_port": 0, **settings}), worker, Metrics())


@pytest.mark.parametrize(
    "sent", [b"", b"GET /livez HTTP/1.1\r\nHost: loc", b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /li"]
)
async def test_a_connection_that_sends_no_whole_request_is_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "IDLE_S", 0.3)
    waiting = server()
    await waiting.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", waiting.port)
        writer.write(sent)
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.read()  # until it is closed
        assert answer.count(b"HTTP/1.1 200") == sent.count(b"\r\n\r\n")
        writer.close()
    finally:
        await waiting.stop()


@pytest.mark.parametrize("host", ["192.0.2.1", "a" * 64, "[::1]"])
async def test_a_host_that_is_not_this_machine_is_named_with_its_setting(host: str) -> None:
    with pytest.raises(StateError, match="choose a --web-host that is a name or an address of this machine") as caught:
        await server(web_host=host).start()
    assert f"cannot listen on {host}:0 (" in str(caught.value)
    assert "--web-port" not in str(caught.value)


async def test_a_port_that_is_taken_is_named_with_its_setting() -> None:
    first = server()
    await first.start()
    try:
        with pytest.raises(StateError, match=f"cannot listen on 127.0.0.1:{first.port} .*: choose another --web-port"):
            await server(web_port=first.port).start()
    finally:
        await first.stop()
