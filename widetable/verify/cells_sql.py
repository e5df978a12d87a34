"""The cells of either side as one relation (ship_id, created_time, channel_id, value), and its hash. Pure.

Both sides are reduced to the same columns and then hashed by the same statement: what PostgreSQL makes of it,
it makes twice. Cells whose value is NULL don't exist: a row's existence alone is not compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final, LiteralString, NamedTuple

from psycopg import sql

from widetable.values import value_sql
from widetable.verify.scope import Span

HASH_VERSION: Final = 1
"""Version of `CELL_HASH` and `SUMS`; sums of different versions must not be compared."""

# Each hash seeds the next: the moment's that of the channel, the channel's that of the value. It takes half
# the time of hashing one joined text, and needs no separator that a value could contain. The moment goes in
# as its epoch in float8, for the hash of a timestamp folds it to 32 bits. '-0' counts as '0'. COLLATE "C":
# bytes decide, whatever the locales of the databases.
CELL_HASH: Final[LiteralString] = """hashtextextended(
    (CASE value WHEN '-0' THEN '0' ELSE value END) COLLATE "C",
    hashtextextended(channel_id COLLATE "C", hashfloat8extended(date_part('epoch', created_time), 0)))"""

MOMENT_US: Final[LiteralString] = "(extract(epoch FROM {}) * 1000000)::int8"

# A numeric sum rather than bit_xor: as free of order, as quick, adds up over tables, and doesn't overlook a
# cell that is there twice.
SUMS: Final = f"""
SELECT ship_id, {MOMENT_US.format("{bucket}")}, count(*), sum({CELL_HASH})::text,
       {MOMENT_US.format("max(created_time)")}
FROM ({{cells}}) cell
WHERE value IS NOT NULL
GROUP BY ship_id, {{bucket}}
"""

TARGET_CELLS: Final = """
SELECT {ship}::text AS ship_id, created_time, channel_id,
       CASE WHEN o.kind IS NOT NULL OR w.value IS NULL THEN o.value ELSE w.value END AS value,
       CASE WHEN w.kind = 'd' THEN 'd' ELSE coalesce(o.kind, w.kind) END AS kind
FROM ({wide}) w
FULL JOIN (SELECT created_time, channel_id, value, kind FROM {control}.overflow_cell
            WHERE ship_id = {ship} AND {where}{channels}) o USING (created_time, channel_id)
"""
"""The wide cell, unless that is NULL or overflow holds the cell in a version, which is the newer one then.

Only a delete that is ignored leaves an older version in overflow: its value stays, and the delete is the newer one.
"""

WIDE_CELLS: Final = """
SELECT created_time, c.channel_id, c.value, c.kind
FROM {table} t CROSS JOIN LATERAL (VALUES {unpivot}) c (channel_id, value, kind)
WHERE {where} AND (c.value IS NOT NULL OR c.kind IS NOT NULL)
"""

NO_CELLS: Final = (
    "SELECT NULL::timestamp AS created_time, NULL AS channel_id, NULL AS value, NULL AS kind LIMIT 0"
)
"""A ship without tables."""

SOURCE_CELLS: Final = f"""
SELECT n.ship_id, n.created_time, n.data_channel_id AS channel_id, {value_sql("n")} AS value
FROM {{table}} n
WHERE {{where}}{{ships}}
"""


class Sum(NamedTuple):
    """What a bucket holds: number of cells, and the sum of their hashes."""

    cells: int = 0
    hash_sum: int = 0


class Column(NamedTuple):
    """The column of a wide table that holds a channel."""

    channel_id: str
    name: str
    ordinal: int


class WideTable(NamedTuple):
    """A wide table and its columns that hold channels; at least one."""

    name: sql.Identifier
    columns: tuple[Column, ...]


def moment(moment_us: int) -> sql.Composed:
    """A moment as a constant that the planner folds; exact over the whole range of timestamps."""
    return sql.SQL("(timestamp 'epoch' + interval {})").format(sql.Literal(f"{moment_us} microseconds"))


def in_span(span: Span) -> sql.Composed:
    """The condition that created_time lies in the span."""
    text = sql.SQL("created_time >= {} AND created_time < {}")
    return text.format(moment(span.lower_us), moment(span.upper_us))


def at_moments(moments: Iterable[int]) -> sql.Composed:
    """The condition that created_time is one of at least one moment."""
    return sql.SQL("created_time IN ({})").format(sql.SQL(", ").join(moment(us) for us in moments))


def sums(cells: sql.Composable, bucket_us: int) -> sql.Composed:
    """Per ship and bucket: start, number of cells, sum of their hashes, newest moment (microseconds).

    Args:
        cells: the relation.
        bucket_us: one of `BUCKET_WIDTHS_US`, or 1: each moment is a bucket.
    """
    width = sql.Literal(f"{bucket_us} microseconds")
    binned = sql.SQL("date_bin(interval {}, created_time, timestamp 'epoch')").format(width)
    return sql.SQL(SUMS).format(bucket=binned, cells=cells)


def source_cells(table: sql.Identifier, where: sql.Composable, ships: Collection[str] | None) -> sql.Composed:
    """The narrow table's cells; None is all ships."""
    chosen = sql.SQL("") if ships is None else sql.SQL(" AND n.ship_id = ANY ({})").format(_texts(ships))
    return sql.SQL(SOURCE_CELLS).format(table=table, where=where, ships=chosen)


def target_cells(
    control: sql.Identifier,
    ship: str,
    tables: Iterable[WideTable],
    where: sql.Composable,
    *,
    channels: Collection[str] | None = None,
    kinds: bool = False,
) -> sql.Composed:
    """A ship's cells at the target: of all its wide tables, and of overflow.

    Args:
        control: the control schema.
        ship: the ship.
        tables: its wide tables, with the columns to read.
        where: condition on created_time.
        channels: read these channels only.
        kinds: also the kind of each cell's recorded version, and with it cells that are NULL by a version.
    """
    wide = [
        sql.SQL(WIDE_CELLS).format(
            table=table.name, unpivot=_unpivot(table.columns, kinds=kinds), where=where
        )
        for table in tables
    ] or [sql.Composed([sql.SQL(NO_CELLS)])]
    chosen = (
        sql.SQL("") if channels is None else sql.SQL(" AND channel_id = ANY ({})").format(_texts(channels))
    )
    return sql.SQL(TARGET_CELLS).format(
        ship=sql.Literal(ship),
        wide=sql.SQL(" UNION ALL ").join(wide),
        control=control,
        where=where,
        channels=chosen,
    )


def _texts(texts: Collection[str]) -> sql.Composed:
    return sql.SQL("{}::text[]").format(sql.Literal(list(texts)))


@lru_cache(maxsize=32)
def _unpivot(columns: tuple[Column, ...], *, kinds: bool) -> sql.SQL:
    """Rows of a VALUES list; rendered once, for ships share it and quoting 655 columns takes milliseconds.

    The cast stands there explicitly: a detour over jsonb would turn 1e16 into 10000000000000000.
    """
    kind = "t._x #>> {path}" if kinds else "NULL::text"
    row = sql.SQL(f"({{channel}}, t.{{name}}::text, {kind})")
    rows = [
        row.format(
            channel=sql.Literal(column.channel_id),
            name=sql.Identifier(column.name),
            path=sql.Literal(f"{{{column.ordinal},2}}"),
        )
        for column in columns
    ]
    return sql.SQL(sql.SQL(", ").join(rows).as_string(None))
