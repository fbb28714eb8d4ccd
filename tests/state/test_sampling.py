"""A sample is as large as wanted, evenly spread over the customers, and holds nobody twice."""

from __future__ import annotations

import itertools
import random

import pytest

from state.customers import customer_key, spill_key
from state.memory_store import MemoryStore
from state.sampling import CustomerSample
from state.store import WriteSet


def store_of(customers: int) -> MemoryStore:
    store = MemoryStore()
    keys = [customer_key(f"c{number:06}") for number in range(customers)]
    records: list[tuple[bytes, bytes | None]] = [(key, b"record") for key in keys]
    # Large summaries stand under keys of their own, between those of the customers.
    records += [(spill_key(key, 7), b"summary") for key in keys[::3]]
    store.write(WriteSet(customers=records))
    return store


@pytest.mark.parametrize("seed", range(30))
def test_a_sample_is_spread_evenly(seed: int) -> None:
    chance = random.Random(seed)
    customers, wanted = chance.randrange(1, 900), chance.randrange(1, 300)
    store = store_of(customers)
    sample = CustomerSample(customers, wanted)
    while not sample.done:
        sample.advance(store, chance.randrange(1, 50))
    assert sample.passed == customers
    assert len(sample.ids) == len(set(sample.ids)) == min(wanted, customers)
    places = [int(each[1:]) for each in sample.ids]
    gaps = [after - before for before, after in itertools.pairwise(places)]
    stride = max(1, customers / wanted)
    assert all(abs(gap - stride) < 1 for gap in gaps)
    fewer = sample.some(chance.randrange(1, wanted + 1))
    assert set(fewer) <= set(sample.ids)
    assert len(set(fewer)) == len(fewer)


def test_more_customers_than_expected_are_passed_and_not_picked() -> None:
    store = store_of(100)
    sample = CustomerSample(10, 10)
    sample.advance(store, 1_000)
    assert (sample.done, sample.passed, len(sample.ids)) == (True, 100, 10)


def test_a_partition_without_customers_has_an_empty_sample() -> None:
    sample = CustomerSample(0, 10)
    sample.advance(MemoryStore(), 10)
    assert (sample.done, sample.ids, sample.some(5)) == (True, [], [])
