"""The pure parts of verify: windows, verdicts, and the report."""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US
from widetable.verify.judge import Verdict, classify, same_value
from widetable.verify.report import MEANING, Difference, ShipResult, VerifyReport
from widetable.verify.scope import (
    BUCKET_CELLS,
    BUCKET_WIDTHS_US,
    MINUTE_US,
    Cell,
    Span,
    Window,
    bucket_width,
    cut,
)
from widetable.verify.target import Held, Policy

HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
moments = st.integers(FIRST_MOMENT_US, LAST_MOMENT_US)


@given(
    lower_us=moments,
    length_us=st.integers(1, 3 * DAY_US),
    window_rows=st.integers(1, 1000),
    seed=st.integers(),
)
def test_windows_follow_each_other_without_gap_or_overlap(
    lower_us: int, length_us: int, window_rows: int, seed: int
) -> None:
    """Whatever the estimate says, every moment of the span lies in exactly one window."""
    span = Span(lower_us, lower_us + length_us)
    guess = Random(seed)
    edges = [window.span for window in cut(span, lambda _part: guess.randrange(1500), window_rows, 3)]
    assert (edges[0].lower_us, edges[-1].upper_us) == (span.lower_us, span.upper_us)
    assert all(left.upper_us == right.lower_us for left, right in pairwise(edges))
    assert not any(edge.empty for edge in edges)


def test_windows_are_small_where_rows_are_and_large_where_none_are() -> None:
    """A clock that jumped by decades costs some empty halves, not a window per minute."""
    busy = Span(0, HOUR_US)

    def estimate(span: Span) -> int:
        common = span.clip(busy)
        return 0 if common.empty else (common.upper_us - common.lower_us) * 4_000_000 // HOUR_US

    windows = cut(Span(-DAY_US * 20_000, DAY_US * 20_000), estimate, 1_000_000, 8)
    assert len(windows) < 50
    assert all(estimate(window.span) <= 1_000_000 for window in windows)


def test_a_window_is_never_cut_below_a_minute() -> None:
    """An estimate that never falls must not cut for ever."""
    windows = cut(Span(0, HOUR_US), lambda _span: 10**9, 1, 1)
    assert len(windows) == 64


@given(rows=st.integers(0, 10**9), hours=st.integers(1, 10_000), ships=st.integers(0, 100))
def test_buckets_are_as_wide_as_their_cells_allow(rows: int, hours: int, ships: int) -> None:
    """The widest of the widths that divide a day; the narrowest where even that holds too many cells."""
    width = bucket_width(rows, Span(0, hours * HOUR_US), ships)
    assert DAY_US % width == 0
    expected = rows / max(ships, 1) / (hours * HOUR_US) * width
    assert expected <= BUCKET_CELLS or width == BUCKET_WIDTHS_US[-1]


def test_a_bucket_ends_where_its_window_ends() -> None:
    """Buckets lie on PostgreSQL's grid, windows anywhere."""
    window = Window(Span(5, DAY_US + 7), DAY_US)
    assert window.bucket(0) == Span(5, DAY_US)
    assert window.bucket(DAY_US) == Span(DAY_US, DAY_US + 7)


@pytest.mark.parametrize(
    ("source", "target", "equal"),
    [
        ("0", "-0", True),
        ("-0", "0", True),
        (None, None, True),
        ("", None, False),
        ("0", None, False),
        ("0", "0.0", False),
    ],
)
def test_values_are_equal_as_text_but_for_the_sign_of_zero(
    source: str | None, target: str | None, equal: bool
) -> None:
    """Nothing else is normalised: the target holds PostgreSQL's own text."""
    assert same_value(source, target) is equal


@pytest.mark.parametrize(
    ("source", "held", "flags", "verdict"),
    [
        ("1", Held(None), {}, "missing"),
        ("1", Held("2"), {}, "different"),
        (None, Held("2"), {}, "phantom"),
        (None, Held("2", "u"), {"ignore": True}, "phantom"),
        (None, Held("2", "d"), {"ignore": True}, "kept"),
        (None, Held("2", "d"), {}, "phantom"),
        ("1", Held("2", "d"), {"ignore": True}, "different"),
        ("1", Held("2", "k"), {}, "corrected"),
        ("1", Held(None), {"dead": True}, "dead"),
        (None, Held("2"), {"beyond": True}, "beyond_source"),
    ],
)
def test_each_difference_has_one_verdict(
    source: str | None, held: Held, flags: dict[str, bool], verdict: Verdict
) -> None:
    """Only missing, different and phantom cells are wrong."""
    policy = Policy(ignore_deletes=flags.get("ignore", False), new_ships=True)
    found = classify(source, held, policy, beyond=flags.get("beyond", False), dead=flags.get("dead", False))
    assert found == verdict


def report(**counts: int) -> VerifyReport:
    """A report with these counts."""
    cell = Cell("A", 0, "c")
    return VerifyReport(
        ships=[
            ShipResult("A", 10, agrees=False, from_us=None, through_us=1),
            ShipResult("B", 0, agrees=True, from_us=None, through_us=None),
        ],
        buckets=3,
        seconds=2.0,
        differences=[Difference("missing", cell, "1", None)] if counts.get("missing") else [],
        complete=True,
        **{name: counts.get(name, 0) for name in MEANING},
    )


@pytest.mark.parametrize("wrong", ["missing", "different", "phantom", "unsettled"])
def test_a_report_agrees_only_if_every_cell_was_proven(wrong: str) -> None:
    """Cells that never rested are no agreement; what is explained is."""
    assert report(cells_compared=10, dead=1, kept=1, corrected=1, beyond_source=1, overflow_pending=1).agrees
    assert not report(**{wrong: 1}).agrees


def test_a_report_says_the_same_as_text_and_as_data() -> None:
    """Every count is in both, and the data is JSON."""
    made = report(cells_compared=10, missing=4, overflow_pending=2)
    data = json.loads(json.dumps(made.as_dict()))
    text = made.as_text()
    for name in MEANING:
        assert data[name] == getattr(made, name)
        assert name in text
    assert data["cells_per_second"] == 5
    assert data["hash_version"] == 1
    assert data["ships"][0]["equal_through"] == "1970-01-01T00:00:00.000001"
    assert data["ships"][1]["equal_through"] is None
    assert "missing   A  1970-01-01T00:00:00.000000  c: source '1', target None" in text
