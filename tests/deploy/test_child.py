"""Child processes: how they are ended, and that they end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from deploy.child import Child

ROOT = Path(__file__).parents[2]
WITHIN_S = 20.0

SLEEPER = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]
DEAF = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()",
]
PARENT = """
import sys
from collections.abc import Callable
from pathlib import Path
from deploy.child import Child
child = Child(["sleep", "1000"], removes=Path(sys.argv[1]))
print(child.pid, flush=True)
sys.stdin.read()
"""


def started(command: list[str], log: Path) -> Child:
    """The child, once it has said something."""
    with log.open("wb") as output:
        child = Child(command, output=output)
    wait_until(lambda: log.read_bytes() != b"", child)
    assert child.exit_code is None
    return child


def wait_until(condition: Callable[[], bool], child: Child | None = None) -> None:
    deadline = monotonic() + WITHIN_S
    while not condition():
        assert monotonic() < deadline, child and child.exit_code


def runs(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state.strip() not in {"", "Z"}


def test_a_child_ends_in_order_within_the_patience(tmp_path: Path) -> None:
    child = started(SLEEPER, tmp_path / "log")
    assert child.end(signal.SIGTERM, WITHIN_S) == child.exit_code == -signal.SIGTERM
    assert child.end(signal.SIGTERM) == -signal.SIGTERM


def test_a_stopped_child_ends_too(tmp_path: Path) -> None:
    child = started(SLEEPER, tmp_path / "log")
    child.send(signal.SIGSTOP)
    assert child.end(signal.SIGTERM, WITHIN_S) == -signal.SIGTERM


def test_a_child_that_does_not_listen_is_killed_after_the_patience(tmp_path: Path) -> None:
    child = started(DEAF, tmp_path / "log")
    assert child.end(signal.SIGTERM, patience_s=0.1) == -signal.SIGKILL


def test_leaving_the_block_kills_what_still_runs(tmp_path: Path) -> None:
    with started(DEAF, tmp_path / "log") as child:
        pass
    assert child.exit_code == -signal.SIGKILL
    assert not runs(child.pid)


def test_the_exit_code_of_a_child_that_ended_by_itself_is_its_own() -> None:
    with Child([sys.executable, "-c", "raise SystemExit(7)"]) as child:
        assert child.wait(WITHIN_S) == child.exit_code == 7


def test_a_command_that_does_not_exist_is_said() -> None:
    with pytest.raises(FileNotFoundError):
        Child(["no-such-command"])


def test_a_child_and_its_folder_go_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "of-the-child").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "of-the-child")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert runs(pid)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not runs(pid))
    wait_until(lambda: not (tmp_path / "of-the-child").exists())
