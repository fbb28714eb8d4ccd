"""Asking a worker from a command: redirections are followed, and every trouble is told with what mends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp import hdrs, web
from aiohttp.test_utils import TestServer

from streams.asking import WorkerUnanswering, explain_over_http
from streams.inspection import CustomerAnswer, UnknownCustomerError, UnknownSegmentError, render
from streams.own_hosts import shows_token
from streams.problems import explained, json_answer, not_now, problem

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TOKEN = "correct hörse battery"
KNOWN = CustomerAnswer("anna/b", "2026-01-01T00:00:00.000Z", [])


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    servers: list[TestServer] = []

    async def start(handler: Handler) -> str:
        app = web.Application()
        app.router.add_get("/{rest:.*}", explained(handler))
        servers.append(TestServer(app, host="127.0.0.1"))
        await servers[-1].start_server()
        return str(servers[-1].make_url("")).rstrip("/")

    yield start
    for each in servers:
        await each.close()


async def explain(url: str, segment_id: str | None = None, token: str | None = None) -> CustomerAnswer:
    return await asyncio.to_thread(explain_over_http, url, "anna/b", segment_id, token)


async def test_the_owner_is_found_by_redirection(serve: Any) -> None:
    asked: list[str] = []

    async def owner(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        return json_answer(KNOWN)

    there = await serve(owner)

    async def other(request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(f"{there}{request.path_qs}")

    assert await explain(await serve(other) + "/", "s1") == KNOWN
    assert asked == ["/api/customers/anna%2Fb?segment=s1&changes=0"]


async def test_every_digit_of_a_number_is_kept(serve: Any) -> None:
    numbers = b"[0.3,10.0,999999999999.999999,123456789.12345678901,1e400,-0.5e-3]"
    condition = b'{"condition":{"min":%s},"holds":true,"seen":{"sum":%s},"flips_at":null}' % (numbers, numbers)

    async def owner(_: web.Request) -> web.StreamResponse:
        segment = (
            b'{"segment_id":"s","segment_name":"S","member":true,"match":"all","valid_until":null,"conditions":[%s]}'
        )
        body = b'{"customer_id":"anna/b","at":"2026-01-01T00:00:00.000Z","segments":[%s]}' % (segment % condition)
        return web.Response(body=body, content_type="application/json")

    answer = await explain(await serve(owner))
    told = msgspec.json.encode(answer)
    assert told.count(numbers.replace(b"-0.5e-3", b"-0.0005")) == 2
    lines = "\n".join(render(answer))
    assert "seen: sum [0.3,10.0,999999999999.999999,123456789.12345678901,1e400,-0.0005]" in lines


async def test_a_partition_that_is_being_restored_is_waited_for(serve: Any) -> None:
    answers = iter([not_now("partition 0 is being restored"), None])

    async def owner(_: web.Request) -> web.StreamResponse:
        refusal = next(answers)
        if refusal is not None:
            raise refusal
        return json_answer(KNOWN)

    assert await explain(await serve(owner)) == KNOWN


@pytest.mark.parametrize(
    ("status", "error"), [(404, UnknownCustomerError), (400, UnknownSegmentError), (409, WorkerUnanswering)]
)
async def test_what_is_refused_is_told_in_the_workers_words(serve: Any, status: int, error: type[Exception]) -> None:
    async def owner(_: web.Request) -> web.StreamResponse:
        return problem(status, "because of this")

    with pytest.raises(error, match="because of this"):
        await explain(await serve(owner))


async def test_the_token_is_shown_to_whom_the_user_named_and_to_nobody_one_is_sent_to(serve: Any) -> None:
    shown: list[tuple[bool, bool]] = []

    def note(request: web.Request) -> None:
        shown.append((shows_token(request, TOKEN), hdrs.AUTHORIZATION in request.headers))

    async def owner(request: web.Request) -> web.StreamResponse:
        note(request)
        return json_answer(KNOWN)

    there = await serve(owner)

    async def other(request: web.Request) -> web.StreamResponse:
        note(request)
        raise web.HTTPTemporaryRedirect(f"{there}{request.path_qs}")

    assert await explain(await serve(other), token=TOKEN) == KNOWN
    assert await explain(there) == KNOWN
    assert shown == [(True, True), (False, False), (False, False)]


@pytest.mark.parametrize("status", [401, 403])
async def test_who_may_not_ask_is_told_which_setting_to_set_and_never_the_token(serve: Any, status: int) -> None:
    async def owner(_: web.Request) -> web.StreamResponse:
        return problem(status, "because of this.")

    url = await serve(owner)
    setting = r"api_token \(flag --api-token, variable ROLLCALL_API_TOKEN, key in rollcall.toml\)"
    with pytest.raises(WorkerUnanswering, match=f"answered {status}: because of this. .* set {setting} to that of"):
        await explain(url)
    with pytest.raises(WorkerUnanswering, match=f"because of this. The {setting} that was sent is not") as caught:
        await explain(url, token=TOKEN)
    assert "battery" not in str(caught.value)


async def test_what_speaks_no_http_is_told_without_its_control_characters() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0\x1b[2J\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(WorkerUnanswering, match=r"cannot be reached \(SSH-2\.0\\x1b\[2J\): start a worker"):
            await explain(f"http://127.0.0.1:{port}")


async def test_another_kind_of_server_is_named(serve: Any) -> None:
    async def page(_: web.Request) -> web.StreamResponse:
        return web.Response(text="welcome")

    with pytest.raises(WorkerUnanswering, match="no worker of this release"):
        await explain(await serve(page))

    async def broken(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500, text="oops")

    with pytest.raises(WorkerUnanswering, match="answered 500"):
        await explain(await serve(broken))


async def test_where_nobody_listens_the_message_says_what_to_do() -> None:
    server = TestServer(web.Application(), host="127.0.0.1")
    await server.start_server()
    url = str(server.make_url(""))
    await server.close()
    with pytest.raises(WorkerUnanswering, match=r"cannot be reached .*--url.*--state DIR"):
        await explain(url)
