"""The worker's small web server: /livez, /readyz and /metrics."""

from __future__ import annotations

from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from state.store import StateError
from streams.live_definitions import LiveDefinitions
from streams.metrics import Metrics
from streams.redefining import segment_status
from streams.segments_api import routes
from streams.settings import Settings
from streams.worker import Worker

log = structlog.get_logger(__name__)

STUCK_AFTER_S = 60.0


class WebServer:
    """Answers an orchestrator and Prometheus."""

    def __init__(
        self, settings: Settings, worker: Worker, metrics: Metrics, live: LiveDefinitions | None = None
    ) -> None:
        self._live = live
        self._settings = settings
        self._worker = worker
        self._metrics = metrics
        self._runner: web.AppRunner | None = None
        self.port = settings.web_port

    async def start(self) -> None:
        """Listen. Raises StateError where the port is taken."""
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        if self._live is not None:
            api = routes(self._live.follower, self._live.writer, self._settings, self._status)
            app.router.add_routes(api)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.web_host, self._settings.web_port)
        try:
            await site.start()
        except OSError as error:
            raise StateError(
                f"cannot listen on {self._settings.web_host}:{self._settings.web_port} ({error.strerror}): "
                "choose another --web-port, or 0 for any free one"
            ) from error
        self.port = self._runner.addresses[0][1]
        log.info("web_started", host=self._settings.web_host, port=self.port)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _status(self, segment_id: str) -> dict[str, Any]:
        """How far this worker's partitions have come with the segment."""
        assert self._live is not None, "asked only where definitions are followed"
        history = self._live.follower.history
        definition = history.definition(segment_id)
        assert definition is not None, "asked only of segments in force"
        problems = [str(each) for each in history.problems if each.key == segment_id]
        return segment_status(self._worker.redefinitions(), definition) | {
            "settled": segment_id not in history.unsettled,
            "problems": problems,
        }

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
