"""What `plan`, `run` and `status` answer: as text for a person, as JSON for a machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from backfill.app import PlanStatus, Proposal
from backfill.ledger import FailedSlice, Totals
from backfill.planner import Bounds
from backfill.progress import Report, duration
from backfill.scope import Scope
from widetable.moments import moment_text

SHOWN: Final = 20
"""Slices and errors that a person is shown; `--json` has all."""


def proposal_text(proposal: Proposal, *, slices: bool = True) -> str:
    """What a run would do, with or without its slices one by one."""
    return "\n".join(_proposal_lines(proposal, slices))


def proposal_json(proposal: Proposal) -> dict[str, Any]:
    """The same with every slice; moments are ISO 8601 without time zone, null is no bound."""
    resume = proposal.decision.resume
    return {
        "scope": _scope_json(proposal.wanted),
        "nothing_to_do": proposal.nothing_to_do,
        "resumes_plan": resume.plan_id if resume else None,
        "rows": proposal.rows,
        "seconds": round(proposal.seconds, 1),
        "basis": proposal.history.basis if proposal.history else None,
        "slices": [_bounds_json(part) | {"rows": part.estimate} for part in proposal.slices],
        "warnings": list(proposal.warnings),
    }


def status_text(plans: list[PlanStatus]) -> str:
    """All plans, newest first."""
    return "\n".join(line for status in plans for line in _status_lines(status)) or "No plan yet."


def status_json(plans: list[PlanStatus]) -> list[dict[str, Any]]:
    """The same for a machine."""
    return [
        {
            "plan_id": status.plan.plan_id,
            "epoch": status.plan.epoch,
            "scope": _scope_json(status.plan.scope),
            "finished": status.plan.finished,
            **_totals_json(status.totals),
            "copied_through": None if status.through_us is None else moment_text(status.through_us),
            "ships": [
                {"ship_id": ship, "rows": status.ship_rows.get(ship, 0)} for ship in status.plan.scope.ships
            ],
            "failed_slices": [_failed_json(failed) for failed in status.failed],
        }
        for status in plans
    ]


def report_text(report: Report) -> str:
    """What one run has done."""
    return (
        f"Copied {report.rows:,} rows ({report.cells:,} cells) in {report.slices:,} slices,"
        f" {duration(report.seconds)}: {report.rows_per_second:,.0f} rows/s."
    )


def _proposal_lines(proposal: Proposal, slices: bool) -> Iterator[str]:
    yield f"Ships: {', '.join(proposal.wanted.ships)}"
    yield f"Range: {proposal.wanted.range_text}"
    yield from (f"Warning: {warning}." for warning in proposal.warnings)
    if proposal.nothing_to_do:
        yield "All of it is copied already: nothing to do."
        return
    if (resume := proposal.decision.resume) and (totals := proposal.totals):
        yield f"Plan {resume.plan_id} is open: {totals.done:,} of {totals.slices:,} slices are done."
    elif (remaining := proposal.decision.remaining) and remaining != proposal.wanted:
        yield f"Not copied yet: {', '.join(remaining.ships)}"
    if proposal.slices:
        yield f"Slices: {len(proposal.slices):,}"
    if slices:
        yield from _slice_lines(proposal.slices)
    about = "" if proposal.history and proposal.history.basis == "counted" else "about "
    yield f"To copy: {about}{proposal.rows:,} rows, about {duration(proposal.seconds)}."


def _slice_lines(slices: tuple[Bounds, ...]) -> Iterator[str]:
    for number, part in enumerate(slices[:SHOWN], 1):
        scope = Scope((), part.lower_us, part.upper_us)
        yield f"  {number:>6}  {scope.range_text}  {part.estimate:,} rows"
    if len(slices) > SHOWN:
        yield f"  … and {len(slices) - SHOWN:,} more (--json shows all)"


def _status_lines(status: PlanStatus) -> Iterator[str]:
    plan, totals = status.plan, status.totals
    kind = "without hand-off" if plan.epoch is None else f"epoch {plan.epoch}"
    state = "finished" if plan.finished else "open"
    yield f"Plan {plan.plan_id} ({kind}): {state}, {plan.scope.range_text}, {', '.join(plan.scope.ships)}"
    yield (
        f"  slices: {totals.done:,} of {totals.slices:,} done, {totals.running:,} running,"
        f" {totals.failed:,} failed; {totals.rows:,} rows copied, about {totals.rows_left:,} left"
    )
    yield from _ship_lines(status)
    for failed in status.failed[:SHOWN]:
        where = Scope((), failed.bounds.lower_us, failed.bounds.upper_us).range_text
        yield f"  failed: slice {failed.slice_no} ({where}) after {failed.attempt} attempts: {failed.error}"
    if len(status.failed) > SHOWN:
        yield f"  … and {len(status.failed) - SHOWN:,} more failed (--json shows all)"


def _ship_lines(status: PlanStatus) -> Iterator[str]:
    """How much of each ship is copied; slices hold all ships, so they get on together."""
    if status.through_us is not None:
        yield f"  copied through {moment_text(status.through_us)}"
    ships = status.plan.scope.ships
    for ship in ships[:SHOWN]:
        yield f"  ship {ship}: {status.ship_rows.get(ship, 0):,} rows copied"
    if len(ships) > SHOWN:
        yield f"  … and {len(ships) - SHOWN:,} more ships (--json shows all)"


def _scope_json(scope: Scope) -> dict[str, Any]:
    return {"ships": list(scope.ships), **_bounds_json(Bounds(scope.from_us, scope.until_us))}


def _bounds_json(bounds: Bounds) -> dict[str, Any]:
    lower, upper = bounds.lower_us, bounds.upper_us
    return {
        "from": None if lower is None else moment_text(lower),
        "until": None if upper is None else moment_text(upper),
    }


def _totals_json(totals: Totals) -> dict[str, int]:
    return {name: value for name, value in asdict(totals).items() if not name.startswith("run_")}


def _failed_json(failed: FailedSlice) -> dict[str, Any]:
    place = _bounds_json(failed.bounds)
    return {"slice_no": failed.slice_no, **place, "attempt": failed.attempt, "error": failed.error}
