"""The value rule against its SQL, and typed columns and COPY against PostgreSQL, which is the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from widetable.narrow import FORMATS, NARROW_SCHEMA, VALUE_COLUMNS, Op
from widetable.values import (
    DEAD_REASONS,
    ColumnType,
    bool_text,
    copy_escape,
    double_text,
    fits,
    long_text,
    settle,
    value_sql,
)

pytestmark = pytest.mark.postgres

Connection = psycopg.Connection[tuple[Any, ...]]

LONGS = st.integers(-(2**63), 2**63 - 1)
STRINGS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
SAMPLES = st.fixed_dictionaries(
    {
        "value_format": st.none() | st.sampled_from(FORMATS) | st.sampled_from(["decimal", "", "Text"]),
        "double_v": st.none() | st.floats(),
        "long_v": st.none() | LONGS,
        "str_v": st.none() | STRINGS,
        "bool_v": st.none() | st.booleans(),
    }
)
NUMERIC_LOOKS = st.from_regex(
    r"\A ?[-+]?[0-9]{0,20}(\.[0-9]{0,5})?([eE][-+]?[0-9]{1,3})?\n?\Z", fullmatch=True
)
WORDS = st.sampled_from(
    ["NaN", "Infinity", "-Infinity", "inf", "nan", "true", "false", "t", "off", "1", "TRUE"]
)
NUMBERS = LONGS.map(str) | st.floats().map(repr) | st.floats().map("{:.15g}".format)
PRINTED = st.floats().map(lambda number: double_text(pa.array([number]))[0].as_py())
TEXTS = STRINGS | NUMERIC_LOOKS | WORDS | NUMBERS | PRINTED

# Each example asks a real server; the connection is shared by all of them.
slowly = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def conn(target_dsn: str) -> Iterator[Connection]:
    """A session that prints as ours do."""
    with psycopg.connect(target_dsn, autocommit=True, options="-c extra_float_digits=1") as conn:
        conn.execute(
            "CREATE TABLE samples (place int, value_format varchar, double_v float8, long_v int8, str_v text,"
            " bool_v bool)"
        )
        conn.execute("CREATE TABLE texts (place int, value text)")
        yield conn


def as_batch(samples: list[dict[str, Any]]) -> pa.RecordBatch:
    """Samples as the stream side makes them of decoded values."""
    columns: dict[str, pa.Array] = {
        "value_format": pa.array([sample["value_format"] for sample in samples], pa.string()),
        "double_v": double_text(pa.array([sample["double_v"] for sample in samples], pa.float64())),
        "long_v": long_text(pa.array([sample["long_v"] for sample in samples], pa.int64())),
        "str_v": pa.array([sample["str_v"] for sample in samples], pa.string()),
        "bool_v": bool_text(pa.array([sample["bool_v"] for sample in samples], pa.bool_())),
    }
    constants = {"ship_id": "s", "channel_id": "c", "op": int(Op.CREATE)}
    for column in NARROW_SCHEMA:
        if column.name not in columns:
            columns[column.name] = pa.array([constants.get(column.name, 0)] * len(samples), column.type)
    return pa.RecordBatch.from_arrays([columns[name] for name in NARROW_SCHEMA.names], schema=NARROW_SCHEMA)


@given(samples=st.lists(SAMPLES, max_size=60))
@slowly
def test_settle_and_sql_choose_the_same_text(conn: Connection, samples: list[dict[str, Any]]) -> None:
    """Value, NULL and ambiguity; the values go to PostgreSQL in binary, so it prints them itself."""
    with conn.transaction(force_rollback=True):
        with conn.cursor().copy("COPY samples FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "varchar", "float8", "int8", "text", "bool"])
            for place, sample in enumerate(samples):
                copy.write_row([place, sample["value_format"], *(sample[name] for name in VALUE_COLUMNS)])
        ambiguous = "num_nonnulls(double_v, long_v, str_v, bool_v) > 1 AND value IS NULL"
        query = (
            f"SELECT value, {ambiguous} FROM samples AS n, LATERAL (SELECT {value_sql('n')} AS value) AS rule"
            " ORDER BY place"
        )
        wanted = conn.execute(query.encode()).fetchall()
    settled = settle(as_batch(samples))
    reasons = [DEAD_REASONS[code] for code in settled.reasons]
    assert [reason == "ambiguous" for reason in reasons] == [is_ambiguous for _, is_ambiguous in wanted]
    assert settled.value.to_pylist() == [value for value, _ in wanted]


CASTS: dict[ColumnType, LiteralString] = {
    "text": "SELECT %s::text::text",
    "float8": "SELECT %s::float8::text",
    "int8": "SELECT %s::int8::text",
    "bool": "SELECT %s::bool::text",
}


@given(values=st.lists(TEXTS, max_size=30), column_type=st.sampled_from(list(CASTS)))
@slowly
def test_what_fits_comes_back_as_the_same_text(
    conn: Connection, values: list[str], column_type: ColumnType
) -> None:
    """A typed column neither refuses nor rewrites what we let into it."""
    fitting = pa.array(values, pa.string()).filter(pa.array(fits(pa.array(values, pa.string()), column_type)))
    for value in fitting.to_pylist():
        assert conn.execute(CASTS[column_type], (value,)).fetchone() == (value,)


@given(numbers=st.lists(st.floats()), longs=st.lists(LONGS))
def test_printed_values_fit_the_column_of_their_type(numbers: list[float], longs: list[int]) -> None:
    """So overflow stays empty as long as a channel keeps its type."""
    assert fits(double_text(pa.array(numbers, pa.float64())), "float8").all()
    assert fits(long_text(pa.array(longs, pa.int64())), "int8").all()


@given(values=st.lists(st.none() | STRINGS | st.text("\\\t\n\rN.a"), max_size=30))
@slowly
def test_escaped_text_goes_through_copy_unchanged(conn: Connection, values: list[str | None]) -> None:
    """NULL, empty strings, line ends and backslashes arrive as what they are."""
    escaped = copy_escape(pa.array(values, pa.string())).fill_null("\\N").to_pylist()
    lines = [f"{place}\t{text}\n" for place, text in enumerate(escaped)]
    with conn.transaction(force_rollback=True):
        with conn.cursor().copy("COPY texts FROM STDIN") as copy:
            copy.write("".join(lines))
        assert [value for (value,) in conn.execute("SELECT value FROM texts ORDER BY place")] == values
