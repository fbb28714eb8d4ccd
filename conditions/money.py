"""Money as integers of millionths (micros), exact for the decimals as they were written."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

from conditions.events import MICROS_PER_UNIT

# Reading a decimal as a double, and scaling that double, may each shift it by a relative 2^-53.
_READING_ERROR = 2.0**-52
_MICRO = Decimal("0.000001")
_UNIT_LIMIT = Decimal(10) ** 30
_ROUNDING = Context(prec=64, rounding=ROUND_HALF_EVEN)


def to_micros(value: int | float | Decimal) -> int:
    """The amount in micros, rounded half-even to 6 decimal places.

    A float stands for its shortest decimal (0.1 is one tenth). Raises ValueError for NaN, infinities and amounts of
    10^30 and more.
    """
    if isinstance(value, int):
        return value * MICROS_PER_UNIT
    if isinstance(value, float):
        micros = micros_of_float(value)
        if micros is not None:
            return micros
        value = Decimal(repr(value))
    if not value.is_finite() or abs(value) >= _UNIT_LIMIT:
        raise ValueError(f"expected an amount below 10^30, got {value:.6e}")
    return int(value.quantize(_MICRO, context=_ROUNDING).scaleb(6, context=_ROUNDING))


def decimal_text(micros: int) -> str:
    """The amount, of zero or more, as a decimal that tells every micro."""
    units, rest = divmod(micros, MICROS_PER_UNIT)
    return f"{units}.{rest:06}".rstrip("0") if rest else f"{units}.0"


def micros_of_float(value: float) -> int | None:
    """The micros of every decimal that reads as `value`, or None where they differ and the written text decides.

    Also None for NaN, infinities and amounts so large (about 2·10^9) that doubles cannot tell micros apart.
    """
    scaled = value * 1e6
    # False for NaN and infinities too, so `round` below cannot raise
    if not -2.3e15 < scaled < 2.3e15:
        return None
    micros = round(scaled)
    if abs(scaled - micros) + abs(scaled) * _READING_ERROR < 0.5:
        return micros
    return None
