"""State on disk: one RocksDB folder a partition.

A write set is one RocksDB write batch, so it is in the folder whole or not at all. The write-ahead log is on and not
synced: what `write` returned from outlives the death of the process; after a loss of power the folder holds the state
as of some earlier write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from weakref import WeakSet

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompressionType,
    Options,
    Rdict,
    RdictIter,
    ReadOptions,
    WriteBatch,
)

from state.rocksdb_errors import MOVE_AWAY, refusal, translated
from state.store import FORMAT_KEY, FORMAT_VERSION, StateError, WriteSet

DEFAULT_CACHE_BYTES = 64 << 20
DEFAULT_WRITE_BUFFER_BYTES = 16 << 20

_CUSTOMERS = "customers"
_DEADLINES = "deadlines"
_META = "meta"
_FORMAT = str(FORMAT_VERSION).encode()

_INSTANT_BYTES = 8
_LATEST_INSTANT_MS = (1 << 64) - 2  # the one after it must fit as well
_OPEN_FILES = 256
_ALL_FILES = -1
_CATCH_UP_PATIENCE_SECONDS = 15


def block_cache(size_bytes: int = DEFAULT_CACHE_BYTES) -> Cache:
    """A cache for several stores of one process to share: together they keep at most `size_bytes` of blocks."""
    return Cache(size_bytes)


def move_aside(path: Path | str) -> Path:
    """Rename a folder that no process has open to `<path>.unreadable-<n>`, and return that. Raises StateError."""
    folder = Path(path)
    targets = (folder.with_name(f"{folder.name}.unreadable-{number}") for number in count(1))
    target = next(target for target in targets if not target.exists())
    with translated("move aside", folder):
        return folder.rename(target)


class RocksdbStore:
    """Keeps the promise of `Store` in a folder. Not for use by several threads at once."""

    def __init__(self, folder: Path, database: Rdict, *, scratch: ExitStack | None = None) -> None:
        """For `open` and `open_read_only`; with a scratch folder, the store refuses to write."""
        self._folder = folder
        self._scratch = scratch
        self._database = database
        self._customers = database.get_column_family(_CUSTOMERS)
        self._deadlines = database.get_column_family(_DEADLINES)
        self._meta = database.get_column_family(_META)
        self._cursors: WeakSet[_Cursor] = WeakSet()
        self._deadline_floor = b""  # no deadline is below it, but perhaps the tombstones of many that were
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        cache: Cache | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        write_buffer_bytes: int = DEFAULT_WRITE_BUFFER_BYTES,
    ) -> RocksdbStore:
        """Open the folder for reading and writing, which nobody else can meanwhile; create it if need be.

        Stores of one process share a `cache` (see `block_cache`); without one, the store makes its own of
        `cache_bytes`. Its write buffers take about twice `write_buffer_bytes` beside it. Raises StateError:
        UnreadableStateError where moving the folder aside is what mends it.
        """
        folder = Path(path)
        is_new = not _holds_database(folder)
        cache = cache or block_cache(cache_bytes)
        options = _options(cache, write_buffer_bytes)
        options.create_if_missing(is_new)
        # Not in a folder that was there before: if it is another program's, that could not open it any more.
        options.create_missing_column_families(is_new)
        with translated("open", folder):
            # RocksDB would do it too, but call a path that cannot be the damage of what was there.
            folder.mkdir(parents=True, exist_ok=True)
            database = Rdict(str(folder), options, _families(cache, write_buffer_bytes))
        return cls(folder, database)._with_known_format()

    @classmethod
    def open_read_only(cls, path: Path | str, *, cache_bytes: int = DEFAULT_CACHE_BYTES) -> RocksdbStore:
        """Open the folder as of now, also while another process writes to it; what it writes later does not show.

        The state stays untouched, but this user must be allowed to write to the folder. Raises StateError.
        """
        folder = Path(path)
        if not _holds_database(folder):
            cause = "the folder holds none" if folder.exists() else "there is no such folder"
            raise refusal("open", folder, cause, "Check the path")
        cache = block_cache(cache_bytes)
        options = _options(cache)
        # A file that the writer compacts away stays readable for those who have it open.
        options.set_max_open_files(_ALL_FILES)
        with ExitStack() as undo, translated("open", folder):
            scratch = undo.enter_context(_scratch_folder(folder))
            database = Rdict(str(folder), options, _families(cache), AccessType.secondary(scratch))
            _catch_up(database, folder)
            scratch_folder = undo.pop_all()
        return cls(folder, database, scratch=scratch_folder)._with_known_format()

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._require_open()
        with translated("read", self._folder):
            records: list[bytes | None] = self._customers.get(list(keys)) or []
        return records

    def get_meta(self, key: bytes) -> bytes | None:
        self._require_open()
        with translated("read", self._folder):
            value: bytes | None = self._meta.get(key)
        return value

    def due(self, until_ms: int, most: int) -> list[tuple[int, bytes]]:
        self._require_open()
        if until_ms < 0 or most <= 0:
            return []
        bound = _deadline_key(min(until_ms, _LATEST_INSTANT_MS) + 1, b"")
        cursor = self._cursor(self._deadlines, start=self._deadline_floor, bound=bound)
        try:
            found = [key for key, _ in islice(cursor, most)]
        finally:
            cursor.release()
        self._deadline_floor = found[0] if found else max(self._deadline_floor, bound)
        return [(int.from_bytes(key[:_INSTANT_BYTES], "big"), key[_INSTANT_BYTES:]) for key in found]

    def scan(self, prefix: bytes = b"", after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Customer records whose key has the prefix and comes after `after`, in key order, as of the call.

        Drop it half-way at will; once the store is closed it raises StateError.
        """
        self._require_open()
        # The smallest key beyond a key is the key and a zero byte.
        return self._cursor(self._customers, start=max(prefix, after + b"\0") if after else prefix, prefix=prefix)

    def scan_meta(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The named values whose key has the prefix, in key order, as of the call."""
        self._require_open()
        return self._cursor(self._meta, start=prefix, prefix=prefix)

    def write(self, writes: WriteSet) -> None:
        """Apply all of it or nothing. Raises StateError; after one, the store still holds what it held before.

        Once the disk was full every later write fails too, until the store is closed and opened again; reads go on.
        Raises ValueError, and applies nothing, where it names the format version. No other thread of the process runs
        during the call, which takes some 3 µs a record: keep a write set to 2–4 MiB.
        """
        self._require_writable()
        if any(name == FORMAT_KEY for name, _ in writes.meta):
            raise ValueError("the format version in meta is the store's own and cannot be written")
        removed = [_deadline_key(instant_ms, key) for instant_ms, key in writes.removed_deadlines]
        added = [_deadline_key(instant_ms, key) for instant_ms, key in writes.added_deadlines]
        batch = WriteBatch(raw_mode=True)
        self._add(batch, _CUSTOMERS, writes.customers)
        self._add(batch, _DEADLINES, [(key, None) for key in removed])
        self._add(batch, _DEADLINES, [(key, b"") for key in added])
        self._add(batch, _META, writes.meta)
        self._deadline_floor = min([self._deadline_floor, *added])
        self._commit(batch)

    def clear(self) -> None:
        """Forget customers, deadlines and meta (not the format version): all of it or nothing. Frees the disk."""
        self._require_writable()
        batch = WriteBatch(raw_mode=True)
        for name, family in ((_CUSTOMERS, self._customers), (_DEADLINES, self._deadlines), (_META, self._meta)):
            last_key = self._last_key(family)
            if last_key is not None:
                batch.delete_range(b"", last_key + b"\0", self._database.get_column_family_handle(name))
        self._add(batch, _META, [(FORMAT_KEY, _FORMAT)])
        self._commit(batch)
        # Reads would step over the cleared range for as long as its files are there.
        for family in (self._customers, self._deadlines):
            family.compact_range(None, None)

    def checkpoint(self, path: Path | str) -> None:
        """Copy the state as of now to `path`, which must not exist: by hard links where the file system is the same."""
        self._require_writable()
        with translated(f"copy to {path}", self._folder):
            Checkpoint(self._database).create_checkpoint(str(path))

    def close(self) -> None:
        self._closed = True
        # The lock is held as long as any RocksDB iterator lives, even one that only a traceback refers to.
        for cursor in list(self._cursors):
            cursor.release()
        for part in (self._customers, self._deadlines, self._meta, self._database):
            # Closing flushes; what it cannot flush (the disk is full, say) is in the write-ahead log all the same.
            with suppress(Exception):
                part.close()
        if self._scratch:
            self._scratch.close()

    def _require_open(self) -> None:
        if self._closed:
            raise refusal("use", self._folder, "the store is closed", "Open it anew")

    def _require_writable(self) -> None:
        self._require_open()
        if self._scratch:
            raise refusal("write to", self._folder, "it was opened for reading only", "Open it for writing")

    def _with_known_format(self) -> RocksdbStore:
        try:
            found = self.get_meta(FORMAT_KEY)
            if found is None and self._is_empty():
                self._set_format()
            elif found != _FORMAT:
                name = "no format version" if found is None else f"format {found.decode(errors='replace')}"
                cause = f"it has {name}, and this program knows format {FORMAT_VERSION} only"
                raise refusal("open", self._folder, cause, MOVE_AWAY, is_unreadable=True)
        except StateError:
            self.close()
            raise
        return self

    def _set_format(self) -> None:
        if not self._scratch:
            batch = WriteBatch(raw_mode=True)
            self._add(batch, _META, [(FORMAT_KEY, _FORMAT)])
            self._commit(batch)

    def _is_empty(self) -> bool:
        families = (self._customers, self._deadlines, self._meta, self._database)
        return all(self._last_key(family) is None for family in families)

    def _last_key(self, family: Rdict) -> bytes | None:
        with translated("read", self._folder):
            iterator = family.iter()
            try:
                iterator.seek_to_last()
                iterator.status()
                last: bytes | None = iterator.key()
            finally:
                del iterator
        return last

    def _add(self, batch: WriteBatch, family: str, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        batch.set_default_column_family(self._database.get_column_family_handle(family))
        for key, value in changes:
            if value is None:
                del batch[key]
            else:
                batch[key] = value

    def _commit(self, batch: WriteBatch) -> None:
        with translated("write to", self._folder):
            self._database.write(batch)

    def _cursor(self, family: Rdict, *, start: bytes, prefix: bytes = b"", bound: bytes | None = None) -> _Cursor:
        cursor = _Cursor(self._folder, family, start=start, prefix=prefix, bound=bound)
        self._cursors.add(cursor)
        return cursor


class _Cursor(Iterator[tuple[bytes, bytes]]):
    """The entries of a family from `start` on, below `bound`, while they have the prefix.

    RocksDB's iterator is let go at the end, with the cursor itself, or when the store closes, whichever is first.
    """

    def __init__(self, folder: Path, family: Rdict, *, start: bytes, prefix: bytes, bound: bytes | None) -> None:
        self._folder = folder
        self._prefix = prefix
        self._has_begun = False
        # Kept as long as the iterator, which points into the bytes of the bound that only the options keep alive.
        self._options = ReadOptions()
        if bound is not None:
            self._options.set_iterate_upper_bound(bound)
        self._iterator: RdictIter | None = None
        self._is_done = False
        with translated("read", folder):
            self._iterator = family.iter(self._options)
            self._iterator.seek(start)

    def __next__(self) -> tuple[bytes, bytes]:
        if self._is_done:
            raise StopIteration
        if self._iterator is None:
            raise refusal("read", self._folder, "the store is closed", "Open it anew")
        if self._has_begun:
            self._iterator.next()
        self._has_begun = True
        key: bytes | None = self._iterator.key()
        if key is None or not key.startswith(self._prefix):
            self._end()
            raise StopIteration
        return key, self._iterator.value()

    def release(self) -> None:
        self._iterator = None

    def _end(self) -> None:
        """Raises StateError where it was not the end but a damaged block: RocksDB's iterator stops at both alike."""
        assert self._iterator is not None
        self._is_done = True
        try:
            with translated("read", self._folder):
                self._iterator.status()
        finally:
            self.release()


def _holds_database(folder: Path) -> bool:
    with translated("open", folder), suppress(FileNotFoundError):
        (folder / "CURRENT").stat()
        return True
    return False


def _scratch_folder(folder: Path) -> TemporaryDirectory[str]:
    """Raises StateError, which names the folder that is to be read."""
    try:
        return TemporaryDirectory(prefix="rollcall-reader-")
    except OSError as error:
        cause = f"reading it needs a temporary folder, and none can be made ({error.strerror or error})"
        raise refusal("open", folder, cause, "Set TMPDIR to a folder that this user may write to") from error


def _catch_up(reader: Rdict, folder: Path) -> None:
    """Bring what has been opened beside a writer to one instant, at which it holds all of that writer's batches.

    A reader reads the list of table files, then the logs. A log that the writer puts into a new table in between, and
    deletes, is missing in both: the reader lacks batches in the middle, and RocksDB does not notice. Reading on mends
    that, unless it happens again meanwhile; every such change appends to the list.
    """
    deadline_seconds = monotonic() + _CATCH_UP_PATIENCE_SECONDS
    while monotonic() < deadline_seconds:
        before = _file_list_version(folder)
        reader.try_catch_up_with_primary()
        if before and before == _file_list_version(folder):
            return
    raise refusal("open", folder, "the process that writes to it is faster than this one can read", "Try again")


def _file_list_version(folder: Path) -> tuple[str, int, int] | None:
    """What changes whenever RocksDB adds or removes a table file, or None in the midst of a change."""
    try:
        name = (folder / "CURRENT").read_text().strip()
        status = (folder / name).stat()
    except FileNotFoundError:
        return None
    return name, status.st_size, status.st_mtime_ns


def _deadline_key(instant_ms: int, customer_key: bytes) -> bytes:
    return instant_ms.to_bytes(_INSTANT_BYTES, "big") + customer_key


def _families(cache: Cache, write_buffer_bytes: int = DEFAULT_WRITE_BUFFER_BYTES) -> dict[str, Options]:
    return {
        _CUSTOMERS: _options(cache, write_buffer_bytes, bloom_bits_per_key=10),
        _DEADLINES: _options(cache, write_buffer_bytes),
        _META: _options(cache, write_buffer_bytes),
    }


def _options(
    cache: Cache, write_buffer_bytes: int = DEFAULT_WRITE_BUFFER_BYTES, *, bloom_bits_per_key: int = 0
) -> Options:
    """For a million small values in a folder, on two cores and in little memory; the sizes are measured ones."""
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(_table_options(cache, bloom_bits_per_key))
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_max_bytes_for_level_base(4 * write_buffer_bytes)
    options.set_target_file_size_base(2 * write_buffer_bytes)
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_db_write_buffer_size(2 * write_buffer_bytes)
    # Families that seldom change would otherwise hold the log of all the others back.
    options.set_max_total_wal_size(4 * write_buffer_bytes)
    options.set_max_background_jobs(2)
    options.set_max_open_files(_OPEN_FILES)
    options.set_bytes_per_sync(1 << 20)
    options.set_max_manifest_file_size(16 << 20)
    options.set_max_log_file_size(1 << 20)
    options.set_keep_log_file_num(3)
    return options


def _table_options(cache: Cache, bloom_bits_per_key: int) -> BlockBasedOptions:
    table = BlockBasedOptions()
    table.set_block_cache(cache)
    table.set_block_size(4 << 10)
    # Inside the cache, so that its size bounds them too.
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(6)
    if bloom_bits_per_key:
        table.set_bloom_filter(bloom_bits_per_key, block_based=False)
    return table
