"""Decimal numbers of documents, without loss."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation

import msgspec

_DIGITS_OF_DOUBLES = 15  # so many significant digits survive the way into a double and back
_LONGEST_INTEGER = 1_000  # reading digits takes quadratic time


def exact_integer(text: str) -> int | float:
    """The integer; an infinity where it has more than 1,000 digits."""
    return int(text) if len(text) <= _LONGEST_INTEGER else float(text)


def exact_number(text: str) -> float | Decimal:
    """The number as a double where that tells every digit written, else as a Decimal.

    What is beyond doubles comes as an infinity, what is too near to zero may come as zero.
    """
    double = float(text)
    if len(text) <= _DIGITS_OF_DOUBLES or double in {float("inf"), float("-inf")}:
        return double
    try:
        written = Decimal(text)
    except InvalidOperation:
        return double  # the exponent is beyond Decimal's: as good as zero
    return double if written == Decimal(repr(double)) else written


def written_number(text: str) -> float | msgspec.Raw:
    """The number of JSON as a double where that tells every digit written, else as it is written.

    Any encoder of msgspec writes all digits of both.
    """
    number = exact_number(text)
    return number if isinstance(number, float) and math.isfinite(number) else msgspec.Raw(text.encode())
