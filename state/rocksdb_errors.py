"""What errors of RocksDB and of the system mean, and what mends each.

rocksdict raises a plain `Exception` for all of RocksDB's, so the text is all there is to tell them apart.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from state.store import StateError, UnreadableStateError

MOVE_AWAY = "Move the folder away; the state is rebuilt from its source at the next start"


class _Cause(NamedTuple):
    pattern: re.Pattern[str]
    cause: str
    remedy: str
    is_unreadable: bool = False


# The first that matches counts. What passes by itself or can be put right stands before damage, because RocksDB reports
# a file that it may not open, or for which it has no descriptor left, as a corruption.
_CAUSES = (
    _Cause(
        re.compile(r"lock hold by current process"),
        "this process has it open already",
        "Close it first",
    ),
    _Cause(
        re.compile(r"While lock file: .*Resource temporarily unavailable"),
        "another process uses it",
        "Stop that process, or give this one a folder of its own",
    ),
    _Cause(
        re.compile(r"No space left on device|Disk quota exceeded|File too large"),
        "the disk is full",
        "Free some space, then restart: until then the state can be read, but takes no more writes",
    ),
    _Cause(
        re.compile(r"Permission denied|Operation not permitted"),
        "this user may not write to it",
        "Check the owner and the rights of the folder and of all that is in it",
    ),
    _Cause(
        re.compile(r"Read-only file system"),
        "its file system is read-only",
        "Name a folder elsewhere",
    ),
    _Cause(
        re.compile(r"Too many open files"),
        "the process has too many files open",
        "Raise the limit (ulimit -n), then restart",
    ),
    _Cause(
        re.compile(r"File exists \(os error|Not a directory"),
        "the path, or one above it, is a file",
        "Check the path",
    ),
    _Cause(
        re.compile(r"primary may have switched to a new MANIFEST"),
        "its list of files is not there: the process that writes to it was just changing it, or it is damaged",
        f"Try again. If that does not help: {MOVE_AWAY}",
    ),
    _Cause(
        re.compile(r"Column famil(y|ies) not|does not exist \(create_if_missing"),
        "it is another program's, or its creation was cut short",
        MOVE_AWAY,
        is_unreadable=True,
    ),
    _Cause(
        re.compile(r"^Corruption|checksum|No such file or directory"),
        "it is damaged",
        MOVE_AWAY,
        is_unreadable=True,
    ),
)


def state_error(doing: str, folder: Path, error: Exception) -> StateError:
    """The error to raise where `error` came up as one tried to `doing` (open, read …) the state."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _OF_A_PATH:
        return refusal(doing, folder, *_path_fault(folder, error.errno))
    for known in _CAUSES:
        if known.pattern.search(text):
            return refusal(doing, folder, f"{known.cause} ({text})", known.remedy, is_unreadable=known.is_unreadable)
    return refusal(doing, folder, text, "Restart; if that does not help, move the folder away and restart")


_OF_A_PATH = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}


def _path_fault(folder: Path, code: int) -> tuple[str, str]:
    """What is wrong with the path where the system refused it, and what mends that."""
    there = [each for each in [*reversed(folder.parents), folder] if os.path.lexists(each)]
    nearest = there[-1] if there else folder
    if code in {errno.ENOTDIR, errno.EEXIST}:
        obstacle = next((each for each in there if not os.path.isdir(each)), nearest)  # noqa: PTH112 - raises never
        is_dangling = obstacle.is_symlink() and not obstacle.exists()
        cause = "a link to what is not there" if is_dangling else "a file and no folder"
        return f"{obstacle} is {cause}", "Check the path"
    if code in {errno.EACCES, errno.EPERM}:
        rights = "Check the owner and the rights of that folder and of those above it"
        return f"this user may not write to {nearest}, or not enter it", rights
    if code == errno.EROFS:
        return f"the file system of {nearest} is read-only", "Name a folder elsewhere"
    if code == errno.ENOENT:
        return f"no folder can be made in {nearest}", "Name a folder elsewhere"
    return os.strerror(code).lower(), "Check the path"


def refusal(doing: str, folder: Path, cause: str, remedy: str, *, is_unreadable: bool = False) -> StateError:
    kind = UnreadableStateError if is_unreadable else StateError
    return kind(f"cannot {doing} the state in {folder}: {cause}. {remedy}.")


@contextmanager
def translated(doing: str, folder: Path) -> Iterator[None]:
    """Raises StateError for what RocksDB or the system raises inside; mistakes of the caller pass as they are."""
    try:
        yield
    except OSError as error:
        raise state_error(doing, folder, error) from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise state_error(doing, folder, error) from error
