"""Looking into a state folder: who is in a segment, and why a customer is in or out. Beside a running process too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from conditions.definitions import Definitions, Segment, compile_definitions
from conditions.explanation import SegmentAnswer, explain_segment
from conditions.times import format_time
from state.changelog import read_position
from state.customers import add_spilled, customer_key, decode_customer, is_spill, spill_key
from state.definitions_record import read_segments
from state.engine import Marker, read_marker
from state.rocksdb_store import RocksdbStore
from state.store import StateError, Store
from streams.member_table import printable, table_lines


class UnknownSegmentError(Exception):
    """No such segment in this state; the message names those there are."""


class UnknownCustomerError(Exception):
    """No event of this customer since it was last erased, as far as this state knows."""


class StateReader:
    """One partition's state as it was when it was opened."""

    def __init__(self, store: RocksdbStore, folder: Path) -> None:
        self._store = store
        segments = read_segments(store)
        if segments is None:
            raise StateError(f"{folder} holds no finished state yet: nothing was written there")
        self.definitions: Definitions = compile_definitions(segments)
        self.marker: Marker = read_marker(store) or Marker()

    def segment(self, segment_id: str) -> Segment:
        """The segment, or UnknownSegmentError."""
        found = self.definitions.segments.get(segment_id)
        if found is None:
            known = ", ".join(list(self.definitions.segments)[:10])
            raise UnknownSegmentError(f"no segment {segment_id!r} in this state; it has {known}")
        return found

    def members(self, segment: Segment) -> Iterator[str]:
        """The ids of the customers in the segment, in order."""
        for key, record in self._store.scan():
            if not is_spill(key):
                customer = decode_customer(key.decode(), record)
                if (segment.key in customer.differing) != segment.default:
                    yield customer.id

    def sizes(self) -> dict[str, int]:
        """How many customers are in each segment; one pass over all customers."""
        return count_members(self._store, self.definitions)

    def knows(self, customer_id: str) -> bool:
        return self._store.get_many([customer_key(customer_id)]) != [None]

    def explain(self, customer_id: str, segments: list[Segment]) -> list[SegmentAnswer]:
        """Why the customer is in each of the segments or out of it. Raises UnknownCustomerError."""
        key = customer_key(customer_id)
        [record] = self._store.get_many([key])
        if record is None:
            raise UnknownCustomerError(f"customer {customer_id!r} is not known")
        customer = decode_customer(customer_id, record)
        features = list(customer.spilled)
        for feature, spilled in zip(
            features, self._store.get_many([spill_key(key, each) for each in features]), strict=True
        ):
            if spilled is not None:
                add_spilled(customer, feature, spilled)
        at_ms = self.marker.clock_ms
        return [
            explain_segment(each, customer, at_ms, (each.key in customer.differing) != each.default)
            for each in segments
        ]


def count_members(store: Store, definitions: Definitions) -> dict[str, int]:
    """How many customers are in each segment, by its id, in the order of the definitions."""
    customers = 0
    differing: Counter[int] = Counter()
    for key, record in store.scan():
        if not is_spill(key):
            customers += 1
            differing.update(decode_customer(key.decode(), record).differing)
    return {
        segment.id: customers - differing[segment.key] if segment.default else differing[segment.key]
        for segment in definitions.segments.values()
    }


def add_sizes(readers: list[StateReader]) -> dict[str, int]:
    """The sizes of each segment over all partitions."""
    total: Counter[str] = Counter()
    for reader in readers:
        total.update(reader.sizes())
    return dict(total)


def size_lines(definitions: Definitions, sizes: Mapping[str, int]) -> list[str]:
    """The sizes as a table."""
    rows = [(each.id, f"{sizes[each.id]:,}", printable(each.name)) for each in definitions.segments.values()]
    return table_lines(("segment", "members", "name"), rows)


@contextmanager
def open_readers(folder: Path) -> Iterator[list[StateReader]]:
    """A reader for each partition's state below the folder. Raises StateError.

    The folder is the state itself, or that of a worker, with one a partition, or of one with several processes. Where
    a partition has moved between these, the copy that follows its changelog furthest counts.
    """
    copies: dict[str, list[Path]] = {}
    for each in sorted([*folder.glob("partition-*"), *folder.glob("process-*/partition-*")]):
        copies.setdefault(each.name, []).append(each)
    with ExitStack() as stack:
        yield [
            _newest([(stack.enter_context(_open_store(each)), each) for each in found])
            for found in copies.values() or [[folder]]
        ]


@contextmanager
def _open_store(folder: Path) -> Iterator[RocksdbStore]:
    store = RocksdbStore.open_read_only(folder)
    try:
        yield store
    finally:
        store.close()


def _newest(copies: list[tuple[RocksdbStore, Path]]) -> StateReader:
    store, folder = max(copies, key=lambda copy: _followed(copy[0]))
    return StateReader(store, folder)


def _followed(store: RocksdbStore) -> int:
    position = read_position(store)
    return -1 if position is None else position.offset


class CustomerAnswer(msgspec.Struct):
    """Why a customer is in segments or out of them, as of the partition's time `at`."""

    customer_id: str
    at: str
    segments: list[SegmentAnswer]


def explain_customer(readers: list[StateReader], customer_id: str, segment_id: str | None) -> CustomerAnswer:
    """The answer of the partition that knows the customer. Raises UnknownCustomerError, UnknownSegmentError."""
    for reader in readers:
        segments = [*reader.definitions.segments.values()] if segment_id is None else [reader.segment(segment_id)]
        if reader.knows(customer_id):
            return CustomerAnswer(
                customer_id, format_time(reader.marker.clock_ms), reader.explain(customer_id, segments)
            )
    raise UnknownCustomerError(f"customer {customer_id!r} is not known: no event since it was last erased")


def render(answer: CustomerAnswer) -> Iterator[str]:
    """The answer as lines of text."""
    yield f"{answer.customer_id}, as of {answer.at}"
    for segment in answer.segments:
        until = f" until {segment.valid_until} if nothing arrives" if segment.valid_until else ""
        yield f"{'in ' if segment.member else 'out'}  {segment.segment_id} ({segment.segment_name}){until}"
        for condition in segment.conditions:
            flips = f"; flips at {condition.flips_at}" if condition.flips_at else ""
            yield f"      {'holds' if condition.holds else 'fails'}  {_words(condition.condition)}"
            yield f"             seen: {_words(condition.seen)}{flips}"


def _words(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_word(value)}" for name, value in fields.items())


def _word(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
