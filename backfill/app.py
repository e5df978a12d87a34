"""`backfill` in flow order: what is asked for, what is there, the plan, the run, the status.

In: settings and a request. Out: a proposal, a report, or the state of all plans. Guarantees: proposing writes
nothing; a run resumes the open plan of its scope, and a scope that is copied already is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from backfill import ledger, plans
from backfill.history import History, look_at_history
from backfill.ledger import FailedSlice, Totals
from backfill.planner import Bounds, cut, rows_aim
from backfill.plans import Decision, Plan
from backfill.progress import Display, Report
from backfill.runner import run_plan
from backfill.scope import Scope, choose_ships
from backfill.settings import Settings
from widetable.barrier import require_barrier
from widetable.control import check_control
from widetable.encoding import require_source_encoding, require_target_encoding
from widetable.errors import ConfigurationError, PartialError
from widetable.hand_off import HandOff, streaming_hand_off
from widetable.postgres import Connection, connect_source, connect_target, retryable_errors
from widetable.sampling import source_ships
from widetable.verify import verified_summary, verify_due

ASSUMED_PACE: Final = 150_000.0
"""Rows per second and worker, until slices done before tell better."""
RATED_SLICE_S: Final = 2.0
MIN_RATED_ROWS: Final = 10_000
"""Under a rate limit a slice takes about two seconds, so that the limit is one of seconds, not of minutes."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asks for."""

    ships: tuple[str, ...] = ()
    from_us: int | None = None
    until_us: int | None = None
    no_handoff: bool = False
    again: bool = False
    replace: bool = False
    rows_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a run would do.

    Attributes:
        wanted: the scope asked for.
        decision: whether to resume a plan, make one, or neither.
        hand_off: the pipeline's, if it streams.
        totals: of the plan to resume.
        history: of the scope to plan.
        slices: of the plan to make.
        seconds: expected duration.
        warnings: what a person should know first.
    """

    wanted: Scope
    decision: Decision
    hand_off: HandOff | None
    totals: Totals | None
    history: History | None
    slices: tuple[Bounds, ...]
    seconds: float
    warnings: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Narrow rows to copy; an estimate."""
        if self.totals:
            return self.totals.rows_left
        return self.history.rows if self.history else 0

    @property
    def ships_to_follow(self) -> tuple[str, ...]:
        """Ships that came after the open plan was made which is gone on with: they get one of their own."""
        plan = self.decision.resume
        return tuple(ship for ship in self.wanted.ships if plan and ship not in plan.scope.ships)

    @property
    def nothing_to_do(self) -> bool:
        """Whether all of the scope is copied already."""
        return self.decision.resume is None and self.decision.remaining is None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run has done, and where its plan stands; no totals if there was nothing to do."""

    report: Report
    totals: Totals | None


@dataclass(frozen=True, slots=True)
class PlanStatus:
    """A plan with its numbers."""

    plan: Plan
    totals: Totals
    failed: tuple[FailedSlice, ...]
    ship_rows: Mapping[str, int] = field(default_factory=dict)  # copied
    through_us: int | None = None  # all before it is copied; None: nothing or all is


def propose(settings: Settings, request: Request) -> Proposal:
    """Look at both databases and say what a run would do; writes nothing.

    Raises:
        ConfigurationError: unknown ship, no control schema, an overlapping open plan, an encoding that loses texts.
        UnreachableError: a database does not answer.
    """
    with _target(settings) as target, _source(settings) as source:
        require_target_encoding(target)
        require_source_encoding(source)
        wanted = _scope(target, request)
        hand_off = streaming_hand_off(target, settings.pipeline.name)
        decision = _decide(target, settings, request, wanted, hand_off)
        warnings = _warnings(source, settings, request, wanted, hand_off)
        totals = ledger.totals(target, decision.resume.plan_id) if decision.resume else None
        history: History | None = None
        slices: tuple[Bounds, ...] = ()
        if (scope := decision.remaining) is not None:
            history = look_at_history(source, settings.source, scope, settings.backfill.slice_rows)
            slices = _cut(target, settings, request, scope, history)
            warnings += _history_warnings(settings, history)
        pace = ledger.measured_pace(target, settings.pipeline.name) or ASSUMED_PACE
        rows = totals.rows_left if totals else history.rows if history else 0
        speed = min(pace * settings.backfill.workers, request.rows_per_s or float("inf"))
        return Proposal(wanted, decision, hand_off, totals, history, slices, rows / speed, tuple(warnings))


def run_backfill(settings: Settings, request: Request, proposal: Proposal, display: Display) -> Outcome:
    """Make or resume the plan and copy it.

    Raises:
        ConfigurationError: another run made a plan of some of the same cells meanwhile.
        PartialError: another run changed the plans meanwhile.
        StoppedError: the source is another cluster than the stream's.
    """
    started_at, start_s = datetime.now(UTC), time.monotonic()
    if proposal.nothing_to_do:
        return Outcome(Report.of(Totals(0, 0, 0, 0, 0, 0, 0), started_at, 0.0), None)
    plan = _make_or_resume(settings, request, proposal)
    totals = run_plan(settings, plan, request.rows_per_s, display)
    return Outcome(Report.of(totals, started_at, time.monotonic() - start_s), totals)


def require_hand_off_or_flag(hand_off: HandOff | None, *, no_handoff: bool) -> None:
    """A copy beside a stream needs the hand-off's barrier; one without a stream must be asked for by name.

    Raises:
        ConfigurationError: neither, or both.
    """
    if hand_off is None and not no_handoff:
        raise ConfigurationError(
            "There is no hand-off yet, so changes made while history is copied could be lost: run"
            " `cdc-consumer init` first, or copy once without a change stream with --no-handoff."
        )
    if hand_off is not None and no_handoff:
        raise ConfigurationError("This pipeline has a hand-off: leave --no-handoff away.")


def read_status(settings: Settings) -> list[PlanStatus]:
    """All plans of the pipeline, newest first."""
    with _target(settings) as target:
        name = settings.pipeline.name
        found = [
            plan for kind in (True, False) for plan in plans.read_plans(target, name, with_hand_off=kind)
        ]
        return [
            PlanStatus(
                plan,
                ledger.totals(target, plan.plan_id),
                tuple(ledger.failed_slices(target, plan.plan_id)),
                ledger.ship_rows(target, plan.plan_id),
                ledger.copied_through(target, plan.plan_id),
            )
            for plan in sorted(found, key=lambda plan: -plan.plan_id)
        ]


def read_proven(settings: Settings) -> str:
    """How far the ships are verified, and why a verify of everything is due, as lines for a person."""
    with _target(settings) as target:
        name = settings.pipeline.name
        proven = verified_summary(target, name)
        lines = [f"Verify is due: {reason}" for _, _, reason in verify_due(target, name)]
    if not proven["ships"]:
        return "\n".join(["Verified: nothing yet.", *lines])
    through = f"{proven['oldest_through']} (the last ship) to {proven['newest_through']} (the first)"
    return "\n".join([f"Verified: {proven['ships']} ships, through {through}.", *lines])


def _scope(target: Connection, request: Request) -> Scope:
    ships = choose_ships(request.ships, plans.live_ships(target))
    return Scope(ships, request.from_us, request.until_us)


def _decide(
    target: Connection, settings: Settings, request: Request, wanted: Scope, hand_off: HandOff | None
) -> Decision:
    counting = plans.read_plans(target, settings.pipeline.name, with_hand_off=hand_off is not None)
    if request.replace:
        given_up = plans.overlapping(counting, wanted)
        counting = [plan for plan in counting if plan.plan_id not in given_up]
    return plans.decide(counting, wanted, again=request.again)


def _warnings(
    source: Connection, settings: Settings, request: Request, wanted: Scope, hand_off: HandOff | None
) -> list[str]:
    """What a person should know; checks the barrier, too, which every slice checks again."""
    warnings = []
    present = source_ships(source, settings.source)
    if not request.ships and (left_out := sorted(set(present) - set(wanted.ships))):
        warnings.append(
            f"the source also has ship {', '.join(left_out)}, without wide tables: not copied."
            " Run `cdc-consumer schema apply` for them first"
        )
    if hand_off is None and not request.no_handoff:
        warnings.append("there is no hand-off: `run` wants one, or --no-handoff")
    if hand_off is not None:
        with source.transaction():
            source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            require_barrier(source, hand_off)
    return warnings


def _history_warnings(settings: Settings, history: History) -> list[str]:
    table, warnings = settings.source.table, []
    if not history.indexed:
        warnings.append(
            f"no index of {table} leads with created_time, so each slice reads the whole table:"
            f" CREATE INDEX CONCURRENTLY ON {table} (created_time)"
        )
    if history.basis == "guessed":
        warnings.append(f"{table} has no statistics, so slices are guesses: ANALYZE {table}")
    return warnings


def _cut(
    target: Connection, settings: Settings, request: Request, scope: Scope, history: History
) -> tuple[Bounds, ...]:
    section = settings.backfill
    cells_per_row = history.wide_rows_per_row * plans.channel_count(target)
    aim = rows_aim(section.slice_rows, section.slice_cells, cells_per_row)
    if request.rows_per_s is not None:
        aim = min(aim, max(MIN_RATED_ROWS, request.rows_per_s * RATED_SLICE_S))
    return tuple(cut(scope.from_us, scope.until_us, history.segments, aim))


def _make_or_resume(settings: Settings, request: Request, proposal: Proposal) -> Plan:
    """The plan to work on: found or made under the lock, for another run may have been faster."""
    name, hand_off = settings.pipeline.name, proposal.hand_off
    with _target(settings) as target, retryable_errors("planning"), target.transaction():
        plans.lock_plans(target)
        if request.replace:
            there = plans.read_plans(target, name, with_hand_off=hand_off is not None)
            plans.drop_plans(target, plans.overlapping(there, proposal.wanted))
        decision = _decide(target, settings, request, proposal.wanted, hand_off)
        if decision.resume:
            ledger.reopen_failed(target, decision.resume.plan_id)
            return decision.resume
        if decision.remaining is None or decision != proposal.decision:
            raise PartialError("Another `backfill run` changed the plans meanwhile: start this one again.")
        epoch = hand_off.epoch if hand_off else None
        return plans.add_plan(target, name, epoch, decision.remaining, proposal.slices)


@contextmanager
def _target(settings: Settings) -> Iterator[Connection]:
    with closing(connect_target(settings.target, "backfill")) as conn:
        check_control(conn, settings.target.control_schema)
        yield conn


@contextmanager
def _source(settings: Settings) -> Iterator[Connection]:
    with closing(connect_source(settings.source, "backfill planner")) as conn:
        yield conn
