"""The worker's web server: /livez, /readyz, /metrics, and what can be asked about customers and segments."""

from __future__ import annotations

import errno
import socket
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from state.store import StateError
from streams.customers_api import routes as customer_routes
from streams.live_definitions import LiveDefinitions
from streams.metrics import Metrics
from streams.own_hosts import own_hosts_only
from streams.problems import problems_only
from streams.redefining import standing_value
from streams.segment_views import SegmentViews
from streams.segments_api import routes as segment_routes
from streams.settings import Settings, worker_url
from streams.worker import Worker

log = structlog.get_logger(__name__)

STUCK_AFTER_S = 60.0
IDLE_S = 75.0  # of a connection that sends no whole request
HOST_FAULTS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL, None}  # asyncio gives some without a number


class WebServer:
    """Answers an orchestrator and Prometheus."""

    def __init__(
        self, settings: Settings, worker: Worker, metrics: Metrics, live: LiveDefinitions | None = None
    ) -> None:
        self._live = live
        self._settings = settings
        self._worker = worker
        self._metrics = metrics
        self._views = SegmentViews(worker, self._standings)
        self._runner: web.AppRunner | None = None
        self.port = settings.web_port

    async def start(self) -> None:
        """Listen. Raises StateError where nobody can on that host and port."""
        app = web.Application(middlewares=[own_hosts_only(self._settings), problems_only])
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_routes(customer_routes(self._worker))
        if self._live is not None:
            live = self._live
            app.router.add_routes(segment_routes(live.follower, live.writer, self._settings, self._views))
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=IDLE_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.web_host, self._settings.web_port)
        try:
            await site.start()
        except (OSError, UnicodeError) as error:
            where = f"{self._settings.web_host}:{self._settings.web_port}"
            raise StateError(f"cannot listen on {where} ({_reason(error)}): {_mend(error)}") from error
        self.port = self._runner.addresses[0][1]
        log.info("web_started", host=self._settings.web_host, port=self.port)

    @property
    def url(self) -> str:
        """Where other workers and clients reach this one."""
        return worker_url(self._settings, self.port)

    async def stop(self) -> None:
        await self._views.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    def _standings(self, segment_id: str) -> dict[int, dict[str, Any]]:
        """How far each open partition has come with the segment's newest definition; nothing of an unknown segment."""
        definition = None if self._live is None else self._live.follower.history.definition(segment_id)
        if definition is None:
            return {}
        redefinitions = self._worker.redefinitions()
        return {number: standing_value(each.standing(definition)) for number, each in redefinitions.items()}

    async def _livez(self, _: Any) -> web.Response:
        stuck_s = self._worker.stuck_s
        if stuck_s > STUCK_AFTER_S:
            return web.Response(status=503, text=f"no progress for {stuck_s:.0f} s\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: Any) -> web.Response:
        if not self._worker.ready:
            return web.Response(status=503, text=f"not ready: {self._worker.waiting_for}\n")
        return web.Response(text="ready\n")

    async def _metrics_page(self, _: Any) -> web.Response:
        self._worker.observe()
        if self._live is not None:
            self._live.observe()
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _reason(error: OSError | UnicodeError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _mend(error: OSError | UnicodeError) -> str:
    # A name that cannot be looked up, or that is too long for one, or an address of another machine.
    if isinstance(error, socket.gaierror | UnicodeError) or error.errno in HOST_FAULTS:
        return "choose a --web-host that is a name or an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all"
    return "choose another --web-port, or 0 for any free one"
