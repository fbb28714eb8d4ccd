"""Set up everything Rollcall needs in `.venv`, then run a `rollcall` command in it.

    python3 deploy/setup.py              set up
    python3 deploy/setup.py run          set up, then `rollcall run`
    python3 deploy/setup.py --dev        set up with the tools that test and check the code

Needs Python 3.11 or newer and nothing else: the packages come from the lock file, checked by hash, through pip as it
is configured on this machine. A second call finds all in place and returns at once. Progress goes to standard error, so
that standard output belongs to the command.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

OLDEST_PYTHON = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
ROLLCALL = VENV / "bin" / "rollcall"
UNFINISHED = VENV / ".rollcall-unfinished"  # there while the environment is being made
STAMP = VENV / ".rollcall-stamp"  # what is installed, written last: without it nothing counts as done
RUNTIME_LOCK = ROOT / "requirements.lock"
DEV_LOCK = ROOT / "requirements-dev.lock"  # holds all of the runtime lock too


class SetupError(Exception):
    """Set-up cannot go on. The message says what failed and what mends it."""


def main(argv: list[str]) -> int:
    arguments = parse(argv)
    try:
        check_python()
        with one_at_a_time() as lock:
            set_up(DEV_LOCK if arguments.dev else RUNTIME_LOCK, lock)
    except SetupError as error:
        say(f"error: {error}")
        return 1
    except OSError as error:
        say(f"error: {error}. Is the disk full, or the folder not yours to write?")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next call goes on from here")
        return 130
    if arguments.command:
        sys.stdout.flush()
        os.execv(ROLLCALL, [str(ROLLCALL), *arguments.command])  # noqa: S606 - no shell is wanted: the command takes our place
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="deploy/setup.py",
        description="Set up everything Rollcall needs in .venv, then run a rollcall command in it.",
    )
    parser.add_argument("--dev", action="store_true", help="also install what tests and checks the code")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a rollcall command with its arguments, such as: run")
    return parser.parse_args(argv)


def check_python() -> None:
    if sys.version_info < OLDEST_PYTHON:
        have = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(
            f"Rollcall needs Python 3.11 or newer, and this is {have} ({sys.executable}).\n"
            "Run it with a newer one: python3.12 deploy/setup.py"
        )


@contextlib.contextmanager
def one_at_a_time() -> Iterator[int]:
    """Wait until no other set-up is at work here. The children share the lock, so that it outlives a killed parent."""
    descriptor = os.open(__file__, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this folder to end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def set_up(requirements: Path, lock: int) -> None:
    reason = why_unusable()
    if reason is None and is_installed(requirements):
        return
    if reason is not None:
        make_venv(reason, lock)
    install(requirements, lock)


def why_unusable() -> str | None:
    """Say why `.venv` must be made (again), or None where it can be used as it is."""
    if not VENV.exists():
        return "there is none"
    if UNFINISHED.exists():
        return "an earlier set-up was interrupted"
    if not VENV_PYTHON.exists():
        return "its Python is gone"
    if STAMP.exists() and place() not in read_stamp():
        return "the folder or its Python was moved"
    return None


def is_installed(requirements: Path) -> bool:
    return ROLLCALL.exists() and stamp_of(requirements) in read_stamp()


def make_venv(reason: str, lock: int) -> None:
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetupError(
            f"this Python ({sys.executable}) comes without the venv module.\n"
            f"On Debian and Ubuntu: apt-get install python{version}-venv"
        )
    say(f"making .venv with Python {sys.version.split()[0]} ({reason})")
    VENV_PYTHON.unlink(missing_ok=True)  # first, so that a removal cut short is seen
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir(exist_ok=True)
    UNFINISHED.touch()
    run(
        [sys.executable, "-m", "venv", str(VENV)],
        lock,
        "Python could not make .venv; its message is above.",
    )
    UNFINISHED.unlink()


def install(requirements: Path, lock: int) -> None:
    STAMP.unlink(missing_ok=True)
    pip = [str(VENV_PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    started = time.monotonic()
    count = sum(" \\" in line and "==" in line for line in requirements.read_text(encoding="utf-8").splitlines())
    say(f"installing {count} packages from {requirements.name}")
    run(
        [*pip, "install", "--require-hashes", "--requirement", str(requirements)],
        lock,
        f"pip could not install {requirements.name}; its message is above.\n"
        "No connection: check the network and the package index of `pip config list`, then call again.\n"
        "A hash that differs: the index serves another file than the lock names; do not go on with it.\n"
        "A package that fails to build: no wheel for this platform; use Python 3.11 to 3.13 on Linux or macOS.\n"
        "Anything else: remove .venv and call again.",
    )
    run(
        [*pip, "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)],
        lock,
        "pip could not install Rollcall itself; its message is above. Is pyproject.toml as it was?",
    )
    write_stamp(requirements)
    say(f"ready in {time.monotonic() - started:.0f} s: .venv/bin/rollcall")


def run(command: list[str], lock: int, what_mends_it: str) -> None:
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=[lock])
    if done.returncode != 0:
        raise SetupError(what_mends_it)


def stamp_of(requirements: Path) -> str:
    """Name what is installed: the lock file and the project's own metadata."""
    digest = hashlib.sha256()
    for part in (requirements, ROOT / "pyproject.toml"):
        digest.update(part.read_bytes() + b"\0")
    return f"{requirements.name} {digest.hexdigest()}"


def place() -> str:
    return f"{VENV} with {VENV_PYTHON.resolve()}"


def read_stamp() -> list[str]:
    return STAMP.read_text(encoding="utf-8").splitlines() if STAMP.exists() else []


def write_stamp(requirements: Path) -> None:
    covered = {requirements, RUNTIME_LOCK}
    lines = [place(), *sorted(stamp_of(each) for each in covered)]
    whole = STAMP.with_suffix(".new")
    whole.write_text("\n".join(lines) + "\n", encoding="utf-8")
    whole.replace(STAMP)


def say(text: str) -> None:
    print(f"rollcall set-up: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
