"""The follower: looks at everything in rotation, and sooner at what changed or did not agree, for ever, at leisure.

In: a `Verifier`, and the queue of what the stream touched. Out: an event per look, and `verified_through` per ship.
A round of it is what was touched and has rested a little, and a piece of the lap over all moments. In the first lap
a ship is proven piece by piece, oldest first. After it, everything that is not in the queue is, and what is touched
moves the proven moment on as soon as it was looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from widetable.dead_cells import created_time_text
from widetable.touched import Stretch
from widetable.verify.compare import Verifier
from widetable.verify.recheck import Proof, Recheck, grouped
from widetable.verify.report import Difference, ShipResult, VerifyReport
from widetable.verify.scope import MINUTE_US, Estimate, Scope, Span
from widetable.verify.source import Source
from widetable.verify.target import Target

Event = dict[str, Any]
"""What happened, as plain data: `event` names it."""

COUNTS: Final = ("cells_compared", "missing", "different", "phantom", "repaired", "remaining", "unsettled")
TOLD_AT_MOST: Final = 10_000
"""Differences that are remembered, so as not to be told again at each look."""


@dataclass(frozen=True, slots=True)
class Leisure:
    """How a follower divides its time.

    Attributes:
        piece_rows: about how many source rows a piece of the lap has: differences are told after it.
        rest_s: how long a stretch waits after it was touched, or did not agree, before it is looked at (again).
        lap_s: a new lap begins no sooner than this after the last one began.
    """

    piece_rows: int = 3_000_000
    rest_s: float = 120.0
    lap_s: float = 600.0


@dataclass(slots=True)
class Memory:
    """What outlives an outage: the differences told, and the stretches that did not agree when last looked at."""

    told: set[Difference] = field(default_factory=set)
    doubts: set[Stretch] = field(default_factory=set)

    def new(self, differences: Iterable[Difference]) -> list[Difference]:
        """Those that were not told yet."""
        new = [difference for difference in differences if difference not in self.told]
        self.told.update(new[: max(0, TOLD_AT_MOST - len(self.told))])
        return new

    def note(self, proofs: Iterable[Proof]) -> None:
        """Remember what did not agree, and forget what does now."""
        for proof in proofs:
            ship, lower_us, upper_us = proof.stretch
            self.doubts = {
                doubt
                for doubt in self.doubts
                if doubt.ship_id != ship or doubt.lower_us < lower_us or doubt.upper_us > upper_us
            }
            if not proof.agrees:
                self.doubts.add(proof.stretch)


class Follower:
    """Follows one pipeline on one session of each side; after an outage, another one goes on.

    Args:
        source: the narrow table.
        target: the wide tables.
        recheck: queue, lap, and what is published.
        verifier: compares, at its own pace, and repairs if it was told to.
        leisure: how time is divided.
        memory: of the followers before this one.
        tell: told of each event.
    """

    def __init__(
        self,
        source: Source,
        target: Target,
        recheck: Recheck,
        verifier: Verifier,
        leisure: Leisure,
        memory: Memory,
        tell: Callable[[Event], None],
    ) -> None:
        self._source, self._target = source, target
        self._recheck = recheck
        self._verifier = verifier
        self._leisure = leisure
        self._memory = memory
        self._tell = tell

    def round(self) -> bool:
        """Look at what is to be looked at next; False if there is nothing just now.

        Raises:
            RetryableError, UnreachableError: an outage; follow on with new sessions.
        """
        if self._recheck.copying():
            self._tell(
                {"event": "waiting", "for": "history is being copied: `backfill status` shows how far"}
            )
            return False
        looked = self._look_at_touched()
        return self._look_at_next_piece() or looked

    def _look_at_touched(self) -> bool:
        as_of = self._recheck.now()
        stretches = self._recheck.take(self._leisure.rest_s)
        for (ships, span), taken in grouped(stretches):
            compared = self._verifier.comparable(ships)
            report = self._verifier.run(Scope(compared, span)) if compared else None
            found = _by_ship(report)
            proofs = [_proof(ship, span, found.get(ship)) for ship in ships]
            self._recheck.looked_at(taken, proofs, as_of)
            self._memory.note(proofs)
            if report:
                self._tell_of("touched", span, report)
        if stretches:
            self._recheck.give_back()
        return bool(stretches)

    def _look_at_next_piece(self) -> bool:
        extent = self._source.extent()
        if extent is None or not self._in_lap():
            return False
        position_us = self._recheck.lap().position_us
        lower_us = extent.lower_us if position_us is None else max(position_us, extent.lower_us)
        rest = Span(lower_us, max(extent.upper_us, lower_us + 1))
        piece = first_piece(rest, lambda span: self._source.estimate(span, None), self._leisure.piece_rows)
        last = piece == rest  # what is dated later than all there was when it began belongs to it, too
        span = Span(lower_us, Span().upper_us) if last else piece
        as_of = self._recheck.now()
        report = self._verifier.run(Scope(None, span))
        found = _by_ship(report)
        proven_us = None if last else piece.upper_us
        proofs = [
            _proof(ship, span, found.get(ship), proven_us)
            for ship in sorted(self._target.ships() | found.keys())
        ]
        lap = self._recheck.reached(proofs, as_of, proven_us)
        self._memory.note(proofs)
        self._tell_of("lap", span, report, done=_share(extent, piece))
        if last:
            self._tell(
                {"event": "lap", "laps": lap.laps, "seconds": round(lap.age_s, 1), "agrees": lap.clean}
            )
        return True

    def _in_lap(self) -> bool:
        """Whether a lap is under way; one begins when the last is old enough, or everything must be verified."""
        lap, due = self._recheck.lap(), self._recheck.due()
        demanded = bool(due - lap.due)
        if lap.position_us is not None and not demanded:
            return True
        if lap.laps and lap.age_s < self._leisure.lap_s and not demanded:
            return False
        self._recheck.begin_lap(nothing_is_proven=demanded)
        return True

    def _tell_of(self, why: str, span: Span, report: VerifyReport, **more: Any) -> None:
        for difference in self._memory.new(report.differences):
            self._tell({"event": "difference", **difference.as_dict()})
        looked = {
            "event": "looked",
            "at": why,
            "from": created_time_text(span.lower_us),
            "until": None if span.upper_us == Span().upper_us else created_time_text(span.upper_us),
            "ships": len(report.ships),
            **{name: getattr(report, name) for name in COUNTS},
            "seconds": round(report.seconds, 1),
            "waiting": self._recheck.waiting(),
            "verified_through": self._recheck.oldest_published(),
        }
        self._tell(looked | more)


def first_piece(span: Span, estimate: Estimate, rows: int) -> Span:
    """The beginning of `span` that holds about `rows` rows, by halving; all of it if it holds no more. Pure."""
    while span.upper_us - span.lower_us > MINUTE_US and estimate(span) > rows:
        span = Span(span.lower_us, (span.lower_us + span.upper_us) // 2)
    return span


def _share(extent: Span, piece: Span) -> float:
    """How much of the lap is done after a piece, by time."""
    return round((piece.upper_us - extent.lower_us) / max(1, extent.upper_us - extent.lower_us), 4)


def _by_ship(report: VerifyReport | None) -> Mapping[str, ShipResult]:
    return {ship.ship_id: ship for ship in report.ships} if report else {}


def _proof(ship: str, span: Span, result: ShipResult | None, proven_us: int | None = None) -> Proof:
    """What a look says of a ship: all of a lap's piece is proven, elsewhere what its newest cell ends.

    Args:
        ship: the ship.
        span: what was looked at.
        result: what was found; None: no cell on either side.
        proven_us: where a piece of the lap ends.
    """
    stretch = Stretch(ship, span.lower_us, span.upper_us)
    agrees = result is None or result.agrees
    through_us = result.through_us if result else None
    cells = result.cells if result else 0
    return Proof(stretch, agrees, proven_us if agrees and proven_us is not None else through_us, cells)
