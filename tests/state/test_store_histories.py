"""Random histories: whatever is written, cleared and reopened, both stores answer as plain dictionaries would."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from state.memory_store import MemoryStore
from state.rocksdb_store import RocksdbStore
from state.store import Store, WriteSet

keys = st.binary(max_size=3) | st.sampled_from([b"anna", b"anna|big", b"anna|cat", b"bert"])
values = st.none() | st.binary(max_size=20)
instants = st.integers(0, 30) | st.integers(0, 2**63)
deadlines = st.tuples(instants, keys)
meta_names = st.sampled_from([b"marker", b"position"])
write_sets = st.builds(
    WriteSet,
    customers=st.lists(st.tuples(keys, values), max_size=8),
    added_deadlines=st.lists(deadlines, max_size=8),
    removed_deadlines=st.lists(deadlines, max_size=4),
    meta=st.lists(st.tuples(meta_names, values), max_size=2),
)


class StoreHistory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="rollcall-test-"))
        self.memory = MemoryStore()
        self.customers: dict[bytes, bytes] = {}
        self.deadlines: set[tuple[int, bytes]] = set()
        self.meta: dict[bytes, bytes] = {}

    @initialize()
    def open(self) -> None:
        self.rocksdb = RocksdbStore.open(self.folder / "state", write_buffer_bytes=1 << 16)
        self.stores: tuple[Store, ...] = (self.memory, self.rocksdb)

    def teardown(self) -> None:
        self.rocksdb.close()
        shutil.rmtree(self.folder)

    @rule(writes=write_sets)
    def write(self, writes: WriteSet) -> None:
        for store in self.stores:
            store.write(writes)
        apply(self.customers, writes.customers)
        self.deadlines.difference_update(writes.removed_deadlines)
        self.deadlines.update(writes.added_deadlines)
        apply(self.meta, writes.meta)

    @rule(until_ms=instants, most=st.integers(0, 5))
    def fire(self, until_ms: int, most: int) -> None:
        expected = sorted(deadline for deadline in self.deadlines if deadline[0] <= until_ms)[:most]
        for store in self.stores:
            assert store.due(until_ms, most) == expected
        self.write(WriteSet(removed_deadlines=expected))

    @rule(until_ms=instants)
    def look_at_deadlines(self, until_ms: int) -> None:
        for store in self.stores:
            assert store.due(until_ms, 100) == sorted(each for each in self.deadlines if each[0] <= until_ms)[:100]

    @rule(prefix=st.binary(max_size=2) | st.sampled_from([b"anna", b"anna|"]))
    def scan(self, prefix: bytes) -> None:
        expected = sorted(item for item in self.customers.items() if item[0].startswith(prefix))
        for store in self.stores:
            assert list(store.scan(prefix)) == expected

    @rule(wanted=st.lists(keys, max_size=10))
    def get(self, wanted: list[bytes]) -> None:
        for store in self.stores:
            assert store.get_many(wanted) == [self.customers.get(key) for key in wanted]

    @rule()
    def reopen(self) -> None:
        self.rocksdb.close()
        self.open()

    @rule()
    def read_beside(self) -> None:
        reader = RocksdbStore.open_read_only(self.folder / "state")
        assert list(reader.scan()) == sorted(self.customers.items())
        assert reader.due(2**63, 1000) == sorted(self.deadlines)
        reader.close()

    @rule()
    def clear(self) -> None:
        for store in self.stores:
            store.clear()
        self.customers.clear()
        self.deadlines.clear()
        self.meta.clear()

    @invariant()
    def meta_is_as_written(self) -> None:
        for store in self.stores:
            for name in (b"marker", b"position"):
                assert store.get_meta(name) == self.meta.get(name)


def apply(family: dict[bytes, bytes], changes: list[tuple[bytes, bytes | None]]) -> None:
    for key, value in changes:
        if value is None:
            family.pop(key, None)
        else:
            family[key] = value


TestStoreHistories = StoreHistory.TestCase
TestStoreHistories.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
