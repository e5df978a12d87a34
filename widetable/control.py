"""The control schema: created and migrated on request, checked by everyone else.

Migrations are numbered SQL files that run in `schema apply` and `init` only. A program that meets a newer or
older control schema says so and stops, rather than guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from psycopg import sql

from widetable.encoding import require_target_encoding
from widetable.errors import ConfigurationError
from widetable.postgres import Connection

MIGRATION_TABLE: Final = """
CREATE TABLE IF NOT EXISTS migration (
    number int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
)
"""
CONTROL: Final = "SELECT FROM pg_tables WHERE schemaname = %s AND tablename = 'migration'"


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step of the control schema."""

    number: int
    name: str
    text: str


@cache
def migrations() -> tuple[Migration, ...]:
    """All steps in order, from `widetable/sql/control/NNNN_name.sql`."""
    folder = files("widetable") / "sql" / "control"
    found = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return tuple(Migration(int(name[:4]), name[5:-4], (folder / name).read_text()) for name in found)


def use_control(conn: Connection, control_schema: str) -> None:
    """Put the control schema first on the session's search path; wide tables are always named in full."""
    conn.execute(sql.SQL("SET search_path = {}, pg_catalog").format(sql.Identifier(control_schema)))


def migrate(conn: Connection, control_schema: str) -> list[Migration]:
    """Bring the control schema to this program's version in one transaction; returns what was applied.

    Raises:
        ConfigurationError: the schema is newer than this program, or the database can't hold every text.
    """
    require_target_encoding(conn)
    with conn.transaction():
        conn.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('narrow-to-wide migrate ' || %s, 0))",
            [control_schema],
        )
        create_schema(conn, control_schema)
        use_control(conn, control_schema)
        conn.execute(MIGRATION_TABLE)
        present = _present(conn)
        _refuse_newer(present, control_schema)
        missing = [step for step in migrations() if step.number > present]
        for step in missing:
            conn.execute(step.text.encode())
            conn.execute("INSERT INTO migration (number, name) VALUES (%s, %s)", [step.number, step.name])
    return missing


def create_schema(conn: Connection, name: str) -> None:
    """Only if it is missing: IF NOT EXISTS would ask for the right to create one all the same."""
    if conn.execute("SELECT FROM pg_namespace WHERE nspname = %s", [name]).fetchone() is None:
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))


def has_control(conn: Connection, control_schema: str) -> bool:
    """Whether there is a control schema of that name, of whatever version."""
    return conn.execute(CONTROL, [control_schema]).fetchone() is not None


def check_control(conn: Connection, control_schema: str) -> None:
    """Use the control schema if it is exactly the one this program was written for.

    Raises:
        ConfigurationError: missing, older or newer; the message says which command to run.
    """
    if not has_control(conn, control_schema):
        raise ConfigurationError(
            f"The target database has no control schema {control_schema!r}: run `cdc-consumer schema apply` first"
            " (or set CDC_TARGET__CONTROL_SCHEMA)."
        )
    use_control(conn, control_schema)
    present, wanted = _present(conn), migrations()[-1].number
    _refuse_newer(present, control_schema)
    if present < wanted:
        raise ConfigurationError(
            f"Control schema {control_schema!r} is at version {present}, this program needs {wanted}:"
            " run `cdc-consumer schema apply` to migrate it."
        )


def _present(conn: Connection) -> int:
    row = conn.execute("SELECT coalesce(max(number), 0) FROM migration").fetchone()
    return int(row[0]) if row else 0


def _refuse_newer(present: int, control_schema: str) -> None:
    wanted = migrations()[-1].number
    if present > wanted:
        raise ConfigurationError(
            f"Control schema {control_schema!r} is at version {present}, newer than this program ({wanted}):"
            " install the version of cdc-consumer that migrated it."
        )
