"""The status page's export of a real target: the file that `backfill export` writes, or a sentence."""

from __future__ import annotations

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import httpx
import psycopg
import pytest

from cdc_consumer.monitor import Answer, Request
from cdc_consumer.page_exports import Exports, export_session
from tests.backfill_world import CHANNELS, SHIPS, World, wait_until
from tests.integration.test_backfill_export import PERIOD, SHIP, hold
from tests.status_page_world import PageWorld
from widetable import export
from widetable.errors import ExitCode
from widetable.export import Export, ExportRequest
from widetable.postgres import Connection

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

JANUARY = {"ship": SHIP, "from": "2025-01-01", "to": "2025-02-01"}
END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = %s AND datname = current_database()
"""
SLEEPING = """
SELECT count(*) FROM pg_stat_activity
WHERE starts_with(query, 'SELECT pg_sleep') AND state = 'active' AND datname = current_database()
"""
REFUSED = {
    "no column for channel engine/11. Did you mean engine/1": (404, {"channels": "engine/11"}),
    f"Known ships: {', '.join(SHIPS)}": (404, {"ship": "IMO42"}),
    "has no value from 2024-01-01": (404, {"from": "2024-01-01", "to": "2024-02-01"}),
    "has no value of engine/1": (404, {"channels": "engine/1"}),
    "first moment must lie before": (400, {"to": "2025-01-01"}),
    "is no moment": (400, {"to": "tomorrow"}),
}


def exports_of(world: World) -> Exports:
    """Exports of the world's target, as `cdc-consumer run` makes them."""
    return Exports(lambda: export_session(world.settings().target), 2)


def written(world: World, file: Path, *more: str) -> bytes:
    """What `backfill export` writes."""
    assert world.backfill("export", *PERIOD, *more, "-o", str(file)) == ExitCode.DONE
    return file.read_bytes()


def test_the_page_gives_the_file_that_the_command_writes(
    emptied: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte, page after page; what is shown before are its first rows."""
    monkeypatch.setattr(export, "PAGE_ROWS", 7)
    hold(emptied, 40, every=5)
    with PageWorld(exports=exports_of(emptied)).served() as client:
        whole = client.get("/export", params=JANUARY).content
        chosen = client.get("/export", params=JANUARY | {"channels": "nav/1, aux/1"}).content
        table = client.get("/export", params=JANUARY | {"format": "parquet"}).content
        look = client.get("/export.json", params=JANUARY).json()
    assert whole == written(emptied, tmp_path / "whole.csv")
    assert chosen == written(emptied, tmp_path / "chosen.csv", "--channels", "nav/1,aux/1")
    assert table == written(emptied, tmp_path / "table.parquet", "--format", "parquet")
    header, *rows = csv.reader(io.StringIO(whole.decode(), newline=""))
    assert look["columns"] == header == ["created_time", *CHANNELS]
    assert [[text or "" for text in row] for row in look["first"]] == rows[:10]
    assert (look["rows"], look["overflow"]) == (40, 0)


def test_a_mistake_is_a_sentence(emptied: World) -> None:
    """Found out before the first byte; the same as the command's."""
    hold(emptied, 3, tables=(1, 3))
    page = PageWorld(exports=exports_of(emptied)).page()
    for said, (status, more) in REFUSED.items():
        answer = page.answer(Request("/export", "127.0.0.1:9180", urlencode(JANUARY | more)))
        assert isinstance(answer, Answer)
        assert (answer.status, said in answer.body.decode()) == (status, True)


def test_a_session_that_ends_in_the_middle_breaks_the_transfer(
    emptied: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it could do nothing but read, for a limited time."""
    monkeypatch.setattr(export, "PAGE_ROWS", 5)
    hold(emptied, 60, pad=100_000)
    exports = exports_of(emptied)
    with closing(exports.connect()) as conn:
        assert conn.execute("SHOW statement_timeout").fetchone() == ("30s",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            conn.execute("DELETE FROM overflow_cell")
    with (
        PageWorld(exports=exports).served() as client,
        client.stream("GET", "/export", params=JANUARY) as answer,
    ):
        pieces = answer.iter_raw()
        assert next(pieces)
        assert emptied.target.execute(END_SESSIONS, ["cdc-consumer export"]).rowcount == 1
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            list(pieces)
    assert [it["state"] for it in exports.facts()] == ["broken"]


def test_the_end_of_the_program_cancels_what_the_target_still_does(emptied: World) -> None:
    """A statement that runs for an export holds nobody up."""

    def sleeps(conn: Connection, _request: ExportRequest) -> Export:
        conn.execute("SELECT pg_sleep(60)")
        raise AssertionError("not reached")

    exports = Exports(lambda: export_session(emptied.settings().target), 1, sleeps)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(exports.download, urlencode(JANUARY))
        wait_until(lambda: emptied.one(SLEEPING), "the statement runs")
        exports.close()
        refused = answer.result(timeout=30)
    assert isinstance(refused, Answer)
    assert refused.status == 503
