"""A real single-node Kafka broker as a child process, for tests and for trying Rollcall out.

Needs Java 17 and, once, Maven to bring the jars; nothing but the standard library otherwise.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from deploy.child import Child

HERE = Path(__file__).resolve().parent
JARS = HERE / "libs"
INSTALL_LINE = "apt-get install -y openjdk-17-jre-headless maven"
START_ATTEMPTS = 3

SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    # A killed broker is let back in only after its old session has ended: 9 s by default.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
}


class BrokerError(Exception):
    """The broker cannot be brought, started or reached. The message names the line or the log that helps."""


class Broker:
    """One Kafka broker on a free port of 127.0.0.1.

    It ends when this process ends, however that happens, and never outlives it by more than a moment. Its folder is
    removed by `stop` unless the caller named one.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        settings: Mapping[str, str] | None = None,
        jars: Path = JARS,
        heap: str = "512m",
        start_timeout_s: float = 60.0,
    ) -> None:
        self._given_folder = folder
        self._settings = {**SETTINGS, **(settings or {})}
        self._jars = jars
        self._heap = heap
        self._start_timeout_s = start_timeout_s
        self._folder: Path | None = None
        self._port = 0
        self._process: Child | None = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """The address clients connect to; the same for the broker's whole life, restarts included."""
        if not self._port:
            raise BrokerError("the broker has no address yet: call start() first")
        return f"127.0.0.1:{self._port}"

    @property
    def log_file(self) -> Path:
        """Where the broker writes its log."""
        if self._folder is None:
            raise BrokerError("the broker has no log yet: call start() first")
        return self._folder / "broker.log"

    @property
    def running(self) -> bool:
        """Whether the process lives, paused or not."""
        return self._process is not None and self._process.exit_code is None

    def start(self) -> None:
        """Start on free ports and return once it answers. Brings the jars first if they are missing.

        Raises BrokerError when Java or Maven is missing, or the broker ends or stays silent past the deadline.
        """
        require_java()
        bring_jars(self._jars)
        self._folder = self._given_folder or Path(tempfile.mkdtemp(prefix="rollcall-kafka-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, START_ATTEMPTS + 1):
            self._port, controller_port = free_ports(2)
            self._write_settings(controller_port)
            try:
                self._format_storage()
                self._launch()
                return
            except BrokerError as error:
                # Another process may have taken a port between our look and the broker's bind.
                if attempt == START_ATTEMPTS or "Address already in use" not in str(error):
                    self.stop()
                    raise
                self._end(signal.SIGKILL, timeout_s=20.0)

    def stop(self) -> None:
        """End the broker in order, and remove its folder if it was a temporary one. May be called twice."""
        self._end(signal.SIGTERM, timeout_s=20.0)
        if self._folder is not None and self._given_folder is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        """End the broker as a crash would. Its data stays; `restart` brings it back."""
        self._end(signal.SIGKILL, timeout_s=20.0)

    def restart(self) -> None:
        """Start again with the same data on the same port, after ending it in order if it still runs."""
        if self._folder is None:
            raise BrokerError("there is no broker to restart: call start() first")
        self._end(signal.SIGTERM, timeout_s=20.0)
        self._launch()

    def pause(self) -> None:
        """Freeze the broker: connections stay open and nothing answers once this returns."""
        process = self._signal(signal.SIGSTOP)
        # On a busy machine the process runs on until one of its threads has taken the signal.
        with suppress(ChildProcessError):
            os.waitpid(process.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let a paused broker go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> Child:
        if self._process is None or self._process.exit_code is not None:
            raise BrokerError("the broker does not run")
        self._process.send(number)
        return self._process

    def _write_settings(self, controller_port: int) -> None:
        assert self._folder is not None
        address = f"PLAINTEXT://127.0.0.1:{self._port}"
        lines = {
            **self._settings,
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "listeners": f"{address},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": address,
            "log.dirs": str(self._folder / "data"),
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        (self._folder / "server.properties").write_text(text, encoding="utf-8")

    def _format_storage(self) -> None:
        assert self._folder is not None
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # An id that starts with a dash would be read as an option.
        command = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--ignore-formatted", "-c"]
        done = subprocess.run(
            [*self._java(), *command, str(self._folder / "server.properties")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise BrokerError(
                f"formatting the broker's storage failed:\n{done.stdout.decode(errors='replace')[-2000:]}"
            )

    def _launch(self) -> None:
        assert self._folder is not None
        command = [*self._java(), "kafka.Kafka", str(self._folder / "server.properties")]
        with self.log_file.open("ab") as log:
            self._process = Child(command, output=log, removes=None if self._given_folder else self._folder)
        self._wait_until_answering()

    def _java(self) -> list[str]:
        return [
            "java",
            f"-Xmx{self._heap}",
            "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            f"{self._jars}/*",
        ]

    def _wait_until_answering(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._start_timeout_s
        while not answers("127.0.0.1", self._port):
            if (code := self._process.exit_code) is not None:
                raise BrokerError(f"the broker ended with code {code} while starting:\n{self._log_tail(50)}")
            if time.monotonic() > deadline:
                self.kill()
                raise BrokerError(f"no answer from the broker in {self._start_timeout_s:.0f} s:\n{self._log_tail(20)}")
            time.sleep(0.05)

    def _log_tail(self, lines: int) -> str:
        text = self.log_file.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _end(self, number: signal.Signals, *, timeout_s: float) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end(number, timeout_s)


def require_java() -> None:
    """Raise BrokerError, with the line that installs it, when there is no Java."""
    if shutil.which("java") is None:
        raise BrokerError(f"a Kafka broker needs Java 17 and there is no `java` here; install it with: {INSTALL_LINE}")


def bring_jars(target: Path = JARS) -> None:
    """Have Maven copy Kafka's jars to `target` unless they are there. Safe when several processes do it at once."""
    if target.is_dir():
        return
    if shutil.which("mvn") is None:
        raise BrokerError(
            f"Kafka's jars are brought by Maven and there is no `mvn` here; install it with: {INSTALL_LINE}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="jars-", dir=_folder(HERE / "target")))
    try:
        _run_maven(work / "libs")
        # A rename puts the folder there whole; if another process was faster, its jars are the same.
        try:
            (work / "libs").rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _run_maven(output: Path) -> None:
    command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
    done = subprocess.run(
        [*command, f"-DoutputDirectory={output}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        raise BrokerError(f"`{' '.join(command)}` failed:\n{done.stdout.decode(errors='replace')[-2000:]}")


def free_ports(count: int) -> tuple[int, ...]:
    """Ports of 127.0.0.1 that were free just now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)
    finally:
        for each in sockets:
            each.close()


def answers(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether a broker there answers a Metadata request (version 1, no topics) and counts itself in."""
    header = struct.pack(">hhih", 3, 1, 1, -1)  # api key, version, correlation id, no client id
    request = header + struct.pack(">i", 0)
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            reply = connection.makefile("rb").read(12)
    except OSError:
        return False
    return len(reply) == 12 and struct.unpack(">iii", reply)[2] > 0  # size, correlation id, number of brokers
