"""A process that writes numbered batches to a store, and the handle by which a test drives it.

Each batch gives all customers the same number, so that a reader can tell a whole batch from a half one.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import TracebackType

from state.rocksdb_store import RocksdbStore
from state.store import WriteSet

ROOT = Path(__file__).resolve().parents[2]
CUSTOMERS = 200
PATIENCE_SECONDS = 30


def numbered_batch(number: int) -> WriteSet:
    """Batch `number`: every customer's record, one deadline a customer and the marker say so."""
    keys = [b"customer-%03d" % customer for customer in range(CUSTOMERS)]
    return WriteSet(
        customers=[(key, b"%d" % number * 40) for key in keys],
        removed_deadlines=[(number - 1, key) for key in keys],
        added_deadlines=[(number, key) for key in keys],
        meta=[(b"marker", b"%d" % number)],
    )


def whole_batch(store: RocksdbStore) -> int:
    """The number of the batch that the store holds, after a check that it holds all of it and nothing else."""
    number = int(store.get_meta(b"marker") or b"0")
    expected = numbered_batch(number)
    assert list(store.scan()) == expected.customers
    assert store.due(2**62, 2 * CUSTOMERS) == expected.added_deadlines
    return number


class WriterProcess:
    """The process. It writes batches from 1 on and says each one's number once `write` has returned."""

    def __init__(self, folder: Path, *, write_buffer_bytes: int = 1 << 16) -> None:
        command = [sys.executable, "-m", __name__, str(folder), str(write_buffer_bytes)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._unread = b""
        self.last_written = 0
        self._allowed = 0

    def __enter__(self) -> WriterProcess:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.kill()

    def let_write(self, batches: int) -> None:
        """Allow so many batches beyond the last that is known to be written; does not wait."""
        assert self._process.stdin is not None
        more = max(0, self.last_written + batches - self._allowed)
        self._process.stdin.write(b"x" * more)
        self._allowed += more

    def wait_until_written(self, number: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.last_written < number:
            assert self._read(max(0, deadline - time.monotonic())), f"the writer stopped before batch {number}"

    def kill(self) -> None:
        """SIGKILL, then read what it said before."""
        self._process.kill()
        self._process.wait(PATIENCE_SECONDS)
        while self._read(0):
            pass
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _read(self, patience_seconds: float) -> bool:
        """Whether there was something to read before the time was up."""
        pipe = self._process.stdout
        if pipe is None or pipe.closed or not select.select([pipe], [], [], patience_seconds)[0]:
            return False
        said = os.read(pipe.fileno(), 1 << 16)
        *lines, self._unread = (self._unread + said).split(b"\n")
        self.last_written = int(lines[-1]) if lines else self.last_written
        return bool(said)


def main(folder: str, write_buffer_bytes: str) -> None:
    store = RocksdbStore.open(folder, write_buffer_bytes=int(write_buffer_bytes))
    for number in count(1):
        if not os.read(0, 1):
            break
        store.write(numbered_batch(number))
        os.write(1, b"%d\n" % number)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
