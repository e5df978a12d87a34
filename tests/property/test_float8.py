"""float8 text against PostgreSQL, which is the oracle, and against its own exact path."""

from __future__ import annotations

import math
import random
import struct

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from widetable.float8 import double_text, exact_text

SEED = 20_251_123


def nasty_doubles(seed: int) -> list[float]:
    """Random bits, powers of two and ten with their neighbours, short decimals, large integers, borders."""
    rng = random.Random(seed)
    doubles: list[float] = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(20_000)]
    for exponent in range(-324, 309):
        doubles += [
            float(f"{digits}e{exponent}") for digits in ("1", "9.5", "1.25", "9.999999999999999", "5")
        ]
    for exponent in range(-1074, 1024):
        doubles += neighbours(math.ldexp(1.0, exponent))
    for digits in range(7):
        doubles += [round(rng.uniform(-1e6, 1e6), digits) for _ in range(3_000)]
    doubles += [10 ** rng.uniform(-6, 17) for _ in range(10_000)]
    doubles += [float(rng.randrange(2**46, 2**63)) for _ in range(10_000)]
    for _ in range(8_000):  # few digits and many zeros: the borders that PostgreSQL excludes
        doubles += neighbours(float(rng.randrange(1, 10 ** rng.randrange(1, 9)) * 10 ** rng.randrange(8, 26)))
    return [*doubles, 0.0, -0.0, math.nan, math.inf, -math.inf, 1.7976931348623157e308, 2.0**53 + 2]


def neighbours(number: float) -> list[float]:
    """A double, the ones next to it, and its negative."""
    return [number, math.nextafter(number, 0), math.nextafter(number, math.inf), -number]


@pytest.mark.postgres
def test_double_text_is_what_postgresql_prints(target_dsn: str) -> None:
    """Byte for byte, for 94,000 doubles that formatters get wrong, in both of our ways."""
    doubles = nasty_doubles(SEED)
    with psycopg.connect(target_dsn) as conn:
        conn.execute("SET extra_float_digits = 1")
        conn.execute("CREATE TEMP TABLE doubles (place int PRIMARY KEY, number float8)")
        with conn.cursor().copy("COPY doubles FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "float8"])
            for row in enumerate(doubles):
                copy.write_row(row)
        wanted = [text for (text,) in conn.execute("SELECT number::text FROM doubles ORDER BY place")]
    assert len(wanted) == len(doubles) > 90_000
    vectorised = double_text(pa.array(doubles, pa.float64())).to_pylist()
    assert [each for each in zip(doubles, vectorised, wanted, strict=True) if each[1] != each[2]] == []
    exact = map(exact_text, doubles)
    assert [each for each in zip(doubles, exact, wanted, strict=True) if each[1] != each[2]] == []


@given(st.lists(st.none() | st.floats() | st.floats(-1e4, 1e4) | st.integers(-(2**53), 2**53).map(float)))
def test_a_batch_prints_as_its_numbers_do_one_by_one(numbers: list[float | None]) -> None:
    """The quick ways of the vectorised text are chosen per value, whatever stands beside it."""
    wanted = [None if number is None else exact_text(number) for number in numbers]
    array = pa.array(numbers, pa.float64())
    assert double_text(array).to_pylist() == wanted
    assert double_text(array.slice(1)).to_pylist() == wanted[1:]


@given(st.floats(allow_nan=False))
def test_text_reads_back_as_the_same_double(number: float) -> None:
    """Nothing is rounded, -0 keeps its sign."""
    again = float(exact_text(number))
    assert again == number
    assert math.copysign(1, again) == math.copysign(1, number)
