"""Exhaustive search: one cell, every short history, every way in which stream, replays and backfill interleave."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.property.model.cell import UNKNOWN, Cell, Event, Rule, apply
from tests.property.model.histories import DELETE, History
from widetable.narrow import Op

State = tuple[
    int, int, int, int
]  # next position, replays left, slices not yet written (bits), number of the cell
Reads = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A history, where its stream starts, and after how many operations each slice is read."""

    history: History
    start: int
    reads: Reads

    def right(self, cell: Cell, rule: Rule) -> bool:
        """Whether the cell may look like that once everything has drained."""
        if not rule.ignore_deletes:
            return cell.value == self.history.states[-1]
        if cell.value == self.history.kept()[-1]:
            return True
        # What was created and deleted before the stream began was never seen: nothing is there to be kept.
        ops = self.history.ops
        return ops[-1] == DELETE and cell.value is None and set(ops[self.start :]) <= {DELETE}


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has seen."""

    scenarios: int
    violating: int
    example: Scenario | None

    def __str__(self) -> str:
        """The counts and the first counter-example."""
        return f"{self.violating} of {self.scenarios}, such as {self.example}"


def scenarios(found: Iterable[History], *, slices: int = 2, barrier: bool = True) -> Iterator[Scenario]:
    """Every stream start and every choice of reads; without the barrier, one may miss the last commit before."""
    for history in found:
        length = len(history)
        for start in range(length + 1):
            first = start if barrier else max(0, start - 1)
            for reads in itertools.combinations_with_replacement(range(first, length + 1), slices):
                yield Scenario(history, start, reads)


def search(found: Iterable[Scenario], rule: Rule, *, replays: int = 2) -> Found:
    """Count the scenarios in which some interleaving ends wrong."""
    count = violating = 0
    example = None
    moves: Moves | None = None
    for scenario in found:
        if moves is None or moves.history is not scenario.history:
            moves = Moves(scenario.history, rule)
        count += 1
        if ends_wrong(scenario, moves, replays):
            violating += 1
            example = example or scenario
    return Found(count, violating, example)


class Moves:
    """What each event of a history, and each slice that reads it, makes of each cell; cells are numbered."""

    def __init__(self, history: History, rule: Rule) -> None:
        self.history = history
        self.rule = rule
        slices = [Event(Op.READ, (0, 0), state) for state in history.states]
        self._events = [*history.events(0, len(history)), *slices]
        self.cells = [UNKNOWN]
        self._number = {UNKNOWN: 0}
        self._after: dict[tuple[int, int], int] = {}

    def change(self, cell: int, position: int) -> int:
        """The cell after the change at a position."""
        if (cell, position) not in self._after:
            after = apply(self.cells[cell], self._events[position], self.rule)
            if after not in self._number:
                self._number[after] = len(self.cells)
                self.cells.append(after)
            self._after[cell, position] = self._number[after]
        return self._after[cell, position]

    def write(self, cell: int, read: int) -> int:
        """The cell after a slice is written that was read after `read` operations."""
        return self.change(cell, len(self.history) + read)


def ends_wrong(scenario: Scenario, moves: Moves, replays: int) -> bool:
    """Whether some interleaving of stream, replays and slice writes leaves a wrong cell."""
    end = len(scenario.history)
    todo: list[State] = [(scenario.start, replays, (1 << len(scenario.reads)) - 1, 0)]
    seen = set(todo)
    while todo:
        position, _, unwritten, cell = state = todo.pop()
        if position == end and not unwritten and not scenario.right(moves.cells[cell], moves.rule):
            return True
        for after in _next(state, scenario, moves):
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return False


def _next(state: State, scenario: Scenario, moves: Moves) -> Iterator[State]:
    position, replays, unwritten, cell = state
    if position < len(scenario.history):
        yield position + 1, replays, unwritten, moves.change(cell, position)
    if replays:
        for back in range(scenario.start, position):
            yield back, replays - 1, unwritten, cell
    for i, read in enumerate(scenario.reads):
        if unwritten >> i & 1:
            yield position, replays, unwritten & ~(1 << i), moves.write(cell, read)
