"""The files that a command is given by name; `-` is standard input where it is read, standard output where written."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TextIO

from connectors.lines import STANDARD
from connectors.segment_files import MAX_DOCUMENT_BYTES

STDIN, STDOUT = 0, 1


class FileNameError(Exception):
    """A name that will not do, or not beside the others; the message is for the user."""


def shown_input(name: str) -> str:
    """What a file that is read is called to the user."""
    return "standard input" if name == STANDARD else name


def read_document(name: str) -> Path | bytes:
    """What `load_segments` takes: the path, or all of standard input. Raises OSError."""
    return sys.stdin.buffer.read(MAX_DOCUMENT_BYTES + 1) if name == STANDARD else Path(name)


def open_text(name: str) -> TextIO:
    """The file as UTF-8 with its own line ends, without a byte-order mark. Raises OSError."""
    source = STDIN if name == STANDARD else name
    return open(source, encoding="utf-8-sig", newline="", closefd=name != STANDARD)


@contextmanager
def as_file(name: str) -> Iterator[Path]:
    """A file that can be read more than once: for `-` a copy of standard input, removed at the end."""
    if name != STANDARD:
        yield Path(name)
        return
    with NamedTemporaryFile(prefix="rollcall-input-") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        yield Path(copy.name)


def require_events(name: str) -> None:
    """Raises FileNameError for what is not there, or a folder."""
    if name == STANDARD:
        return
    if not Path(name).exists():
        raise FileNameError(f"{name or repr(name)}: no such file")
    if Path(name).is_dir():
        raise FileNameError(f"{name}: a folder; name a file of events")


def require_apart(read: Mapping[str, str], written: Mapping[str, str | None]) -> None:
    """Raises FileNameError for writing to a file that is read or written already, and for reading `-` twice.

    Both are by what the user calls each file. Standard output may take several outputs.
    """
    from_stdin = [name for name, path in read.items() if path == STANDARD]
    if len(from_stdin) > 1:
        raise FileNameError(f"{' and '.join(from_stdin)} are both -: standard input can be read once, so name a file")
    taken = {_identity(path, STDIN): (name, path) for name, path in read.items()}
    inputs = set(read)
    for name, path in written.items():
        if path is None or (identity := _identity(path, STDOUT)) is None:
            continue
        other, other_path = taken.get(identity, ("", ""))
        if other and not (path == other_path == STANDARD and other not in inputs):
            called = "standard output" if path == STANDARD else f"{name} {path}"
            raise FileNameError(f"{called} is the file of {other} too: name another file")
        taken[identity] = (name, path)


def _identity(path: str, standard: int) -> object:
    """What two names of a file have in common; None for what keeps nothing, such as a pipe or a device."""
    try:
        found = os.fstat(standard) if path == STANDARD else os.stat(path)  # noqa: PTH116 - like fstat beside it
    except OSError:
        return Path(path).resolve()
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None
