"""A log that nobody reads any more, or that cannot be written."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 60.0

# As the worker logs: from a callback whose exceptions nobody awaits, with a loop that SIGTERM ends in order.
WORKER = """
import asyncio, signal, sys
import structlog
from streams.logs import configure_logs
from streams.settings import load_settings

stream = configure_logs(load_settings({"log_format": "json"}))
log = structlog.get_logger("ours")

async def work():
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    log.info("started")
    await asyncio.to_thread(sys.stdin.readline)
    loop.call_soon(log.info, "working")
    loop.call_later(float(sys.argv[1]), stop.set)
    await stop.wait()
    log.info("stopping")
    return "told to end" if stream.is_closed else "goes on"

print(asyncio.run(work()))
"""


@pytest.mark.parametrize("end", ["reader gone", "disk full"])
def test_a_log_that_cannot_be_written_never_raises_and_ends_the_work_where_nobody_reads_it(end: str) -> None:
    reading, writing = os.pipe()
    stderr = writing if end == "reader gone" else os.open("/dev/full", os.O_WRONLY)
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(PATIENCE_S) if end == "reader gone" else "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=ROOT,
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as log:
        assert (b'"started"' in log.readline()) is (end == "reader gone")
    said, _ = process.communicate(b"\n", timeout=PATIENCE_S / 2)
    if stderr != writing:
        os.close(stderr)
    assert (process.returncode, said) == (0, b"told to end\n" if end == "reader gone" else b"goes on\n")


SPEAKER = """
import logging
import structlog
from streams.logs import configure_logs
from streams.settings import load_settings

configure_logs(load_settings({"log_format": "json"}), 0)
structlog.get_logger("ours").info("ours")
logging.getLogger("theirs").warning("theirs")
"""


def test_a_line_is_written_at_once_so_that_the_lines_of_several_processes_never_run_together() -> None:
    # A datagram is one write. Images often set PYTHONUNBUFFERED, and then nothing gathers what is written in pieces.
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reading, writing:
        reading.settimeout(PATIENCE_S)
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        subprocess.run([sys.executable, "-c", SPEAKER], stderr=writing.fileno(), cwd=ROOT, env=environment, check=True)
        lines = [reading.recv(65_536) for _ in range(2)]
    assert all(line.endswith(b"\n") for line in lines), lines
    assert [json.loads(line)["event"] for line in lines] == ["ours", "theirs"]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_whose_log_nobody_reads_ends_quietly(tmp_path: Path, processes: str) -> None:
    reading, writing = os.pipe()
    words = ["worker", "--bootstrap-servers", "127.0.0.1:1", "--web-port", "0", "--data-dir", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", *words, "--processes", processes],
        stdout=subprocess.PIPE,
        stderr=writing,
        cwd=ROOT,
    )
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as log:
            assert log.readline().startswith(b"{")
        process.send_signal(signal.SIGTERM)  # about which it has something to say
        said, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert (process.returncode, said) == (141, b"")
