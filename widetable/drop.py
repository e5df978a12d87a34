"""Starting over: the wide tables and everything that says what is in them, dropped on request.

Guarantee: in one transaction, and only while no consumer and no backfill is at work; hand-off and stream
offsets stay. Slices go, because they say that their data is there: backfill copies the history again, as it
is then, and the stream goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from psycopg import sql

from widetable.ddl import ddl_errors
from widetable.errors import ConfigurationError
from widetable.layout_lock import layout_change
from widetable.postgres import Connection
from widetable.registry import read_registry
from widetable.schema_plan import SchemaPlan
from widetable.settings import TargetSettings
from widetable.splitting import place_in_parts
from widetable.statements import load_statements
from widetable.wide_table import table_name

SQL: Final = load_statements(files("widetable") / "sql" / "drop.sql")
FORGET: Final = (
    "overflow",
    "deferred_indexes",
    "corrections",
    "verified",
    "plans",
    "ships",
    "channels",
    "rules",
    "systems",
    "layout",
)


@dataclass(frozen=True, slots=True)
class Droppable:
    """A table, or the view on a table's parts, that `drop_tables` would drop; views come first."""

    name: str
    estimated_rows: int
    size_bytes: int
    is_view: bool = False


def droppable_tables(conn: Connection, target: TargetSettings, plan: SchemaPlan) -> list[Droppable]:
    """The tables of registered ships, and whatever has the name of a table that the plan wants.

    Args:
        conn: a session that uses the control schema.
        target: names the schema of the wide tables.
        plan: what is to be applied afterwards.
    """
    registry = read_registry(conn)
    suffixes = {str(system.reader_no) for system in plan.systems}
    suffixes |= {system.suffix for system in place_in_parts(plan, None).systems}
    names = {table_name(ship_id, suffix) for ship_id in plan.ships for suffix in suffixes}
    if registry:
        names |= {*registry.tables(), *registry.views()}
    schema = registry.wide_schema if registry else target.wide_schema
    return [Droppable(*row) for row in conn.execute(SQL["droppable"], [schema, sorted(names)])]


def drop_tables(conn: Connection, target: TargetSettings, tables: Sequence[Droppable]) -> None:
    """Drop these tables and forget layout, channel map, ships, slices and overflow.

    Raises:
        ConfigurationError: a consumer or backfill is at work, or something depends on a table.
    """
    with ddl_errors(target), layout_change(conn):
        _require_idle(conn)
        registry = read_registry(conn)
        schema = registry.wide_schema if registry else target.wide_schema
        for table in tables:
            drop = sql.SQL("DROP VIEW {}" if table.is_view else "DROP TABLE {}")
            conn.execute(drop.format(sql.Identifier(schema, table.name)))
        for statement in FORGET:
            conn.execute(SQL[statement])


def _require_idle(conn: Connection) -> None:
    sessions = [f"{application} (process {pid})" for application, pid in conn.execute(SQL["at_work"])]
    if sessions:
        raise ConfigurationError(
            f"Still at work on these tables: {', '.join(sessions)}. Stop `cdc-consumer run` and"
            " `backfill run` first. Nothing was dropped."
        )
