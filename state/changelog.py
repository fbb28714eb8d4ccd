"""A partition's state as changelog records, and the way back.

Every customer record goes to the changelog under its own key, and so do the named values whose key begins with 0xFF,
which no customer's does. One more record, the checkpoint, is written with each batch: the partition's marker, who wrote
it, and which definitions it was computed with. Deadlines are not written: they stand in the customers' records. What is
larger than one record may be goes there in parts, see `state.parts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from state.customers import NEVER_MS, is_spill, record_deadline_ms
from state.engine import MARKER_KEY, Marker
from state.parts import KeyValue, PartReader, PartWriter
from state.store import Store, WriteSet

SHARED_MARK = b"\xff"
CHECKPOINT_KEY = b"\xffcheckpoint"
POSITION_KEY = b"changelog"
LOCAL_CHECKPOINT_KEY = b"checkpoint"
SCAN_BATCH = 10_000


class Checkpoint(msgspec.Struct):
    """What the newest transaction of a partition says besides customers."""

    marker: Marker
    writer: str  # transactional id
    definitions: str  # fingerprint
    lineage: str = ""  # made up where a changelog begins: a topic that was deleted and created anew has another
    partitions: int = 0  # of each input, which says where customers are; 0: of a release that did not note it


class Position(msgspec.Struct):
    """How far the local state follows the changelog."""

    topic: str
    offset: int  # the next to read
    written_ms: int  # wall time of the last write, as tombstones are kept for a limited time only


def changelog_records(writes: WriteSet, checkpoint: Checkpoint, parts: PartWriter) -> list[KeyValue]:
    """The records that a batch adds to the changelog, the checkpoint last. What is cut is noted in `writes`."""
    shared = [(key, value) for key, value in writes.meta if key[:1] == SHARED_MARK]
    return parts.cut([*writes.customers, *shared, (CHECKPOINT_KEY, msgspec.msgpack.encode(checkpoint))], writes)


def add_position(writes: WriteSet, position: Position) -> None:
    """Let the batch's write to the store say that it follows the changelog up to there."""
    writes.meta.append((POSITION_KEY, msgspec.msgpack.encode(position)))


def add_checkpoint(writes: WriteSet, checkpoint: Checkpoint) -> None:
    """Let the batch's write to the store hold the checkpoint that its transaction holds."""
    writes.meta.append((LOCAL_CHECKPOINT_KEY, msgspec.msgpack.encode(checkpoint)))


def read_position(store: Store) -> Position | None:
    """How far this state follows its changelog; None where it never has."""
    found = store.get_meta(POSITION_KEY)
    return None if found is None else msgspec.msgpack.decode(found, type=Position)


class OtherLineage(Exception):
    """The changelog is not the one that this state was made from: nothing that the state holds can be trusted."""


class Restorer:
    """Brings a store to what the changelog says. Feed all batches, then `finish`."""

    def __init__(self, store: Store, topic: str) -> None:
        self._store = store
        self._topic = topic
        self._parts = PartReader(store)
        self._from_nothing = read_position(store) is None
        kept = None if self._from_nothing else read_checkpoint(store)
        self._lineage = None if kept is None else kept.lineage
        self.checkpoint: Checkpoint | None = None
        self.records = 0

    def apply(self, records: Iterable[tuple[bytes | None, bytes | None]], position: int, now_ms: int) -> None:
        """Write one batch of changelog records, the last of each key; what is in parts once its end has come.

        Raises OtherLineage.
        """
        newest = self._parts.newest(records)
        self.records += len(newest)
        checkpoint = newest.pop(CHECKPOINT_KEY, None)
        shared = [(key, newest.pop(key)) for key in tuple(newest) if key[:1] == SHARED_MARK]
        writes = WriteSet(customers=list(newest.items()), meta=shared)
        if not self._from_nothing:
            self._move_deadlines(newest, writes)
        if checkpoint is not None:
            self.checkpoint = msgspec.msgpack.decode(checkpoint, type=Checkpoint)
            if self._lineage not in (None, self.checkpoint.lineage):
                raise OtherLineage("the changelog was written anew since this state was made")
            writes.meta.append((MARKER_KEY, msgspec.msgpack.encode(self.checkpoint.marker)))
            writes.meta.append((LOCAL_CHECKPOINT_KEY, checkpoint))
        if not self._from_nothing:
            add_position(writes, Position(self._topic, position, now_ms))
        self._store.write(writes)

    def finish(self, position: int, now_ms: int) -> Iterator[None]:
        """After the last batch, in bounded steps to be gone through to the end. A state made from nothing gets its
        deadlines here, and only then a position.
        """
        if self._from_nothing:
            for writes in _deadlines(self._store):
                self._store.write(writes)
                yield
        writes = WriteSet()
        add_position(writes, Position(self._topic, position, now_ms))
        self._store.write(writes)

    def _move_deadlines(self, newest: dict[bytes, bytes | None], writes: WriteSet) -> None:
        keys = [key for key in newest if not is_spill(key)]
        for key, old in zip(keys, self._store.get_many(keys), strict=True):
            new = newest[key]
            old_ms = NEVER_MS if old is None else record_deadline_ms(old)
            new_ms = NEVER_MS if new is None else record_deadline_ms(new)
            if old_ms == new_ms:
                continue
            if old_ms != NEVER_MS:
                writes.removed_deadlines.append((old_ms, key))
            if new_ms != NEVER_MS:
                writes.added_deadlines.append((new_ms, key))


def _deadlines(store: Store) -> Iterable[WriteSet]:
    """Every deadline of the customers in the store, as writes of bounded size."""
    writes = WriteSet()
    for key, record in store.scan():
        if not is_spill(key):
            deadline_ms = record_deadline_ms(record)
            if deadline_ms != NEVER_MS:
                writes.added_deadlines.append((deadline_ms, key))
        if len(writes.added_deadlines) >= SCAN_BATCH:
            yield writes
            writes = WriteSet()
    yield writes


def read_checkpoint(store: Store) -> Checkpoint | None:
    """The checkpoint the local state holds; None for a new one."""
    found = store.get_meta(LOCAL_CHECKPOINT_KEY)
    return None if found is None else msgspec.msgpack.decode(found, type=Checkpoint)
