"""Money: every decimal becomes the micros of its digits."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conditions.money import micros_of_float, to_micros


def micros_by_definition(value: Decimal) -> int:
    with localcontext() as context:
        context.prec = 100
        return int((value * 10**6).quantize(Decimal(1), ROUND_HALF_EVEN))


@pytest.mark.parametrize(
    ("value", "micros"),
    [
        (0, 0),
        (12, 12_000_000),
        (10**12 - 1, (10**12 - 1) * 10**6),
        (0.1, 100_000),
        (-0.0, 0),
        (19.99, 19_990_000),
        (0.30000000000000004, 300_000),
        (999999999999.99, 999_999_999_999_990_000),
        (0.0000005, 0),
        (0.0000015, 2),
        (0.0000025, 2),
        (-0.0000015, -2),
        (Decimal("0.0000005"), 0),
        (Decimal("0.00000050000000000000000000000001"), 1),
        (Decimal("0.0000015"), 2),
        (Decimal("1e-999999"), 0),
        (Decimal("999999999999.999999"), 999_999_999_999_999_999),
    ],
)
def test_amounts_are_rounded_half_even_to_six_places(value: float | Decimal, micros: int) -> None:
    assert to_micros(value) == micros


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), Decimal("NaN"), 1e300, Decimal("1e30")])
def test_what_is_no_amount_is_refused(value: float | Decimal) -> None:
    with pytest.raises(ValueError, match="expected an amount"):
        to_micros(value)


@given(st.decimals(min_value=-(10**12), max_value=10**12, allow_nan=False))
def test_a_decimal_is_rounded_as_by_definition(value: Decimal) -> None:
    assert to_micros(value) == micros_by_definition(value)


@given(st.integers(-(10**18), 10**18), st.integers(0, 12))
@example(5, 7)
@example(15, 7)
@example(2**31 * 10**6 + 1, 6)
def test_a_double_that_tells_micros_tells_those_of_the_written_decimal(digits: int, places: int) -> None:
    written = Decimal(digits).scaleb(-places)
    micros = micros_of_float(float(written))
    assert micros is None or micros == micros_by_definition(written)


@given(st.integers(0, 2 * 10**11))
def test_prices_in_cents_up_to_two_thousand_million_need_no_second_look(cents: int) -> None:
    assert micros_of_float(cents / 100) == cents * 10_000


@given(st.integers(0, 10**18 - 1))
def test_whole_micros_come_through_their_text_unchanged(micros: int) -> None:
    assert to_micros(Decimal(micros).scaleb(-6)) == micros
