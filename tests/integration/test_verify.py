"""Verify finds each kind of difference, to the cell, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from devstack.databases import Server
from tests.verify_sides import (
    ALARM,
    HOSTILE,
    LATER,
    LOAD,
    NOON,
    SHIP,
    SISTER,
    SPEED,
    STATE,
    Sides,
    new_sides,
)
from widetable.schema_plan import ColumnTypes
from widetable.verify import VerifyReport

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.verify_fixture"]

NASTY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "1e16": (LOAD, "1e+16", {"double_v": 1e16}),
    "hundred": (SPEED, "100", {"double_v": 100.0}),
    "seventeen digits": (LOAD, "0.30000000000000004", {"double_v": 0.1 + 0.2}),
    "smallest": (LOAD, "5e-324", {"double_v": 5e-324}),
    "nan": (SPEED, "NaN", {"double_v": float("nan")}),
    "minus infinity": (SPEED, "-Infinity", {"double_v": float("-inf")}),
    "minus zero": (LOAD, "-0", {"double_v": -0.0}),
    "int64 min": (HOSTILE, "-9223372036854775808", {"long_v": -(2**63)}),
    "int64 max": (HOSTILE, "9223372036854775807", {"long_v": 2**63 - 1}),
    "true": (ALARM, "true", {"bool_v": True}),
    "false": (ALARM, "false", {"bool_v": False}),
    "empty text": (STATE, "", {"str_v": ""}),
    "text like NULL": (STATE, r"\N", {"str_v": r"\N"}),
    "lines": (STATE, "a\tb\r\n\\c\x1f", {"str_v": "a\tb\r\n\\c\x1f"}),
    "unicode": (STATE, "Ωç√ 船 🚢", {"str_v": "Ωç√ 船 🚢"}),
    "long text": (STATE, "x" * 5000, {"str_v": "x" * 5000}),
}
PLAIN_CELLS = 16
FAR_MOMENTS = (
    "4714-11-24 00:00:00 BC",
    "0001-01-01 00:00:00",
    "1969-12-31 23:59:59.999999",
    "294246-12-31 23:59:59",
)


def fill(sides: Sides) -> None:
    """Equal content: every nasty value at a moment of its own, and some plain cells of both ships."""
    for second, (channel, text, columns) in enumerate(NASTY.values()):
        sides.both(channel, text, f"2026-01-02 03:04:{second:02}.000001", **columns)
    for ship in (SHIP, SISTER):
        for at in (NOON, LATER):
            sides.both(LOAD, "1.5", at, ship, double_v=1.5)
            sides.both(SPEED, "2.5", at, ship, double_v=2.5)
            sides.both(STATE, at, at, ship, str_v=at)
            sides.both(HOSTILE, "7", at, ship, long_v=7)


def found(report: VerifyReport) -> list[tuple[str, str, str, str | None, str | None]]:
    """The differences as (kind, ship, channel, source, target)."""
    return [(d.kind, d.cell.ship_id, d.cell.channel_id, d.source, d.target) for d in report.differences]


@pytest.mark.parametrize("column_type", ["text", "typed"])
def test_equal_content_has_no_difference(
    source_server: Server, target_server: Server, column_type: ColumnTypes
) -> None:
    """No value of any type is taken for another, in either layout, and each is counted once."""
    with new_sides(source_server, target_server, column_type) as sides:
        fill(sides)
        report = sides.verify()
    assert report.agrees
    assert report.cells_compared == len(NASTY) + PLAIN_CELLS
    assert report.missing == report.different == report.phantom == report.unsettled == 0


@pytest.mark.parametrize("at", FAR_MOMENTS)
def test_moments_far_from_now_are_compared_like_any_other(sides: Sides, at: str) -> None:
    """From PostgreSQL's first moment to the last one that Debezium can tell from infinity."""
    sides.both(LOAD, "1.5", at, double_v=1.5)
    sides.sample(SPEED, at, double_v=2.5)
    report = sides.verify()
    assert found(report) == [("missing", SHIP, SPEED, "2.5", None)]
    assert report.cells_compared == 2


def test_infinite_moments_and_undecidable_values_are_not_compared(sides: Sides) -> None:
    """They are dead cells by contract: the target can't hold them."""
    sides.both(LOAD, "1.5", double_v=1.5)
    sides.sample(LOAD, "infinity", double_v=1.5)
    sides.sample(LOAD, "-infinity", double_v=1.5)
    sides.sample(SPEED, str_v="1", long_v=1, value_format="Decimal")
    report = sides.verify()
    assert report.agrees
    assert report.cells_compared == 1


FAULTS: dict[str, tuple[Callable[[Sides], None], list[tuple[str, str, str, str | None, str | None]]]] = {
    "a value flipped": (lambda s: s.hold(LOAD, "1.6"), [("different", SHIP, LOAD, "1.5", "1.6")]),
    "a value in another spelling": (
        lambda s: s.hold(LOAD, "1.50"),
        [("different", SHIP, LOAD, "1.5", "1.50")],
    ),
    "a cell lost": (lambda s: s.hold(SPEED, None, LATER, SISTER), [("missing", SISTER, SPEED, "2.5", None)]),
    "a hostile name's cell lost": (lambda s: s.hold(HOSTILE, None), [("missing", SHIP, HOSTILE, "7", None)]),
    "a cell in excess": (lambda s: s.hold(ALARM, "true"), [("phantom", SHIP, ALARM, None, "true")]),
    "a row in excess": (
        lambda s: s.hold(LOAD, "1.5", "2026-01-03 00:00:00", SISTER),
        [("phantom", SISTER, LOAD, None, "1.5")],
    ),
    "empty text for nothing": (
        lambda s: s.hold(STATE, "", "2026-01-04 00:00:00"),
        [("phantom", SHIP, STATE, None, "")],
    ),
    "nothing for empty text": (
        lambda s: s.hold(STATE, None, "2026-01-02 03:04:11.000001"),
        [("missing", SHIP, STATE, "", None)],
    ),
    "1e16 through jsonb": (
        lambda s: s.hold(LOAD, "10000000000000000", "2026-01-02 03:04:00.000001"),
        [("different", SHIP, LOAD, "1e+16", "10000000000000000")],
    ),
    "two channels swapped": (
        lambda s: s.hold_all([(LOAD, "2.5", NOON, SHIP), (SPEED, "1.5", NOON, SHIP)]),
        [("different", SHIP, LOAD, "1.5", "2.5"), ("different", SHIP, SPEED, "2.5", "1.5")],
    ),
    "two moments swapped": (
        lambda s: s.hold_all([(STATE, LATER, NOON, SHIP), (STATE, NOON, LATER, SHIP)]),
        [("different", SHIP, STATE, NOON, LATER), ("different", SHIP, STATE, LATER, NOON)],
    ),
    "two ships mixed up": (
        lambda s: s.hold_all([(LOAD, None, NOON, SHIP), (LOAD, "1.5", "2026-01-05 00:00:00", SISTER)]),
        [("missing", SHIP, LOAD, "1.5", None), ("phantom", SISTER, LOAD, None, "1.5")],
    ),
    "an update lost": (
        lambda s: s.update(LOAD, double_v=9.0),
        [("different", SHIP, LOAD, "9", "1.5")],
    ),
    "a delete lost": (lambda s: s.delete(LOAD), [("phantom", SHIP, LOAD, None, "1.5")]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_to_the_cell(sides: Sides, fault: str) -> None:
    """Exactly the cells that are wrong, with both values, and no other."""
    fill(sides)
    act, expected = FAULTS[fault]
    act(sides)
    report = sides.verify()
    assert found(report) == expected
    assert report.difference_count == len(expected)
    assert not report.agrees


@pytest.mark.parametrize(("at_source", "at_target"), [(-0.0, "0"), (0.0, "-0"), (-0.0, "-0")])
def test_minus_zero_equals_zero(sides: Sides, at_source: float, at_target: str) -> None:
    """An update from 0 to -0 need not be written."""
    sides.both(LOAD, at_target, double_v=at_source)
    assert sides.verify().agrees


def test_null_cells_and_empty_rows_are_no_cells(sides: Sides) -> None:
    """Only non-NULL cells are compared: a wide row may stand for nothing, and a narrow row, too."""
    sides.both(LOAD, None, double_v=None)
    sides.hold(SPEED, None, LATER)
    sides.sample(STATE, LATER, str_v=None)
    report = sides.verify()
    assert report.agrees
    assert report.cells_compared == 0


def test_a_channel_and_a_ship_that_the_target_never_saw_are_missing(sides: Sides) -> None:
    """Nothing is dropped silently, whatever the channel map says."""
    fill(sides)
    sides.sample("new/channel", long_v=1)
    sides.sample(LOAD, ship="IMO7777777", double_v=1.0)
    expected = [("missing", "IMO7777777", LOAD, "1", None), ("missing", SHIP, "new/channel", "1", None)]
    assert found(sides.verify()) == expected


def test_every_difference_is_counted_though_few_are_listed(sides: Sides) -> None:
    """Counts are full across chunks of moments and batches of suspects; the list is bounded."""
    sides.source.execute(
        "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, long_v, value_format)"
        " SELECT %s, channel, timestamp '2026-01-01' + make_interval(secs => n), n, 'Integer'"
        " FROM generate_series(1, 130) n, unnest(%s::text[]) channel",
        [SHIP, [LOAD, SPEED]],
    )
    report = sides.verify(window_rows=100, suspects=70, differences=5)
    assert report.missing == report.cells_compared == 260
    assert len(report.differences) == 5
    assert report.complete


def test_fail_fast_stops_at_the_first_wrong_cells_and_says_so(sides: Sides) -> None:
    """What it found is a lower bound, and not taken for more."""
    for second in range(10):
        sides.sample(LOAD, f"2026-01-{second + 1:02} 00:00:00", double_v=1.0)
    report = sides.verify(suspects=1, fail_fast=True)
    assert report.missing == 1
    assert not report.complete
    assert "there may be more" in report.as_text()


def test_windows_of_any_size_see_every_cell_once(sides: Sides) -> None:
    """A cut through a bucket or between moments of a microsecond costs no cell and counts none twice."""
    fill(sides)
    sides.source.execute("ANALYZE tenant.tbl_data_timeseries")
    sides.hold(LOAD, "wrong", LATER, SISTER)
    for window_rows in (1, 3, 10_000):
        report = sides.verify(window_rows=window_rows)
        assert found(report) == [("different", SISTER, LOAD, "1.5", "wrong")]
        assert report.cells_compared == len(NASTY) + PLAIN_CELLS
