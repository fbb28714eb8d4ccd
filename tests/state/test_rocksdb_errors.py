"""RocksDB's words and ours: what each message is told as, and whether moving the folder aside would mend it."""

from __future__ import annotations

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
    ("IO error: While mkdir if missing: data: Read-only file system", "may not write"),
    ("File exists (os error 17)", "is a file"),
    ("Not a directory (os error 20)", "is a file"),
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


def test_mistakes_of_the_caller_are_not_translated() -> None:
    with pytest.raises(KeyError), translated("read", FOLDER):
        raise KeyError("raw mode only support bytes")
