"""Which names a worker answers under.

A page of somebody else can lead a browser here under a name of its own (DNS rebinding), and then read what is answered:
nothing but the name in the request tells. An address, and a name that the settings give, nobody else can lead here;
and nobody else's page knows the token.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from conditions.wording import describe
from streams.problems import problem
from streams.settings import Settings, own_hosts

OPEN_PATHS = {"/livez", "/readyz", "/metrics"}  # for probes and Prometheus, under whatever name these have


def own_hosts_only(settings: Settings) -> Middleware:
    """Refuses what is asked under the name of somebody else, unless the request shows the token."""
    hosts = own_hosts(settings)
    token = None if settings.api_token is None else settings.api_token.get_secret_value()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get(hdrs.HOST, "")
        if request.path in OPEN_PATHS or _is_own(host, hosts) or (token is not None and shows_token(request, token)):
            return await handler(request)
        return problem(403, _reason(host))

    return middleware


def shows_token(request: web.Request, token: str) -> bool:
    """Whether the request has the bearer token, compared in a time that tells nothing of it."""
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    is_right = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), token.encode())
    return scheme.lower() == "bearer" and is_right


def host_name(host: str) -> str:
    """The name in a Host header, in lower case and without its port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_own(host: str, hosts: frozenset[str]) -> bool:
    name = host_name(host)
    return name in hosts or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _reason(host: str) -> str:
    return (
        f"{describe(host)} is no name of this worker: it answers only under localhost, an IP address, "
        "web_host, and the host of web_advertise. Set web_advertise to the URL that you ask, or set api_token and send "
        "it as Authorization: Bearer"
    )
