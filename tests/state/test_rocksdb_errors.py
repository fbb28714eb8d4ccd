"""RocksDB's words and ours: what each message is told as, and whether moving the folder aside would mend it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from state.rocksdb_errors import state_error, translated
from state.store import StateError, UnreadableStateError

FOLDER = Path("data/partition-3")

TRANSIENT = [
    ("IO error: While lock file: data/LOCK: Resource temporarily unavailable", "another process uses it"),
    ("IO error: lock hold by current process, acquire time 1: data/LOCK: No locks available", "open"),
    ("IO error: No space left on device: While appending to file: data/4.log", "the disk is full"),
    ("IO error: While appending to file: data/4.log: File too large", "the disk is full"),
    ("IO error: While appending to file: data/4.log: Disk quota exceeded", "the disk is full"),
    ("Corruption: IO error: While open a file for random read: data/1.sst: Too many open files", "too many files open"),
    ("Corruption: IO error: While open a file for random read: data/1.sst: Permission denied", "may not write"),
    ("IO error: While lock file: data/LOCK: Permission denied", "may not write"),
    ("IO error: While mkdir if missing: data: Read-only file system", "its file system is read-only"),
    ("File exists (os error 17)", "is a file"),
    ("Not a directory (os error 20)", "is a file"),
    ("Operation failed. Try again.: The primary may have switched to a new MANIFEST", "or it is damaged"),
    ("Something never seen before", "Something never seen before"),
]

DAMAGE = [
    "Corruption: CURRENT file corrupted",
    "Corruption: block checksum mismatch: stored = 1, computed = 2 in data/1.sst",
    "IO error: No such file or directory: While opening a file for sequentially reading: data/MANIFEST-000005",
    "Invalid argument: Column families not opened: other",
    "Invalid argument: Column family not found: customers",
]


@pytest.mark.parametrize(("message", "told"), TRANSIENT)
def test_what_can_be_put_right_is_told_and_calls_for_no_rebuilding(message: str, told: str) -> None:
    error = state_error("open", FOLDER, Exception(message))
    assert told in str(error)
    assert str(FOLDER) in str(error)
    assert not isinstance(error, UnreadableStateError)


@pytest.mark.parametrize("message", DAMAGE)
def test_damage_calls_for_moving_the_folder_away(message: str) -> None:
    error = state_error("open", FOLDER, Exception(message))
    assert isinstance(error, UnreadableStateError)
    assert message in str(error)
    assert "Move the folder away" in str(error)


def test_errors_of_the_system_are_translated_with_their_cause() -> None:
    with pytest.raises(StateError, match="may not write") as caught, translated("open", FOLDER):
        raise PermissionError("Permission denied (os error 13)")
    assert isinstance(caught.value.__cause__, PermissionError)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.EACCES, "this user may not write to {}, or not enter it. Check the owner"),
        (errno.EPERM, "this user may not write to {}, or not enter it. Check the owner"),
        (errno.EROFS, "the file system of {} is read-only. Name a folder elsewhere"),
        (errno.ENOENT, "no folder can be made in {}. Name a folder elsewhere"),
    ],
)
def test_what_the_system_refuses_of_a_path_names_the_last_part_of_it_that_is_there(
    tmp_path: Path, code: int, told: str
) -> None:
    error = state_error("open", tmp_path / "a" / "b", OSError(code, "refused"))
    assert str(error) == f"cannot open the state in {tmp_path}/a/b: {told.format(tmp_path)}" + (
        " and the rights of that folder and of those above it." if "owner" in told else "."
    )
    assert not isinstance(error, UnreadableStateError)


def test_mistakes_of_the_caller_are_not_translated() -> None:
    with pytest.raises(KeyError), translated("read", FOLDER):
        raise KeyError("raw mode only support bytes")
