"""Every short history of one source cell, and the ways in which a stream delivers it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from tests.property.model.cell import Event, Version
from widetable.narrow import Op

CREATE, CREATE_NULL, UPDATE, UPDATE_NULL, DELETE, PLACEHOLDER = "cNuUdP"
ALPHABET = "cNuUd"
OP = {"c": Op.CREATE, "N": Op.CREATE, "u": Op.UPDATE, "U": Op.UPDATE, "d": Op.DELETE}


@dataclass(frozen=True, slots=True)
class History:
    """The operations on a source cell, and its value before, between and after them.

    `states[i]` is the value once `i` operations are done; None where the cell is NULL or the row absent.
    """

    ops: str
    states: tuple[str | None, ...]

    def __len__(self) -> int:
        """Number of operations."""
        return len(self.ops)

    def event(self, position: int, version: Version | None = None) -> Event:
        """The change at a position; its version is (1, position + 1) unless given."""
        op = OP[self.ops[position]]
        value = None if op is Op.DELETE else self.states[position + 1]
        return Event(op, version or (1, position + 1), value)

    def events(self, start: int, stop: int) -> list[Event]:
        """The changes of positions `start` to `stop` (exclusive)."""
        return [self.event(position) for position in range(start, stop)]

    def kept(self) -> tuple[str | None, ...]:
        """The states if deletes were ignored: the value that the cell had last."""
        kept: list[str | None] = [None]
        for op, state in zip(self.ops, self.states[1:], strict=True):
            kept.append(kept[-1] if op == DELETE else state)
        return tuple(kept)


def histories(longest: int, alphabet: str = ALPHABET) -> Iterator[History]:
    """Every history of 1 to `longest` operations that a source can have; all values differ."""
    for length in range(1, longest + 1):
        for ops in itertools.product(alphabet, repeat=length):
            if (states := _states(ops)) is not None:
                yield History("".join(ops), states)


def _states(ops: tuple[str, ...]) -> tuple[str | None, ...] | None:
    """The values in between; None if the source could not do this."""
    states: list[str | None] = [None]
    present = False
    for number, op in enumerate(ops, start=1):
        if (op in "cN") == present:
            return None
        present = op != DELETE
        match op:
            case "c" | "u":
                states.append(f"v{number}")
            case "P":
                states.append(states[-1])
            case _:
                states.append(None)
    return tuple(states)


def deliveries(length: int, replays: int) -> Iterator[tuple[int, ...]]:
    """Positions of a history as they arrive: in order, with up to `replays` jumps back (suffix repetition)."""

    def onward(position: int, left: int) -> Iterator[tuple[int, ...]]:
        if position == length:
            yield ()
        else:
            for rest in onward(position + 1, left):
                yield (position, *rest)
        if left:
            for back in range(position):
                yield from onward(back, left - 1)

    yield from onward(0, replays)


def cuts(length: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Every way to cut a sequence into batches, as (start, stop) ranges."""
    for marks in itertools.product((False, True), repeat=max(length - 1, 0)):
        edges = [0, *(i for i, mark in enumerate(marks, start=1) if mark), length]
        yield tuple(itertools.pairwise(edges))
