"""Wide tables: what `apply_schema` creates, refuses and leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from tests.wide_plans import HOSTILE, LISTS, plan_of
from widetable.channel_map import column_name, read_channel_lists
from widetable.control import use_control
from widetable.ddl import apply_schema, check_tables
from widetable.errors import ConfigurationError, RetryableError
from widetable.layout import load_layout
from widetable.layout_lock import layout_change, lock_layout_shared
from widetable.postgres import Connection, connect_target
from widetable.registry import require_registry
from widetable.sampling import Sample
from widetable.schema_plan import plan_schema
from widetable.settings import TargetSettings
from widetable.values import ColumnType

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


def columns(conn: Connection, table: str) -> list[tuple[str, str]]:
    """(name, type) of a table's columns in physical order."""
    query = """SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
               WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""
    return conn.execute(query, [table]).fetchall()


def version(conn: Connection) -> int:
    """The layout's version."""
    return require_registry(conn).version


def test_each_ship_gets_a_table_per_system(conn: Connection, target: TargetSettings) -> None:
    """Key, versions, then one column per channel in list order; names that can't be columns are mapped."""
    changes = apply_schema(conn, target, plan_of("IMO2", "IMO1"))
    assert changes.tables == [f"tbl_data_timeseries_imo{ship}_{no}" for ship in (1, 2) for no in (1, 2, 3)]
    fixed = [("created_time", "timestamp without time zone"), ("_x", "jsonb")]
    expected = fixed + [(column_name(channel), "text") for channel in HOSTILE]
    assert columns(conn, "tenant.tbl_data_timeseries_imo1_3") == expected
    assert check_tables(conn) == []


def test_the_real_lists_make_tables_a_writer_accepts(conn: Connection, target: TargetSettings) -> None:
    """1,052 channels in three tables, live at once."""
    apply_schema(conn, target, plan_schema(read_channel_lists(), Sample(("IMO9976903",))))
    layout = load_layout(conn)
    assert (len(layout.ordinal), len(layout.tables), layout.pending) == (1052, 3, frozenset())
    ordinals = [layout.ordinal[channel] for part in read_channel_lists() for channel in part.channel_ids]
    assert ordinals == sorted(ordinals)


def test_a_full_row_of_typed_columns_fits_its_page(conn: Connection, target: TargetSettings) -> None:
    """The planner's worst case is PostgreSQL's: the largest table takes a row with every value set."""
    plan = plan_schema(read_channel_lists(), Sample(("S",)), column_type="typed")
    apply_schema(conn, target, plan)
    conn.execute(
        sql.SQL("INSERT INTO tenant.tbl_data_timeseries_s_2 VALUES ({})").format(
            sql.SQL(", ").join([sql.Literal("2024-01-01"), sql.NULL, *[sql.Literal(1.5)] * 655])
        )
    )
    row = conn.execute("SELECT pg_column_size(t) FROM tenant.tbl_data_timeseries_s_2 t").fetchone()
    assert row is not None
    assert plan.sizes()[2].typical_bytes - 8 < row[0] <= plan.sizes()[2].typical_bytes


def test_typed_columns_have_their_channels_types(conn: Connection, target: TargetSettings) -> None:
    """Decimal, Integer, String, Boolean."""
    plan = plan_of("S", column_type="typed")
    in_order: tuple[ColumnType, ...] = ("float8", "int8", "text", "bool")
    types = dict(zip(HOSTILE, in_order, strict=False))
    typed = [replace(part, column_type=types.get(part.channel_id, "float8")) for part in plan.channels]
    apply_schema(conn, target, replace(plan, channels=tuple(typed)))
    found = dict(columns(conn, "tenant.tbl_data_timeseries_s_3"))
    names = [found[column_name(channel)] for channel in HOSTILE[:4]]
    assert names == ["double precision", "bigint", "text", "boolean"]
    assert check_tables(conn) == []


def test_a_second_apply_changes_nothing(conn: Connection, target: TargetSettings) -> None:
    """Neither rows, nor tables, nor the version that writers compare."""
    apply_schema(conn, target, plan_of("S1"))
    before = version(conn)
    assert not apply_schema(conn, target, plan_of("S1"))
    assert version(conn) == before


def test_a_new_ship_and_a_new_channel_raise_the_version(conn: Connection, target: TargetSettings) -> None:
    """Writers must read the layout again; the channel is pending, for its column is not there yet."""
    apply_schema(conn, target, plan_of("S1"))
    before = version(conn)
    changes = apply_schema(conn, target, plan_of("S1", "S2"))
    assert (changes.ships, len(changes.tables), changes.channels) == (["S2"], 3, [])
    more = (LISTS[0], LISTS[1], replace(LISTS[2], channel_ids=(*HOSTILE, "/v1/new")))
    changes = apply_schema(conn, target, plan_schema(more, Sample(("S1",))))
    assert (changes.channels, changes.pending) == (["/v1/new"], ["channel /v1/new"])
    assert version(conn) >= before + 2
    assert check_tables(conn) == []


@pytest.mark.parametrize(
    ("ships", "word"),
    [
        pytest.param(("IMO1", "imo1"), "differ in case only", id="collide in lower case"),
        pytest.param(("S" * 42,), "too long", id="64 bytes"),
        pytest.param(("é" * 21,), "too long", id="64 bytes of UTF-8"),
        pytest.param(("",), "can't name", id="empty"),
    ],
)
def test_ships_that_can_not_have_tables_are_refused(
    conn: Connection, target: TargetSettings, ships: tuple[str, ...], word: str
) -> None:
    """Before anything is created."""
    with pytest.raises(ConfigurationError, match=word):
        apply_schema(conn, target, plan_of(*ships))
    assert conn.execute("SELECT FROM pg_class WHERE relname LIKE 'tbl_data%'").fetchall() == []


@pytest.mark.parametrize("ship_id", ["S" * 41, "a'b\"c;--%s", "Schiff é"])
def test_odd_ship_ids_are_only_names(conn: Connection, target: TargetSettings, ship_id: str) -> None:
    """No ship id reaches SQL as text; 63 bytes are allowed."""
    apply_schema(conn, target, plan_of(ship_id))
    assert check_tables(conn) == []
    assert set(load_layout(conn).tables) == {(ship_id, 1), (ship_id, 2), (ship_id, 3)}


def test_a_ship_that_collides_with_a_registered_one_is_refused(
    conn: Connection, target: TargetSettings
) -> None:
    """Also when it comes later."""
    apply_schema(conn, target, plan_of("IMO1"))
    with pytest.raises(ConfigurationError, match="'IMO1' and 'imo1'"):
        apply_schema(conn, target, plan_of("imo1"))


def test_a_table_of_the_same_name_is_never_taken_over(conn: Connection, target: TargetSettings) -> None:
    """It is somebody's; the message says what can be done, and nothing is changed."""
    conn.execute(
        "CREATE SCHEMA tenant; CREATE TABLE tenant.tbl_data_timeseries_s1_2 (created_time timestamp)"
    )
    with pytest.raises(ConfigurationError, match=r"tbl_data_timeseries_s1_2.*--adopt.*--drop-tables"):
        apply_schema(conn, target, plan_of("S0", "S1"))
    assert columns(conn, "tenant.tbl_data_timeseries_s1_2") == [
        ("created_time", "timestamp without time zone")
    ]
    assert conn.execute("SELECT FROM pg_class WHERE relname LIKE 'tbl_data%s0%'").fetchall() == []


@pytest.mark.parametrize(
    ("choices", "option"),
    [
        ({"column_type": "typed"}, "--column-type"),
        ({"deletes": "ignore"}, "--deletes"),
        ({"layout": "single"}, "--layout"),
    ],
)
def test_what_shapes_storage_is_settled_once(
    conn: Connection, target: TargetSettings, choices: dict[str, str], option: str
) -> None:
    """Another choice is refused, and the message names the way to start over."""
    apply_schema(conn, target, plan_of("S1"))
    with pytest.raises(ConfigurationError, match=rf"{option} is settled.*--drop-tables"):
        apply_schema(conn, target, plan_of("S1", **choices))


def test_policies_may_change(conn: Connection, target: TargetSettings) -> None:
    """Who adds newcomers, and where they go, is no matter of storage."""
    apply_schema(conn, target, plan_of("S1"))
    changes = apply_schema(conn, target, plan_of("S1", new_channels="manual", default_table_no=3))
    assert changes.settings == ["policies: new channels manual, new ships auto"]
    registry = require_registry(conn)
    assert (registry.new_channels, registry.default_table_no) == ("manual", 3)


def test_a_channel_never_changes_its_table(conn: Connection, target: TargetSettings) -> None:
    """Moved in the lists, it stays, and apply says so."""
    apply_schema(conn, target, plan_of("S1"))
    moved = (
        replace(LISTS[0], channel_ids=("/v1/ab01//x",)),
        replace(LISTS[1], channel_ids=(*LISTS[1].channel_ids, "/v1/ab01//y")),
        LISTS[2],
    )
    changes = apply_schema(conn, target, plan_schema(moved, Sample(("S1",))))
    assert changes.notes == ["channel /v1/ab01//y stays in table 1, though it is in the list of table 2 now"]
    assert changes.channels == []


def test_rows_that_would_not_fit_are_refused_before_any_ddl(conn: Connection, target: TargetSettings) -> None:
    """PostgreSQL itself would find out at the first full row."""
    plan = plan_schema(read_channel_lists(), Sample(("S",)), layout="single")
    with pytest.raises(ConfigurationError, match="does not fit"):
        apply_schema(conn, target, plan)
    assert conn.execute("SELECT FROM pg_namespace WHERE nspname IN ('cdc', 'tenant')").fetchall() == []


def test_schemas_of_odd_names_work(conn: Connection, target: TargetSettings) -> None:
    """Names of schemas are quoted as all others."""
    odd = target.model_copy(update={"wide_schema": 'Wide "x" %s', "control_schema": "Control; --"})
    apply_schema(conn, odd, plan_of("S1"))
    assert check_tables(conn) == []
    assert not apply_schema(conn, odd, plan_of("S1"))


def change_nothing(conn: Connection) -> None:
    """A layout change, as short as can be."""
    with layout_change(conn):
        pass


def test_a_layout_change_waits_for_writers(conn: Connection, target: TargetSettings) -> None:
    """A transaction that holds the shared lock keeps DDL out; another writer gets in beside it."""
    apply_schema(conn, target, plan_of("S1"))
    hasty = target.model_copy(update={"lock_timeout_ms": 50})
    with connect_target(hasty, "ddl") as other, conn.transaction():
        use_control(other, target.control_schema)
        lock_layout_shared(conn)
        with other.transaction():
            lock_layout_shared(other)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            change_nothing(other)
        with pytest.raises(RetryableError):
            apply_schema(other, hasty, plan_of("S2"))
