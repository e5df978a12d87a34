"""Brakes, progress and answers of `backfill`."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backfill.app import PlanStatus, Proposal
from backfill.history import History
from backfill.ledger import FailedSlice, Totals
from backfill.pace import DEFAULT_LAG_BYTES, Glance, Governor, Load, Pace, RateLimit, lag_limit
from backfill.planner import Bounds, Segment, cut
from backfill.plans import Decision, Plan
from backfill.progress import Bar, Lines, Report, Speed, describe, display
from backfill.runner import Wish, require_complete
from backfill.scope import Scope
from backfill.texts import proposal_json, proposal_text, report_text, status_json, status_text
from widetable.errors import PartialError, StoppedError
from widetable.logs import LogSettings, configure

HALF = Totals(slices=4, done=2, running=1, failed=0, rows=1_000, cells=900, rows_left=1_000, run_rows=500)
SHIPS = ("SHIP-A", "SHIP-B")


def test_the_rate_is_shared_by_all_workers() -> None:
    """What one worker spends, the next one waits for."""
    context = get_context("spawn")
    limit, stop = RateLimit(1_000.0, context.Value("d", 0.0)), context.Event()
    limit.wait(stop)
    start_s = time.monotonic()
    limit.spend(50)
    RateLimit(1_000.0, limit.free_at).spend(50)
    limit.wait(stop)
    assert 0.1 <= time.monotonic() - start_s < 5


def test_a_stop_ends_the_wait_for_the_rate() -> None:
    """Nobody waits an hour for Ctrl+C to be heard."""
    context = get_context("spawn")
    limit, stop = RateLimit(1.0, context.Value("d", 0.0)), context.Event()
    limit.spend(3_600)
    stop.set()
    start_s = time.monotonic()
    limit.wait(stop)
    assert time.monotonic() - start_s < 5


def test_no_rate_is_no_wait() -> None:
    """Without --rate-limit nothing is accounted for."""
    context = get_context("spawn")
    limit = RateLimit(None, context.Value("d", 0.0))
    limit.spend(10**12)
    assert limit.free_at.value == 0.0


@pytest.mark.parametrize(
    ("setting", "budget", "limit"),
    [
        pytest.param(7, 100, 7, id="the setting wins"),
        pytest.param(None, 100, 50, id="half of the server's budget"),
        pytest.param(None, None, DEFAULT_LAG_BYTES, id="10 GB where the server sets none"),
    ],
)
def test_the_lag_limit_follows_setting_and_budget(
    setting: int | None, budget: int | None, limit: int
) -> None:
    """The slot is lost beyond max_slot_wal_keep_size: the copy stops well before."""
    assert lag_limit(setting, budget) == limit


CALM = Load(active=2, waiting=1, retained=10, budget=None)


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (Load(active=5), "5 sessions are at work at the source (limit 4)"),
        (Load(active=5, waiting=3), "3 sessions wait at the source (limit 2)"),
        (Load(retained=60, budget=200), "the slot retains 60 bytes of WAL and more, the limit is 100"),
    ],
    ids=["many sessions", "sessions that wait", "WAL that grows"],
)
def test_the_governor_slows_down_at_once_and_speeds_up_by_degrees(load: Load, reason: str) -> None:
    """Half at each look while the source is busy, never less than a sixteenth; off, it leaves the copy alone."""
    governor = Governor(sessions=4, waits=2)
    governor.look(load)
    assert (governor.share, governor.text) == (0.5, f"slowed to 50%: {reason}")
    for retained in range(61, 70):
        governor.look(replace(load, retained=retained if load.retained else None))
    assert governor.share == 1 / 16
    shares = []
    while governor.share < 1:
        governor.look(CALM)
        shares.append(governor.share)
    assert shares == sorted(shares)
    assert len(shares) == 7
    assert governor.text == ""
    off = Governor(sessions=4, waits=2, on=False)
    off.look(load)
    assert off.share == 1


def test_the_governor_pauses_before_the_slot_is_lost_even_when_it_is_off() -> None:
    """WAL over the limit stops the copy; below it, it begins slowly, or at once where the governor is off."""
    for on, after in ((True, 1 / 16), (False, 1.0)):
        governor = Governor(sessions=4, waits=2, lag_bytes=100, on=on)
        governor.look(Load(retained=101))
        assert governor.share == 0
        assert governor.text == "paused: the slot retains 101 bytes of WAL, over the limit of 100"
        governor.look(CALM)
        assert governor.share == after


def test_workers_rest_in_proportion_to_their_work() -> None:
    """At a third of the speed, 0.1 s of work take 0.3 s; a stop ends any rest."""
    context = get_context("spawn")
    pace, stop = Pace(context.Value("d", 1.0)), context.Event()
    start_s = time.monotonic()
    pace.rest(1_000.0, stop)
    assert time.monotonic() - start_s < 1
    pace.share.value = 1 / 3
    pace.rest(0.1, stop)
    assert 0.2 <= time.monotonic() - start_s < 5
    stop.set()
    pace.share.value = 0.0
    pace.rest(0.0, stop)
    assert time.monotonic() - start_s < 5


def test_a_glance_is_due_once_per_interval() -> None:
    """The first look is due at once, the next one later."""
    glance = Glance(3_600)
    assert [glance.due(), glance.due()] == [True, False]
    assert [Glance(0.0).due(), Glance(0.0).due()] == [True, True]


def test_speed_is_that_of_the_last_half_minute() -> None:
    """A slow start is forgotten."""
    speed = Speed()
    assert speed.update(0, 0) == 0
    assert speed.update(100, 100) == 1
    assert speed.update(131, 31_100) == 1_000


def test_a_line_tells_slices_rows_speed_and_time_left() -> None:
    """And failures, if any."""
    assert describe(HALF, 500.0) == "slices 2/4, 1,000 rows, 500 rows/s, about 0:00:02 left"
    assert describe(HALF, 0.0, "paused: no WAL") == "slices 2/4, 1,000 rows, 0 rows/s, paused: no WAL"
    failed = Totals(4, 3, 0, 1, 10, 10, 0)
    assert describe(failed, 0.0) == "slices 3/4, 10 rows, 0 rows/s, 1 failed"


def test_lines_come_every_few_seconds_and_notes_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Off a terminal the log does not drown in progress."""
    configure(LogSettings())
    lines = Lines()
    for _ in range(3):
        lines.show(HALF)
        lines.note("the source does not answer")
    lines.close()
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(event["level"], event["event"]) for event in events] == [
        ("info", "slices 2/4, 1,000 rows, 0 rows/s"),
        ("warning", "the source does not answer"),
    ]


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        pytest.param({}, Bar, id="a bar on a terminal"),
        pytest.param({"format": "json"}, Lines, id="unless JSON was asked for"),
        pytest.param({"level": "warning"}, Lines, id="or nothing less than warnings"),
    ],
)
def test_progress_follows_the_settings_of_the_log(
    asked: dict[str, Any], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`CDC_LOG__FORMAT` and `CDC_LOG__LEVEL` hold for both programs."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = display(LogSettings(**asked))
    shown.close()
    assert isinstance(shown, kind)


def test_a_bar_moves_with_rows_and_lets_notes_pass() -> None:
    """On a terminal one line moves; notes stay above it."""
    out = io.StringIO()
    bar = Bar(Console(file=out, force_terminal=True, width=120))
    bar.show(HALF)
    bar.note("slice [3] failed")
    bar.close()
    assert "slice [3] failed" in out.getvalue()
    assert "slices 2/4" in out.getvalue()


def test_a_report_is_what_the_run_has_done(tmp_path: Path) -> None:
    """Rows of this run, not of the plan."""
    totals = Totals(4, 4, 0, 0, 1_000, 900, 0, run_slices=2, run_rows=500, run_cells=450)
    report = Report.of(totals, datetime(2025, 1, 1, tzinfo=UTC), 2.0)
    report.write(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert set(written) == {
        *("rows", "cells", "slices", "seconds", "rows_per_second", "started_at", "ended_at")
    }
    assert (written["rows"], written["cells"], written["rows_per_second"]) == (500, 450, 250.0)
    assert report_text(report) == "Copied 500 rows (450 cells) in 2 slices, 0:00:02: 250 rows/s."


def test_what_is_not_done_is_said() -> None:
    """Complete plans pass; failed, stopped and removed ones have their own message."""
    require_complete(Totals(4, 4, 0, 0, 1, 1, 0))
    with pytest.raises(PartialError, match="1 of 4 slices failed"):
        require_complete(Totals(4, 3, 0, 1, 1, 1, 0))
    with pytest.raises(PartialError, match="2 of 4 slices are done"):
        require_complete(HALF)
    with pytest.raises(StoppedError, match="removed"):
        require_complete(Totals(0, 0, 0, 0, 0, 0, 0))


def test_signals_are_counted() -> None:
    """Once is a wish to stop, twice to stop at once."""
    wish = Wish()
    wish.hear(15, None)
    wish.hear(2, None)
    assert wish.signals == 2


def proposal(decision: Decision, totals: Totals | None = None, slices: int = 0) -> Proposal:
    """A proposal for both ships from some moment on."""
    history = (
        History((Segment(0, 10**9, 5_000.0),), 0.1, indexed=True, basis="statistics") if slices else None
    )
    parts = tuple(cut(0, None, history.segments, 5_000 / slices)) if history else ()
    scope = Scope(SHIPS, 0, None)
    return Proposal(scope, decision, None, totals, history, parts, 12.3, ("mind the gap",))


def test_a_proposal_shows_slices_rows_and_duration() -> None:
    """A person sees the first slices, a machine all of them."""
    found = proposal(Decision(remaining=Scope(SHIPS[:1], 0, None)), slices=25)
    text = proposal_text(found)
    assert "Warning: mind the gap." in text
    assert "Not copied yet: SHIP-A" in text
    assert "Slices: 25" in text
    assert "and 5 more" in text
    assert text.endswith("To copy: about 5,000 rows, about 0:00:12.")
    data = proposal_json(found)
    assert len(data["slices"]) == 25
    assert data["slices"][0] == {"from": "1970-01-01T00:00:00", "until": "1970-01-01T00:00:40", "rows": 200}
    assert data["slices"][-1]["until"] is None
    assert (data["rows"], data["seconds"], data["basis"]) == (5_000, 12.3, "statistics")


def test_a_proposal_to_resume_names_the_plan() -> None:
    """What is left of it is what is to be done."""
    found = proposal(Decision(resume=Plan(3, 1, Scope(SHIPS), finished=False)), HALF)
    assert "Plan 3 is open: 2 of 4 slices are done." in proposal_text(found)
    assert (proposal_json(found)["resumes_plan"], found.rows) == (3, 1_000)


def test_a_proposal_of_nothing_says_so() -> None:
    """All copied: nothing to do."""
    assert proposal_text(proposal(Decision())).endswith("nothing to do.")
    assert proposal_json(proposal(Decision()))["nothing_to_do"] is True


def test_status_shows_failures_and_their_place() -> None:
    """Up to twenty for a person, all for a machine."""
    failed = tuple(FailedSlice(n, Bounds(None, 0), 8, "no luck") for n in range(25))
    shown = [PlanStatus(Plan(1, None, Scope(SHIPS), finished=False), Totals(30, 5, 0, 25, 9, 9, 0), failed)]
    text = status_text(shown)
    assert "Plan 1 (without hand-off): open" in text
    assert "slice 0 (the beginning to 1970-01-01T00:00:00) after 8 attempts: no luck" in text
    assert "and 5 more failed" in text
    (data,) = status_json(shown)
    assert len(data["failed_slices"]) == data["failed"] == 25
    assert data["failed_slices"][0]["until"] == "1970-01-01T00:00:00"
