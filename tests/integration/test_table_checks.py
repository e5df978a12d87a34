"""Wide tables against the channel map, and who may do what with them."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.wide_plans import plan_of
from widetable.control import migrate
from widetable.ddl import apply_schema, check_tables
from widetable.errors import ConfigurationError
from widetable.postgres import Connection, connect_target
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


@pytest.mark.parametrize(
    ("ddl", "sentence"),
    [
        ("ALTER TABLE {} ADD COLUMN extra int", "column 'extra' is not in the channel map"),
        ('ALTER TABLE {} DROP COLUMN "/v1/ab01//x"', "column '/v1/ab01//x' is missing"),
        (
            'ALTER TABLE {} ALTER "/v1/ab01//x" TYPE varchar(9)',
            "is character varying(9), the channel map says text",
        ),
        ("ALTER TABLE {} DROP COLUMN _x", "column '_x' is missing"),
        (
            "ALTER TABLE {} DROP CONSTRAINT tbl_data_timeseries_s1_1_pkey",
            "created_time is not its primary key",
        ),
    ],
)
def test_ddl_by_hand_is_noticed(conn: Connection, target: TargetSettings, ddl: str, sentence: str) -> None:
    """`check_tables` names table and column, and apply refuses to build on it."""
    apply_schema(conn, target, plan_of("S1"))
    conn.execute(sql.SQL(ddl).format(sql.Identifier("tenant", "tbl_data_timeseries_s1_1")))
    (found,) = check_tables(conn)
    assert found.startswith("tbl_data_timeseries_s1_1: ")
    assert sentence in found
    with pytest.raises(ConfigurationError, match="made by hand"):
        apply_schema(conn, target, plan_of("S1"))


def test_without_a_layout_there_is_nothing_to_check(conn: Connection, target: TargetSettings) -> None:
    """The message names the command that makes one."""
    migrate(conn, target.control_schema)
    with pytest.raises(ConfigurationError, match="run `cdc-consumer schema apply`"):
        check_tables(conn)


def test_a_dropped_table_is_noticed_and_made_again(conn: Connection, target: TargetSettings) -> None:
    """Empty, and apply says that the data has to be healed."""
    apply_schema(conn, target, plan_of("S1"))
    conn.execute("DROP TABLE tenant.tbl_data_timeseries_s1_1")
    assert check_tables(conn) == ["tbl_data_timeseries_s1_1: the table is missing"]
    changes = apply_schema(conn, target, plan_of("S1"))
    assert changes.tables == ["tbl_data_timeseries_s1_1"]
    assert "backfill run --again" in changes.notes[0]
    assert check_tables(conn) == []


@pytest.fixture
def reader(conn: Connection) -> Iterator[str]:
    """A role without rights."""
    row = conn.execute("SELECT 'reader_' || left(md5(current_database()), 8)").fetchone()
    assert row is not None
    role = sql.Identifier(row[0])
    conn.execute(sql.SQL("CREATE ROLE {}").format(role))
    yield row[0]
    conn.execute(sql.SQL("RESET ROLE; DROP OWNED BY {0}; DROP ROLE {0}").format(role))


def test_the_readers_role_may_read_every_table(conn: Connection, target: TargetSettings, reader: str) -> None:
    """Those that were there before it was configured, and new ones; a second apply grants nothing."""
    apply_schema(conn, target, plan_of("S1"))
    with_reader = target.model_copy(update={"reader_role": reader})
    changes = apply_schema(conn, with_reader, plan_of("S1", "S2"))
    assert changes.grants == [f"tbl_data_timeseries_s1_{no}" for no in (1, 2, 3)]
    conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(reader)))
    conn.execute("SELECT * FROM tenant.tbl_data_timeseries_s1_1, tenant.tbl_data_timeseries_s2_3")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("DELETE FROM tenant.tbl_data_timeseries_s1_1")
    conn.execute("RESET ROLE")
    assert not apply_schema(conn, with_reader, plan_of("S1", "S2"))


def test_a_readers_role_that_does_not_exist_is_named(conn: Connection, target: TargetSettings) -> None:
    """Before any table is made."""
    with pytest.raises(ConfigurationError, match="nobody_here"):
        apply_schema(conn, target.model_copy(update={"reader_role": "nobody_here"}), plan_of("S1"))
    assert conn.execute("SELECT FROM pg_class WHERE relname LIKE 'tbl_data%'").fetchall() == []


def test_a_role_without_rights_is_told_which_it_lacks(
    conn: Connection, target: TargetSettings, reader: str
) -> None:
    """A clear message in the place of PostgreSQL's."""
    conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(reader)))
    with pytest.raises(ConfigurationError, match="needs CREATE on"):
        apply_schema(conn, target, plan_of("S1"))
