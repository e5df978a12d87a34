"""Views that show readers a table in parts as the one table that they expect.

In: the registry, and the columns that the parts really have. Out: the statements that bring views up to date. A
view only ever gains columns, at its end, so that grants on it and views above it stay. Writers never use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from psycopg import sql

from widetable.postgres import Connection
from widetable.registry import Registry
from widetable.wide_table import found_columns, table_name

MOMENT: Final = "created_time"

# Not a FULL JOIN of the parts: a condition on its merged key would not reach their indexes, and each reader of an
# hour would scan all of history. A condition on these keys does, and the parts are then looked up by key.
VIEW: Final = """
CREATE OR REPLACE VIEW {view} AS
SELECT created_time{columns}
FROM ({keys}) moments{joins}
"""


def view_changes(
    conn: Connection, registry: Registry, ship_ids: Iterable[str] | None = None
) -> dict[str, sql.Composed]:
    """View -> statement, for the views of these ships (or of all) that are missing or lack a column."""
    views = registry.views(ship_ids)
    if not views:
        return {}
    tables = list(registry.tables({ship for ship, _ in views.values()}))
    there = found_columns(conn, registry.wide_schema, [*views, *tables])
    return {
        name: statement
        for name, (ship_id, reader_no) in views.items()
        if (statement := _change(registry, name, _part_columns(registry, ship_id, reader_no, there), there))
    }


def _part_columns(
    registry: Registry, ship_id: str, reader_no: int, there: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """Part -> its channels' columns that exist."""
    parts = {system.table_no: table_name(ship_id, system.suffix) for system in registry.parts(reader_no)}
    return {
        name: [column.name for column in registry.columns.get(no, ()) if column.name in there[name]]
        for no, name in parts.items()
        if name in there
    }


def _change(
    registry: Registry, name: str, parts: Mapping[str, Sequence[str]], there: Mapping[str, Mapping[str, str]]
) -> sql.Composed | None:
    home = {column: part for part, columns in parts.items() for column in columns}
    shown = [column for column in there.get(name, ()) if column in home]
    missing = [column for column in home if column not in set(shown)]
    if not parts or (name in there and not missing):
        return None
    order = [*shown, *missing]
    return _view(registry.wide_schema, name, [(home[column], column) for column in order], list(parts))


def _view(schema: str, name: str, columns: Sequence[tuple[str, str]], parts: Sequence[str]) -> sql.Composed:
    """The moments of all parts, each with what the parts have for it; `parts` are table names."""
    aliases = {part: sql.Identifier(f"p{number}") for number, part in enumerate(parts, start=1)}
    tables = {part: sql.Identifier(schema, part) for part in parts}
    join = sql.SQL(" LEFT JOIN {} {} USING (created_time)")
    return sql.SQL(VIEW).format(
        view=sql.Identifier(schema, name),
        columns=sql.Composed(
            [sql.SQL(", {}.{}").format(aliases[part], sql.Identifier(column)) for part, column in columns]
        ),
        keys=sql.SQL(" UNION ").join(
            sql.SQL("SELECT created_time FROM {}").format(table) for table in tables.values()
        ),
        joins=sql.Composed([join.format(tables[part], aliases[part]) for part in parts]),
    )
