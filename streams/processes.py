"""`rollcall worker --processes N`: several worker processes that begin and end together.

Each is a member of the group by itself, with a folder, a transactional id and a port of its own, so that nothing about
exactly once depends on how many there are. The process that starts them reads nothing and decides nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import structlog

from deploy.child import Child
from streams.settings import PREFIX, Settings, advertised_by_process, environment_of
from streams.stopping import Stop, signals_to

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.1
STOP_WITHIN_S = 15.0  # a worker ends itself after eight, whatever Kafka does


def process_settings(settings: Settings, number: int) -> Settings:
    """What the process of that number works with: its own folder, always the same, and its own port and URL."""
    own = {
        "data_dir": settings.data_dir / f"process-{number}",
        "web_port": settings.web_port and settings.web_port + number,
        "web_advertise": advertised_by_process(settings, number),
    }
    return settings.model_copy(update=own)


def start_worker(
    settings: Settings,
    *options: str,
    command: str = "worker",
    output: IO[bytes] | None = None,
    folder: Path | None = None,
    removes: Path | None = None,
) -> Child:
    """`rollcall worker`, or another command, with these settings, whatever our own environment says.

    It ends when this process ends.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return Child(
        # By the environment, as every user of the machine may see the flags; and -P, as the folder is no code of ours.
        [sys.executable, "-P", "-m", "streams.cli", command, *options],
        output=output,
        folder=folder,
        environment=inherited | environment_of(settings),
        removes=removes,
    )


def run_processes(settings: Settings) -> int:
    """Run all workers until a signal asks for the end, or until the first ends by itself; the exit code.

    It is 0, or that of a worker that ended by itself or did not end in order: whoever started us starts all again.
    """
    stop = Stop()
    with signals_to(stop), ExitStack() as stack:
        workers = [
            stack.enter_context(start_worker(settings, "--process", str(number)))
            for number in range(settings.processes)
        ]
        log.info("processes_started", pids=[worker.pid for worker in workers])
        ended = _first_to_end(workers, stop)
        log.info("processes_stopping")
        codes = _stop_all(workers)
        log.info("processes_stopped", exit_codes=codes)
    return codes[ended] if ended is not None else next(filter(None, codes), 0)


def _first_to_end(workers: Sequence[Child], stop: Stop) -> int | None:
    """The number of the first that ends by itself; None where all were told to end before."""
    while not stop.wait(LOOK_EVERY_S):
        for number, worker in enumerate(workers):
            if worker.exit_code is not None:
                log.error("process_ended", process=number, message=_reason(worker.exit_code))
                return number
    return None


def _stop_all(workers: Sequence[Child]) -> list[int]:
    """End those that run, in order as far as the time allows; the exit codes, as a shell tells them."""
    running = {worker.pid for worker in workers if worker.exit_code is None}
    for worker in workers:
        worker.send(signal.SIGTERM)
    deadline = time.monotonic() + STOP_WITHIN_S
    codes = []
    for worker in workers:
        code = worker.wait(max(0.0, deadline - time.monotonic()))
        # A second SIGTERM, as from a service manager that tells every process, may meet one that has just stopped.
        is_in_order = worker.pid in running and code == -signal.SIGTERM
        codes.append(0 if is_in_order else _as_of_a_shell(code))
    return codes


def _as_of_a_shell(code: int) -> int:
    return code if code >= 0 else 128 - code


def _reason(code: int) -> str:
    others = "the others are stopped too"
    if code >= 0:
        return f"ended by itself with exit code {code}, for the reason it has given above; {others}"
    cause = ": out of memory?" if code == -signal.SIGKILL else ""
    return f"ended by signal {signal.Signals(-code).name}{cause}; {others}"
