"""Plans in the target: found again, or made once.

In: a scope, and whether there is a hand-off. Out: the plan to work on, or the reason why there is none.
Guarantee: two runs at once work on one plan; no two open plans claim the same cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Final

from backfill.planner import Bounds
from backfill.scope import Scope
from widetable.errors import ConfigurationError
from widetable.postgres import Connection, fetch_one
from widetable.statements import load_statements

SQL: Final = load_statements(files("backfill") / "sql" / "ledger.sql")


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan of the ledger; `epoch` is None for a copy without a hand-off."""

    plan_id: int
    epoch: int | None
    scope: Scope
    finished: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What a scope calls for: an open plan to resume, or a scope to plan; neither if all of it is copied."""

    resume: Plan | None = None
    remaining: Scope | None = None


def live_ships(conn: Connection) -> tuple[str, ...]:
    """Ships that have wide tables."""
    return tuple(ship_id for (ship_id,) in conn.execute(SQL["ships"]))


def channel_count(conn: Connection) -> int:
    """Channels of the channel map: the most cells that one ship has at one moment."""
    return max(1, int(fetch_one(conn, SQL["channels"])[0]))


def read_plans(conn: Connection, pipeline: str, *, with_hand_off: bool) -> list[Plan]:
    """The plans that count, oldest first: with a hand-off, those of any epoch; without one, the others."""
    rows = conn.execute(SQL["plans"], [pipeline, with_hand_off])
    return [
        Plan(plan_id, epoch, Scope(tuple(ships), from_us, until_us), finished)
        for plan_id, epoch, ships, from_us, until_us, finished in rows
    ]


def decide(plans: Sequence[Plan], wanted: Scope, *, again: bool = False) -> Decision:
    """What is to be done for a scope, given the plans that count. Pure.

    Args:
        plans: what `read_plans` found.
        wanted: ships and range asked for.
        again: copy also what a finished plan has copied.

    Raises:
        ConfigurationError: another open plan has some of the same cells.
    """
    done = set() if again else copied_ships(plans, wanted)
    remaining = replace(wanted, ships=tuple(ship for ship in wanted.ships if ship not in done))
    if not remaining.ships:
        return Decision()
    for plan in plans:
        if plan.finished or not plan.scope.overlaps(remaining):
            continue
        # Ships may have come since the plan was made: it is finished first, and they follow.
        if plan.scope.same_range(remaining) and set(plan.scope.ships) <= set(wanted.ships):
            return Decision(resume=plan)
        raise ConfigurationError(_overlap(plan))
    return Decision(remaining=remaining)


def copied_ships(plans: Sequence[Plan], wanted: Scope) -> set[str]:
    """Ships of `wanted` whose range a finished plan covers."""
    finished = [plan.scope for plan in plans if plan.finished and plan.scope.covers_range_of(wanted)]
    return {ship for scope in finished for ship in scope.ships}


def overlapping(plans: Sequence[Plan], wanted: Scope) -> list[int]:
    """Open plans that share cells with `wanted`."""
    return [plan.plan_id for plan in plans if not plan.finished and plan.scope.overlaps(wanted)]


def add_plan(
    conn: Connection, pipeline: str, epoch: int | None, scope: Scope, slices: Sequence[Bounds]
) -> Plan:
    """Record a plan with its slices, in the caller's transaction."""
    values = (pipeline, epoch, list(scope.ships), scope.from_us, scope.until_us)
    (plan_id,) = fetch_one(conn, SQL["add_plan"], *values)
    add_slices(conn, plan_id, 1, slices)
    return Plan(plan_id, epoch, scope, finished=False)


def add_slices(conn: Connection, plan_id: int, first_no: int, slices: Sequence[Bounds]) -> None:
    """Append slices to a plan, numbered from `first_no`."""
    with conn.cursor() as cursor, cursor.copy(SQL["copy_slices"]) as copy:
        for number, part in enumerate(slices, first_no):
            copy.write_row((plan_id, number, part.lower_us, part.upper_us, part.estimate))


def lock_plans(conn: Connection) -> None:
    """Keep other runs from planning until the transaction ends."""
    conn.execute(SQL["lock_plans"])


def drop_plans(conn: Connection, plan_ids: Sequence[int]) -> None:
    """Forget plans with their slices; waits for slices that are being written."""
    conn.execute(SQL["drop_plans"], [list(plan_ids)])


def _overlap(plan: Plan) -> str:
    flags = " ".join(f"--ship-id {ship}" for ship in plan.scope.ships)
    return (
        f"Plan {plan.plan_id} ({plan.scope.range_text}) is not finished and holds some of the same cells."
        f" Finish it first, with the range it was made for and {flags};"
        " or give it up for the new one with `backfill run --replace`."
    )
