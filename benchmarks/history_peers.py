"""Other ways to turn history into wide tables, and the limits: the ceiling of reading, the floor of writing.

Each is written as its authors would write it well, on the same tables: statements are prepared, rows come in
server-made text, transactions are few. `work` functions run in processes of their own (`harness.race`).
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg import sql

from benchmarks.chain import NARROW
from benchmarks.content import WideTable
from devstack import binaries

VALUE: Final = "coalesce(double_v::text, long_v::text, str_v, bool_v::text)"
"""Enough for the fleet's rows, which have one value each; our own rule (`value_format`) costs more."""
CHUNK: Final = timedelta(hours=2)
BATCH: Final = 50_000
READ: Final = f"""
SELECT data_channel_id, created_time, {VALUE} FROM {NARROW}
WHERE ship_id = %s AND created_time >= %s AND created_time < %s ORDER BY created_time
"""
READ_ALL: Final = (
    "COPY (SELECT ship_id, data_channel_id, created_time, value_format, double_v, long_v, str_v, bool_v"
    f" FROM {NARROW} WHERE created_time >= '{{}}' AND created_time < '{{}}') TO STDOUT"
)


def predecessor(
    ready: Callable[[], None], dsn: str, tables: Sequence[WideTable], start: datetime, until: datetime
) -> int:
    """Rows to dicts per moment, dicts to an upsert of whole rows by executemany; ship by ship, chunk by chunk."""
    rows = 0
    with psycopg.connect(dsn) as source, psycopg.connect(dsn) as target:
        upserts = {table: upsert(table) for table in tables}
        ready()
        for ship in dict.fromkeys(table.ship for table in tables):
            mine = [table for table in tables if table.ship == ship]
            table_of = {channel: table for table in mine for channel in table.channels}
            chunk = start
            while chunk < until:
                with source.cursor(f"chunk_{rows}") as cursor:
                    cursor.itersize = BATCH
                    cursor.execute(READ, [ship, chunk, min(chunk + CHUNK, until)])
                    while found := cursor.fetchmany(BATCH):
                        _write_dicts(target, found, table_of, upserts)
                        rows += len(found)
                target.commit()
                chunk += CHUNK
    return rows


def _write_dicts(
    target: psycopg.Connection[Any],
    found: list[tuple[str, datetime, str | None]],
    table_of: dict[str, WideTable],
    upserts: dict[WideTable, sql.Composed],
) -> None:
    wide: dict[WideTable, dict[datetime, dict[str, str | None]]] = defaultdict(lambda: defaultdict(dict))
    for channel, moment, value in found:
        wide[table_of[channel]][moment][channel] = value
    cursor = target.cursor()
    for table, moments in wide.items():
        lines = [[moment, *map(cells.get, table.channels)] for moment, cells in moments.items()]
        cursor.executemany(upserts[table], lines)


def upsert(table: WideTable) -> sql.Composed:
    """One statement for all columns, so that it is planned once; what a row lacks leaves the cell alone."""
    columns = [sql.Identifier(column) for column in table.columns]
    return sql.SQL(
        "INSERT INTO {table} AS t (created_time, {columns}) VALUES (%s, {values})"
        " ON CONFLICT (created_time) DO UPDATE SET {sets}"
    ).format(
        table=table.identifier,
        columns=sql.SQL(", ").join(columns),
        values=sql.SQL(", ").join([sql.SQL("%s")] * len(columns)),
        sets=sql.SQL(", ").join(sql.SQL("{0} = coalesce(excluded.{0}, t.{0})").format(c) for c in columns),
    )


def max_filter(ready: Callable[[], None], dsn: str, tables: Sequence[WideTable]) -> int:
    """One INSERT … SELECT per table with `max() FILTER` for each column: the way without extensions."""
    return _in_sql(ready, dsn, tables, _max_filter)


def crosstab(ready: Callable[[], None], dsn: str, tables: Sequence[WideTable]) -> int:
    """One INSERT … SELECT per table from tablefunc's `crosstab`: PostgreSQL's own pivot, in C."""
    return _in_sql(ready, dsn, tables, _crosstab)


def _in_sql(
    ready: Callable[[], None],
    dsn: str,
    tables: Sequence[WideTable],
    query: Callable[[WideTable], sql.Composed],
) -> int:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("SET jit = off")
        conn.execute("SET work_mem = '256MB'")
        statements = [query(table) for table in tables]
        ready()
        for statement in statements:
            conn.execute(statement)
        ships = list(dict.fromkeys(table.ship for table in tables))
        row = conn.execute(
            f"SELECT count(*) FROM {NARROW} WHERE ship_id = ANY (%s)".encode(), [ships]
        ).fetchone()
    return int(row[0]) if row else 0


def _max_filter(table: WideTable) -> sql.Composed:
    picks = [sql.SQL("max(v) FILTER (WHERE c = {})").format(sql.Literal(c)) for c in table.channels]
    return sql.SQL(
        "INSERT INTO {table} (created_time, {columns}) SELECT created_time, {picks} FROM"
        " (SELECT created_time, data_channel_id AS c, {value} AS v FROM {narrow}"
        " WHERE ship_id = {ship} AND data_channel_id = ANY ({channels})) s GROUP BY created_time"
    ).format(
        table=table.identifier,
        columns=sql.SQL(", ").join(map(sql.Identifier, table.columns)),
        picks=sql.SQL(", ").join(picks),
        value=sql.SQL(VALUE),
        narrow=sql.SQL(NARROW),
        ship=sql.Literal(table.ship),
        channels=sql.Literal(list(table.channels)),
    )


def _crosstab(table: WideTable) -> sql.Composed:
    rows = sql.SQL(
        "SELECT created_time, data_channel_id, {value} FROM {narrow}"
        " WHERE ship_id = {ship} AND data_channel_id = ANY ({channels}) ORDER BY 1"
    ).format(
        value=sql.SQL(VALUE),
        narrow=sql.SQL(NARROW),
        ship=sql.Literal(table.ship),
        channels=sql.Literal(list(table.channels)),
    )
    names = sql.SQL("SELECT unnest({}::text[])").format(sql.Literal(list(table.channels)))
    typed = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(column)) for column in table.columns)
    return sql.SQL(
        "INSERT INTO {table} (created_time, {columns})"
        " SELECT * FROM crosstab({rows}, {names}) AS ct (created_time timestamp, {typed})"
    ).format(
        table=table.identifier,
        columns=sql.SQL(", ").join(map(sql.Identifier, table.columns)),
        rows=sql.Literal(rows.as_string()),
        names=sql.Literal(names.as_string()),
        typed=typed,
    )


def read_only(ready: Callable[[], None], dsn: str, start: datetime, until: datetime) -> int:
    """The ceiling: the narrow rows by COPY to psql, which throws them away; nothing reads faster."""
    psql = str(binaries.programs() / "psql")
    query = READ_ALL.format(start, until)
    with psycopg.connect(dsn) as conn:
        counted = conn.execute(
            f"SELECT count(*) FROM {NARROW} WHERE created_time >= %s AND created_time < %s".encode(),
            [start, until],
        ).fetchone()
    ready()
    subprocess.run([psql, "--no-psqlrc", "-qc", query, dsn], check=True, stdout=subprocess.DEVNULL)
    return int(counted[0]) if counted else 0


def write_only(ready: Callable[[], None], dsn: str, folder: str, names: Sequence[tuple[str, str]]) -> int:
    """The floor of writing: finished wide rows by COPY, one transaction per table; counts wide cells written."""
    cells = 0
    with psycopg.connect(dsn) as conn:
        texts = []
        for schema, name in names:
            with open(f"{folder}/{name}.copy", "rb") as file:  # noqa: PTH123 - a plain read of a plain file
                texts.append((schema, name, file.read()))
        ready()
        for schema, name, text in texts:
            copy_in = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(schema, name))
            with conn.cursor().copy(copy_in) as copy:
                copy.write(text)
            conn.commit()
            cells += text.count(b"\t") - text.count(b"\\N")
    return cells
