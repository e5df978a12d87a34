"""What verify counts apart: overflow, dead cells, kept deletes, corrections, and what the source forgot."""

from __future__ import annotations

import pytest

from tests.verify_sides import HOSTILE, LATER, LOAD, NOON, SHIP, SISTER, SPEED, STATE, Sides
from widetable.errors import ConfigurationError
from widetable.verify import Scope
from widetable.verify.scope import Cell, Span

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.verify_fixture"]

NOON_US = 1_767_268_800_000_000
SECOND_US = 1_000_000


def test_overflow_counts_as_target(sides: Sides) -> None:
    """A cell that waits for its column, its ship's tables or a fitting type is not missing, but pending."""
    sides.sample("new/channel", long_v=1)
    sides.overflow("new/channel", "1")
    sides.sample(LOAD, ship="IMO7777777", double_v=1.5)
    sides.overflow(LOAD, "1.5", ship="IMO7777777")
    sides.sample(SPEED, str_v="fast")
    sides.overflow(SPEED, "fast")
    report = sides.verify()
    assert report.agrees
    assert (report.cells_compared, report.overflow_pending) == (3, 3)


def test_a_wrong_value_in_overflow_is_a_difference(sides: Sides) -> None:
    """Overflow is compared to the cell, like a column."""
    sides.sample("new/channel", long_v=1)
    sides.overflow("new/channel", "2")
    sides.overflow(LOAD, "3")
    report = sides.verify()
    assert [(d.kind, d.cell) for d in report.differences] == [
        ("phantom", Cell(SHIP, NOON_US, LOAD)),
        ("different", Cell(SHIP, NOON_US, "new/channel")),
    ]


@pytest.mark.parametrize(
    ("kind", "in_overflow", "expected"),
    [("u", "new", "new"), ("d", None, None), (None, "new", "old"), (None, "old", "old")],
    ids=["an update outranks the column", "so does a delete", "a create does not", "equal ones are one cell"],
)
def test_a_cell_in_column_and_overflow_counts_once(
    sides: Sides, kind: str | None, in_overflow: str | None, expected: str | None
) -> None:
    """The versioned one counts; one without a version only fills a hole."""
    sides.sample(STATE, str_v=expected)
    sides.hold(STATE, "old")
    sides.overflow(STATE, in_overflow, kind=kind)
    report = sides.verify()
    assert report.agrees
    assert report.cells_compared == (expected is not None)


def test_a_value_recorded_as_dead_is_not_missing(sides: Sides) -> None:
    """It is counted apart; the same channel's other cells are compared as ever."""
    sides.sample(STATE, str_v="unstorable")
    sides.sample(STATE, LATER, str_v="lost")
    sides.target.execute(
        "INSERT INTO dead_cell (pipeline, ship_id, channel_id, created_time, reason, detail)"
        " VALUES ('p', %s, %s, '2026-01-01T12:00:00.000000', 'nul', '')",
        [SHIP, STATE],
    )
    report = sides.verify()
    assert (report.dead, report.missing) == (1, 1)
    assert [d.source for d in report.differences] == ["lost"]


def test_cells_older_than_the_oldest_source_row_are_beyond_source(sides: Sides) -> None:
    """A dropped partition emits no events: what only the target still has is no phantom."""
    sides.both(LOAD, "1", NOON, double_v=1.0)
    sides.hold(LOAD, "1", "2025-12-31 23:59:59")
    sides.hold(SPEED, "1", "2025-06-01 00:00:00", SISTER)
    sides.hold(LOAD, "1", LATER)
    report = sides.verify()
    assert (report.beyond_source, report.phantom) == (2, 1)


def test_an_empty_source_leaves_everything_beyond(sides: Sides) -> None:
    """There is nothing to compare with, and the report says how much was not compared."""
    sides.hold(LOAD, "1")
    report = sides.verify()
    assert (report.beyond_source, report.cells_compared, report.difference_count) == (1, 0, 0)


def test_a_partition_dropped_while_verify_runs_makes_no_phantoms(sides: Sides) -> None:
    """What is beyond the source is asked again before a cell is called a phantom."""
    sides.both(LOAD, "1", NOON, double_v=1.0)
    sides.both(LOAD, "2", LATER, double_v=2.0)
    verifier = sides.verifier(settle=lambda _lsn: sides.delete(LOAD, NOON))
    sides.hold(LOAD, "1.1", NOON)
    report = verifier.run(Scope())
    assert (report.beyond_source, report.difference_count, report.unsettled) == (1, 0, 0)


@pytest.mark.parametrize(("deletes", "expected"), [("ignore", (1, 1)), ("apply", (0, 2))])
def test_a_deleted_value_is_kept_only_by_choice(
    sides: Sides, deletes: str, expected: tuple[int, int]
) -> None:
    """Under `deletes = ignore` the recorded delete explains the value; a cell without one stays a phantom."""
    sides.target.execute("UPDATE layout SET deletes = %s", [deletes])
    sides.both(LOAD, "1", double_v=1.0)
    sides.hold(SPEED, "2", LATER, kind="d")
    sides.hold(LOAD, "2", LATER)
    report = sides.verify()
    assert (report.kept, report.phantom) == expected


def test_a_deleted_value_is_kept_by_choice_in_overflow_too(sides: Sides) -> None:
    """A value that fits no column stays there under the version it came with; the column records the delete."""
    sides.target.execute("UPDATE layout SET deletes = 'ignore'")
    sides.both(LOAD, "1", double_v=1.0)
    sides.overflow(LOAD, "2", LATER, kind="u")
    sides.hold(LOAD, None, LATER, kind="d")
    report = sides.verify()
    assert (report.kept, report.phantom) == (1, 0)


def test_a_kept_value_does_not_hide_a_wrong_one(sides: Sides) -> None:
    """A cell that was deleted and inserted again is compared, whatever was recorded before."""
    sides.target.execute("UPDATE layout SET deletes = 'ignore'")
    sides.sample(LOAD, double_v=2.0)
    sides.hold(LOAD, "1", kind="d")
    assert sides.verify().different == 1


def test_imported_corrections_are_counted_apart(sides: Sides) -> None:
    """A correction differs from the source on purpose, also where it empties a cell or fills one."""
    sides.sample(LOAD, double_v=1.0)
    sides.hold(LOAD, "1.1", kind="k")
    sides.sample(SPEED, double_v=1.0)
    sides.hold(SPEED, None, kind="k")
    sides.hold(HOSTILE, "7", LATER, kind="k")
    report = sides.verify()
    assert (report.corrected, report.difference_count) == (3, 0)


def test_only_ships_and_moments_in_scope_are_compared(sides: Sides) -> None:
    """Lower bounds are inclusive, upper ones exclusive, to the microsecond."""
    for ship in (SHIP, SISTER):
        for us in range(4):
            sides.sample(LOAD, f"2026-01-01 12:00:00.00000{us}", ship, double_v=1.0)
    report = sides.verify(scope=Scope((SISTER,), Span(NOON_US + 1, NOON_US + 3)))
    assert [d.cell for d in report.differences] == [
        Cell(SISTER, NOON_US + 1, LOAD),
        Cell(SISTER, NOON_US + 2, LOAD),
    ]


def test_phantoms_newer_than_all_of_the_source_are_found(sides: Sides) -> None:
    """Windows reach past the newest source row, also where the range starts there."""
    sides.both(LOAD, "1", double_v=1.0)
    sides.hold(LOAD, "1", "2027-01-01 00:00:00")
    assert sides.verify().phantom == 1
    assert sides.verify(scope=Scope(None, Span(NOON_US + SECOND_US))).phantom == 1


def test_ships_that_were_not_chosen_are_not_compared(sides: Sides) -> None:
    """With `new_ships = manual`, a ship of the source that nobody chose is filtered, not missing."""
    sides.sample(LOAD, ship="IMO7777777", double_v=1.0)
    sides.both(LOAD, "1", double_v=1.0)
    sides.target.execute("UPDATE layout SET new_ships = 'manual'")
    report = sides.verify()
    assert report.agrees
    assert report.cells_compared == 1


def test_a_ship_that_nobody_knows_is_an_error(sides: Sides) -> None:
    """A misspelt ship must not pass as verified."""
    with pytest.raises(ConfigurationError, match="Neither side knows ship IMO0000000"):
        sides.verify(scope=Scope(("IMO0000000",)))
