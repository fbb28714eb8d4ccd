"""Looking into a state folder: who is in a segment, and why a customer is in or out. Beside a running process too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from conditions.definitions import Definitions, compile_definitions
from conditions.explanation import SegmentAnswer
from conditions.segments import Segment
from conditions.times import format_time
from conditions.wording import escape_unprintable
from state.changelog import read_position
from state.customers import decode_customer, is_spill
from state.definitions_record import read_segments
from state.engine import Marker, read_marker
from state.lookup import CommittedState, Standing, explain_standing
from state.rocksdb_store import RocksdbStore
from state.store import StateError, Store
from state.tally import Tally
from streams.member_table import printable, table_lines

COUNTED_CUSTOMERS = 10_000  # at a time


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
        state = self.state()
        for key, record in self._store.scan():
            if not is_spill(key):
                customer = decode_customer(key.decode(), record)
                [standing] = state.standings(customer, [segment])
                if standing.member:
                    yield customer.id

    def sizes(self) -> dict[str, int]:
        """How many customers are in each segment; one pass over all customers."""
        return count_members(self._store, self.definitions)

    def state(self) -> CommittedState:
        """The same, to be asked about customers."""
        return CommittedState(self._store, self.definitions)


def count_members(store: Store, definitions: Definitions) -> dict[str, int]:
    """How many customers are in each segment, by its id, in the order of the definitions."""
    tally, state = Tally(), CommittedState(store, definitions)
    while not tally.done:
        tally.count(state, COUNTED_CUSTOMERS)
    return {segment_id: tally.size(segment_id) or 0 for segment_id in definitions.segments}


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


class CustomerAnswer(msgspec.Struct, omit_defaults=True):
    """Why a customer is in segments or out of them, as of the partition's time `at`.

    `pending` are segments that have changed and for which this customer is still to be asked: `member` is what was last
    said.
    """

    customer_id: str
    at: str
    segments: list[SegmentAnswer]
    pending: list[str] = []


def explain_customer(readers: list[StateReader], customer_id: str, segment_id: str | None) -> CustomerAnswer:
    """The answer of the partition that knows the customer. Raises UnknownCustomerError, UnknownSegmentError."""
    for reader in readers:
        segments = [*reader.definitions.segments.values()] if segment_id is None else [reader.segment(segment_id)]
        state = reader.state()
        customer = state.customer(customer_id)
        if customer is not None:
            at_ms = state.marker.clock_ms
            standings = state.standings(customer, segments)
            kept = reader.definitions.kept_entries(customer)
            answers = [explain_standing(each, kept, customer, at_ms) for each in standings]
            return CustomerAnswer(customer_id, format_time(at_ms), answers, pending_ids(standings))
    raise UnknownCustomerError(unknown_customer(customer_id))


def pending_ids(standings: list[Standing]) -> list[str]:
    """The segments for which the customer is still to be asked."""
    return [each.segment.id for each in standings if each.pending]


def unknown_customer(customer_id: str) -> str:
    """What is said of a customer that no partition knows."""
    return f"customer {customer_id!r} is not known: no event since it was last erased"


def render(answer: CustomerAnswer) -> Iterator[str]:
    """The answer as lines of text, harmless to a terminal whatever events and documents hold."""
    return map(escape_unprintable, _lines(answer))


def _lines(answer: CustomerAnswer) -> Iterator[str]:
    waiting = set(answer.pending)
    yield f"{answer.customer_id}, as of {answer.at}"
    for segment in answer.segments:
        until = f" until {segment.valid_until} if nothing arrives" if segment.valid_until else ""
        pending = "; it has changed, and this customer is still to be asked" if segment.segment_id in waiting else ""
        yield f"{'in ' if segment.member else 'out'}  {segment.segment_id} ({segment.segment_name}){until}{pending}"
        for condition in segment.conditions:
            flips = f"; flips at {condition.flips_at}" if condition.flips_at else ""
            yield f"      {'holds' if condition.holds else 'fails'}  {_words(condition.condition)}"
            yield f"             seen: {_words(condition.seen)}{flips}"


def _words(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_word(name, value)}" for name, value in fields.items())


def _word(name: str, value: Any) -> str:
    if name == "value" and value is None:
        return "missing"
    # Of values the type counts too: the text "5" is not the number 5.
    return value if isinstance(value, str) and name != "value" else msgspec.json.encode(value).decode()
