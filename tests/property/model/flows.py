"""Exhaustive searches over what happens around a cell: folds, gaps and resync, overflow, misfits, disorder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tests.property.model.cell import APPLY, UNKNOWN, Cell, Event, Rule, apply, apply_all
from tests.property.model.histories import PLACEHOLDER, History
from tests.property.model.search import Found, Scenario, scenarios
from widetable.narrow import Op

S = TypeVar("S")
Outcome = tuple[Scenario, bool]  # what was tried, and whether it ended right


def count(outcomes: Iterable[Outcome]) -> Found:
    """Count what ended wrong."""
    tried = violating = 0
    example = None
    for scenario, right in outcomes:
        tried += 1
        if not right:
            violating, example = violating + 1, example or scenario
    return Found(tried, violating, example)


def read(value: str | None) -> Event:
    """What a slice reads of the source."""
    return Event(Op.READ, (0, 0), value)


def resync(value: str | None) -> Event:
    """The source's state as the first version of epoch 2."""
    return Event(Op.RESYNC, (2, 0), value)


# -- order and folding ----------------------------------------------------------------------------------------


def any_order(found: Iterable[History]) -> Iterator[Outcome]:
    """The events of the cell in every order: what per-cell order, a premise, is good for."""
    for history in found:
        for order in itertools.permutations(range(len(history))):
            cell = apply_all(UNKNOWN, [history.event(position) for position in order])
            yield Scenario(history, 0, order), cell.value == history.states[-1]


def folded(found: Iterable[History], fold: Callable[[list[Event]], list[Event]]) -> Iterator[Outcome]:
    """One batch anywhere in the history, folded."""
    for history in found:
        events = history.events(0, len(history))
        for start, stop in itertools.combinations(range(len(events) + 1), 2):
            parts = [*events[:start], *fold(events[start:stop]), *events[stop:]]
            yield Scenario(history, start, (stop,)), apply_all(UNKNOWN, parts).value == history.states[-1]


# -- the placeholder for an unchanged value -------------------------------------------------------------------


def placeholders(found: Iterable[History], *, record: bool) -> Iterator[Outcome]:
    """Updates elsewhere in the row, which know no value: they do nothing, or `record` a version."""
    for scenario in scenarios((history for history in found if PLACEHOLDER in history.ops), slices=1):
        history = scenario.history
        for at in range(scenario.start, len(history) + 1):
            cell = _streamed(UNKNOWN, history, range(scenario.start, at), record=record)
            cell = apply(cell, read(history.states[scenario.reads[0]]))
            cell = _streamed(cell, history, range(at, len(history)), record=record)
            yield scenario, cell.value == history.states[-1]


def _streamed(cell: Cell, history: History, positions: Iterable[int], *, record: bool) -> Cell:
    for position in positions:
        if history.ops[position] != PLACEHOLDER:
            cell = apply(cell, history.event(position))
        elif record:
            cell = apply(cell, Event(Op.UPDATE, (1, position + 1), cell.value))
    return cell


# -- a gap in the stream --------------------------------------------------------------------------------------


def gaps(found: Iterable[History]) -> Iterator[tuple[History, int, int]]:
    """Every stretch of a history that the stream lost: before it epoch 1, after it epoch 2."""
    for history in found:
        for start, stop in itertools.combinations(range(len(history) + 1), 2):
            yield history, start, stop


def gap_backfilled(found: Iterable[History]) -> Iterator[Outcome]:
    """A slice read after the gap is written at any time after it."""
    for history, start, stop in gaps(found):
        end = len(history)
        for at, seen in itertools.product(range(stop, end + 1), repeat=2):
            events = [*_second_epoch(history, stop, at), read(history.states[seen])]
            cell = apply_all(_before(history, start), [*events, *_second_epoch(history, at, end)])
            yield Scenario(history, start, (stop, at, seen)), cell.value == history.states[-1]


def gap_resynced(found: Iterable[History], rule: Rule = APPLY, *, locked: bool = True) -> Iterator[Outcome]:
    """The source is read again under the ledger lock, so never older than the stream; later, a suffix replays.

    Not `locked`, or read in a snapshot from before: the state may be older than what the stream has applied.
    """
    for history, start, stop in gaps(found):
        end = len(history)
        for at in range(stop, end + 1):
            oldest = at if locked else stop
            for seen, again in itertools.product(range(oldest, end + 1), range(stop, end + 1)):
                events = [*_second_epoch(history, stop, at), resync(history.states[seen])]
                events += [*_second_epoch(history, at, end), *_second_epoch(history, again, end)]
                cell = apply_all(_before(history, start), events, rule)
                yield Scenario(history, start, (stop, at, seen, again)), cell.value == history.states[-1]


def _before(history: History, gap: int) -> Cell:
    return apply_all(UNKNOWN, history.events(0, gap))


def _second_epoch(history: History, start: int, stop: int) -> list[Event]:
    return [history.event(position, (2, position + 1)) for position in range(start, stop)]


# -- corrections ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Importing:
    """A cell and the one correction of it; not `possible` are orders that no import promises to get right."""

    cell: Cell = UNKNOWN
    done: bool = False
    created: bool = False  # a create above the correction has come before it, and left no version
    possible: bool = True


def corrected(found: Iterable[History], rule: Rule = APPLY, *, replays: int = 1) -> Iterator[Outcome]:
    """A correction at any point of the history, also of a cell that is missing there; what follows wins."""
    for scenario in scenarios(found, slices=1):
        history, start = scenario.history, scenario.start
        events = [history.event(position, (1, 2 * position + 2)) for position in range(len(history))]
        seen = read(history.states[scenario.reads[0]])
        for at in range(start, len(history) + 1):
            correction = Event(Op.CORRECTION, (1, 2 * at + 1), "corrected")

            def take(state: Importing, event: Event, above: Event = correction) -> Importing:
                created = event.op is Op.CREATE and event.version > above.version and not state.done
                return replace(state, cell=apply(state.cell, event, rule), created=state.created or created)

            def write(state: Importing, seen: Event = seen) -> Importing:
                return replace(state, cell=apply(state.cell, seen, rule))

            def correct(state: Importing, event: Event = correction) -> Importing:
                possible = not state.created
                return Importing(apply(state.cell, event, rule), done=True, possible=possible)

            ends = interleaved(Importing(), events, start, [write, correct], take, replays)
            wanted = "corrected" if at == len(history) else history.states[-1]
            yield scenario, all(end.cell.value == wanted for end in ends if end.possible)


# -- overflow: a channel that gets its column -----------------------------------------------------------------


def replayed_late(found: Iterable[History]) -> Iterator[Outcome]:
    """Events go to the column as soon as it exists; those that overflow took are applied to it afterwards."""
    for history in found:
        end = len(history)
        for added in range(1, end + 1):
            for at in range(added, end + 1):
                order = [*range(added, at), *range(added), *range(at, end)]
                cell = apply_all(UNKNOWN, [history.event(position) for position in order])
                yield Scenario(history, added, (at,)), cell.value == history.states[-1]


@dataclass(frozen=True, slots=True)
class Pending:
    """A cell of a pending channel: its column, its overflow row, and whether the channel is live by now."""

    wide: Cell = UNKNOWN
    over: Cell = UNKNOWN
    live: bool = False

    def take(self, event: Event) -> Pending:
        """Events go to overflow until the channel is live."""
        if self.live:
            return replace(self, wide=apply(self.wide, event))
        return replace(self, over=apply(self.over, event))

    def move_early(self) -> Pending:
        """A cell without a version may move at any time."""
        return self if self.over.version else replace(self, wide=self._filled(), over=UNKNOWN)

    def move_all_early(self) -> Pending:
        """What must not be done: versions leave overflow while it still takes events."""
        return replace(self.go_live(), live=self.live)

    def go_live(self) -> Pending:
        """The last drain and the flip are one transaction."""
        newer = self.over.version and (self.wide.version or (0, 0)) < self.over.version
        return Pending(self.over if newer else self._filled(), live=True)

    def _filled(self) -> Cell:
        empty = self.wide.value is None and self.wide.version is None
        return replace(self.wide, value=self.over.value) if empty else self.wide


def drained(found: Iterable[History], *, versions_early: bool = False, replays: int = 1) -> Iterator[Outcome]:
    """Stream, replays, a slice, an early move and the flip, in every interleaving."""
    early = Pending.move_all_early if versions_early else Pending.move_early
    for scenario in scenarios(found, slices=1):
        history, start = scenario.history, scenario.start
        steps = [early, Pending.go_live, _taking(read(history.states[scenario.reads[0]]))]
        ends = interleaved(Pending(), history.events(0, len(history)), start, steps, Pending.take, replays)
        yield scenario, all(end.live and end.wide.value == history.states[-1] for end in ends)


def _taking(event: Event) -> Callable[[Pending], Pending]:
    return lambda pending: pending.take(event)


def interleaved(
    first: S,
    events: Sequence[Event],
    start: int,
    steps: Sequence[Callable[[S], S]],
    take: Callable[[S, Event], S],
    replays: int,
) -> set[S]:
    """Every state in which a stream with replays may end, with each step done once somewhere in between."""
    todo = [(start, replays, (1 << len(steps)) - 1, first)]
    seen = set(todo)
    while todo:
        position, left, undone, state = todo.pop()
        fresh = []
        if position < len(events):
            fresh.append((position + 1, left, undone, take(state, events[position])))
        if left:
            fresh += [(back, left - 1, undone, state) for back in range(start, position)]
        for i, step in enumerate(steps):
            if undone >> i & 1:
                fresh.append((position, left, undone & ~(1 << i), step(state)))
        todo += {*fresh} - seen
        seen |= {*fresh}
    return {state for position, _, undone, state in seen if position == len(events) and not undone}


# -- overflow: values that don't fit their column -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Typed:
    """A cell whose column can't hold some of its values: those stand in overflow."""

    wide: Cell = UNKNOWN
    over: Cell = UNKNOWN

    @property
    def shown(self) -> str | None:
        """The value that the target holds, wherever it stands."""
        return self.over.value if self.over.version or self.wide.value is None else self.wide.value

    @property
    def honest(self) -> bool:
        """Whether the column shows nothing but the value that counts."""
        return self.wide.value is None or self.wide.value == self.shown

    def take(self, event: Event, misfits: frozenset[str], rule: Rule = APPLY, *, voids: bool = True) -> Typed:
        """One event; with `voids` off, an update that doesn't fit leaves the column as it is."""
        after = apply(self.wide, event, rule)
        misfit = event.value in misfits
        if after.version != self.wide.version:
            if after.kind == "d" and rule.ignore_deletes:
                return replace(self, wide=after)
            if not misfit:
                return Typed(after)
            version, kind = (None, "") if event.op is Op.CREATE else (event.version, after.kind)
            left = Cell(None, event.version, "o") if voids else self.wide
            return Typed(left, Cell(event.value, version, kind))
        if not misfit:
            return replace(self, wide=after)
        known = self.wide.version
        fills = known is None if event.op is Op.READ else known is None or known < event.version
        return replace(self, over=apply(self.over, event, rule)) if fills else self


def diverted(
    found: Iterable[History], rule: Rule = APPLY, *, voids: bool = True, replays: int = 1
) -> Iterator[Outcome]:
    """Every choice of values that don't fit; stream, replays and a slice in every interleaving."""
    for scenario in scenarios(found, slices=1):
        history = scenario.history
        seen = read(history.states[scenario.reads[0]])
        for misfits in _choices(history):

            def take(typed: Typed, event: Event, misfits: frozenset[str] = misfits) -> Typed:
                return typed.take(event, misfits, rule, voids=voids)

            def write(typed: Typed, misfits: frozenset[str] = misfits) -> Typed:
                return typed.take(seen, misfits, rule, voids=voids)  # noqa: B023 - called within this round

            events = history.events(0, len(history))
            ends = interleaved(Typed(), events, scenario.start, [write], take, replays)
            yield scenario, all(end.honest and scenario.right(Cell(end.shown), rule) for end in ends)


def _choices(history: History) -> Iterator[frozenset[str]]:
    values = sorted({state for state in history.states if state is not None})
    for size in range(1, len(values) + 1):
        yield from map(frozenset, itertools.combinations(values, size))
