"""The source as a run sees it, and what the run does about it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg import conninfo, sql
from pydantic import SecretStr

from backfill import brake
from backfill.pace import Load
from backfill.source_watch import SourceWatch
from tests.backfill_world import World, wait_until
from tests.roles import four_roles
from widetable.errors import ExitCode
from widetable.settings import SourceSettings

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

LOCK = "LOCK TABLE tenant.tbl_data_timeseries"


@pytest.fixture
def watch(emptied: World) -> Iterator[SourceWatch]:
    """A look at the source."""
    with closing(SourceWatch(emptied.settings().source)) as watch:
        yield watch


def test_sessions_that_work_and_wait_are_seen(emptied: World, watch: SourceWatch) -> None:
    """A session that waits for another one's lock is at work, and waits."""

    def queued() -> bool:
        load = watch.look(None)
        return load is not None and min(load.active, load.waiting) >= 1

    with (
        closing(psycopg.connect(emptied.source_dsn)) as holder,
        closing(psycopg.connect(emptied.source_dsn)) as other,
    ):
        holder.execute(LOCK)
        waiting = threading.Thread(target=other.execute, args=[LOCK])
        waiting.start()
        try:
            wait_until(queued, "a session that waits")
        finally:
            holder.rollback()
            waiting.join()


def test_the_role_of_the_script_sees_that_others_are_at_work(source_dsn: str, target_dsn: str) -> None:
    """What `deploy/roles.sql` grants for it; without that a busy source looks idle."""
    with (
        four_roles(source_dsn, target_dsn, "governed") as roles,
        closing(psycopg.connect(source_dsn, autocommit=True)) as other,
        closing(psycopg.connect(source_dsn, autocommit=True)) as admin,
        closing(SourceWatch(SourceSettings(dsn=SecretStr(roles.history)))) as watch,
    ):

        def active() -> int:
            load = watch.look(None)
            assert load is not None
            return load.active

        other.pgconn.send_query(b"SELECT pg_sleep(300)")
        wait_until(lambda: active() >= 1, "a session of another role is seen at work")
        name = str(conninfo.conninfo_to_dict(roles.history)["user"])
        admin.execute(sql.SQL("REVOKE pg_read_all_stats FROM {}").format(sql.Identifier(name)))
        assert active() == 0
        other.cancel()


def test_the_wal_of_the_slot_is_seen(emptied: World, watch: SourceWatch) -> None:
    """It grows with what is written; a slot that is not there retains nothing, and an outage tells nothing."""
    gone = watch.look("no_such_slot")
    assert gone is not None
    assert gone.retained is None
    slot = f"lagging_{emptied.one('SELECT oid FROM pg_database WHERE datname = current_database()')}"
    emptied.source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    try:
        before = watch.look(slot)
        emptied.fill(100)
        after = watch.look(slot)
    finally:
        emptied.source.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    assert before is not None
    assert after is not None
    assert (after.retained or 0) > (before.retained or 0)
    emptied.source.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'backfill watch' AND datname = current_database()"
    )
    assert watch.look(None) is None
    assert watch.look(None) is not None


def test_a_run_pauses_slows_down_and_says_so(
    emptied: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Paused while the slot retains too much, slowed while the source is busy; in the end all is copied."""
    monkeypatch.setenv("CDC_BACKFILL__GOVERNOR", "true")
    monkeypatch.setattr(brake, "SOURCE_LOOK_S", 0.0)
    monkeypatch.setattr("backfill.progress.LINE_EVERY_S", 0.0)
    emptied.fill(12)
    emptied.hand_off(barrier_xid=3)
    while_paused: list[dict[str, int]] = []
    busy: list[int] = []

    def look(_self: SourceWatch, slot: str | None) -> Load:
        assert slot == "no_such_slot"
        if len(while_paused) < 5:
            while_paused.append(emptied.states())
            return Load(retained=10**15)
        busy.append(99)
        return Load(active=99 if len(busy) < 3 else 0)

    monkeypatch.setattr(SourceWatch, "look", look)
    assert emptied.backfill("run") == ExitCode.DONE
    err = capsys.readouterr().err
    assert "paused: the slot retains 1,000,000,000,000,000 bytes" in err
    assert "99 sessions are at work at the source (limit 16)" in err
    assert not any("done" in states or "running" in states for states in while_paused)
    assert emptied.wide_cells() == emptied.narrow_cells()
