"""The wide tables: created from a plan and compared with the channel map.

In: a `SchemaPlan`. Out: control rows, tables `tbl_data_timeseries_{ship}_{table number}`, and where such a table is
in parts (`…_{table number}p{part}`), a view of that name. Guarantees: a change and the layout version that
announces it are one transaction under the exclusive layout lock; a table that is there already is taken over on
request only; a second run with the same plan changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from widetable.adopt import adopt_table
from widetable.control import create_schema, migrate, use_control
from widetable.errors import ConfigurationError
from widetable.layout_lock import layout_change, raise_version
from widetable.part_views import view_changes
from widetable.postgres import Connection, retryable_errors
from widetable.registration import Changes, register_plan
from widetable.registry import Registry, read_registry, require_registry, write_ship
from widetable.schema_plan import SchemaPlan
from widetable.settings import TargetSettings
from widetable.splitting import place_in_parts, require_fit
from widetable.wide_table import (
    GRANTLESS,
    create_table,
    differences,
    found_columns,
    keyed_tables,
    ship_problems,
    table_name,
)


def apply_schema(
    conn: Connection, target: TargetSettings, plan: SchemaPlan, adopt: Collection[str] = ()
) -> Changes:
    """Create what `plan` names and the target lacks; afterwards the session uses the control schema.

    Each ship is a transaction of its own, so a run that is interrupted goes on where it stopped.

    Args:
        conn: an autocommit session on the target, whose role may create tables.
        target: schemas and the readers' role.
        plan: from `plan_schema`; tables that can't hold its rows are split here.
        adopt: tables that are not ours, and that the plan takes over as they are (`adopt.adopted_map`).

    Raises:
        ConfigurationError: rows would not fit a page, ships or columns collide, the plan contradicts what is
            settled, or a table of a wanted name is not ours.
    """
    require_fit(place_in_parts(plan, None))
    with ddl_errors(target):
        steps = migrate(conn, target.control_schema)
        use_control(conn, target.control_schema)
        _require_reader(conn, target)
        with layout_change(conn):
            _require_own_tables(conn, target, plan, adopt)
            changes = register_plan(conn, target.wide_schema, plan)
        changes.migrations += [f"{step.number:04} {step.name}" for step in steps]
        for ship_id in sorted({*plan.ships, *require_registry(conn).ships}):
            _apply_ship(conn, target, ship_id, changes, adopt)
        with conn.transaction():
            changes.grants += grant_reader(conn, target, require_registry(conn).reader_names())
        changes.pending += _pending(require_registry(conn))
    return changes


def _require_reader(conn: Connection, target: TargetSettings) -> None:
    role = target.reader_role
    if role and conn.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
        raise ConfigurationError(
            f"The target has no role {role!r} to grant SELECT to: create it, or set CDC_TARGET__READER_ROLE."
        )


def _require_own_tables(
    conn: Connection, target: TargetSettings, plan: SchemaPlan, adopt: Collection[str]
) -> None:
    """Refuse, before any change, ships that can't have tables and tables that are not as we made them."""
    registry = read_registry(conn)
    new = plan.ships if registry is None else [ship for ship in plan.ships if ship not in registry.ships]
    systems = place_in_parts(plan, registry).systems
    suffixes = sorted({str(system.reader_no) for system in systems} | {system.suffix for system in systems})
    if problems := ship_problems(new, suffixes, registry.ships if registry else ()):
        raise ConfigurationError(
            f"{' '.join(problems)} Choose ships with --ship-id, or rename them at the source."
        )
    names = [table_name(ship_id, suffix) for ship_id in new for suffix in suffixes]
    if foreign := found_columns(conn, target.wide_schema, names).keys() - adopt:
        raise ConfigurationError(
            f"{len(foreign)} of the tables wanted are there but not ours, such as"
            f" {target.wide_schema}.{min(foreign)}. Take them over with their data (--adopt), rename them, choose"
            " another CDC_TARGET__WIDE_SCHEMA, or lose their data with --drop-tables. Nothing was changed."
        )
    views = {
        table_name(ship_id, str(system.reader_no)) for ship_id in new for system in systems if system.part
    }
    if taken := sorted(views & set(adopt)):
        raise ConfigurationError(
            f"{target.wide_schema}.{taken[0]} can't be adopted: this table is in parts, and its name is that of the"
            " view on them. Rename it: `backfill run` fills the parts. Nothing was changed."
        )
    if registry and (found := table_differences(conn, registry)):
        raise ConfigurationError(
            f"{len(found)} differences between the wide tables and the channel map, made by hand:"
            f" {'; '.join(found[:5])}. Undo them; nothing was changed."
        )


def _apply_ship(
    conn: Connection, target: TargetSettings, ship_id: str, changes: Changes, adopt: Collection[str]
) -> None:
    with layout_change(conn):
        registry = require_registry(conn)
        is_new = ship_id not in registry.ships
        if is_new:
            write_ship(conn, ship_id)
            changes.ships.append(ship_id)
            changes.adopted += _adopt_tables(conn, registry, ship_id, adopt)
        created = create_tables(conn, target, registry, ship_id)
        changes.tables += created
        if not is_new and _held_data(registry, created):
            changes.notes.append(
                f"tables of ship {ship_id} were missing and are empty now: run `backfill run --again`"
            )
        if created or is_new:
            raise_version(conn)


def _adopt_tables(conn: Connection, registry: Registry, ship_id: str, adopt: Collection[str]) -> list[str]:
    """Take over the tables of a new ship that are there; returns their names."""
    adopted = [(name, number) for name, (_, number) in registry.tables([ship_id]).items() if name in adopt]
    for name, number in adopted:
        adopt_table(conn, registry, name, number)
    return [name for name, _ in adopted]


def _held_data(registry: Registry, created: Iterable[str]) -> bool:
    """Whether one of the tables is that of live channels: it was there, and is gone."""
    tables = registry.tables()
    return any(not column.pending for name in created for column in registry.columns[tables[name][1]])


def create_tables(conn: Connection, target: TargetSettings, registry: Registry, ship_id: str) -> list[str]:
    """Create the tables and views that a ship lacks, in the caller's layout change; returns the tables' names."""
    create_schema(conn, target.wide_schema)
    missing = create_missing_tables(conn, target, registry, ship_id)
    views = view_changes(conn, registry, [ship_id])
    for statement in views.values():
        conn.execute(statement)
    made = {*missing, *views}
    grant_reader(conn, target, [name for name in registry.reader_names([ship_id]) if name in made])
    return missing


def create_missing_tables(
    conn: Connection, target: TargetSettings, registry: Registry, ship_id: str
) -> list[str]:
    """Create the tables that a ship lacks, without views and grants; returns their names."""
    wanted = registry.tables([ship_id])
    there = found_columns(conn, target.wide_schema, list(wanted))
    missing = [name for name in wanted if name not in there]
    for name in missing:
        columns = registry.columns[wanted[name][1]]
        conn.execute(create_table(target.wide_schema, name, columns))
    return missing


def grant_reader(conn: Connection, target: TargetSettings, names: Iterable[str]) -> list[str]:
    """Let the readers' role read these tables; returns those that it could not read before."""
    role, schema = target.reader_role, target.wide_schema
    if role is None:
        return []
    lacking = [name for (name,) in conn.execute(GRANTLESS, [schema, list(names), role])]
    reader = sql.Identifier(role)
    if lacking:
        conn.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), reader))
    for name in lacking:
        conn.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(sql.Identifier(schema, name), reader))
    return lacking


def _pending(registry: Registry) -> list[str]:
    channels = [
        column.channel_id for columns in registry.columns.values() for column in columns if column.pending
    ]
    ships = [ship_id for ship_id, pending in registry.ships.items() if pending]
    return [f"channel {channel_id}" for channel_id in channels] + [f"ship {ship_id}" for ship_id in ships]


def check_tables(conn: Connection) -> list[str]:
    """How the wide tables differ from the channel map, one sentence each: DDL by hand is noticed here.

    Args:
        conn: a session that uses the control schema.

    Raises:
        ConfigurationError: there are no wide tables yet.
    """
    registry = require_registry(conn)
    there = found_columns(conn, registry.wide_schema, list(registry.tables()))
    live = [ship_id for ship_id, pending in registry.ships.items() if not pending]
    missing = [f"{name}: the table is missing" for name in registry.tables(live) if name not in there]
    views = registry.views(live)
    seen = found_columns(conn, registry.wide_schema, list(views))
    missing += [f"{name}: the view on its parts is missing" for name in views if name not in seen]
    return missing + table_differences(conn, registry)


def table_differences(conn: Connection, registry: Registry) -> list[str]:
    """Differences of the tables that exist; one that is missing is none."""
    tables = registry.tables()
    there = found_columns(conn, registry.wide_schema, list(tables))
    keyed = keyed_tables(conn, registry.wide_schema, list(there))
    unkeyed = [f"{name}: created_time is not its primary key" for name in there if name not in keyed]
    wrong = [differences(name, registry.columns[tables[name][1]], columns) for name, columns in there.items()]
    return unkeyed + [sentence for sentences in wrong for sentence in sentences]


@contextmanager
def ddl_errors(target: TargetSettings) -> Iterator[None]:
    """Say what to do about DDL that PostgreSQL refuses."""
    try:
        with retryable_errors("changing the wide tables"):
            yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"The target role may not do this: {_reason(error)}. It needs CREATE on the schemas"
            f" {target.wide_schema} and {target.control_schema}, and to own the tables in them:"
            " CDC_TARGET__DDL_DSN names such a role."
        ) from error
    except psycopg.errors.ProgramLimitExceeded as error:
        raise ConfigurationError(f"PostgreSQL refuses the table: {_reason(error)}.") from error
    except psycopg.errors.DependentObjectsStillExist as error:
        raise ConfigurationError(
            f"Something depends on a wide table: {error.diag.message_detail or _reason(error)} Drop it first."
        ) from error


def _reason(error: psycopg.Error) -> str:
    return error.diag.message_primary or type(error).__name__
