"""A child process that never outlives the process that started it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# Unlike PR_SET_PDEATHSIG, a pipe depends neither on the thread that started the child nor on Linux.
WATCHDOG = 'read -r _; kill -9 "$1"; test -z "$2" || rm -rf "$2"'


class Child:
    """A running command. It is killed when this process ends, however that happens, even by `kill -9`.

    It has no standard input and a session of its own, so that a Ctrl-C on the terminal is for its parent alone. Output
    and errors go to `output`, or where those of this process go. Where this process dies, `removes` is removed too.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: IO[bytes] | None = None,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        removes: Path | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output if output is None else subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        try:
            self._watchdog = _start_watchdog(self._process.pid, removes)
        except OSError:
            self._process.kill()
            self._process.wait()
            raise

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what still runs; for an end in order, call `end` before."""
        self.end(signal.SIGKILL)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the number of the signal that ended it."""
        if self._process.poll() is not None:
            self._dismiss_watchdog()
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        self._process.send_signal(number)

    def wait(self, patience_s: float) -> int:
        """Wait until it ends, then kill it; its exit code."""
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._dismiss_watchdog()
        return self._process.returncode

    def end(self, number: signal.Signals, patience_s: float = 0.0) -> int:
        """Send the signal, to a stopped process too, and `wait`. May be called again."""
        self.send(number)
        self.send(signal.SIGCONT)  # a stopped process would see other signals only later
        return self.wait(patience_s)

    def _dismiss_watchdog(self) -> None:
        """Only once the child has ended, and then at once: its process id may become that of a stranger."""
        self._watchdog.kill()
        self._watchdog.wait()
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.close()


def _start_watchdog(pid: int, folder: Path | None) -> subprocess.Popen[bytes]:
    """A shell that acts once our end of its pipe closes, as it does however we end."""
    return subprocess.Popen(
        ["/bin/sh", "-c", WATCHDOG, "watchdog", str(pid), str(folder or "")],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
