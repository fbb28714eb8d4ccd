"""`rollcall run`: broker, topics, a worker, events and a live view, all on this machine and all gone afterwards.

The worker is the command `rollcall worker` in a process of its own, with the event clock; what is shown comes from
the topics it writes.
"""

from __future__ import annotations

import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec

import deploy
from conditions.documents import SegmentDocument
from conditions.times import DAY_MS
from connectors.purchases import Columns, convert
from deploy.child import Child
from deploy.kafka.broker import free_ports
from streams.embedded import BrokerKind, embedded_broker, make_topics
from streams.feeder import Feeder, Survey, survey
from streams.follower import STOP_WITHIN_S as FOLLOW_WITHIN_S
from streams.follower import Follower
from streams.live_view import Moment, View, closing_lines, make_view
from streams.processes import start_worker
from streams.settings import Settings
from streams.stopping import Stop, signals_to
from streams.wall_time import wall_time_ms

DEMO = Path(deploy.__file__).parent / "demo"
DEMO_SEGMENTS = DEMO / "segments.yaml"
DEMO_COLUMNS = Columns("customer_id", "date", "dollar_value")

FRAME_S = 0.1
READY_WITHIN_S = 90.0
ASK_TIMEOUT_S = 1.0
STOP_WITHIN_S = 20.0
KILL_AFTER_S = 1.0  # a worker that has nothing yet to lose
USUAL_WEB_PORT = 6066


class RunError(Exception):
    """The run cannot go on; the message is for the user."""


class RunOptions(msgspec.Struct):
    """What the command was given."""

    segments: Path
    documents: Sequence[SegmentDocument]
    events: Path | None  # None: the demo's
    speed: float | None  # event time over time; None: as fast as it goes
    broker: BrokerKind
    partitions: int
    keep: Path | None
    web_port: int | None
    original_times: bool
    keeps_running: bool


def run_all(options: RunOptions, output: IO[str]) -> int:
    """Run until the events are applied, or until stopped; the exit code. Raises RunError and what its parts raise."""
    stop = Stop()
    with ExitStack() as stack:
        stack.enter_context(signals_to(stop))
        folder = stack.enter_context(_folder(options.keep))
        events = _demo_events(folder) if options.events is None else options.events
        found = survey(str(events))
        if options.broker == "kafka":
            _say("starting Kafka; the first time, Maven brings it")
        address = stack.enter_context(embedded_broker(options.broker))
        settings = _settings(options, address, folder)
        make_topics(options.broker, settings, options.partitions)
        worker = stack.enter_context(
            WorkerProcess(settings, options.broker, folder, removes_folder=options.keep is None)
        )
        follower = Follower(settings, options.documents)
        feeder = Feeder(address, settings.topics[0], options.partitions, follower.applied)
        run = Run(options, settings, worker, follower, feeder, stop)
        moment = run.play(str(events), found, output)
    for line in closing_lines(moment, shutil.get_terminal_size().columns if output.isatty() else None):
        output.write(line + "\n")
    if found.too_large:
        output.write(f"{found.too_large:,} events of more than 1 MiB were not sent\n")
    if options.keep is not None:
        output.write(f"kept: `rollcall explain CUSTOMER --state {settings.data_dir}`\n")
    output.flush()
    return 0 if feeder.is_applied else 128 + stop.signal


class Run:
    """The parts together: starts the feed once the worker is ready, and shows how things stand."""

    def __init__(
        self,
        options: RunOptions,
        settings: Settings,
        worker: WorkerProcess,
        follower: Follower,
        feeder: Feeder,
        stop: Stop,
    ) -> None:
        self._options = options
        self._settings = settings
        self._worker = worker
        self._follower = follower
        self._feeder = feeder
        self._stop = stop
        self._began = time.monotonic()
        self._total = 0

    def play(self, events: str, found: Survey, output: IO[str]) -> Moment:
        """All of it; the last moment."""
        self._total = found.events + found.invalid - found.too_large
        view = make_view(output)
        try:
            self._follower.start()
            is_ready = self._until_ready(view)
            if is_ready:
                shift_ms = self._shift_ms(found)
                goes_live = not self._options.original_times and self._options.keeps_running
                self._feeder.start(events, found, self._options.speed, shift_ms, goes_live)
                self._until_applied(view)
            view.show(self._moment("stopping"))
            self._feeder.stop()
            self._worker.stop(STOP_WITHIN_S if is_ready else KILL_AFTER_S)
            if not self._follower.stop():
                _say(
                    f"the changes were not read to their end within {FOLLOW_WITHIN_S:.0f} s of the worker's end, as "
                    "the broker did not answer: the numbers may lack the last of them"
                )
        finally:
            self._feeder.stop()
            view.close()
        self._raise_failures()
        return self._moment("stopped")

    def _shift_ms(self, found: Survey) -> int:
        """Whole days, so that times of day stay, by which the last event moves to the day before now."""
        if self._options.original_times:
            return 0
        return (wall_time_ms() - found.last_ms) // DAY_MS * DAY_MS

    def _until_ready(self, view: View) -> bool:
        """Whether the worker became ready before anybody stopped the run."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._stop.is_set:
            self._raise_failures()
            answer = self._worker.readiness()
            if answer == "ready":
                return True
            view.show(self._moment(f"starting: {answer}"))
            if time.monotonic() > deadline:
                raise RunError(
                    f"the worker was not ready in {READY_WITHIN_S:.0f} s: {answer}\n{self._worker.log_tail()}"
                )
            self._stop.wait(FRAME_S)
        return False

    def _until_applied(self, view: View) -> None:
        while not self._stop.is_set:
            self._raise_failures()
            view.show(self._moment(self._state()))
            if self._feeder.is_applied and not self._options.keeps_running:
                return
            self._stop.wait(FRAME_S)

    def _state(self) -> str:
        if self._feeder.is_applied:
            return "all events applied; Ctrl-C ends"
        waiting = self._feeder.events_sent - self._feeder.events_applied
        return f"playing; {waiting:,} waiting in the log"

    def _moment(self, state: str) -> Moment:
        footer = [
            f"broker {self._settings.bootstrap_servers}   metrics http://127.0.0.1:{self._settings.web_port}/metrics",
            f"rollcall explain CUSTOMER --state {self._settings.data_dir}",
        ]
        return Moment(
            elapsed_s=time.monotonic() - self._began,
            state=state,
            events=self._feeder.events_applied,
            events_total=self._total,
            standing=self._follower.standing(),
            footer=footer,
        )

    def _raise_failures(self) -> None:
        for part in (self._feeder, self._follower):
            if part.failure is not None:
                raise RunError(str(part.failure) or repr(part.failure)) from part.failure
        if self._worker.ended_early:
            raise RunError(f"the worker has ended:\n{self._worker.log_tail()}")


class WorkerProcess:
    """`rollcall worker` as a child that ends with us, however we end."""

    def __init__(self, settings: Settings, broker: BrokerKind, folder: Path, *, removes_folder: bool) -> None:
        self._settings = settings
        self._command = "worker" if broker == "kafka" else "fixed-worker"
        self._folder = folder
        self._removes_folder = removes_folder
        self._log = folder / "worker.log"
        self._process: Child | None = None
        self._stopped = False

    def __enter__(self) -> WorkerProcess:
        with self._log.open("wb") as log:
            self._process = start_worker(
                self._settings,
                command=self._command,
                output=log,
                folder=self._folder,  # where no rollcall.toml is
                removes=self._folder if self._removes_folder else None,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def ended_early(self) -> bool:
        return not self._stopped and self._process is not None and self._process.exit_code is not None

    def readiness(self) -> str:
        """`ready`, or why not."""
        url = f"http://{self._settings.web_host}:{self._settings.web_port}/readyz"
        try:
            with urllib.request.urlopen(url, timeout=ASK_TIMEOUT_S) as answer:
                return str(answer.read().decode().strip())
        except urllib.error.HTTPError as error:
            return error.read().decode().strip().removeprefix("not ready: ")
        except OSError:
            return "the worker"

    def log_tail(self, lines: int = 10) -> str:
        with suppress(OSError):
            return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        return ""

    def stop(self, patience_s: float = STOP_WITHIN_S) -> None:
        """End it, in order as far as the patience lasts. May be called twice."""
        self._stopped = True
        process, self._process = self._process, None
        if process is not None:
            process.end(signal.SIGTERM, patience_s)


def _settings(options: RunOptions, address: str, folder: Path) -> Settings:
    given: dict[str, Any] = {
        "bootstrap_servers": address,
        "security_protocol": "PLAINTEXT",
        "app_id": "rollcall-run",
        "topics": ("events",),
        "segments": options.segments.resolve(),
        "data_dir": folder / "data",
        "clock": "event",
        "web_host": "127.0.0.1",
        "web_port": options.web_port if options.web_port is not None else _free_web_port(),
        "log_format": "json",
    }
    # Neither the environment nor a file has a say: everything here belongs together.
    return Settings.model_construct(**given)


def _free_web_port() -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", USUAL_WEB_PORT))
        except OSError:
            return free_ports(1)[0]
    return USUAL_WEB_PORT


def _demo_events(folder: Path) -> Path:
    path = folder / "events.ndjson"
    with (DEMO / "purchases.txt").open(encoding="utf-8") as source:
        path.write_bytes(b"".join(convert(source, DEMO_COLUMNS)))
    return path


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder for state and logs: the one to keep, which must be new or empty, or one that is removed."""
    if keep is not None:
        if keep.exists() and not keep.is_dir():
            raise RunError(f"{keep} is a file. Name a new folder")
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise RunError(f"{keep} is not empty: what it holds belongs to another run. Name a new folder")
        yield keep.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="rollcall-run-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _say(text: str) -> None:
    sys.stderr.write(f"rollcall: {text}\n")
    sys.stderr.flush()
