"""What stands in wide tables, as one digest; and how they are emptied between runs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from benchmarks.chain import Connection

COLUMNS: Final = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attname)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attname <> ALL ('{created_time,_x}')
GROUP BY c.relname ORDER BY c.relname
"""
DIGEST: Final = """
SELECT coalesce(md5(string_agg(md5(created_time::text || ARRAY[{cells}]::text), '' ORDER BY created_time)), '')
FROM {table} WHERE created_time < {until}
"""
CHANNELS: Final = """
SELECT channel_id, column_name FROM {control}.channel WHERE table_no = %s ORDER BY column_name
"""


@dataclass(frozen=True, slots=True)
class WideTable:
    """A wide table, and the channel of each of its columns."""

    schema: str
    name: str
    ship: str
    channels: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def identifier(self) -> sql.Identifier:
        """Qualified name."""
        return sql.Identifier(self.schema, self.name)


def wide_tables(conn: Connection, control: str, schema: str) -> list[WideTable]:
    """All wide tables of a pipeline, by name."""
    ships = conn.execute(
        sql.SQL("SELECT ship_id, table_prefix FROM {}.ship ORDER BY 1").format(sql.Identifier(control))
    ).fetchall()
    numbers = conn.execute(
        sql.SQL("SELECT DISTINCT table_no FROM {}.channel ORDER BY 1").format(sql.Identifier(control))
    ).fetchall()
    tables = []
    for (number,) in numbers:
        rows = conn.execute(sql.SQL(CHANNELS).format(control=sql.Identifier(control)), [number]).fetchall()
        channels, columns = (tuple(part) for part in zip(*rows, strict=True))
        tables += [
            WideTable(schema, f"tbl_data_timeseries_{prefix}_{number}", ship, channels, columns)
            for ship, prefix in ships
        ]
    return sorted(tables, key=lambda table: table.name)


def digest(conn: Connection, schema: str, until: str = "infinity") -> str:
    """A digest of all cells of moments before `until`: of each value's text, whatever the column's type."""
    total = hashlib.md5(usedforsecurity=False)
    for name, columns in conn.execute(COLUMNS, [schema]).fetchall():
        cells = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns)
        query = sql.SQL(DIGEST).format(
            cells=cells, table=sql.Identifier(schema, name), until=sql.Literal(until) + sql.SQL("::timestamp")
        )
        (found,) = conn.execute(query).fetchall()
        total.update(f"{name}={found[0]};".encode())
    return total.hexdigest()[:12]


def empty(conn: Connection, schema: str) -> None:
    """Truncate all tables of a schema; write out what is dirty, so that no arm pays for another's pages."""
    names = [name for name, _ in conn.execute(COLUMNS, [schema]).fetchall()]
    tables = sql.SQL(", ").join(sql.Identifier(schema, name) for name in names)
    conn.execute(sql.SQL("TRUNCATE {}").format(tables))
    conn.execute("CHECKPOINT")


def tuples_written(conn: Connection, schema: str) -> tuple[int, int]:
    """Tuples inserted and updated in a schema's tables since they were made."""
    conn.execute("SELECT pg_stat_force_next_flush()")
    query = """
        SELECT coalesce(sum(n_tup_ins), 0), coalesce(sum(n_tup_upd), 0)
        FROM pg_stat_all_tables WHERE schemaname = %s
    """
    ((inserted, updated),) = conn.execute(query, [schema]).fetchall()
    return int(inserted), int(updated)


def wide_rows(conn: Connection, schema: str) -> int:
    """Rows present in all tables of a schema."""
    names = [name for name, _ in conn.execute(COLUMNS, [schema]).fetchall()]
    counts = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT count(*) AS n FROM {}").format(sql.Identifier(schema, name)) for name in names
    )
    ((total,),) = conn.execute(sql.SQL("SELECT sum(n) FROM ({}) t").format(counts)).fetchall()
    return int(total)
