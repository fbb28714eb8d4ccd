"""`rollcall worker`: one process from start to end. Any task that dies ends it, with the reason."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TypeVar
from uuid import uuid4

import structlog
from aiokafka.errors import KafkaError

from conditions.documents import SegmentDocument
from state.store import StateError
from streams.application import Application, attach, build_application
from streams.application_topics import look_at_topics, output_topics, partitioned_outputs
from streams.connections import connection_of
from streams.kafka.errors import Refused, Unreachable
from streams.kafka.security import Connection
from streams.kafka.transactions import FencedProducer, ProducerOptions
from streams.live_definitions import LiveDefinitions
from streams.memory import tune_memory
from streams.metrics import Metrics
from streams.opening import Opener
from streams.settings import Settings
from streams.trouble import Trouble
from streams.web import WebServer
from streams.worker import TRANSIENT, Worker

log = structlog.get_logger(__name__)

STOP_TIMEOUT_S = 8.0

Result = TypeVar("Result")


class DataDir:
    """The worker's folder, locked, and the transactional id that lives in it.

    A restarted worker has the same id, and so ends its own open transaction at once.
    """

    def __init__(self, folder: Path, app_id: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (folder / "lock").open("w")
        except OSError as error:
            raise StateError(
                f"{folder} cannot keep the worker's state ({error.strerror}): choose another --data-dir, or let this "
                "user write there"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StateError(f"{folder} is in use by another worker: give each worker its own --data-dir") from None
        self.transactional_id = _kept_id(folder / f"{app_id}.transactional-id", app_id)

    def close(self) -> None:
        self._lock.close()


def _kept_id(path: Path, app_id: str) -> str:
    """The id that the file holds; where it holds none, as after a power cut, a new one that it holds from now on."""
    kept = path.read_text().strip() if path.exists() else ""
    if kept:
        return kept
    made = f"{app_id}-{uuid4().hex[:12]}"
    fresh = path.with_suffix(".new")
    with fresh.open("w") as file:
        file.write(f"{made}\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return made


async def serve(
    settings: Settings,
    segments: Sequence[SegmentDocument] = (),
    on_step: Callable[[str], None] = lambda _: None,
    *,
    fixed: bool = False,
) -> None:
    """Run a worker until SIGTERM or SIGINT. It follows the definitions topic, which begins with these segments where
    none was ever defined there. With `fixed` it has these for its whole life, for a broker that holds no such topic.

    Raises StreamsError and StateError for what trying again cannot mend.
    """
    connection = connection_of(settings)
    tune_memory()
    metrics = Metrics()
    data_dir = DataDir(settings.data_dir, settings.app_id)
    try:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        live = None if fixed else LiveDefinitions(settings, metrics, segments)
        follower = None if live is None else live.follower
        writer, fixed_segments = data_dir.transactional_id, segments if fixed else None
        opener = Opener(settings, fixed_segments, connection, writer, metrics, follower, on_step)
        options = ProducerOptions(
            transaction_timeout_ms=settings.transaction_timeout_ms, message_max_bytes=settings.message_max_bytes
        )
        producer = FencedProducer(connection, writer, options=options, on_step=on_step)
        worker = Worker(settings, producer, opener, metrics, on_step, follower)
        web = WebServer(settings, worker, metrics, live)
        await web.start()
        try:
            await _until_stopped(settings, connection, worker, stop, live, web.url)
        finally:
            await web.stop()
            if live is not None:
                await live.follower.stop()
    finally:
        data_dir.close()


async def _until_stopped(
    settings: Settings,
    connection: Connection,
    worker: Worker,
    stop: asyncio.Event,
    live: LiveDefinitions | None,
    url: str,
) -> None:
    stopping = asyncio.create_task(stop.wait())
    working = asyncio.create_task(_work(settings, connection, worker, live, url))
    await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
    worker.stop()
    if working.done():
        stopping.cancel()
        working.result()
        return
    log.info("worker_stopping")
    last_resort = _end_the_process_after(STOP_TIMEOUT_S)
    with suppress(asyncio.CancelledError):
        await working
    last_resort.cancel()
    log.info("worker_stopped")


async def _work(
    settings: Settings, connection: Connection, worker: Worker, live: LiveDefinitions | None, url: str
) -> None:
    """Everything from the first look at Kafka to the end of the last batch. Returns once the worker is to stop."""
    if not await worker.unless_stopped(_prepare(settings, connection, worker, live)):
        return
    app = build_application(settings, connection, worker)
    attach(app, settings, connection, worker, url)
    try:
        if not await worker.unless_stopped(app.start()):
            await _close_half_started(app, worker)
            return
    except KafkaError as error:
        raise Unreachable(connection.bootstrap_servers, f"joining group {settings.app_id} ({error!r})") from error
    log.info("worker_started", app_id=settings.app_id, bootstrap_servers=settings.bootstrap_servers)
    running = asyncio.create_task(worker.run())
    crashed = asyncio.create_task(app.wait_until_stopped())
    following = asyncio.create_task(_nothing() if live is None else live.follower.ended())
    try:
        await asyncio.wait({running, crashed, following}, return_when=asyncio.FIRST_COMPLETED)
        unexpected = not running.done()
        if following.done():
            following.result()
    finally:
        worker.stop()
        following.cancel()
        await asyncio.wait({running})
        await app.stop()
        await asyncio.gather(crashed, return_exceptions=True)
    running.result()
    if unexpected:
        reason = f": {app.crash_reason!r}" if app.crash_reason is not None else ", see the log above for the reason"
        raise Refused(f"the consumer of group {settings.app_id} ended by itself{reason}")


async def _close_half_started(app: Application, worker: Worker) -> None:
    """End the consumer, whose thread would keep the process alive, and what the group has given meanwhile."""
    try:
        await app.stop()
    finally:
        await worker.run()


async def _nothing() -> None:
    """Never ends."""
    await asyncio.Event().wait()


def _end_the_process_after(seconds: float) -> threading.Timer:
    """End it from outside the event loop where Kafka keeps it from ending. Nothing is lost: what was not committed is
    decided again by the next owner.
    """

    def end() -> None:
        log.warning("worker_stopped", reason=f"Kafka did not answer within {seconds} s of the signal to stop")
        os._exit(0)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


async def _prepare(settings: Settings, connection: Connection, worker: Worker, live: LiveDefinitions | None) -> None:
    """Wait for Kafka, check the topics, end what this worker's last life left open, and learn the definitions."""
    outputs = partitioned_outputs(settings) if live is None else output_topics(settings)
    findings = await _patiently(worker, lambda: look_at_topics(settings, connection, outputs))
    for problem in findings.problems:
        log.warning("topic_problem", code=problem.code, topic=problem.topic, message=problem.message)
    findings.require_no_error()
    await worker.start()
    if live is not None:
        await _patiently(worker, live.follower.start)
        await _patiently(worker, live.apply_start_file)


async def _patiently(worker: Worker, work: Callable[[], Awaitable[Result]]) -> Result:
    """What the work answers, however long Kafka takes. Raises what trying again would not help."""
    trouble = Trouble()
    while True:
        try:
            return await work()
        except TRANSIENT as error:
            trouble.note(error)
            worker.progress_at = time.monotonic()
            await asyncio.sleep(trouble.pause_s)
