"""Hard names, moments and values, written and read back as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from psycopg import sql

from tests.property.model.cell import Cell
from tests.writer_samples import (
    COUNT,
    LOAD,
    NOON_US,
    ON,
    SHIP,
    STATE,
    TICK_US,
    UNLISTED,
    Key,
    created,
    deleted,
    narrow_batch,
    updated,
)
from tests.writer_world import HISTORY, Worlds, WriterWorld, open_world
from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US, NARROW_SCHEMA, history_columns
from widetable.postgres import connect_source
from widetable.schema_plan import ColumnTypes
from widetable.settings import SourceSettings
from widetable.values import bool_text, double_text, long_text

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.writer_fixture"]

NAMES = [
    *('"', "'", ";--", "%", "%s", "%(x)s", "$1", "{}", "{0}", "\\", "\\N", "tab\there", "new\nline", "cr\r"),
    *("", " ", "_x", "created_time", "ctid", "tableoid", "xmin", "_job", "_set", "_job_", "_k", "_s"),
    *("t", "s", "k", "i", "x", "key", "value", "moment", "UPPER", "upper", "select", "café", "cafe\u0301"),
    *("\N{SHIP}" * 15, "y" * 63, "z" * 64, "é" * 32, "w" * 200, '"; DROP TABLE layout; --'),
]
SHIPS = ['o"b', "o'b", "%s", "\\", "tab\t", "line\n", "{0}", ";--", "é" * 20, "MiXeD", "x" * 41]


@pytest.mark.usefixtures("both_merges")
@pytest.mark.parametrize("column_type", ["text", "typed"])
def test_names_are_names_whatever_they_look_like(target_dsn: str, column_type: ColumnTypes) -> None:
    """Ships and channels that want to be SQL, placeholders, escapes or our own columns."""
    table_of = {name: number % 2 + 1 for number, name in enumerate(NAMES)}
    with open_world(target_dsn, column_type=column_type, table_of=table_of, ships=SHIPS) as world:
        keys = [Key(ship, NOON_US, name) for ship in SHIPS for name in NAMES]
        world.write([created(f"{ship}{name}", name, ship=ship) for ship, _, name in keys])
        assert world.cells() == {key: Cell(f"{key.ship}{key.channel}") for key in keys}
        world.write([updated(name, name, ship=ship, lsn=5) for ship, _, name in keys])
        assert world.cells() == {key: Cell(key.channel, (1, 5), "u") for key in keys}
        world.write([updated(None, name, ship=ship, lsn=6) for ship, _, name in keys[::2]])
        world.write([deleted(name, ship=ship, lsn=7) for ship, _, name in keys[1::2]])
        assert {cell.value for cell in world.cells().values()} == {None}
        assert not world.overflow()


def test_names_in_overflow_are_names_too(text_world: WriterWorld) -> None:
    """Nobody has chosen them: they arrive from the stream as they are."""
    keys = [Key(name, NOON_US, other) for name in NAMES for other in NAMES]
    text_world.write([created(f"{ship}{channel}", channel, ship=ship) for ship, _, channel in keys])
    assert text_world.overflow() == {key: Cell(f"{key.ship}{key.channel}") for key in keys}
    text_world.write([updated("", channel, ship=ship, lsn=5) for ship, _, channel in keys])
    assert text_world.overflow() == {key: Cell("", (1, 5), "u") for key in keys}


MOMENTS_US = [
    *(FIRST_MOMENT_US, FIRST_MOMENT_US + 1, -62_135_596_800_000_000 - 1, -62_135_596_800_000_000),
    *(-62_167_219_200_000_000, -1, 0, 1, 951_782_400_000_000, NOON_US + 1, 253_402_300_799_999_999),
    *(253_402_300_800_000_000, LAST_MOMENT_US - 1, LAST_MOMENT_US),
]


def test_moments_from_before_christ_to_the_far_future(text_world: WriterWorld) -> None:
    """To the microsecond, in new rows, merged rows and overflow, alone and among others."""
    for moments_us in ([moment_us] for moment_us in MOMENTS_US):
        text_world.write(
            [created("alone", channel, moment_us=m) for m in moments_us for channel in (STATE, UNLISTED)]
        )
    text_world.write([created("b", LOAD, moment_us=moment_us) for moment_us in MOMENTS_US])
    text_world.write([updated("c", STATE, moment_us=moment_us, lsn=4) for moment_us in MOMENTS_US])
    assert text_world.cells() == {
        **{Key(SHIP, moment_us, STATE): Cell("c", (1, 4), "u") for moment_us in MOMENTS_US},
        **{Key(SHIP, moment_us, LOAD): Cell("b") for moment_us in MOMENTS_US},
    }
    assert set(text_world.overflow()) == {Key(SHIP, moment_us, UNLISTED) for moment_us in MOMENTS_US}


VALUES: dict[str, list[Any]] = {
    "double_v": [
        *(0.0, -0.0, 1.0, 100.0, 0.1, 1 / 3, 1e15, 1e16, 123456789012345680.0, 1e-5, 1e-4, 5e-324),
        *(
            1.7976931348623157e308,
            float("nan"),
            float("inf"),
            float("-inf"),
            2.0**53,
            9007199254740993.0,
            None,
        ),
    ],
    "long_v": [0, -1, 2**63 - 1, -(2**63), 2**53 + 1, None],
    "str_v": [
        *(
            "",
            " ",
            "\\",
            "\\N",
            "\\.",
            "\t",
            "\n",
            "\r\n",
            '"',
            "'",
            "NULL",
            "{}",
            "\x01\x7f",
            "\N{SHIP}",
            "é",
        ),
        *("line\nline\tline\\", "long " * 2_000, "__debezium_unavailable_value", None),
    ],
    "bool_v": [True, False, None],
}
FORMAT = {"double_v": "Decimal", "long_v": "Integer", "str_v": "String", "bool_v": "Boolean"}
CHANNEL = {"double_v": LOAD, "long_v": COUNT, "str_v": STATE, "bool_v": ON}


@pytest.mark.parametrize("column_type", ["text", "typed"])
def test_hard_values_from_the_stream_and_from_history_are_the_same_bytes(
    worlds: Worlds, source_dsn: str, column_type: ColumnTypes
) -> None:
    """History reads PostgreSQL's own text, the stream makes it; the rows are compared as PostgreSQL prints them."""
    world, rows = worlds(column_type, "apply"), hard_rows()
    world.apply(streamed_batch(rows))
    streamed = world.texts()
    assert not world.overflow()
    world.clear()
    world.apply(history_batch(source_dsn, rows), origin=HISTORY)
    assert world.texts() == streamed
    values = {key.channel: cell.value for key, cell in world.cells().items() if key.moment_us == NOON_US}
    assert values == {LOAD: "0", COUNT: "0", STATE: "", ON: "true"}


def hard_rows() -> list[dict[str, Any]]:
    """Narrow rows with one value each."""
    return [
        {"moment_us": NOON_US + i * TICK_US, "column": column, "value": value}
        for column, values in VALUES.items()
        for i, value in enumerate(values)
    ]


def streamed_batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """The rows as the decoder makes them."""
    texts: dict[str, Callable[[pa.Array], pa.Array]] = {
        "double_v": double_text,
        "long_v": long_text,
        "bool_v": bool_text,
        "str_v": lambda text: text,
    }
    kinds = {"double_v": pa.float64(), "long_v": pa.int64(), "bool_v": pa.bool_(), "str_v": pa.string()}
    batch = narrow_batch([created(None, CHANNEL[row["column"]], moment_us=row["moment_us"]) for row in rows])
    columns = {name: batch.column(name) for name in NARROW_SCHEMA.names}
    columns["value_format"] = pa.array([FORMAT[row["column"]] for row in rows])
    for name, make in texts.items():
        values = [row["value"] if row["column"] == name else None for row in rows]
        columns[name] = make(pa.array(values, kinds[name]))
    return pa.RecordBatch.from_pydict(columns, NARROW_SCHEMA)


def history_batch(source_dsn: str, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """The rows written to the narrow table and read back as text."""
    with connect_source(SourceSettings(dsn=source_dsn), "test") as conn:
        for row in rows:
            query = sql.SQL(
                "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, value_format, {})"
                " VALUES (%s, %s, timestamp '1970-01-01' + %s * interval '1 us', %s, %s)"
            ).format(sql.Identifier(row["column"]))
            channel = CHANNEL[row["column"]]
            conn.execute(query, [SHIP, channel, row["moment_us"], FORMAT[row["column"]], row["value"]])
        found = conn.execute(
            """SELECT ship_id, data_channel_id, (extract(epoch FROM created_time) * 1000000)::bigint, value_format,
                      double_v::text, long_v::text, str_v, bool_v::text FROM tenant.tbl_data_timeseries"""
        ).fetchall()
    columns = {
        name: list(column)
        for name, column in zip(NARROW_SCHEMA.names, zip(*found, strict=True), strict=False)
    }
    return pa.RecordBatch.from_pydict({**columns, **history_columns(len(found))}, NARROW_SCHEMA)
