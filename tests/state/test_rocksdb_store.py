"""The store on disk keeps the contract of stores, and its folder survives what befalls folders."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from state.rocksdb_store import RocksdbStore, block_cache, move_aside
from state.store import FORMAT_KEY, StateError, UnreadableStateError, WriteSet
from tests.state.store_contract import StoreContract
from tests.state.writer_process import ROOT, WriterProcess, numbered_batch, whole_batch


class TestRocksdbStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[RocksdbStore]:
        with closing(RocksdbStore.open(tmp_path / "state")) as store:
            yield store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds batch 1, some of it in a table file and some in the log only."""
    folder = tmp_path / "state"
    with closing(RocksdbStore.open(folder)) as store:
        store.write(numbered_batch(1))
    return folder


# Opening and closing


def test_a_closed_store_opens_again_at_once_with_what_it_held(tmp_path: Path) -> None:
    for number in range(50):
        with closing(RocksdbStore.open(tmp_path / "state")) as store:
            assert number == 0 or whole_batch(store) == number
            store.write(numbered_batch(number + 1))


def test_closing_releases_the_lock_though_a_scan_lives_on(folder: Path) -> None:
    store = RocksdbStore.open(folder)
    records = store.scan()
    next(records)
    store.close()
    RocksdbStore.open(folder).close()
    with pytest.raises(StateError, match="closed"):
        next(records)


def test_closing_releases_the_lock_though_an_error_is_being_handled(folder: Path) -> None:
    damage_tables(folder)
    store = RocksdbStore.open(folder)
    with pytest.raises(UnreadableStateError) as caught:
        list(store.scan())
    store.close()
    RocksdbStore.open(folder).close()
    assert "damaged" in str(caught.value)


def test_missing_folders_above_are_created(tmp_path: Path) -> None:
    RocksdbStore.open(tmp_path / "a" / "b" / "c").close()
    assert (tmp_path / "a" / "b" / "c" / "CURRENT").exists()


def test_stores_of_one_process_share_a_cache(tmp_path: Path) -> None:
    cache = block_cache(1 << 20)
    stores = [RocksdbStore.open(tmp_path / str(partition), cache=cache) for partition in range(3)]
    for number, store in enumerate(stores, start=1):
        store.write(numbered_batch(number))
    assert [whole_batch(store) for store in stores] == [1, 2, 3]
    for store in stores:
        store.close()
    assert cache.get_usage() <= 1 << 20


def test_a_checkpoint_is_a_store_of_its_own(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with closing(RocksdbStore.open(folder)) as store:
        store.write(numbered_batch(2))
        store.checkpoint(copy)
        store.write(numbered_batch(3))
        with closing(RocksdbStore.open(copy)) as copied:
            assert whole_batch(copied) == 2
        assert whole_batch(store) == 3
        with pytest.raises(StateError, match="copy"):
            store.checkpoint(copy)


# Speed that must not decay


def test_removed_deadlines_do_not_slow_down_what_comes_after(tmp_path: Path) -> None:
    with closing(RocksdbStore.open(tmp_path / "state")) as store:
        removed = [(instant_ms, b"customer") for instant_ms in range(200_000)]
        store.write(WriteSet(added_deadlines=list(removed)))
        store.write(WriteSet(removed_deadlines=removed, added_deadlines=[(500_000, b"later")]))
        first_seconds = seconds_of(lambda: store.due(400_000, 10))
        next_seconds = min(seconds_of(lambda: store.due(400_001, 10)) for _ in range(10))
        assert next_seconds < first_seconds / 5
        assert store.due(500_000, 10) == [(500_000, b"later")]


def seconds_of(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


# Sole use


def test_a_folder_that_another_process_uses_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with WriterProcess(folder) as writer:
        writer.let_write(1)
        writer.wait_until_written(1)
        with pytest.raises(StateError, match="another process uses it") as caught:
            RocksdbStore.open(folder)
    assert str(folder) in str(caught.value)
    assert not isinstance(caught.value, UnreadableStateError)
    with closing(RocksdbStore.open(folder)) as store:
        assert whole_batch(store) == 1


def test_a_folder_that_this_process_has_open_is_refused(folder: Path) -> None:
    with closing(RocksdbStore.open(folder)) as store:
        with pytest.raises(StateError, match="open already") as caught:
            RocksdbStore.open(folder)
        assert not isinstance(caught.value, UnreadableStateError)
        assert whole_batch(store) == 1


# Reading beside a writer


def test_a_reader_sees_the_latest_batch_of_a_running_writer(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with WriterProcess(folder) as writer:
        for number in (3, 6):
            writer.let_write(3)
            writer.wait_until_written(number)
            with closing(RocksdbStore.open_read_only(folder)) as reader:
                assert whole_batch(reader) == number


def test_a_reader_shows_one_whole_batch_while_the_writer_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with WriterProcess(folder, write_buffer_bytes=1 << 20) as writer:
        for _ in range(15):
            writer.let_write(60_000)  # it never waits, however long opening takes
            writer.wait_until_written(writer.last_written + 20)
            written = writer.last_written
            with closing(RocksdbStore.open_read_only(folder)) as reader:
                seen = whole_batch(reader)
                assert seen >= written
                writer.let_write(60_000)
                writer.wait_until_written(seen + 20)
                assert whole_batch(reader) == seen


def test_a_reader_writes_nothing(folder: Path) -> None:
    with closing(RocksdbStore.open_read_only(folder)) as reader:
        with pytest.raises(StateError, match="for reading only"):
            reader.write(numbered_batch(2))
        with pytest.raises(StateError, match="for reading only"):
            reader.clear()
        with pytest.raises(StateError, match="for reading only"):
            reader.checkpoint(folder.with_name("copy"))
    with closing(RocksdbStore.open(folder)) as store:
        assert whole_batch(store) == 1


def test_a_reader_leaves_no_scratch_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    reader = RocksdbStore.open_read_only(folder)
    assert len(list(scratch.iterdir())) == 1
    reader.close()
    (folder / "CURRENT").write_text("rubbish\n")
    with pytest.raises(UnreadableStateError):
        RocksdbStore.open_read_only(folder)
    assert list(scratch.iterdir()) == []


def test_a_reader_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="there is no such folder"):
        RocksdbStore.open_read_only(tmp_path / "state")
    with pytest.raises(StateError, match="the folder holds none"):
        RocksdbStore.open_read_only(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_without_a_place_for_its_scratch_folder_says_what_it_lacks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(StateError, match=r"needs a temporary folder.*Set TMPDIR") as caught:
        RocksdbStore.open_read_only(folder)
    assert not isinstance(caught.value, UnreadableStateError)


# Sudden death


def test_a_killed_writer_loses_nothing_it_was_told_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    for batches in (1, 40, 400):
        with WriterProcess(folder) as writer:
            writer.let_write(60_000)
            writer.wait_until_written(batches)
            writer.kill()
            with closing(RocksdbStore.open(folder)) as store:
                assert whole_batch(store) >= writer.last_written >= batches
        shutil.rmtree(folder)


def test_a_log_cut_anywhere_gives_an_earlier_batch_whole(tmp_path: Path) -> None:
    folder, torn = tmp_path / "state", tmp_path / "torn"
    with WriterProcess(folder, write_buffer_bytes=1 << 24) as writer:
        writer.let_write(5)
        writer.wait_until_written(5)
    seen = set()
    for cut in random.Random(1).sample(range(1, 50_000), 20):
        shutil.copytree(folder, torn)
        (log,) = torn.glob("*.log")
        os.truncate(log, max(0, log.stat().st_size - cut))
        with closing(RocksdbStore.open(torn)) as store:
            seen.add(whole_batch(store))
        shutil.rmtree(torn)
    assert len(seen) > 2


# Damage, and what is not ours


def damage_tables(folder: Path) -> None:
    tables = [table for table in folder.glob("*.sst") if table.stat().st_size > 2000]
    assert tables
    for table in tables:
        content = bytearray(table.read_bytes())
        content[20:400] = bytes(380)
        table.write_bytes(content)


def cut_manifest(folder: Path) -> None:
    for manifest in folder.glob("MANIFEST-*"):
        manifest.write_bytes(b"rubbish" * 100)


def remove_manifest(folder: Path) -> None:
    for manifest in folder.glob("MANIFEST-*"):
        manifest.unlink()


def remove_tables(folder: Path) -> None:
    for table in folder.glob("*.sst"):
        table.unlink()


def cut_tables(folder: Path) -> None:
    for table in folder.glob("*.sst"):
        table.write_bytes(table.read_bytes()[:100])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "CURRENT").write_text("rubbish\n"),
        lambda folder: (folder / "CURRENT").unlink(),
        cut_manifest,
        remove_manifest,
        remove_tables,
        cut_tables,
    ],
)
def test_a_damaged_folder_is_refused_and_can_be_moved_aside(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder)
    with pytest.raises(UnreadableStateError, match="Move the folder away") as caught:
        RocksdbStore.open(folder)
    assert str(folder) in str(caught.value)
    assert move_aside(folder) == folder.with_name("state.unreadable-1")
    with closing(RocksdbStore.open(folder)) as store:
        assert list(store.scan()) == []


def test_damaged_records_are_an_error_and_not_a_shorter_scan(folder: Path) -> None:
    damage_tables(folder)
    with closing(RocksdbStore.open(folder)) as store:
        with pytest.raises(UnreadableStateError, match="damaged"):
            list(store.scan())
        with pytest.raises(UnreadableStateError, match="damaged"):
            store.get_many([b"customer-000"])
        with pytest.raises(UnreadableStateError, match="damaged"):
            store.due(2**62, 10)


def test_folders_moved_aside_are_numbered(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        folder = tmp_path / "partition-7.state"
        folder.mkdir()
        (folder / "content").write_text(str(number))
        moved = move_aside(folder)
        assert moved.name == f"partition-7.state.unreadable-{number}"
        assert (moved / "content").read_text() == str(number)
        assert not folder.exists()


def test_what_is_not_there_cannot_be_moved_aside(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="move aside"):
        move_aside(tmp_path / "state")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("not a folder")
    for open_store in (RocksdbStore.open, RocksdbStore.open_read_only):
        with pytest.raises(StateError, match="is a file"):
            open_store(path)
    for open_store in (RocksdbStore.open, RocksdbStore.open_read_only):
        with pytest.raises(StateError, match=r"/state is a file and no folder\. Check the path"):
            open_store(path / "below")
    assert path.read_text() == "not a folder"


@pytest.mark.parametrize("below", ["", "below"])
def test_a_path_through_a_link_that_leads_nowhere_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(StateError, match=r"/link is a link to what is not there\. Check the path") as caught:
        RocksdbStore.open(tmp_path / "link" / below)
    assert not isinstance(caught.value, UnreadableStateError)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only Linux has it")
def test_where_no_folder_can_be_made_nothing_is_called_damaged() -> None:
    with pytest.raises(StateError, match="in /proc") as caught:
        RocksdbStore.open("/proc/rollcall-state")
    assert not isinstance(caught.value, UnreadableStateError)


@pytest.mark.parametrize("name", ["x" * 300, "circle"])
def test_a_path_that_nothing_can_have_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "circle").symlink_to("circle")
    for open_store in (RocksdbStore.open, RocksdbStore.open_read_only):
        with pytest.raises(StateError, match=r"(name too long|symbolic links)\. Check the path") as caught:
            open_store(tmp_path / name)
        assert not isinstance(caught.value, UnreadableStateError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_this_user_may_not_write_to_is_refused(folder: Path) -> None:
    folder.chmod(0o500)
    try:
        with pytest.raises(StateError, match="may not write") as caught:
            RocksdbStore.open(folder)
    finally:
        folder.chmod(0o700)
    assert not isinstance(caught.value, UnreadableStateError)


def test_the_database_of_another_program_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "other"
    other = Rdict(str(folder), Options(raw_mode=True))
    other[b"key"] = b"value"
    other.close()
    with pytest.raises(UnreadableStateError, match="another program's"):
        RocksdbStore.open(folder)
    assert Rdict.list_cf(str(folder)) == ["default"]


@pytest.mark.parametrize("found", [b"0", b"2", b"later \xff"])
def test_an_unknown_format_is_refused_with_both_versions_named(folder: Path, found: bytes) -> None:
    with raw_meta(folder) as meta:
        meta[FORMAT_KEY] = found
    for open_store in (RocksdbStore.open, RocksdbStore.open_read_only):
        with pytest.raises(UnreadableStateError, match="format 1 only") as caught:
            open_store(folder)
        assert f"format {found.decode(errors='replace')}," in str(caught.value)
        assert "Move the folder away; the state is rebuilt from its source at the next start" in str(caught.value)


def test_state_without_a_format_is_refused(folder: Path) -> None:
    with raw_meta(folder) as meta:
        del meta[FORMAT_KEY]
    with pytest.raises(UnreadableStateError, match="no format version"):
        RocksdbStore.open(folder)


def test_a_creation_cut_short_before_its_format_was_written_is_completed(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    RocksdbStore.open(folder).close()
    with raw_meta(folder) as meta:
        del meta[FORMAT_KEY]
    with closing(RocksdbStore.open_read_only(folder)) as reader:
        assert list(reader.scan()) == []
    with closing(RocksdbStore.open(folder)) as store:
        assert store.get_meta(FORMAT_KEY) == b"1"


@contextmanager
def raw_meta(folder: Path) -> Iterator[Rdict]:
    """The meta family, past the store."""
    database = Rdict(str(folder))
    meta = database.get_column_family("meta")
    yield meta
    meta.close()
    database.close()


# A full disk


def fill(store: RocksdbStore) -> tuple[dict[bytes, bytes], StateError]:
    """Write until it fails: what was written before, and the failure."""
    written: dict[bytes, bytes] = {}
    for number in range(10_000):
        records = [(b"%d-%d" % (number, part), random.randbytes(5000)) for part in range(20)]
        deadlines = [(number, key) for key, _ in records]
        try:
            store.write(WriteSet(customers=list(records), added_deadlines=deadlines))
        except StateError as error:
            return written, error
        written.update(records)
    raise AssertionError("the disk never became full")


def assert_holds(store: RocksdbStore, written: dict[bytes, bytes]) -> None:
    assert dict(store.scan()) == written
    assert {key for _, key in store.due(2**62, 1_000_000)} == set(written)


@contextmanager
def small_disk(path: Path) -> Iterator[Callable[[int], object]]:
    """A file system of 8 MiB at the path, and a function that sets its size to so many MiB."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}m", path], check=True)
    finally:
        subprocess.run(["umount", path], check=True)


def test_a_write_that_fills_the_disk_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as set_size:
        store = RocksdbStore.open(tmp_path / "disk" / "state")
        written, error = fill(store)
        assert "the disk is full" in str(error)
        assert "Free some space, then restart" in str(error)
        assert not isinstance(error, UnreadableStateError)
        assert_holds(store, written)
        store.close()
        set_size(64)
        with closing(RocksdbStore.open(tmp_path / "disk" / "state")) as store:
            assert_holds(store, written)
            store.write(numbered_batch(1))


def test_writes_stay_refused_after_a_full_disk_until_reopened(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as set_size:
        with closing(RocksdbStore.open(tmp_path / "disk" / "state")) as store:
            written, _ = fill(store)
            set_size(64)
            with pytest.raises(StateError, match="the disk is full"):
                store.write(numbered_batch(1))
            assert_holds(store, written)
        with closing(RocksdbStore.open(tmp_path / "disk" / "state")) as store:
            assert_holds(store, written)


def test_a_full_disk_is_told_at_opening_too(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk"):
        (tmp_path / "disk" / "filler").write_bytes(bytes(8 << 20))
        with pytest.raises(StateError, match="the disk is full"):
            RocksdbStore.open(tmp_path / "disk" / "state")


def test_a_file_size_limit_is_told_as_a_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    program = "import sys; from tests.state.test_rocksdb_store import run_into_a_limit; run_into_a_limit(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, folder], cwd=ROOT, check=True, timeout=60)
    with closing(RocksdbStore.open(folder)) as store:
        assert len(list(store.scan())) % 20 == 0


def run_into_a_limit(folder: str) -> None:
    with closing(RocksdbStore.open(folder)) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        written, error = fill(store)
        assert written
        assert "the disk is full" in str(error)
        assert_holds(store, written)


# Threads


def test_a_store_may_be_handed_from_thread_to_thread(folder: Path) -> None:
    opened: list[RocksdbStore] = []
    thread = threading.Thread(target=lambda: opened.append(RocksdbStore.open(folder)))
    thread.start()
    thread.join(30)
    assert whole_batch(opened[0]) == 1
    thread = threading.Thread(target=opened[0].close)
    thread.start()
    thread.join(30)
    RocksdbStore.open(folder).close()
