"""The Faust application: one agent over all input topics, whose events are whole polls."""

from __future__ import annotations

from typing import Any

import faust

from streams.assignor import CopartitionedAssignor
from streams.kafka.security import Connection
from streams.opening import local_partitions
from streams.polling import PollingThread, PollingTransport, PollScheduler, PollSchema
from streams.settings import Settings
from streams.worker import Worker

STREAM_BUFFERED_POLLS = 4  # Faust counts events, and here an event is a whole poll
HEARTBEATS_PER_SESSION = 5
REBALANCE_TIMEOUT_S = 60.0


class Application(faust.App):
    """Faust's app over a consumer that hands over whole polls. Tables, web and producer of Faust are not used."""

    def _new_transport(self) -> Any:
        return PollingTransport(self.conf.broker_consumer, self)


def build_application(settings: Settings, connection: Connection, worker: Worker) -> Application:
    """The app, wired to the worker. Start it inside a running event loop, and call `attach` before."""
    session_s = settings.session_timeout_ms / 1000
    app = Application(
        settings.app_id,
        broker=[f"kafka://{server.strip()}" for server in connection.bootstrap_servers.split(",")],
        store="memory://",
        datadir=settings.data_dir / "faust",
        ConsumerScheduler=PollScheduler,
        stream_buffer_maxsize=STREAM_BUFFERED_POLLS,
        stream_wait_empty=False,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / HEARTBEATS_PER_SESSION,
        broker_request_timeout=max(40.0, session_s * 2),
        broker_rebalance_timeout=REBALANCE_TIMEOUT_S,
        topic_disable_leader=True,
        topic_allow_declare=False,
        reply_create_topic=False,
        web_enabled=False,
    )
    # Offsets are committed by the worker's transactions, so Faust is not to acknowledge anything.
    source = app.topic(*settings.topics, schema=PollSchema(), acks=False)

    async def polls(stream: Any) -> None:
        async for event in stream.events():
            await worker.receive(event.value)

    app.agent(source, name="polls")(polls)

    @app.on_partitions_revoked.connect
    async def revoked(*_: Any, **__: Any) -> None:
        await worker.revoked()

    @app.on_partitions_assigned.connect
    async def assigned(*_: Any, **__: Any) -> None:
        await worker.assigned()

    return app


def attach(app: Application, settings: Settings, connection: Connection, worker: Worker, url: str) -> None:
    """Tell the consumer's thread how to connect and assign, and the worker where to position. Before `app.start`.

    `url` is where this worker answers to others.
    """
    thread: PollingThread = app.consumer._thread  # type: ignore[attr-defined]  # a PollingConsumer's
    thread.connection = connection
    thread.assignor = CopartitionedAssignor(settings.standby_replicas, local_partitions(settings.data_dir), url)
    thread.on_end_reached = worker.wake
    thread.on_trouble = worker.fail_to_read
    thread.on_refused = worker.fail
    worker.thread = thread
