"""`schema apply --adopt`: wide tables of somebody else's are taken over, and healed to the cell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from backfill.cli import commands as backfill
from tests.schema_world import Run, insert, small_lists
from widetable import command_line
from widetable.barrier import source_identity, take_barrier
from widetable.control import use_control
from widetable.ddl import check_tables
from widetable.errors import ExitCode
from widetable.hand_off import HandOff, write_hand_off
from widetable.postgres import Connection, connect_target
from widetable.registry import require_registry
from widetable.settings import TargetSettings

pytestmark = pytest.mark.postgres

MOMENTS = ("2024-01-01 12:00:00", "2024-01-01 12:00:15", "2024-01-01 12:00:30")
NAME = "tenant.tbl_data_timeseries_s1"
OLD = f"""
CREATE SCHEMA tenant;
CREATE TABLE {NAME}_1 (created_time timestamp PRIMARY KEY, "/v1/ab01//x" float8);
CREATE TABLE {NAME}_2 (created_time timestamp PRIMARY KEY, "/v1/dyn//run" boolean, "/v1/me01//x" float8,
                       "/v1/me01//n" bigint, "/v1/me01//s" text);
"""
"""Two of three tables, with a column of which no list knows."""


@pytest.fixture
def target(target_dsn: str) -> Iterator[Connection]:
    """A session on the target, with the tables of another program."""
    with connect_target(TargetSettings(dsn=target_dsn), "test") as conn:
        conn.execute(OLD.encode())
        use_control(conn, "cdc")
        yield conn


@pytest.fixture
def lists(tmp_path: Path, source: psycopg.Connection) -> Path:
    """Channel lists, and a source with samples of their channels and of one more."""
    source.execute(
        "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, value_format, double_v,"
        " long_v, bool_v) SELECT 'S1', channel, moment::timestamp, format, dec, int, bool"
        " FROM unnest(%s::text[]) moment, (VALUES ('/v1/me01//x', 'Decimal', 1.5, NULL, NULL),"
        " ('/v1/me01//n', 'Integer', NULL, 7, NULL), ('/v1/dyn//run', 'Boolean', NULL, NULL, true),"
        " ('/v1/vdr//x', 'Decimal', 2.5, NULL, NULL)) v (channel, format, dec, int, bool)",
        [list(MOMENTS)],
    )
    return small_lists(tmp_path, "/v1/me01//n", "/v1/me01//s", "/v1/me01//later")


def hand_over(source: psycopg.Connection, target: Connection) -> None:
    """What `cdc-consumer init` leaves behind."""
    write_hand_off(
        target,
        HandOff(
            pipeline="narrow_to_wide",
            epoch=1,
            system_identifier=source_identity(source).system_identifier,
            timeline=1,
            slot="slot",
            publication="publication",
            consistent_point=1,
            barrier_xid=take_barrier(source),
            topic="topic",
            topic_id="topic-id",
            boundary_offsets={0: 0},
            placeholder="placeholder",
        ),
    )


def test_tables_of_another_program_are_healed_to_the_cell(
    run: Run, source: psycopg.Connection, target: Connection, lists: Path, tmp_path: Path
) -> None:
    """Refused without --adopt; with it data and types stay, backfill fills holes, verify mends the rest."""
    target.execute(
        f'INSERT INTO {NAME}_2 (created_time, "/v1/me01//x", "/v1/me01//n", "/v1/me01//s") VALUES'
        " (%s, 1.5, 7, 'phantom'), (%s, 99, NULL, NULL)".encode(),
        MOMENTS[:2],
    )
    code, _, err = run("apply", "--channels", lists)
    assert code == ExitCode.CONFIGURATION
    assert "2 of the tables wanted are there but not ours" in err
    assert "--adopt" in err
    code, out, err = run("plan", "--channels", lists)
    assert code == ExitCode.CONFIGURATION
    assert "--adopt takes them over" in err
    assert "Tables that are there already: 2" in out
    code, out, _ = run("plan", "--channels", lists, "--adopt", "--json")
    assert (code, json.loads(out)["column_type"]) == (ExitCode.DONE, "typed")
    code, out, err = run("apply", "--channels", lists, "--adopt")
    assert (code, err) == (ExitCode.DONE, "")
    assert "adopted 2 tables" in out
    assert "added 1 tables" in out
    assert check_tables(target) == []
    registry = require_registry(target)
    assert registry.column_type == "typed"
    assert {column.name: column.column_type for column in registry.columns[2]} == {
        "/v1/dyn//run": "bool",
        "/v1/me01//x": "float8",
        "/v1/me01//n": "int8",
        "/v1/me01//s": "text",
        "/v1/me01//later": "float8",
    }
    kept = target.execute(f'SELECT "/v1/me01//s", "/v1/me01//x" FROM {NAME}_2 ORDER BY created_time'.encode())
    assert kept.fetchall() == [("phantom", 1.5), (None, 99.0)]
    hand_over(source, target)
    assert command_line.exit_code(backfill, arguments=["run"]) == ExitCode.DONE
    verify = ["verify", "--no-settle", "--report", str(tmp_path / "report.json")]
    assert command_line.exit_code(backfill, arguments=verify) == ExitCode.PARTIAL
    found = json.loads((tmp_path / "report.json").read_text())
    assert (found["missing"], found["different"], found["phantom"]) == (0, 1, 1)
    assert command_line.exit_code(backfill, arguments=[*verify, "--repair"]) == ExitCode.DONE
    assert command_line.exit_code(backfill, arguments=verify) == ExitCode.DONE
    rows = target.execute(
        f'SELECT "/v1/me01//x", "/v1/me01//n", "/v1/me01//s", "/v1/dyn//run" FROM {NAME}_2'.encode()
    ).fetchall()
    assert rows == [(1.5, 7, None, True)] * 3
    assert run("apply")[1].startswith("nothing to change")


def test_what_can_not_be_adopted_is_said_with_what_to_do(run: Run, target: Connection, lists: Path) -> None:
    """All of it at once, and nothing is changed; the statements do what they say."""
    target.execute(
        f"""
        ALTER TABLE {NAME}_1 DROP CONSTRAINT tbl_data_timeseries_s1_1_pkey;
        ALTER TABLE {NAME}_1 ALTER created_time TYPE timestamptz, ALTER "/v1/ab01//x" SET NOT NULL;
        ALTER TABLE {NAME}_2 ALTER "/v1/me01//n" TYPE numeric, ALTER "/v1/me01//s" SET DEFAULT 'x';
        ALTER TABLE {NAME}_2 ADD COLUMN "/v1/vdr//x" float8, ADD COLUMN loaded_by text;
        ALTER TABLE {NAME}_2 SET UNLOGGED;
        CREATE VIEW {NAME}_3 AS SELECT * FROM {NAME}_1
        """.encode()
    )
    code, _, err = run("apply", "--channels", lists, "--adopt")
    assert code == ExitCode.CONFIGURATION
    table = '"tenant"."tbl_data_timeseries_s1_{}"'
    for words in (
        f"created_time is timestamp with time zone: ALTER TABLE {table.format(1)} ALTER COLUMN",
        f'not its primary key: ALTER TABLE {table.format(1)} ADD PRIMARY KEY ("created_time");',
        f'NOT NULL: ALTER TABLE {table.format(1)} ALTER COLUMN "/v1/ab01//x" DROP NOT NULL;',
        f'numeric, which no channel can be: ALTER TABLE {table.format(2)} ALTER COLUMN "/v1/me01//n" TYPE text;',
        f"it is UNLOGGED: ALTER TABLE {table.format(2)} SET LOGGED;",
        f'has a default: ALTER TABLE {table.format(2)} ALTER COLUMN "/v1/me01//s" DROP DEFAULT;',
        "column 'loaded_by' is no channel that lists, map or source know",
        f"{NAME}_3 is no ordinary table: rename it",
    ):
        assert words in err
    assert target.execute("SELECT FROM cdc.ship").fetchall() == []
    statements = [
        line.partition(": ALTER TABLE ")[2] for line in err.splitlines() if ": ALTER TABLE " in line
    ]
    target.execute(f"DROP VIEW {NAME}_3; ALTER TABLE {NAME}_2 DROP COLUMN loaded_by".encode())
    for statement in statements:
        target.execute(f"ALTER TABLE {statement}".encode())
    code, out, err = run("apply", "--channels", lists, "--adopt")
    assert (code, err) == (ExitCode.DONE, "")
    assert "adopted 2 tables" in out
    assert check_tables(target) == []
    # Where the column was found counts, not the list.
    assert "/v1/vdr//x" in {column.channel_id for column in require_registry(target).columns[2]}


def test_ships_that_come_later_must_have_the_same_types(
    run: Run, source: psycopg.Connection, target: Connection, lists: Path
) -> None:
    """A channel has one type for all ships; a table that has it is adopted then, too."""
    assert run("apply", "--channels", lists, "--adopt")[0] == ExitCode.DONE
    insert(source, "S2", "/v1/me01//x", 1.5)
    other = NAME.replace("s1", "s2")
    target.execute(
        f'CREATE TABLE {other}_2 (created_time timestamp PRIMARY KEY, "/v1/me01//x" text)'.encode()
    )
    target.execute(f"INSERT INTO {other}_2 VALUES ('2024-01-01', '4')".encode())
    code, _, err = run("apply", "--adopt")
    assert code == ExitCode.CONFIGURATION
    assert "is text, elsewhere double precision: ALTER TABLE" in err
    target.execute(
        f'ALTER TABLE {other}_2 ALTER "/v1/me01//x" TYPE float8 USING "/v1/me01//x"::float8'.encode()
    )
    code, out, err = run("apply", "--adopt")
    assert (code, err) == (ExitCode.DONE, "")
    assert "adopted 1 tables" in out
    assert target.execute(f'SELECT "/v1/me01//x" FROM {other}_2'.encode()).fetchall() == [(4.0,)]
    assert check_tables(target) == []


def test_typed_tables_are_not_adopted_as_text(run: Run, target: Connection, lists: Path) -> None:
    """The choice is the person's, and the message names both ways."""
    code, _, err = run("apply", "--channels", lists, "--adopt", "--column-type", "text")
    assert code == ExitCode.CONFIGURATION
    assert "--column-type typed" in err
    code, _, err = run("apply", "--channels", lists, "--adopt", "--drop-tables", "--yes")
    assert code == ExitCode.USAGE
    assert target.execute(f"SELECT FROM {NAME}_2".encode()).fetchall() == []
