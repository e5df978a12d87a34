"""What is to be done for a scope: pure decisions of the planner and the plans."""

from __future__ import annotations

import pytest

from backfill.planner import Segment, cut, rows_aim
from backfill.plans import Decision, Plan, decide, overlapping
from backfill.scope import Scope, choose_ships
from widetable.errors import ConfigurationError
from widetable.moments import moment_text, parse_moment

A, B, C = "SHIP-A", "SHIP-B", "SHIP-C"


def plan(number: int, scope: Scope, *, finished: bool = False) -> Plan:
    """A plan of epoch 1."""
    return Plan(number, 1, scope, finished)


@pytest.mark.parametrize(
    ("one", "two", "overlap"),
    [
        pytest.param(Scope((A,)), Scope((A,)), True, id="the same"),
        pytest.param(Scope((A,)), Scope((B,)), False, id="other ships"),
        pytest.param(Scope((A,), None, 5), Scope((A,), 5, None), False, id="one ends where the other begins"),
        pytest.param(Scope((A,), None, 6), Scope((A,), 5, None), True, id="one moment in common"),
        pytest.param(Scope((A,), 1, 9), Scope((A, B), 3, 4), True, id="one inside the other"),
        pytest.param(Scope((A,), 1, 3), Scope((A,), 7, 9), False, id="apart"),
    ],
)
def test_scopes_overlap_if_some_ship_has_a_moment_in_both(one: Scope, two: Scope, *, overlap: bool) -> None:
    """Overlap is symmetric."""
    assert one.overlaps(two) is overlap
    assert two.overlaps(one) is overlap


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        pytest.param(Scope(()), Scope((), 1, 2), True, id="no bounds cover all"),
        pytest.param(Scope((), 1, 2), Scope(()), False, id="bounds don't cover no bounds"),
        pytest.param(Scope((), 1, 9), Scope((), 1, 9), True, id="the same"),
        pytest.param(Scope((), 2, 9), Scope((), 1, 9), False, id="begins later"),
        pytest.param(Scope((), None, 8), Scope((), 1, 9), False, id="ends sooner"),
    ],
)
def test_a_range_covers_what_lies_in_it(outer: Scope, inner: Scope, *, covered: bool) -> None:
    """None is no bound."""
    assert outer.covers_range_of(inner) is covered


def test_an_empty_range_is_refused() -> None:
    """A --from at or after --cutoff-time is a mistake, not a copy of nothing."""
    with pytest.raises(ConfigurationError, match="2025-01-02T00:00:00 to 2025-01-01T00:00:00"):
        Scope((A,), parse_moment("2025-01-02"), parse_moment("2025-01-01"))


def test_ships_are_all_known_ones_or_those_asked_for() -> None:
    """Sorted, without repetition; unknown ones are named with what there is."""
    assert choose_ships((), (B, A)) == (A, B)
    assert choose_ships((B, B), (A, B)) == (B,)
    with pytest.raises(ConfigurationError, match="SHIP-A, SHIP-B"):
        choose_ships((C,), (A, B))
    with pytest.raises(ConfigurationError, match="schema apply"):
        choose_ships((), ())


def test_an_open_plan_of_the_same_scope_is_resumed() -> None:
    """Not a second plan."""
    open_plan = plan(1, Scope((A, B), 5, None))
    assert decide([open_plan], Scope((A, B), 5, None)) == Decision(resume=open_plan)


def test_an_open_plan_is_finished_before_ships_that_came_later() -> None:
    """A ship that the stream brought meanwhile must not keep an interrupted copy from going on."""
    open_plan = Plan(7, 1, Scope((A, B), 5, None), finished=False)
    assert decide([open_plan], Scope((A, B, C), 5, None)) == Decision(resume=open_plan)
    done = Plan(7, 1, Scope((A, B), 5, None), finished=True)
    assert decide([done], Scope((A, B, C), 5, None)) == Decision(remaining=Scope((C,), 5, None))


def test_an_open_plan_of_the_ships_that_remain_is_resumed() -> None:
    """A run over all ships goes on with the plan it made for those that were not done."""
    done, rest = plan(1, Scope((A,)), finished=True), plan(2, Scope((B,)))
    assert decide([done, rest], Scope((A, B))) == Decision(resume=rest)


@pytest.mark.parametrize(
    "scope",
    [
        pytest.param(Scope((A, B), 6, None), id="another range"),
        pytest.param(Scope((A,), 5, None), id="fewer ships"),
    ],
)
def test_another_open_plan_of_the_same_cells_is_refused(scope: Scope) -> None:
    """The message says how to finish it, and how to give it up."""
    with pytest.raises(ConfigurationError, match=r"Plan 7 .*--ship-id SHIP-A --ship-id SHIP-B.*--replace"):
        decide([plan(7, Scope((A, B), 5, None))], scope)


def test_an_open_plan_of_other_cells_is_no_obstacle() -> None:
    """Two ranges, or two ships, are two plans."""
    others = [plan(1, Scope((A,), None, 5)), plan(2, Scope((B,)))]
    assert decide(others, Scope((A,), 5, None)) == Decision(remaining=Scope((A,), 5, None))


def test_what_finished_plans_cover_is_not_copied_again() -> None:
    """Ship by ship, whatever plan it was in; `again` asks for all of it."""
    finished = [plan(1, Scope((A,)), finished=True), plan(2, Scope((B,), None, 9), finished=True)]
    assert decide(finished, Scope((A, B), None, 9)) == Decision()
    assert decide(finished, Scope((A, B))) == Decision(remaining=Scope((B,)))
    assert decide(finished, Scope((A, B)), again=True) == Decision(remaining=Scope((A, B)))


def test_only_open_plans_can_be_given_up() -> None:
    """A finished plan is a fact."""
    there = [plan(1, Scope((A,)), finished=True), plan(2, Scope((A,), 5)), plan(3, Scope((B,)))]
    assert overlapping(there, Scope((A,))) == [2]


def test_scattered_moments_make_slices_of_fewer_rows() -> None:
    """Rows are what a slice aims at until their wide cells are too many."""
    assert rows_aim(100_000, 1_000_000, cells_per_row=1.0) == 100_000
    assert rows_aim(100_000, 1_000_000, cells_per_row=1_052.0) == pytest.approx(950.6, abs=0.1)
    assert rows_aim(100_000, 10, cells_per_row=1_052.0) == 1.0


def test_slices_end_on_whole_seconds() -> None:
    """People read plans."""
    second = 1_000_000
    slices = cut(None, None, [Segment(0, 100 * second, 7.0)], 1.0)
    assert [part.upper_us for part in slices[:-1]] == [14 * second, 28 * second, 42 * second, 57 * second,
                                                       71 * second, 85 * second]  # fmt: skip
    assert [part.estimate for part in slices] == [1] * 7


def test_nothing_to_estimate_is_one_slice() -> None:
    """An empty history still has a slice without bounds: late rows belong somewhere."""
    (only,) = cut(None, 5, [], 100.0)
    assert (only.lower_us, only.upper_us, only.estimate) == (None, 5, 0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2025-01-31", "2025-01-31T00:00:00"),
        ("2025-01-31 08:00", "2025-01-31T08:00:00"),
        ("1969-12-31T23:59:59.999999", "1969-12-31T23:59:59.999999"),
    ],
)
def test_moments_are_read_and_shown(text: str, shown: str) -> None:
    """ISO 8601 in and out."""
    assert moment_text(parse_moment(text)) == shown


@pytest.mark.parametrize("text", ["yesterday", "2025-01-31T08:00:00Z", "2025-01-31T08:00:00+02:00"])
def test_a_moment_with_a_zone_is_no_created_time(text: str) -> None:
    """created_time has no time zone: guessing one would shift history."""
    with pytest.raises(ValueError, match=r"zone|format"):
        parse_moment(text)
