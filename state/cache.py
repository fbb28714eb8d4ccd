"""The customers a partition works with: those in memory, and those it must read first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Protocol

from state.customers import Customer, add_spilled, customer_key, decode_customer, spill_keys
from state.overlay import Overlay

# What a customer takes in memory, to the bytes of its records (tracemalloc): 8 to 11 where few events are known, 5 for
# many counted, 7 for many amounts, 1 to 4 for long texts. Attributes that are lists of objects take 16 or more.
DECODED_TIMES = 11
READ_AT_ONCE = 32  # records; a multi-get of more saves no time
READ_BYTES = 1 << 20  # at once, of customers as large as those before
PARTS_AT_ONCE = 64
VISITED_SHARE = 8  # a visitor's customers take an eighth of a cache beside it, at most

stored_bytes = attrgetter("stored_bytes")
Spilled = tuple[Customer, int, list[bytes]]  # a summary's feature key, and the keys of its records


class Records(Protocol):
    """A store, or what stands for one."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...


class CustomerCache:
    """Decoded customers, which take about `most_bytes` in memory; those that were not used for long are given up.

    Two generations stand for the order of use: who is asked for again moves from the old one to the young one, and when
    the young one has its share of the bytes it becomes the old one, whose customers are given up. So who is used
    all the time costs one look-up. Who was asked for since the last `trim` is in the young one.
    """

    def __init__(self, overlay: Overlay, most_bytes: int) -> None:
        self._overlay = overlay
        self._reader = CustomerReader(overlay)
        self._most_stored = most_bytes // DECODED_TIMES
        self._young: dict[str, Customer] = {}
        self._old: dict[str, Customer] = {}
        self._young_stored = self._old_stored = 0  # bytes of their records

    @property
    def size_bytes(self) -> int:
        """About what the customers take in memory."""
        return (self._young_stored + self._old_stored) * DECODED_TIMES

    def bound(self, most_bytes: int) -> None:
        """From now on keep so much. Called between batches."""
        if self._most_stored != most_bytes // DECODED_TIMES:
            self._most_stored = most_bytes // DECODED_TIMES
            self.trim()

    def prefetch(self, customer_ids: Sequence[str], share: float = 1) -> list[Customer]:
        """The customers of these ids, in their order, read where they are not in memory.

        Where not all can be there at once, those of the first ids: one at least. They may take that share of what a
        batch may bring into memory. Ids may repeat; unknown ones come as unknown customers.
        """
        young = self._young
        found = list(map(young.get, customer_ids))
        if None in found:
            absent = [place for place, customer in enumerate(found) if customer is None]
            self._bring(list(dict.fromkeys([customer_ids[place] for place in absent])), share)
            for place in absent:
                customer = young.get(customer_ids[place])
                if customer is None:
                    del found[place:]
                    break
                found[place] = customer
        return found  # type: ignore[return-value]  # every None is gone

    def visit(self, customer_ids: Sequence[str]) -> Iterator[Customer]:
        """The customers of these ids, without keeping them: who goes through all pushes nobody out.

        They end early once those that were read take a part of what may be kept.
        """
        found = [self._young.get(each) or self._old.get(each) for each in customer_ids]
        absent = [each for each, customer in zip(customer_ids, found, strict=True) if customer is None]
        read, room = self._reader.read(absent), self._most_stored // VISITED_SHARE
        for kept in found:
            customer = kept or next(read)
            yield customer
            room -= 0 if kept else customer.stored_bytes
            if room < 0:
                return

    def note_growth(self, grown_bytes: int) -> None:
        """The records of the kept customers have so many more bytes since they were written."""
        self._young_stored += grown_bytes

    def trim(self) -> None:
        """Give up who was not used for long. Called between batches: no customer may be in work."""
        if self._young_stored * 2 > self._most_stored:
            self._old, self._young = self._young, {}
            self._young_stored, self._old_stored = 0, sum(map(stored_bytes, self._old.values()))
        self._make_room()

    def clear(self) -> None:
        """Forget all: what is in memory may be ahead of what was committed."""
        self._young.clear()
        self._old.clear()
        self._young_stored = self._old_stored = 0

    def _bring(self, customer_ids: list[str], share: float) -> None:
        """Into the young generation, from the old one or, as far as there is room, from the store."""
        young, old = self._young, self._old
        missing: list[str] = []
        for customer_id in customer_ids:
            customer = old.pop(customer_id, None)
            if customer is None:
                missing.append(customer_id)
            else:
                young[customer_id] = customer
                self._young_stored += customer.stored_bytes
                self._old_stored -= customer.stored_bytes
        # After `trim` the young ones take half of it at most.
        most_young = self._most_stored * (1 + share) / 2
        for customer in self._reader.read(missing):
            customer.is_cached = True
            young[customer.id] = customer
            self._young_stored += customer.stored_bytes
            if self._young_stored + self._old_stored > self._most_stored:
                self._make_room()
            if self._young_stored > most_young:
                break

    def _make_room(self) -> None:
        """Give up as many of the old generation, whom no batch in the making knows, as are too many."""
        old, surplus = self._old, self._young_stored + self._old_stored - self._most_stored
        while surplus > 0 and old:
            gone = old.pop(next(iter(old))).stored_bytes
            surplus -= gone
            self._old_stored -= gone


class CustomerReader:
    """Reads customers, few at a time where those before were large: never many large records are in memory."""

    def __init__(self, source: Records) -> None:
        self._source = source
        self._at_once = 1

    def read(self, customer_ids: Sequence[str]) -> Iterator[Customer]:
        """The customers of these ids, with all their summaries, in their order; unknown ones as unknown customers."""
        begin = 0
        while begin < len(customer_ids):
            ids = customer_ids[begin : begin + self._at_once]
            begin += len(ids)
            records = self._source.get_many([customer_key(each) for each in ids])
            largest_bytes = max([len(record) for record in records if record], default=1)
            self._at_once = max(1, min(READ_AT_ONCE, 2 * self._at_once, READ_BYTES // largest_bytes))
            yield from self._with_parts(
                Customer(each) if record is None else decode_customer(each, record)
                for each, record in zip(ids, records, strict=True)
            )

    def _with_parts(self, customers: Iterable[Customer]) -> Iterator[Customer]:
        """The customers, each once its spilled summaries are there too."""
        waiting: list[Customer] = []
        wanted: list[Spilled] = []
        for customer in customers:
            waiting.append(customer)
            if customer.spilled:
                wanted += [(customer, *spilled) for spilled in spill_keys(customer)]
            if sum([len(keys) for _, _, keys in wanted]) >= PARTS_AT_ONCE:
                self._add_parts(wanted)
                wanted = []
            if not wanted:
                yield from waiting
                waiting = []
        if wanted:
            self._add_parts(wanted)
        yield from waiting

    def _add_parts(self, wanted: list[Spilled]) -> None:
        parts = iter(self._source.get_many([key for _, _, keys in wanted for key in keys]))
        for customer, feature_key, keys in wanted:
            stored = [part for part in islice(parts, len(keys)) if part is not None]
            if stored:
                add_spilled(customer, feature_key, stored)


def read_customers(source: Records, customer_ids: Sequence[str]) -> Iterator[Customer]:
    """Those of the customers that are known, with all their summaries, in the order of the ids, read as they are asked
    for.
    """
    return (customer for customer in CustomerReader(source).read(customer_ids) if customer.known)
