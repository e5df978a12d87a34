"""The judge: looks at suspected cells until it is sure, and says what is wrong with each.

A round reads the cells' source rows, waits until the target is settled past that, reads the target, and reads
the source rows again. If a row is the same before and after, then its value stood still meanwhile, and the
target should have had it. A cell is wrong when two rounds in a row say so of one and the same source row: the
second is for cells that were inserted and deleted again within a round, which leaves no trace in the rows.

Where asked to, wrong cells are repaired and looked at once more in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, cast, get_args

from widetable.verify.report import Difference, Kind
from widetable.verify.scope import Cell
from widetable.verify.source import Source, Sourced
from widetable.verify.target import Held, Policy, Target

Settle = Callable[[int], None]
"""Waits until the target holds all that the source committed up to an LSN."""

Repair = Callable[[Collection[Cell]], object]
"""Gives cells the source's state."""

Verdict = Literal[Kind, "dead", "kept", "corrected", "beyond_source"]

MOMENTS_AT_ONCE = 500
"""Bounds one target query by 500 wide rows, however many cells are suspected."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read at once, kept and tried."""

    window_rows: int = 1_000_000  # source rows that one query hashes: about a second
    suspects: int = 50_000  # cells that the judge looks at together
    rounds: int = 6  # looks before a cell that never rests is given up as unsettled
    differences: int = 100  # kept for the report; all are counted
    fail_fast: bool = False  # stop after the first suspects that turn out wrong


class Judge:
    """Collects verdicts.

    Attributes:
        counts: cells by verdict, `unsettled`, and `repaired`.
        differences: the first ones.
        unproven_us: by ship, the earliest moment at which a cell is wrong or unsettled.
    """

    def __init__(
        self,
        source: Source,
        target: Target,
        settle: Settle | None,
        limits: Limits,
        repair: Repair | None = None,
    ) -> None:
        self._source = source
        self._target = target
        self._settle = settle
        self._limits = limits
        self._repair = repair
        self._wrong: list[Cell] = []
        self.counts: Counter[str] = Counter()
        self.differences: list[Difference] = []
        self.unproven_us: dict[str, int] = {}

    @property
    def wrong_count(self) -> int:
        """Cells found wrong so far."""
        return sum(self.counts[kind] for kind in get_args(Kind))

    def judge(self, suspects: Collection[Cell]) -> None:
        """Sort the cells into equal, wrong and unsettled, and repair what is wrong if that is wanted."""
        self._look(suspects)
        wrong, self._wrong = self._wrong, []
        if wrong and self._repair:
            self._repair(wrong)
            again = Judge(self._source, self._target, self._settle, self._limits)
            again.judge(wrong)
            self.counts["repaired"] += len(wrong) - again.wrong_count - again.counts["unsettled"]
            for ship, earliest in again.unproven_us.items():
                self.unproven_us[ship] = min(earliest, self.unproven_us.get(ship, earliest))
        else:
            for cell in wrong:
                self._doubt(cell)

    def _look(self, suspects: Collection[Cell]) -> None:
        """Look at the cells until each is equal, wrong, or has not rested in `limits.rounds` rounds."""
        open_cells, struck = set(suspects), set[Cell]()
        before = self._source.read(open_cells)
        for _ in range(self._limits.rounds):
            if not open_cells:
                return
            self._wait()
            held = self._held(open_cells)
            after = self._source.read(open_cells)
            resting = {cell for cell in open_cells if before.get(cell) == after.get(cell)}
            wrong = {cell for cell in resting if not same_value(_value(after, cell), _value(held, cell))}
            self._convict(wrong & struck, after, held)
            struck = wrong - struck
            open_cells = (open_cells - resting) | struck
            before = after
        self.counts["unsettled"] += len(open_cells)
        for cell in open_cells:
            self._doubt(cell)

    def _wait(self) -> None:
        if self._settle:
            self._settle(self._source.lsn())

    def _held(self, cells: Collection[Cell]) -> dict[Cell, Held]:
        found: dict[Cell, Held] = {}
        for ship, group in groupby(sorted(cells), key=lambda cell: cell.ship_id):
            own = list(group)
            channels = {cell.channel_id for cell in own}
            moments = sorted({cell.moment_us for cell in own})
            for start in range(0, len(moments), MOMENTS_AT_ONCE):
                held = self._target.cells(ship, moments[start : start + MOMENTS_AT_ONCE], channels)
                found |= {cell: held[cell] for cell in held.keys() & cells}
        return found

    def _convict(
        self, wrong: Collection[Cell], source: Mapping[Cell, Sourced], held: Mapping[Cell, Held]
    ) -> None:
        if not wrong:
            return
        dead = self._target.dead(wrong)
        extent = self._source.extent()  # anew: a partition may have been dropped since
        for cell in sorted(wrong):
            there = held.get(cell, Held())
            value = _value(source, cell)
            beyond = value is None and (extent is None or cell.moment_us < extent.lower_us)
            verdict = classify(value, there, self._target.policy, beyond=beyond, dead=cell in dead)
            self.counts[verdict] += 1
            if verdict in get_args(Kind):
                self._wrong.append(cell)
                if len(self.differences) < self._limits.differences:
                    self.differences.append(Difference(cast("Kind", verdict), cell, value, there.value))

    def _doubt(self, cell: Cell) -> None:
        earliest = self.unproven_us.get(cell.ship_id, cell.moment_us)
        self.unproven_us[cell.ship_id] = min(earliest, cell.moment_us)


def same_value(source: str | None, target: str | None) -> bool:
    """Whether two values count as equal: the same text, where -0 is 0."""
    return source == target or {source, target} == {"0", "-0"}


def classify(source: str | None, held: Held, policy: Policy, *, beyond: bool, dead: bool) -> Verdict:
    """What is wrong with a cell whose source row rests and whose target differs.

    Args:
        source: the source's value; None: none, or no row.
        held: what the target holds.
        policy: the deployment's choices.
        beyond: the source has no such row, and none as old.
        dead: a value of this cell is recorded as dead.
    """
    if beyond:
        return "beyond_source"
    if dead:
        return "dead"
    if held.kind == "k":
        return "corrected"
    if source is None:
        return "kept" if policy.ignore_deletes and held.kind == "d" else "phantom"
    return "missing" if held.value is None else "different"


def _value(rows: Mapping[Cell, Sourced] | Mapping[Cell, Held], cell: Cell) -> str | None:
    row = rows.get(cell)
    return None if row is None else row.value
