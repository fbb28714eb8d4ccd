"""A customer's record, and those of its summaries that are large: what was written is what is read, and no more."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest

from conditions.amounts import AmountEntry, ManyAmounts, drop_oldest, with_amount
from conditions.features import INLINE_ENTRIES
from state.cache import read_customers
from state.customers import PART_ENTRIES, Customer, customer_key, encode_customer, is_spill, spill_key

SUM, OTHER_SUM, COUNT = 11, 12, 13
ORDERS = 50_000


class Records:
    """What the store holds, as whole batches leave it."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.kept.get(key) for key in keys]

    def write(self, customer: Customer) -> int:
        """Answers how many bytes that takes."""
        writes = encode_customer(customer)
        assert len({key for key, _ in writes}) == len(writes)
        for key, value in writes:
            if value is None:
                self.kept.pop(key, None)
            else:
                self.kept[key] = value
        return sum(len(key) + len(value or b"") for key, value in writes)

    def read(self) -> Customer:
        [customer] = read_customers(self, ["c"])
        return customer


def summaries(customer: Customer) -> tuple[dict[int, list[AmountEntry]], dict[int, list[int]]]:
    sums = {key: list(amounts) for key, amounts in customer.sums.items()}
    return sums, {key: list(entries) for key, entries in customer.counts.items()}


class Life:
    """A customer whose sums and count grow, shrink, go and come back."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.customer = Customer("c")
        self.customer.known = True
        self.time_ms = 10**12

    def live(self) -> None:
        chance, customer = self.chance, self.customer
        dice = chance.random()
        if dice < 0.04:
            customer.forget()
        elif dice < 0.1 and customer.sums:
            self.drop(chance.choice(list(customer.sums)))
        elif dice < 0.2:
            customer.counts[COUNT] = list(range(2 * chance.choice((1, INLINE_ENTRIES, INLINE_ENTRIES + 1, 100))))
            customer.touch(COUNT)
        else:
            for _ in range(chance.choice((1, 3, INLINE_ENTRIES, PART_ENTRIES, 3 * PART_ENTRIES))):
                self.add(chance.choice((SUM, SUM, SUM, OTHER_SUM)))
        customer.known = bool(customer.sums or customer.counts)

    def add(self, key: int) -> None:
        chance = self.chance
        self.time_ms += chance.randrange(5)
        late_ms = chance.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, chance.randrange(3_000)))
        sums = self.customer.own_sums()
        amounts = with_amount(sums.get(key, []), (self.time_ms - late_ms, chance.randrange(1 << 64), 7))
        assert amounts is not None
        sums[key] = amounts
        self.customer.touch(key)

    def drop(self, key: int) -> None:
        amounts = self.customer.own_sums()[key]
        most = len(amounts)
        drop_oldest(amounts, min(most, self.chance.choice((1, PART_ENTRIES, most - 40, most - 5, most)) % (most + 1)))
        self.customer.touch(key)
        if not amounts:
            del self.customer.own_sums()[key]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_read_is_what_was_written_and_nothing_else_is_left(seed: int) -> None:
    life, records = Life(seed), Records()
    for _ in range(50):
        for _ in range(life.chance.randint(1, 3)):
            life.live()
        customer = life.customer
        records.write(customer)
        if not customer.known:
            assert not records.kept
            life.customer = Customer("c") if life.chance.random() < 0.5 else customer
            continue
        read = records.read()
        assert summaries(read) == summaries(customer)
        anew = Records()
        fresh = Customer("c")
        fresh.known, fresh.counts = True, customer.counts
        fresh.sums = {key: ManyAmounts(amounts) for key, amounts in customer.sums.items()}
        fresh.touched = frozenset({SUM, OTHER_SUM, COUNT})
        anew.write(fresh)
        parts = len([key for key in records.kept if is_spill(key)])
        # where old ones were dropped, as many amounts may reach into one part more
        assert parts <= len([key for key in anew.kept if is_spill(key)]) + len(customer.sums)
        if life.chance.random() < 0.5:
            life.customer = read


def buy(customer: Customer, names: range) -> None:
    """One order a millisecond."""
    sums = customer.own_sums()
    for name in names:
        amounts = with_amount(sums.get(SUM, []), (10**12 + name, name, 10**7))
        assert amounts is not None
        sums[SUM] = amounts
    customer.touch(SUM)


def drop(customer: Customer, count: int) -> None:
    drop_oldest(customer.sums[SUM], count)
    customer.touch(SUM)


def test_an_order_writes_no_more_where_very_many_went_before() -> None:
    records, customer = Records(), Customer("c")
    customer.known = True
    buy(customer, range(ORDERS))
    assert records.write(customer) > ORDERS * 10
    customer = records.read()
    for name in range(ORDERS, ORDERS + 2 * PART_ENTRIES):
        buy(customer, range(name, name + 1))
        drop(customer, 1)
        assert records.write(customer) < 30 * PART_ENTRIES

    read = records.read().sums[SUM]
    assert [name for _, name, _ in read] == list(range(2 * PART_ENTRIES, ORDERS + 2 * PART_ENTRIES))


def test_a_sum_that_shrank_into_the_customers_record_grows_out_of_it_again() -> None:
    records, customer, left = Records(), Customer("c"), INLINE_ENTRIES // 2
    customer.known = True
    buy(customer, range(PART_ENTRIES + 5))
    records.write(customer)
    drop(customer, PART_ENTRIES + 5 - left)
    records.write(customer)
    assert list(records.kept) == [customer_key("c")]
    buy(customer, range(PART_ENTRIES + 5, 2 * PART_ENTRIES))

    records.write(customer)

    read = records.read().sums[SUM]
    assert [name for _, name, _ in read] == list(range(PART_ENTRIES + 5 - left, 2 * PART_ENTRIES))


def test_a_sum_that_an_earlier_build_wrote_in_one_record_is_read_and_written_in_parts() -> None:
    records, key = Records(), customer_key("c")
    entries = [(10**12 + number, number, 1) for number in range(3 * PART_ENTRIES)]
    fields: tuple[object, ...] = (0, [], {}, {}, {}, [SUM], 0, 0)
    records.kept = {
        key: (5).to_bytes(8, "big") + msgspec.msgpack.encode(fields),
        spill_key(key, SUM): b"s" + msgspec.msgpack.encode(entries),
    }
    customer = records.read()
    assert list(customer.sums[SUM]) == entries
    drop(customer, 1)

    records.write(customer)

    assert list(records.read().sums[SUM]) == entries[1:]
    assert max(map(len, records.kept.values())) < 30 * PART_ENTRIES
