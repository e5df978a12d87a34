"""`--defer-indexes` and `--brin`: whatever happens between, the indexes come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from backfill import cli, indexes
from backfill.app import Outcome
from backfill.ledger import Totals
from backfill.progress import Report
from tests.backfill_world import SHIPS, World
from widetable.errors import ExitCode

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

NAME = f"tbl_data_timeseries_{SHIPS[0].lower()}_2"
TABLE = f"tenant.{NAME}"
FIND = """
SELECT c.relname, pg_get_indexdef(c.oid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indisvalid AND i.indrelid = ANY (
    SELECT oid FROM pg_class WHERE relnamespace = 'tenant'::regnamespace AND relname LIKE 'tbl_data%')
"""
BY_SPEED = 'CREATE INDEX by_speed ON {} ("engine/1" DESC) WITH (fillfactor = 80) WHERE "engine/1" IS NOT NULL'
ONE_SPEED = 'CREATE UNIQUE INDEX one_speed ON {} (created_time, "engine/1")'
RECORD = """
INSERT INTO deferred_index (schema_name, index_name, table_name, definition) VALUES ('tenant', %s, %s, %s)
"""


@pytest.fixture
def indexed(emptied: World) -> World:
    """History behind a hand-off, and a table with an index for queries and one that makes rows unique."""
    emptied.fill(8)
    emptied.hand_off(barrier_xid=3)
    for name in ("by_speed", "one_speed", *brin(emptied)):
        emptied.target.execute(f"DROP INDEX IF EXISTS tenant.{name}".encode())
    for statement in (BY_SPEED, ONE_SPEED):
        emptied.target.execute(statement.format(TABLE).encode())
    return emptied


def found(world: World) -> dict[str, str]:
    """The valid indexes of the wide tables."""
    return dict(world.target.execute(FIND).fetchall())


def brin(world: World) -> list[str]:
    """The BRIN indexes of the wide tables."""
    return [name for name, definition in found(world).items() if "USING brin (created_time)" in definition]


def loads(
    world: World, monkeypatch: pytest.MonkeyPatch, totals: Totals, error: type[BaseException] | None = None
) -> list[dict[str, str]]:
    """Put a load that ends in some way into the place of the real one; returns the indexes it saw."""
    seen: list[dict[str, str]] = []

    def load(*_: object) -> Outcome:
        seen.append(found(world))
        if error:
            raise error
        return Outcome(Report.of(totals, datetime.now(UTC), 1.0), totals)

    monkeypatch.setattr(cli, "run_backfill", load)
    return seen


def test_indexes_are_dropped_for_the_load_and_built_after_it(
    indexed: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the real thing: keys stay, the others come back as they were, and BRIN is added once."""
    before = found(indexed)
    assert indexed.backfill("run", "--defer-indexes", "--brin") == ExitCode.DONE
    err = capsys.readouterr().err
    assert "1 indexes are dropped for the load" in err
    assert "building index by_speed" in err
    assert indexed.wide_cells() == indexed.narrow_cells()
    after = found(indexed)
    assert len(brin(indexed)) == 3 * len(SHIPS)
    assert {name: text for name, text in after.items() if name in before} == before
    assert indexed.backfill("run", "--brin") == ExitCode.DONE
    assert found(indexed) == after
    assert indexed.one("SELECT count(*) FROM deferred_index") == 0


@contextmanager
def writer(world: World) -> Iterator[str]:
    """A role that may write rows and owns no table; gives its DSN."""
    role = f"writer_{world.target.info.dbname}"
    name, grant = sql.Identifier(role), sql.SQL("GRANT {} ON {} IN SCHEMA tenant, cdc TO {}")
    rows = sql.SQL("SELECT, INSERT, UPDATE, DELETE")
    world.target.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'w'").format(name))
    world.target.execute(sql.SQL("GRANT USAGE ON SCHEMA tenant, cdc TO {}").format(name))
    world.target.execute(grant.format(rows, sql.SQL("ALL TABLES"), name))
    try:
        yield make_conninfo(world.target_dsn, user=role, password="w")
    finally:
        world.target.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))


@pytest.mark.parametrize("flag", ["--defer-indexes", "--brin"])
def test_a_role_that_owns_no_table_is_refused_before_anything_is_copied(
    indexed: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    """Nothing is on record then that a later run would have to build."""
    with writer(indexed) as dsn:
        monkeypatch.setenv("CDC_TARGET__DDL_DSN", dsn)
        assert indexed.backfill("run", flag) == ExitCode.CONFIGURATION
    assert "set CDC_TARGET__DDL_DSN to the role" in capsys.readouterr().err
    assert indexed.one("SELECT count(*) FROM deferred_index") == 0
    assert not indexed.wide_cells()


def test_a_role_that_may_not_build_what_is_recorded_is_named_as_the_reason(
    indexed: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record stays, for a run with the right role."""
    indexed.target.execute("DROP INDEX tenant.by_speed")
    indexed.target.execute(RECORD, ["by_speed", NAME, BY_SPEED.format(TABLE)])
    with writer(indexed) as dsn:
        monkeypatch.setenv("CDC_TARGET__DDL_DSN", dsn)
        assert indexed.backfill("run") == ExitCode.CONFIGURATION
    assert "CDC_TARGET__DDL_DSN names such a role" in capsys.readouterr().err
    monkeypatch.delenv("CDC_TARGET__DDL_DSN")
    assert indexed.backfill("run") == ExitCode.DONE
    assert "by_speed" in found(indexed)


@pytest.mark.parametrize(
    "end", [KeyboardInterrupt, None], ids=["a load that was killed", "a load that was asked to stop"]
)
def test_a_load_that_does_not_end_leaves_its_indexes_to_the_next_run(
    indexed: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: type[BaseException] | None,
) -> None:
    """They are on record from the moment they are dropped, and `status` says so."""
    before = found(indexed)
    seen = loads(indexed, monkeypatch, Totals(4, 2, 0, 1, 0, 0, 0), end)
    assert indexed.backfill("run", "--defer-indexes") == (130 if end else ExitCode.PARTIAL)
    assert before.keys() - seen[0].keys() == {"by_speed"}
    assert "by_speed" not in found(indexed)
    capsys.readouterr()
    assert indexed.backfill("status") == ExitCode.DONE
    assert "1 indexes wait for a load to end (by_speed)" in capsys.readouterr().out
    loads(indexed, monkeypatch, Totals(4, 3, 0, 1, 0, 0, 0))
    assert indexed.backfill("run") == ExitCode.PARTIAL  # slices failed, but the load has ended
    assert found(indexed) == before


def test_an_index_that_was_made_anew_by_hand_comes_back_as_it_was_dropped(
    indexed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed has its old definition on record; what the next run drops is what counts."""
    before = found(indexed)
    loads(indexed, monkeypatch, Totals(1, 1, 0, 0, 0, 0, 0))
    old = f"CREATE INDEX by_speed ON {TABLE} (created_time)"
    indexed.target.execute(RECORD, ["by_speed", "another_table", old])
    assert indexed.backfill("run", "--defer-indexes") == ExitCode.DONE
    assert found(indexed) == before
    assert indexed.one("SELECT count(*) FROM deferred_index") == 0


def test_a_build_that_was_broken_off_begins_anew(indexed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it leaves is an index that is not valid; what went with its table is forgotten."""
    before = found(indexed)
    loads(indexed, monkeypatch, Totals(1, 1, 0, 0, 0, 0, 0))
    indexed.target.execute(RECORD, ["by_speed", NAME, before["by_speed"]])
    indexed.target.execute(RECORD, ["gone", "no_such_table", "CREATE INDEX gone ON tenant.no_such_table (x)"])
    indexed.target.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'tenant.by_speed'::regclass"
    )
    assert indexed.backfill("run") == ExitCode.DONE
    assert found(indexed) == before
    assert indexed.one("SELECT count(*) FROM deferred_index") == 0


def test_an_index_that_can_not_be_built_or_dropped_is_said(
    indexed: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its column is gone: it stays on record. Or somebody holds the table: it stays where it is."""
    loads(indexed, monkeypatch, Totals(1, 1, 0, 0, 0, 0, 0))
    indexed.target.execute(RECORD, ["lost", NAME, f"CREATE INDEX lost ON {TABLE} (no_such_column)"])
    assert indexed.backfill("run") == ExitCode.CONFIGURATION
    assert "Index lost can't be built as it was" in capsys.readouterr().err
    assert indexed.one("SELECT count(*) FROM deferred_index") == 1
    indexed.target.execute("DELETE FROM deferred_index")
    monkeypatch.setattr(indexes, "TURNS_MS", (20, 20))
    with indexed.target.transaction():
        indexed.target.execute(f"LOCK TABLE {TABLE} IN ACCESS SHARE MODE".encode())
        assert indexed.backfill("run", "--defer-indexes") == ExitCode.UNREACHABLE
    assert "can't be dropped: run again" in capsys.readouterr().err
    assert "by_speed" in found(indexed)
    assert indexed.one("SELECT count(*) FROM deferred_index") == 0
