"""The SQL that touches wide rows, made once per table and prepared by the session.

Identifiers come from the layout only, through `psycopg.sql.Identifier`, never from the stream. Parameters are
written ``$1``, for `psycopg.RawCursor`: a ``%`` in a channel id must not be taken for a placeholder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from widetable.layout import MOMENT, VERSIONS, Shape, WideTable

Columns = Sequence[tuple[str, int]]
"""(column name, channel ordinal) each."""

STAGE_FIELDS = 2
"""Fields that a staging line has before the table's own columns: which job it is of, and the ordinals to set."""


@dataclass(frozen=True, slots=True)
class TableStatements:
    """Statements of one wide table, as text."""

    lock_rows: str  # ([moment text]) -> (index, has versions) of the rows that exist, locked
    read_versions: str  # ([moment text]) -> (index, ordinal, epoch, lsn, kind)
    copy_rows: str  # COPY of new rows


def stage_name(shape: Shape, version: int) -> sql.Identifier:
    """The session's staging table of a shape, at a layout version."""
    return sql.Identifier("pg_temp", f"stage_{version}_{shape.number}")


def create_stage(shape: Shape, version: int, table: WideTable) -> sql.Composed:
    """One staging table per shape: each costs a truncation at every commit that used it."""
    job, ordinals = _stage_columns(shape)
    return sql.SQL(
        "CREATE TEMP TABLE {} ON COMMIT DELETE ROWS AS"
        " SELECT NULL::int AS {}, NULL::jsonb AS {}, t.* FROM {} t WITH NO DATA"
    ).format(sql.Identifier(f"stage_{version}_{shape.number}"), job, ordinals, table.identifier)


def _stage_columns(shape: Shape) -> tuple[sql.Identifier, sql.Identifier]:
    """Names for the two leading fields; a channel may be called anything, so they make way."""
    job, ordinals = "_job", "_set"
    while {job, ordinals} & {*shape.columns}:
        job, ordinals = f"{job}_", f"{ordinals}_"
    return sql.Identifier(job), sql.Identifier(ordinals)


def copy_stage(shape: Shape, version: int) -> sql.Composed:
    """COPY into the staging table."""
    return sql.SQL("COPY {} FROM STDIN").format(stage_name(shape, version))


def table_statements(table: WideTable) -> TableStatements:
    """The statements of one table that name none of its channels."""
    name, moment = table.identifier, sql.Identifier(MOMENT)
    keys = sql.SQL("unnest($1::text::timestamp[]) WITH ORDINALITY AS k(moment, i)")
    lock_rows = sql.SQL(
        "SELECT k.i::int - 1, t.{versions} IS NOT NULL FROM {keys} JOIN {name} t ON t.{moment} = k.moment"
        " ORDER BY t.{moment} FOR NO KEY UPDATE OF t"
    )
    read_versions = sql.SQL(
        "SELECT k.i::int - 1, x.key::int, (x.value->>0)::int, (x.value->>1)::bigint, x.value->>2"
        " FROM {keys} JOIN {name} t ON t.{moment} = k.moment CROSS JOIN LATERAL jsonb_each(t.{versions}) x"
    )
    common = {"keys": keys, "name": name, "moment": moment, "versions": sql.Identifier(VERSIONS)}
    return TableStatements(
        lock_rows=lock_rows.format(**common).as_string(),
        read_versions=read_versions.format(**common).as_string(),
        copy_rows=sql.SQL("COPY {} FROM STDIN").format(name).as_string(),
    )


def merge_into(table: WideTable, merge: str) -> str:
    """The statement (job) that merges a job's staged rows with those of the table.

    `merge` is what `merge_fill` or `merge_set` gave for the table's shape. Naming hundreds of columns takes longer
    than most merges, so that part is made once for all tables that look alike.
    """
    return f"UPDATE {table.identifier.as_string()} {merge}"


def merge_fill(shape: Shape, version: int, chosen: Columns) -> str:
    """Fill holes in the chosen columns; a row in which nothing is NULL that comes is not rewritten."""
    columns = [sql.Identifier(name) for name, _ in chosen]
    assign = [sql.SQL("{0} = coalesce(t.{0}, s.{0})").format(column) for column in columns]
    changes = [sql.SQL("t.{0} IS NULL AND s.{0} IS NOT NULL").format(column) for column in columns]
    where = sql.SQL(" AND ({})").format(sql.SQL(" OR ").join(changes))
    return (_merge(shape, version, assign) + where).as_string()


def merge_set(shape: Shape, version: int, chosen: Columns) -> str:
    """Of the chosen columns set what `_set` names, fill the rest; record the versions.

    Callers stage only what outranks the row.
    """
    _, ordinals = _stage_columns(shape)
    assign = [
        sql.SQL("{0} = CASE WHEN s.{1} ? {2} THEN s.{0} ELSE coalesce(t.{0}, s.{0}) END").format(
            sql.Identifier(name), ordinals, sql.Literal(str(ordinal))
        )
        for name, ordinal in chosen
    ]
    versions = sql.SQL("{0} = coalesce(t.{0}, '{{}}') || coalesce(s.{0}, '{{}}')").format(
        sql.Identifier(VERSIONS)
    )
    return _merge(shape, version, [versions, *assign]).as_string()


def _merge(shape: Shape, version: int, assign: list[sql.Composed]) -> sql.Composed:
    return sql.SQL("t SET {assign} FROM {stage} s WHERE s.{job} = $1 AND t.{moment} = s.{moment}").format(
        assign=sql.SQL(", ").join(assign),
        stage=stage_name(shape, version),
        job=_stage_columns(shape)[0],
        moment=sql.Identifier(MOMENT),
    )
