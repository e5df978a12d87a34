"""`python -m devstack.fleet` as a person runs it: reports, signals, mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import Any

import psycopg
import pytest

pytestmark = pytest.mark.postgres


def count_rows(dsn: str) -> int:
    """Rows of the narrow table."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SELECT count(*) FROM tenant.tbl_data_timeseries").fetchone()
    assert row is not None
    return int(row[0])


def command(*arguments: str) -> subprocess.Popen[str]:
    """Start `python -m devstack.fleet`."""
    line = [sys.executable, "-m", "devstack.fleet", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603  our own command


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end: exit code, stdout, stderr."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_the_command_writes_history_and_live_load(source_dsn: str) -> None:
    """Both print one line of JSON that agrees with the table; live begins after history."""
    code, out, _ = finished(command("history", "--dsn", source_dsn, "--ships", "1", "--rows", "3000"))
    assert (code, json.loads(out)["rows"], count_rows(source_dsn)) == (0, 3000, 3000)
    options = ("--ships", "1", "--rate", "0", "--seconds", "1", "--order", "channel")
    code, out, _ = finished(command("live", "--dsn", source_dsn, *options))
    report = json.loads(out)
    assert code == 0
    assert report["inserts"] > 0
    assert report["updates"] > 0
    added = sum(report[kind] for kind in ("inserts", "late", "reinserts", "unknown_channel", "unknown_ship"))
    assert count_rows(source_dsn) == 3000 + added - report["deletes"]


def test_the_command_adds_strangers_to_history(source_dsn: str) -> None:
    """One more ship and three more channels than the lists have."""
    options = ("--ships", "1", "--rows", "20000", "--until", "2024-05-01", "--strangers")
    code, _, _ = finished(command("history", "--dsn", source_dsn, *options))
    assert code == 0
    with psycopg.connect(source_dsn) as conn:
        query = (
            "SELECT count(DISTINCT ship_id), count(DISTINCT data_channel_id) FROM tenant.tbl_data_timeseries"
        )
        assert conn.execute(query).fetchone() == (2, 1055)


def test_sigterm_ends_the_command_with_its_report(source_dsn: str) -> None:
    """A live load without an end is stopped like any service."""
    process = command("live", "--dsn", source_dsn, "--ships", "1", "--rate", "100", "--calm")
    with psycopg.connect(source_dsn, autocommit=True) as conn:
        wait_for_rows(conn)
    process.send_signal(signal.SIGTERM)
    code, out, _ = finished(process)
    assert code == 0
    report = json.loads(out)
    assert report["inserts"] == report["events"] == count_rows(source_dsn)


def wait_for_rows(conn: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Wait until the narrow table has a row."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if conn.execute("SELECT FROM tenant.tbl_data_timeseries LIMIT 1").fetchone() is not None:
            return
        conn.execute("SELECT pg_sleep(0.05)")
    pytest.fail("the live load wrote nothing within 30 s")


def test_a_mistake_at_the_command_is_one_line() -> None:
    """No traceback, and the exit code of its kind."""
    code, out, err = finished(command("live", "--dsn", "host=127.0.0.1 port=1"))
    assert (code, out) == (4, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    code, _, err = finished(command("history", "--dsn", "host=127.0.0.1 port=1", "--channels", "/nowhere"))
    assert code == 3
    assert "No channel lists" in err
