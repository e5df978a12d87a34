"""The plot of a live load: which steps come next, burst after burst.

In: plan, start, the span of history, a mix. Out: the steps of each transaction. No clock and no database: the
script follows from the plan's seed and from which deletes found their row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from devstack.fleet.bursts import (
    STEP_US,
    Burst,
    burst_of,
    late_rows,
    minute_grid,
    present_cells,
    random_cells,
)
from devstack.fleet.plan import UNKNOWN_CHANNELS, FleetPlan
from devstack.fleet.report import Count
from devstack.fleet.steps import Step, Verb
from devstack.fleet.values import Cells, sample, traits_of, without_values

POOL_CELLS: Final = 10_000  # deleted cells remembered for a re-insert; the oldest are forgotten first


@dataclass(frozen=True, slots=True)
class Mix:
    """How many rows of each kind go with one burst (a ship's minute); half of them concern history.

    Attributes:
        updates: corrections with another value.
        null_updates: corrections to NULL.
        deletes: cells deleted.
        reinserts: deleted cells written again.
        late: holes of history filled, on top of the rows that a burst holds back.
        duplicates: rows of the burst before, sent again.
        moves: key changes of each kind: to another moment of the grid, to one off the grid, to another
            channel, to another ship.
        unknown_channels: channels in no list, each with the moments of the burst.
        unknown_ship: samples of a ship in no plan.
        churned: rows that a transaction inserts, updates, deletes and inserts again.
        churn_every: bursts from one such transaction to the next.
    """

    updates: int = 80
    null_updates: int = 8
    deletes: int = 24
    reinserts: int = 12
    late: int = 8
    duplicates: int = 40
    moves: int = 3
    unknown_channels: int = 1
    unknown_ship: int = 4
    churned: int = 40
    churn_every: int = 5


CALM: Final = Mix(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
"""Bursts and their late rows, nothing else."""


class LiveScript:
    """Tells the steps of one transaction after the other: `burst`, `corrections`, `burst`, ..."""

    def __init__(self, plan: FleetPlan, start_minute: int, history: range, mix: Mix) -> None:
        self._plan = plan
        self._wider = plan.with_strangers()  # the same indices, and strangers behind them
        self._start_minute = start_minute
        self._history = history
        self._mix = mix
        self._turn = 0
        self._held = Cells.concat([])
        self._sent = Cells.concat([])
        self._strangers = Cells.concat([])
        self._deleted = Cells.concat([])

    def burst(self) -> list[Step]:
        """The next ship's minute, with what a collector sends along: late rows, doubles, strangers."""
        ship, minute = self._ship_minute()
        rng = self._plan.generator(ship, minute, "live")
        burst = burst_of(self._plan, ship, minute)
        late = late_rows(len(burst.cells), rng)
        due = burst.cells[~late]
        again = _pick(self._sent, self._mix.duplicates, rng)
        channels, ship_cells = self._meet_strangers(burst, minute, rng)
        steps = [
            Step(Verb.INSERT, "inserts", due, burst.samples.filter(~late)),
            self._write(Verb.INSERT, "late", self._held, rng),
            # Only those that were deleted or moved in the meantime get in.
            self._write(Verb.INSERT, "reinserts", again, rng),
            self._write(Verb.INSERT, "unknown_channel", channels, rng),
            self._write(Verb.INSERT, "unknown_ship", ship_cells, rng),
        ]
        if self._turn % self._mix.churn_every == 0:
            steps += self._churn(_pick(due, self._mix.churned, rng), rng)
        self._held, self._sent = burst.cells[late], due
        return _not_empty(steps)

    def corrections(self) -> list[Step]:
        """What happens to older cells, of history and of this load, before the next burst."""
        ship, minute = self._ship_minute()
        rng = self._plan.generator(ship, minute, "corrections")
        again = _pick(self._deleted, self._mix.reinserts, rng)
        updated = Cells.concat([self._targets(self._mix.updates, rng), self._strangers[:2]])
        deleted = Cells.concat([self._targets(self._mix.deletes, rng), self._strangers[2:3]])
        emptied = self._targets(self._mix.null_updates, rng)
        steps = [
            self._write(Verb.UPDATE, "updates", updated, rng),
            Step(Verb.UPDATE, "null_updates", emptied, without_values(self._plan, emptied)),
            Step(Verb.DELETE, "deletes", deleted, without_values(self._wider, deleted)),
            self._write(Verb.INSERT, "reinserts", again, rng),
            self._write(Verb.INSERT, "late", _pick(self._holes(rng), self._mix.late, rng), rng),
            *self._moves(rng),
        ]
        self._turn += 1
        return _not_empty(steps)

    def remember_deleted(self, cells: Cells) -> None:
        """Keep cells that a DELETE took away, for a later re-insert."""
        self._deleted = Cells.concat([self._deleted, cells])[-POOL_CELLS:]

    def _ship_minute(self) -> tuple[int, int]:
        minutes, ship = divmod(self._turn, len(self._plan.ships))
        return ship, self._start_minute + minutes

    def _write(self, verb: Verb, counts_as: Count, cells: Cells, rng: np.random.Generator) -> Step:
        return Step(verb, counts_as, cells, sample(self._wider, cells, rng))

    def _churn(self, cells: Cells, rng: np.random.Generator) -> list[Step]:
        """What else one transaction does to cells that it has just inserted."""
        half, quarter = cells[: len(cells) // 2], cells[: len(cells) // 4]
        return [
            self._write(Verb.UPDATE, "updates", cells, rng),
            Step(Verb.DELETE, "deletes", half, without_values(self._plan, half)),
            self._write(Verb.INSERT, "reinserts", quarter, rng),
            self._write(Verb.UPDATE, "updates", quarter, rng),
        ]

    def _meet_strangers(self, burst: Burst, minute: int, rng: np.random.Generator) -> tuple[Cells, Cells]:
        """Samples of unknown channels beside the burst, and a few of the unknown ship."""
        first = len(self._plan.channels)
        channels = [
            first + (self._turn + i) % len(UNKNOWN_CHANNELS) for i in range(self._mix.unknown_channels)
        ]
        grid = minute_grid(self._wider, int(burst.cells.ship[0]), minute)
        beside = grid[np.isin(grid.channel, channels)]
        aboard = minute_grid(self._wider, len(self._plan.ships), minute)
        self._strangers = beside
        return beside, _pick(aboard, self._mix.unknown_ship, rng)

    def _live(self) -> range:
        _, minute = self._ship_minute()
        return range(self._start_minute, minute + 1)

    def _targets(self, count: int, rng: np.random.Generator) -> Cells:
        """Cells to touch, half of them in history if there is one."""
        old = count // 2 if self._history else 0
        halves = ((self._history, old), (self._live(), count - old))
        return Cells.concat([random_cells(self._plan, minutes, part, rng) for minutes, part in halves])

    def _holes(self, rng: np.random.Generator) -> Cells:
        """The holes of any minute of history, or of this load if there is no history."""
        minutes = self._history or self._live()
        minute = int(rng.integers(minutes.start, minutes.stop))
        ship = int(rng.integers(len(self._plan.ships)))
        present = present_cells(self._plan, self._plan.generator(ship, minute)).ravel()
        return minute_grid(self._plan, ship, minute)[~present]

    def _moves(self, rng: np.random.Generator) -> list[Step]:
        """Key changes, of one part of the key each; the first three move a neighbour into a hole."""
        kinds = [_pick(self._holes(rng), self._mix.moves, rng) for _ in range(3)]
        by_time, by_channel, by_ship = kinds
        kin = traits_of(self._plan).kin
        off_grid = self._targets(self._mix.moves, rng)
        shift_us = rng.integers(1, STEP_US // 1_000_000, len(off_grid)) * 1_000_000
        # Of the four moments of a minute, 0 and 1 are neighbours, and 2 and 3.
        neighbour_us = np.where(by_time.created_us // STEP_US % 2 == 0, STEP_US, -STEP_US)
        ships = len(self._plan.ships)
        return [
            self._move(Cells(by_time.ship, by_time.channel, by_time.created_us + neighbour_us), by_time),
            self._move(Cells(by_channel.ship, kin[by_channel.channel], by_channel.created_us), by_channel),
            self._move(
                Cells((by_ship.ship + 1) % ships, by_ship.channel, by_ship.created_us), by_ship, events=2
            ),
            self._move(off_grid, Cells(off_grid.ship, off_grid.channel, off_grid.created_us + shift_us)),
        ]

    def _move(self, old: Cells, new: Cells, events: int = 1) -> Step:
        plan = self._plan
        return Step(
            Verb.MOVE, "key_changes", old, without_values(plan, old), without_values(plan, new), events
        )


def _pick(cells: Cells, count: int, rng: np.random.Generator) -> Cells:
    """Up to `count` different rows of `cells`, in their order."""
    return cells[np.sort(rng.permutation(len(cells))[:count])]


def _not_empty(steps: list[Step]) -> list[Step]:
    return [step for step in steps if len(step.cells)]
