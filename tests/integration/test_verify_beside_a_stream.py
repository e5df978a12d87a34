"""Verify beside a stream: it waits until the target is settled, and reports only what rests and differs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from tests.verify_sides import LATER, LOAD, SHIP, SPEED, TABLE, Sides
from widetable.errors import ConfigurationError, UnreachableError
from widetable.verify import Source
from widetable.verify import source as source_module

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.verify_fixture"]


def at_each_wait(*actions: Callable[[], object]) -> Callable[[int], None]:
    """A settle that performs one action per call; the last one again and again."""
    calls = count()

    def settle(_lsn: int) -> None:
        actions[min(next(calls), len(actions) - 1)]()

    return settle


def test_the_target_is_read_only_after_it_settled(sides: Sides) -> None:
    """What the consumer applies while verify waits is seen: a lag is no difference, not even a suspicion."""
    sides.sample(LOAD, double_v=1.0)
    waits: list[int] = []

    def settle(lsn: int) -> None:
        waits.append(lsn)
        sides.hold(LOAD, "1")

    report = sides.verify(settle)
    assert report.agrees
    assert len(waits) == 1


def test_the_awaited_lsn_lies_past_every_commit_that_was_read(sides: Sides) -> None:
    """Settled at that LSN, the target holds all that the source snapshot saw."""
    sides.sample(LOAD, double_v=1.0)
    row = sides.source.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    waits: list[int] = []
    sides.verify(waits.append)
    assert len(waits) >= 2
    assert min(waits) >= row[0]


def test_a_difference_is_looked_at_again_before_it_counts(sides: Sides) -> None:
    """One wait for the sums, and two for the cells: a wrong cell must be wrong twice."""
    sides.sample(LOAD, double_v=1.0)
    waits: list[int] = []
    assert sides.verify(waits.append).missing == 1
    assert len(waits) == 3


def test_a_cell_that_heals_between_looks_is_not_reported(sides: Sides) -> None:
    """Cells on their way, e.g. from overflow to a new column, are late and not wrong."""
    sides.sample(LOAD, double_v=1.0)
    report = sides.verify(at_each_wait(lambda: None, lambda: None, lambda: sides.hold(LOAD, "1")))
    assert report.agrees


def test_a_source_row_that_changes_between_looks_is_not_reported(sides: Sides) -> None:
    """The target shows a newer value than the source's first look, and the source's second look knows it."""
    sides.both(LOAD, "1", double_v=1.0)

    def update_and_apply() -> None:
        sides.update(LOAD, double_v=2.0)
        sides.hold(LOAD, "2")

    report = sides.verify(at_each_wait(update_and_apply, lambda: None))
    assert report.agrees
    assert report.cells_compared == 1


def test_an_update_to_the_same_value_still_counts_as_a_change(sides: Sides) -> None:
    """The row's version decides, not its value: A, B, A at the source explains B in the target."""
    sides.sample(LOAD, double_v=1.0)
    sides.hold(LOAD, "2")

    def touch() -> None:
        sides.update(LOAD, double_v=2.0)
        sides.update(LOAD, double_v=1.0)

    report = sides.verify(at_each_wait(lambda: None, touch, touch, lambda: sides.hold(LOAD, "1")))
    assert report.agrees


def test_a_cell_inserted_and_deleted_within_a_look_is_not_a_phantom(sides: Sides) -> None:
    """It leaves no trace in the source's rows, so one look can't tell it from a phantom; two can."""
    sides.both(SPEED, "1", double_v=1.0)
    sides.hold(LOAD, "1")
    report = sides.verify(at_each_wait(lambda: None, lambda: None, lambda: sides.hold(LOAD, None)))
    assert report.agrees


def test_a_cell_that_never_rests_is_unsettled_not_different(sides: Sides) -> None:
    """Verify neither waits for ever nor guesses; nor does it say that both sides agree."""
    sides.both(LOAD, "1", LATER, double_v=1.0)
    sides.sample(SPEED, double_v=0.0)
    values = count(1)
    report = sides.verify(lambda _lsn: sides.update(SPEED, double_v=float(next(values))), rounds=4)
    assert (report.unsettled, report.difference_count) == (1, 0)
    assert not report.agrees
    assert {ship.ship_id: ship.agrees for ship in report.ships} == {SHIP: False}


def test_a_target_that_does_not_settle_ends_the_run(sides: Sides) -> None:
    """The error passes as it is, and the reader thread ends with it."""
    sides.both(LOAD, "1", double_v=1.0)

    def settle(_lsn: int) -> None:
        raise UnreachableError("not settled in time")

    with pytest.raises(UnreachableError, match="not settled in time"):
        sides.verify(settle, window_rows=1)
    assert sides.verify().agrees


def test_a_standby_is_refused_as_the_source_of_a_running_pipeline(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows may be older than the target's, which would look like differences that rest."""
    monkeypatch.setattr(source_module, "fetch_one", lambda *_args: (True,))
    with pytest.raises(ConfigurationError, match="standby"):
        sides.verify(lambda _lsn: None)


def test_a_table_that_is_not_the_narrow_one_is_named(sides: Sides) -> None:
    """A missing table, or one without the columns, is one clear message."""
    with pytest.raises(ConfigurationError, match=r"CDC_SOURCE__TABLE"):
        Source(sides.source, "tenant.no_such_table")
    sides.source.execute("CREATE TEMP TABLE other (id int)")
    with pytest.raises(ConfigurationError, match=r"pg_temp.other is not the narrow table"):
        Source(sides.source, "pg_temp.other")
    assert Source(sides.source, TABLE).extent() is None
