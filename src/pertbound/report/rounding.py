"""Numbers as a reader wants them: three significant digits, rounded so that what is said stays true."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

DIGITS = 3
"""Significant digits in tables and sentences."""

MISSING = "–"
"""What stands where there is no number."""


def nearest(value: float, digits: int = DIGITS) -> str:
    """The closest number of so many significant digits.

    >>> nearest(0.123456), nearest(7.274e-8), nearest(12345.6), nearest(float("inf")), nearest(float("nan"))
    ('0.123', '7.27e-8', '12300', '∞', '–')
    """
    return _text(value, digits, ROUND_HALF_EVEN)


def down(value: float, digits: int = DIGITS) -> str:
    """A number that is not larger: for lower bounds.

    >>> down(0.12399), down(2.0)
    ('0.123', '2.00')
    """
    return _text(value, digits, ROUND_FLOOR)


def up(value: float, digits: int = DIGITS) -> str:
    """A number that is not smaller: for distances to witnesses.

    >>> up(0.12301), up(0.9999)
    ('0.124', '1.00')
    """
    return _text(value, digits, ROUND_CEILING)


def share(part: int, whole: int) -> str:
    """A percentage that says 0 or 100 only where it is exact.

    >>> share(1, 3), share(9999, 10000), share(0, 7)
    ('33.3 %', '> 99.9 %', '0 %')
    """
    if whole == 0:
        return MISSING
    if part in (0, whole):
        return f"{100 * part // whole} %"
    percent = 100 * part / whole
    if percent > 99.9:
        return "> 99.9 %"
    return "< 0.1 %" if percent < 0.1 else f"{percent:.1f} %"


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> duration(0.0371), duration(265.0), duration(20000.0)
    ('37.1 ms', '4.42 min', '5.56 h')
    """
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size:
            return f"{nearest(seconds / size)} {unit}"
    return f"{nearest(seconds * 1000)} ms"


def _text(value: float, digits: int, rounding: str) -> str:
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    exact = Decimal(value)
    if exact == 0:
        return "0"
    rounded = exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=rounding)
    if rounded.adjusted() != exact.adjusted():  # 0.9999 became 1.000: one digit too many
        rounded = rounded.quantize(Decimal(1).scaleb(rounded.adjusted() - digits + 1))
    if -3 <= rounded.adjusted() < 6:
        return f"{rounded:f}"
    return f"{rounded:.{digits - 1}e}".replace("e+", "e")
