"""`rollcall run` as a user starts it: with the mock broker, so that Python alone is enough."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import orjson
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "deploy" / "demo"
WITHIN_S = 60

SPARSE_SEGMENTS = """
segments:
  - {id: seen-lately, name: Seen lately, conditions: [{kind: page_visit, within: 30d}]}
  - {id: seen-ever, name: Seen ever, conditions: [{kind: page_visit}]}
"""


def visit(number: int, customer: str, time: str) -> bytes:
    event = {"event_id": f"e{number}", "type": "page.visit", "customer_id": customer, "time": time}
    return orjson.dumps(event | {"properties": {"url": "https://shop.example/"}}) + b"\n"


SPARSE_EVENTS = [
    visit(1, "anna", "2024-01-01T00:00:00Z"),
    b'{"event_id": "e2", "type": "page.visit", "customer_id": "bert", "properties": {}}\n',
    b"no json\n",
    visit(3, "carl", "2024-04-10T00:00:00Z"),
]


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where a run makes its temporary files; of no one else."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


@pytest.fixture
def sparse(tmp_path: Path) -> list[str]:
    """The options that play four lines over a hundred days."""
    (tmp_path / "segments.yaml").write_text(SPARSE_SEGMENTS)
    (tmp_path / "events.ndjson").write_bytes(b"".join(SPARSE_EVENTS))
    return ["--segments", str(tmp_path / "segments.yaml"), "--events", str(tmp_path / "events.ndjson")]


def start(temporary: Path, *options: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "run", *options],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temporary), "TERM": "xterm", "COLUMNS": "100", "LINES": "30"},
        cwd=ROOT,
    )


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=WITHIN_S)
    finally:
        process.kill()
        process.wait()
    return process.returncode, (output or b"").decode(), errors.decode()


def assert_nothing_is_left(temporary: Path) -> None:
    assert list(temporary.iterdir()) == []
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(temporary) not in processes


def closing_table(output: str) -> dict[str, tuple[int, int, int]]:
    """Of each segment: members, entered, left."""
    row = re.compile(r"^([a-z0-9_-]+) +([0-9,]+) +([0-9,]+) +([0-9,]+)  \S", re.MULTILINE)
    return {
        segment: (int(members.replace(",", "")), int(entered.replace(",", "")), int(left.replace(",", "")))
        for segment, members, entered, left in row.findall(output)
    }


def table_of_replay(segments: Path, events: bytes, state: Path) -> dict[str, tuple[int, int, int]]:
    """The same numbers as `rollcall replay` has them."""
    command = [sys.executable, "-m", "streams.cli"]
    words = ["replay", "--segments", str(segments), "--events", "-", "--state", str(state)]
    done = subprocess.run([*command, *words], input=events, capture_output=True, check=True)
    changes = [orjson.loads(line) for line in done.stdout.splitlines()]
    found = {}
    for segment in dict.fromkeys(change["segment_id"] for change in changes):
        kinds = [change["type"] for change in changes if change["segment_id"] == segment]
        listed = subprocess.run(
            [*command, "members", segment, "--state", str(state), "--json"], capture_output=True, check=True
        )
        found[segment] = (len(orjson.loads(listed.stdout)), kinds.count("entered"), kinds.count("left"))
    return found


def demo_events() -> bytes:
    columns = ["--customer", "customer_id", "--date", "date", "--total", "dollar_value"]
    command = [sys.executable, "-m", "streams.cli", "convert", str(DEMO / "purchases.txt"), *columns]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.fixture
def taken_web_port() -> Iterator[None]:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # then somebody else has it, which serves as well
            holder.bind(("127.0.0.1", 6066))
            holder.listen()
        yield


def test_the_closing_table_of_the_demo_is_that_of_replay(temporary: Path, tmp_path: Path, taken_web_port: None) -> None:
    code, output, errors = ended(start(temporary, "--speed", "max"))
    assert (code, errors) == (0, "")
    expected = table_of_replay(DEMO / "segments.yaml", demo_events(), tmp_path / "state")
    assert closing_table(output) == expected
    assert "6,787 events, 0 rejected, 2,357 customers, 7,269 changes" in output
    assert_nothing_is_left(temporary)


@pytest.mark.slow
def test_time_passes_between_the_events_of_a_file_and_its_state_can_be_kept(
    temporary: Path, tmp_path: Path, sparse: list[str]
) -> None:
    keep = tmp_path / "kept"
    options = [*sparse, "--original-times", "--speed", "50d", "--keep", str(keep), "--partitions", "3"]
    code, output, errors = ended(start(temporary, *options))
    assert (code, errors) == (0, "")
    assert closing_table(output) == {"seen-lately": (1, 2, 1), "seen-ever": (2, 2, 0)}
    assert "4 events, 2 rejected, 2 customers, 5 changes" in output
    # The change is shown before the next event comes, at the event time at which it takes effect.
    lines = output.splitlines()
    left = next(number for number, line in enumerate(lines) if "anna left seen-lately" in line)
    assert "at 2024-01-31T00:00:00.000Z (time alone)" in lines[left]
    totals = next(line for line in reversed(lines[:left]) if "event time" in line)
    assert "3 of 4 events  1 customers" in totals
    members = [sys.executable, "-m", "streams.cli", "members", "--state", str(keep / "data"), "--json"]
    done = subprocess.run(members, capture_output=True, check=True)
    assert orjson.loads(done.stdout) == {"seen-lately": 1, "seen-ever": 2}
    assert_nothing_is_left(temporary)


@pytest.mark.slow
def test_an_interrupted_run_closes_with_what_it_has_and_leaves_nothing(temporary: Path) -> None:
    process = start(temporary)
    assert process.stdout is not None
    while b"event time" not in (line := process.stdout.readline()):
        assert line, ended(process)
    process.send_signal(signal.SIGINT)
    code, output, errors = ended(process)
    assert (code, errors) == (128 + signal.SIGINT, "")
    assert set(closing_table(output)) == {"bought-twice-in-90-days", "lapsed-180-days", "spent-100-in-a-year", "valued"}
    assert_nothing_is_left(temporary)


@pytest.mark.slow
def test_on_a_terminal_it_goes_on_until_ctrl_c_and_then_ends_with_0(temporary: Path, sparse: list[str]) -> None:
    ours, theirs = pty.openpty()
    process = start(temporary, *sparse, "--speed", "max", stdout=theirs)
    os.close(theirs)
    screen = b""
    while b"all events applied" not in screen:
        piece = os.read(ours, 65536)
        assert piece, screen
        screen += piece
    process.send_signal(signal.SIGINT)
    rest = b""
    with suppress(OSError):  # what reading a terminal says once nobody writes to it any more
        while piece := os.read(ours, 65536):
            rest += piece
    os.close(ours)
    code, _, errors = ended(process)
    assert (code, errors) == (0, "")
    # Moved to end today, and the clock goes on: anna was seen last 100 days ago.
    assert closing_table(rest.decode().replace("\r\n", "\n")) == {"seen-lately": (1, 2, 1), "seen-ever": (2, 2, 0)}
    assert_nothing_is_left(temporary)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--speed", "fast"], "--speed fast: expected event time a second, such as 12h or 30d, or max"),
        (["--speed", "0d"], "--speed 0d: expected"),
        (["--partitions", "5"], "the mock broker has 4 partitions; --broker kafka takes more"),
        (["--events", "events.ndjson"], "--events FILE needs --segments FILE"),
        (["--segments", str(DEMO / "segments.yaml"), "--events", "no-such-file"], "no-such-file: no such file"),
        (["--segments", str(DEMO / "segments.yaml"), "--events", str(DEMO)], "demo: a folder; name a file of events"),
        (["--web-port", "70000"], "--web-port"),
        (["--segments", "no-such-file"], "no-such-file: No such file or directory"),
    ],
)
def test_wrong_use_is_said_before_anything_starts(temporary: Path, options: list[str], complaint: str) -> None:
    code, output, errors = ended(start(temporary, *options))
    assert (code, output) == (2, "")
    assert complaint in errors
    assert_nothing_is_left(temporary)


def test_a_folder_in_use_and_a_file_without_events_are_refused(
    temporary: Path, tmp_path: Path, sparse: list[str]
) -> None:
    code, _, errors = ended(start(temporary, "--keep", str(tmp_path)))
    assert (code, errors.splitlines()[0]) == (
        1,
        f"rollcall: {tmp_path} is not empty: what it holds belongs to another run. Name a new folder",
    )
    (tmp_path / "events.ndjson").write_bytes(b"no json\n")
    code, _, errors = ended(start(temporary, *sparse))
    assert code == 1
    assert "events.ndjson: no valid event in it" in errors
    assert_nothing_is_left(temporary)
