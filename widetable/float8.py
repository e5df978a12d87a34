"""float8 to text and back to the same bytes that PostgreSQL prints under ``extra_float_digits = 1``.

In: an Arrow array of doubles. Out: an Arrow array of strings, equal to ``value::text`` in PostgreSQL, so that
the stream side and the history side agree on every byte.

PostgreSQL prints the shortest digits that read back to the same double (Ryu, `src/common/d2s.c`), as a plain
number for decimal exponents from -4 to 14 and as ``1e+15`` beyond. Arrow's cast prints the same digits but
switches to exponents elsewhere, so it is used only where both print a plain number: integers below 1e15, cast
as int64, and non-integers from 1e-4 up to 1e10. Everything else takes the exact path, one value at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Decimal exponents that PostgreSQL prints without "e": from -4 up to DBL_DIG = 15, exclusive.
FIRST_PLAIN_EXPONENT: Final = -4
FIRST_LARGE_EXPONENT: Final = 15
LARGEST_PLAIN_INTEGER: Final = 1e15
# Arrow prints non-integers in this range as plain numbers.
ARROW_PLAIN_FROM, ARROW_PLAIN_UNTIL = 1e-4, 1e10
REPR_PLAIN_FROM: Final = 1e-4
EVERY_INTEGER_UNTIL: Final = 2.0**53
MAX_DIGITS: Final = 17


def double_text(values: pa.DoubleArray) -> pa.StringArray:
    """`values` as PostgreSQL prints them; NULL stays NULL, -0 keeps its sign.

    Args:
        values: any length, any doubles.

    Returns:
        One string per value.
    """
    if values.null_count == len(values):
        return pa.nulls(len(values), pa.string())
    known = values.is_valid().to_numpy(zero_copy_only=False)
    numbers = pc.fill_null(values, 0.5).to_numpy()
    size = np.abs(numbers)
    with np.errstate(invalid="ignore"):
        whole = (np.rint(numbers) == numbers) & (size < LARGEST_PLAIN_INTEGER)
    negative_zero = (numbers == 0) & np.signbit(numbers)
    whole &= ~negative_zero
    fraction = ~whole & ~negative_zero & (size >= ARROW_PLAIN_FROM) & (size < ARROW_PLAIN_UNTIL)
    text = pc.cast(values, pa.string())
    if whole.any():
        integers = pc.cast(pa.array(numbers[whole].astype(np.int64)), pa.string())
        text = pc.replace_with_mask(text, pa.array(whole), integers)
    rest = known & ~whole & ~fraction
    if rest.any():
        exact = pa.array([exact_text(number) for number in numbers[rest].tolist()], pa.string())
        text = pc.replace_with_mask(text, pa.array(rest), exact)
    return text


def exact_text(number: float) -> str:
    """One double as PostgreSQL prints it, by exact arithmetic; the reference for `double_text`."""
    if math.isnan(number):
        return "NaN"
    sign = "-" if math.copysign(1, number) < 0 else ""
    size = abs(number)
    if math.isinf(size):
        return f"{sign}Infinity"
    if size == 0:
        return f"{sign}0"
    if REPR_PLAIN_FROM <= size < LARGEST_PLAIN_INTEGER:  # Python prints what PostgreSQL does
        return sign + repr(size).removesuffix(".0")
    digits, exponent = _shortest(size)
    return sign + _laid_out(digits.rstrip("0"), exponent)


def _shortest(size: float) -> tuple[str, int]:
    """The digits PostgreSQL chooses for a positive double, and the decimal exponent of the first one."""
    digits, exponent = _scientific(repr(size))
    if size < EVERY_INTEGER_UNTIL:
        return digits, exponent
    # Python accepts digits that lie exactly on the border to a neighbouring double, as reading rounds half
    # to even; PostgreSQL doesn't. Borders of so few digits exist only where doubles are large integers.
    low, high = _borders(size)
    for text in _candidates(size, len(digits)):
        digits, exponent = _scientific(text)
        if low < int(digits) * Fraction(10) ** (exponent - len(digits) + 1) < high:
            break
    return digits, exponent


def _candidates(size: float, digits: int) -> Iterator[str]:
    yield repr(size)
    for precision in range(max(digits, 1), MAX_DIGITS + 1):
        yield f"{size:.{precision - 1}e}"


def _borders(size: float) -> tuple[Fraction, Fraction]:
    """Half-way points between a large double and its neighbours; no decimal in between reads as another."""
    exact, below, above = int(size), int(math.nextafter(size, 0)), math.nextafter(size, math.inf)
    up = exact - below if math.isinf(above) else int(above) - exact
    return Fraction(exact + below, 2), Fraction(2 * exact + up, 2)


def _scientific(text: str) -> tuple[str, int]:
    """Digits without leading zeros, and the decimal exponent of the first one."""
    mantissa, _, power = text.partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    leading_zeros = len(whole + fraction) - len(digits)
    return digits, int(power or 0) + len(whole) - 1 - leading_zeros


def _laid_out(digits: str, exponent: int) -> str:
    if not FIRST_PLAIN_EXPONENT <= exponent < FIRST_LARGE_EXPONENT:
        point = "." if len(digits) > 1 else ""
        return f"{digits[0]}{point}{digits[1:]}e{exponent:+03d}"
    if exponent < 0:
        return f"0.{'0' * (-exponent - 1)}{digits}"
    whole, fraction = digits[: exponent + 1].ljust(exponent + 1, "0"), digits[exponent + 1 :]
    return f"{whole}.{fraction}" if fraction else whole
