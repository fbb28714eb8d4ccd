"""Amounts say what a plain list of them says, and a customer's next one costs as much as its first."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conditions.amounts import (
    STRIDE,
    AmountEntry,
    Amounts,
    ManyAmounts,
    drop_oldest,
    drop_time,
    place_after,
    sum_since,
    with_amount,
)
from conditions.events import Event, Order
from conditions.features import FOREVER, EventSet, Predicate, SumAtom, SumFeature, Summaries
from conditions.kinds import order_total_micros
from conditions.times import DAY_MS

MOST_STEPS = 2_500  # of the interpreter; a look at each of the orders would take more than ORDERS
ORDERS = 100_000


class Plain:
    """The same in the plainest way: a set of entries, sorted and walked by whoever asks."""

    def __init__(self) -> None:
        self.micros: dict[tuple[int, int], int] = {}

    def entries(self) -> list[AmountEntry]:
        return sorted((*key, amount) for key, amount in self.micros.items())

    def drop_until(self, until_ms: int) -> None:
        self.micros = {key: amount for key, amount in self.micros.items() if key[0] > until_ms}

    def sum_since(self, after_ms: int) -> int:
        return sum(amount for (time_ms, _), amount in self.micros.items() if time_ms > after_ms)

    def drop_time(self, after_ms: int, bound: int) -> int:
        gone = 0
        for time_ms, _, amount in self.entries():
            if time_ms > after_ms:
                gone += amount
                if self.sum_since(after_ms) - gone < bound:
                    return time_ms
        raise AssertionError


class Play:
    """Amounts come in any order, some of them twice; old ones go."""

    def __init__(self, seed: int, span_ms: int, in_order: float) -> None:
        self.chance, self.span_ms, self.in_order = random.Random(seed), span_ms, in_order
        self.amounts: Amounts = []
        self.plain = Plain()
        self.time_ms = 0

    def step(self) -> None:
        dice = self.chance.random()
        if dice < 0.04:
            self.drop(self.time_ms - self.chance.randrange(2 * self.span_ms))
        elif dice < 0.06 and len(self.amounts) > STRIDE:
            self.amounts = ManyAmounts(tuple(self.amounts))  # as if its record had been read
        else:
            self.add()

    def add(self) -> None:
        chance = self.chance
        if chance.random() < self.in_order:
            self.time_ms += chance.randrange(3)
        late_ms = 0 if chance.random() < self.in_order else chance.randrange(self.span_ms)
        key = (self.time_ms - late_ms, chance.choice((0, 1, 7, (1 << 64) - 1)))
        amount = chance.choice((0, 1, 10, 10**18, chance.randrange(10**6)))
        amounts = with_amount(self.amounts, (*key, amount))
        assert (amounts is None) == (key in self.plain.micros)
        if amounts is not None:
            self.amounts = amounts
            self.plain.micros[key] = amount

    def drop(self, until_ms: int) -> None:
        drop_oldest(self.amounts, place_after(self.amounts, until_ms))
        self.plain.drop_until(until_ms)

    def check(self) -> None:
        amounts, plain = self.amounts, self.plain
        assert list(amounts) == plain.entries()
        for after_ms in (-FOREVER, self.time_ms - self.chance.randrange(self.span_ms), self.time_ms):
            total = plain.sum_since(after_ms)
            at, found = sum_since(amounts, after_ms)
            assert found == total
            for bound in {1, total // 2, total - 1, total}:
                if 0 < bound <= total:
                    assert drop_time(amounts, at, total, bound) == plain.drop_time(after_ms, bound)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 250), st.integers(1, 300), st.sampled_from((0.0, 0.5, 0.9, 1.0)))
def test_amounts_in_any_order_add_up_as_a_plain_list_of_them(
    seed: int, steps: int, span_ms: int, in_order: float
) -> None:
    play = Play(seed, span_ms, in_order)
    for number in range(steps):
        play.step()
        if number % 20 == 0:
            play.check()
    play.check()


@pytest.mark.parametrize("kept", [0, 1, STRIDE - 1, STRIDE, STRIDE + 1, 3 * STRIDE])
@pytest.mark.parametrize("size", [1, STRIDE, STRIDE + 1, 2 * STRIDE, 4 * STRIDE + 1])
def test_what_is_left_after_the_oldest_have_gone_grows_on(size: int, kept: int) -> None:
    play = Play(0, 10, 1.0)
    for _ in range(size):
        play.add()
    play.drop(play.amounts[-kept - 1][0] if kept < len(play.amounts) else -1)
    play.check()
    for _ in range(2 * STRIDE + 1):
        play.add()
        play.check()


def steps(call: Callable[..., object], *arguments: object) -> int:
    """How many instructions of the interpreter the call takes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call(*arguments)
    finally:
        sys.settrace(before)
    return count


class Shopper:
    """A customer with very many orders, one an hour."""

    def __init__(self) -> None:
        self.events = EventSet("f", Predicate("purchase.order"))
        self.feature = SumFeature(self.events, order_total_micros)
        self.atoms = [
            SumAtom(self.events, order_total_micros, bound, duration_ms)
            for duration_ms in (DAY_MS, ORDERS * DAY_MS // 48, FOREVER)
            for bound in (1, ORDERS * 200, ORDERS * 900, ORDERS * 1_000_000)
        ]
        for atom in self.atoms:
            self.feature.ask(atom)
        self.summaries = Summaries()
        self.clock_ms = 10**12
        self.summaries.own_sums()[self.feature.key] = ManyAmounts(
            (self.clock_ms - number * DAY_MS // 24, number, 1_000) for number in range(ORDERS, 0, -1)
        )

    def buy(self, name: int, late_ms: int = 0) -> None:
        order = Event("e", "purchase.order", "c", self.clock_ms - late_ms, self.clock_ms, 0, {}, Order("o", 1_000))
        assert self.feature.fold(self.summaries, order, name, self.clock_ms, [])

    def expire(self) -> None:
        self.feature.expire(self.summaries, self.summaries.sums[self.feature.key], self.clock_ms, [])


def test_an_order_takes_no_more_steps_where_very_many_went_before() -> None:
    shopper = Shopper()
    taken = []
    for name in range(2 * STRIDE):
        shopper.clock_ms += DAY_MS
        taken.append(steps(shopper.buy, name))

    assert max(taken) < MOST_STEPS


def test_an_order_that_comes_a_little_late_takes_no_more_steps_where_very_many_went_before() -> None:
    shopper = Shopper()

    assert max([steps(shopper.buy, name, name * DAY_MS) for name in range(STRIDE)]) < MOST_STEPS


def test_time_that_passes_takes_no_more_steps_where_a_customer_has_very_many_orders() -> None:
    shopper = Shopper()
    taken = []
    for _ in range(STRIDE):
        shopper.clock_ms += DAY_MS
        taken.append(steps(shopper.expire))

    assert max(taken) < MOST_STEPS


def test_asking_takes_no_more_steps_where_a_customer_has_very_many_orders() -> None:
    shopper = Shopper()
    for atom in shopper.atoms:
        for at_ms in range(shopper.clock_ms, shopper.clock_ms + STRIDE * DAY_MS, DAY_MS):
            assert steps(atom.holds, shopper.summaries, at_ms) < MOST_STEPS
            assert steps(atom.turns_false_at, shopper.summaries, at_ms) < MOST_STEPS
