"""Dropping the wide tables: all that says data is there goes with them, and only while nobody writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from psycopg import sql

from tests.wide_plans import plan_of
from widetable.ddl import apply_schema, check_tables
from widetable.drop import SQL, drop_tables, droppable_tables
from widetable.errors import ConfigurationError
from widetable.postgres import Connection, connect_target
from widetable.registry import require_registry
from widetable.settings import TargetSettings

pytestmark = pytest.mark.postgres


@pytest.fixture
def target(target_dsn: str) -> TargetSettings:
    """Settings of an empty target."""
    return TargetSettings(dsn=target_dsn)


@pytest.fixture
def conn(target: TargetSettings) -> Iterator[Connection]:
    """A session on it."""
    with connect_target(target, "test") as connection:
        yield connection


def version(conn: Connection) -> int:
    """The layout's version."""
    return require_registry(conn).version


def count_rows(conn: Connection, table: str) -> int:
    """Rows of a control table."""
    row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier("cdc", table))).fetchone()
    assert row is not None
    return int(row[0])


def test_dropping_forgets_everything_that_says_data_is_there(
    conn: Connection, target: TargetSettings
) -> None:
    """Tables and slices go together, or history would never be copied again; versions go on rising."""
    apply_schema(conn, target, plan_of("S1"))
    before = version(conn)
    conn.execute("INSERT INTO plan (pipeline, ships) VALUES ('p', '{S1}')")
    conn.execute("INSERT INTO slice (plan_id, slice_no, state) SELECT plan_id, 1, 'done' FROM plan")
    tables = droppable_tables(conn, target, plan_of("S1"))
    assert [table.name for table in tables] == [f"tbl_data_timeseries_s1_{no}" for no in (1, 2, 3)]
    drop_tables(conn, target, tables)
    assert [count_rows(conn, name) for name in ("plan", "slice", "channel", "ship", "layout")] == [0] * 5
    apply_schema(conn, target, plan_of("S1", column_type="typed"))
    assert version(conn) > before


@pytest.mark.parametrize(
    "statement",
    [
        """INSERT INTO offset_ledger (pipeline, topic_id, partition, next_offset, backend_pid, backend_start)
           SELECT 'p', 't', 0, 0, pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()""",
        """WITH p AS (INSERT INTO plan (pipeline, ships) VALUES ('p', '{S1}') RETURNING plan_id)
           INSERT INTO slice (plan_id, slice_no, state, backend_pid, backend_start)
           SELECT plan_id, 1, 'running', pid, backend_start
           FROM p, pg_stat_activity WHERE pid = pg_backend_pid()""",
    ],
    ids=["consumer", "backfill"],
)
def test_nothing_is_dropped_while_a_writer_is_at_work(
    conn: Connection, target: TargetSettings, statement: str
) -> None:
    """A live session that owns a ledger row or a slice keeps the tables; once it is gone, they may go."""
    apply_schema(conn, target, plan_of("S1"))
    tables = droppable_tables(conn, target, plan_of("S1"))
    with connect_target(target, "at-work") as writer:
        writer.execute("SET search_path = cdc")
        writer.execute(statement.encode())
        with pytest.raises(ConfigurationError, match="at-work"):
            drop_tables(conn, target, tables)
    assert check_tables(conn) == []
    drop_until_idle(lambda: drop_tables(conn, target, tables))
    assert droppable_tables(conn, target, plan_of("S1")) == []


def test_a_writer_of_another_role_is_seen(conn: Connection, target: TargetSettings) -> None:
    """PostgreSQL hides when its session began from a role that may only change tables."""
    apply_schema(conn, target, plan_of("S1"))
    role = sql.Identifier(f"ddl_{conn.info.dbname}")
    with connect_target(target, "at-work") as writer:
        writer.execute(
            "INSERT INTO cdc.offset_ledger (pipeline, topic_id, partition, next_offset, backend_pid, backend_start)"
            " SELECT 'p', 't', 0, 0, pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
        grants = (
            "GRANT USAGE ON SCHEMA cdc TO {0}; GRANT SELECT ON ALL TABLES IN SCHEMA cdc TO {0}; SET ROLE {0}"
        )
        conn.execute(sql.SQL("CREATE ROLE {0}; " + grants).format(role))
        try:
            assert conn.execute(SQL["at_work"]).fetchall() == [("at-work", writer.info.backend_pid)]
        finally:
            conn.execute(sql.SQL("RESET ROLE; DROP OWNED BY {0}; DROP ROLE {0}").format(role))


def drop_until_idle(drop: Callable[[], None], attempts: int = 200) -> None:
    """PostgreSQL takes a moment to notice that a session ended."""
    for _ in range(attempts - 1):
        try:
            return drop()
        except ConfigurationError:
            continue
    return drop()


def test_a_view_on_a_wide_table_stops_the_drop(conn: Connection, target: TargetSettings) -> None:
    """What depends on a table is named, never dropped with it."""
    apply_schema(conn, target, plan_of("S1"))
    conn.execute("CREATE VIEW tenant.mine AS SELECT * FROM tenant.tbl_data_timeseries_s1_1")
    with pytest.raises(ConfigurationError, match=r"view tenant\.mine"):
        drop_tables(conn, target, droppable_tables(conn, target, plan_of("S1")))
    assert check_tables(conn) == []
