"""What a follower must look at, and what it publishes: the queue of stretches, its lap, `verified_through`.

In: the target's control schema. Guarantee: what was neither proven nor reached by the lap is in the queue, be it
across crashes; so the moment that is published for a ship never passes what was not proven at that time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any, Final, NamedTuple

from psycopg.types.json import Jsonb

from widetable.errors import RetryableError
from widetable.postgres import Connection, retryable_errors
from widetable.touched import SQL, Stretch, columns
from widetable.verify.scope import Span
from widetable.verify.verified import Demand, clear_due, verify_due

TAKE_AT_ONCE: Final = 500
"""Stretches: of 8 ships about 15 hours."""


class Lap(NamedTuple):
    """Where the rotation stands.

    Attributes:
        laps: finished ones.
        position_us: all before it was looked at in this lap; None: nothing yet, or the lap is finished.
        age_s: seconds since it began.
        due: demands to verify everything that were made before it began.
        clean: nothing differed in it so far.
    """

    laps: int
    position_us: int | None
    age_s: float
    due: frozenset[Demand]
    clean: bool


class Proof(NamedTuple):
    """What a look at one ship's span found; moments in microseconds.

    Attributes:
        stretch: ship and span.
        agrees: nothing differs now, and nothing is unsettled.
        through_us: up to where the span is proven; None: there is nothing of the ship in it.
        cells: compared.
    """

    stretch: Stretch
    agrees: bool
    through_us: int | None
    cells: int


class Group(NamedTuple):
    """A span that is looked at for some ships at once."""

    ships: tuple[str, ...]
    span: Span


class Recheck:
    """The tables `recheck`, `verify_lap` and `verified` of one pipeline; `conn` is in autocommit."""

    def __init__(self, conn: Connection, pipeline: str) -> None:
        self._conn = conn
        self._pipeline = pipeline
        self._values = {"pipeline": pipeline}

    def enter(self) -> None:
        """Become the pipeline's only follower, with all that a former one had taken given back.

        Raises:
            RetryableError: there is another one.
        """
        with retryable_errors("beginning to follow"):
            if not self._row("alone")[0]:
                raise RetryableError("another backfill verify --follow watches this pipeline")
            self._conn.execute(SQL["join"], self._values)
            self.give_back()

    def lap(self) -> Lap:
        """Where the rotation stands."""
        laps, position_us, age_s, due, clean = self._row("lap")
        return Lap(laps, position_us, age_s, frozenset((row[0], row[1], row[2]) for row in due), clean)

    def begin_lap(self, *, nothing_is_proven: bool) -> Lap:
        """From the oldest moment on; where changes may have been missed, nothing that was published holds."""
        with self._conn.transaction():
            if nothing_is_proven:
                self._conn.execute(SQL["nothing_is_proven"], self._values)
            due = Jsonb(verify_due(self._conn, self._pipeline))
            self._conn.execute(SQL["begin_lap"], {**self._values, "due": due})
            if self.lap().laps == 0:  # the first one looks at everything
                self._conn.execute(SQL["forget"], self._values)
        return self.lap()

    def due(self) -> frozenset[Demand]:
        """Why all cells must be verified."""
        return frozenset(verify_due(self._conn, self._pipeline))

    def copying(self) -> bool:
        """Whether history is still being copied."""
        return bool(self._row("copying")[0])

    def waiting(self) -> int:
        """Stretches in the queue."""
        return int(self._row("waiting")[0])

    def oldest_published(self) -> str | None:
        """The moment up to which every ship that has any is proven."""
        oldest: str | None = self._row("oldest_published")[0]
        return oldest

    def now(self) -> datetime:
        """The target's clock."""
        now: datetime = self._row("now")[0]
        return now

    def take(self, rest_s: float) -> list[Stretch]:
        """Take what has waited for `rest_s` since it was touched or last looked at."""
        values = {**self._values, "rest_s": rest_s, "limit": TAKE_AT_ONCE}
        return [Stretch(*row) for row in self._conn.execute(SQL["take"], values)]

    def give_back(self) -> None:
        """What was taken and is not proven waits again."""
        self._conn.execute(SQL["give_back"], self._values)

    def reached(self, proofs: Collection[Proof], as_of: datetime, position_us: int | None) -> Lap:
        """A piece of the lap was looked at; None finishes the lap."""
        clean = all(proof.agrees for proof in proofs)
        with self._conn.transaction():
            before = self.lap()
            gapless = before.laps > 0 or before.position_us is None  # the first piece has no other before it
            for proof in proofs:
                if not proof.agrees:
                    self._doubt(proof, as_of)
                self._publish(proof, as_of, gapless=gapless)
            self._conn.execute(SQL["reach"], {**self._values, "position_us": position_us, "clean": clean})
            lap = self.lap()
            if position_us is None and lap.clean:
                clear_due(self._conn, self._pipeline, lap.due)
        return lap

    def looked_at(self, taken: Collection[Stretch], proofs: Collection[Proof], as_of: datetime) -> None:
        """Stretches that were taken are looked at: what agrees leaves the queue, the rest waits again."""
        doubted = {proof.stretch.ship_id for proof in proofs if not proof.agrees}
        with self._conn.transaction():
            gapless = self.lap().laps > 0
            if proven := [stretch for stretch in taken if stretch.ship_id not in doubted]:
                self._conn.execute(SQL["done"], columns(self._pipeline, proven))
            for proof in proofs:
                self._publish(proof, as_of, gapless=gapless)

    def _doubt(self, proof: Proof, as_of: datetime) -> None:
        """Whatever lies behind the first cell that is not proven is looked at again."""
        ship, lower_us, upper_us = proof.stretch
        lower_us = lower_us if proof.through_us is None else max(lower_us, proof.through_us)
        values = {"ship": ship, "lower_us": lower_us, "upper_us": upper_us, "as_of": as_of}
        self._conn.execute(SQL["doubt"], {**self._values, **values})

    def _publish(self, proof: Proof, as_of: datetime, *, gapless: bool) -> None:
        values: dict[str, Any] = {**self._values, "ship": proof.stretch.ship_id, "as_of": as_of}
        before_us, limit_us = self._conn.execute(SQL["published"], values).fetchall()[0]
        through_us = published(before_us, proof, limit_us, gapless=gapless)
        if through_us is not None:
            self._conn.execute(SQL["publish"], {**values, "through_us": through_us, "cells": proof.cells})

    def _row(self, name: str) -> tuple[Any, ...]:
        return self._conn.execute(SQL[name], self._values).fetchall()[0]


def published(before_us: int | None, proof: Proof, limit_us: int | None, *, gapless: bool) -> int | None:
    """The moment up to which a ship is proven after a look. Pure.

    Args:
        before_us: what is published so far.
        proof: what the look found.
        limit_us: where the first stretch begins that was not proven when the look began.
        gapless: a lap was finished: what is not in the queue is proven.

    Returns:
        None: still nothing.
    """
    contiguous = gapless or (before_us is not None and before_us >= proof.stretch.lower_us)
    if not contiguous or proof.through_us is None:
        return before_us
    if not proof.agrees and before_us is not None and proof.through_us < before_us:
        return proof.through_us
    reached_us = proof.through_us if limit_us is None else min(proof.through_us, limit_us)
    return reached_us if before_us is None else max(before_us, reached_us)


def grouped(stretches: Iterable[Stretch]) -> list[tuple[Group, list[Stretch]]]:
    """Adjacent stretches of a ship become one span, and ships with the same span one group; oldest first. Pure."""
    spans: dict[tuple[int, int], list[list[Stretch]]] = {}
    run: list[Stretch] = []
    for stretch in [*sorted(stretches), None]:
        if run and (stretch is None or stretch.ship_id != run[-1].ship_id or stretch.lower_us > _end(run)):
            spans.setdefault((run[0].lower_us, _end(run)), []).append(run)
            run = []
        if stretch is not None:
            run.append(stretch)
    return [
        (Group(tuple(run[0].ship_id for run in runs), Span(*span)), [one for run in runs for one in run])
        for span, runs in sorted(spans.items())
    ]


def _end(run: list[Stretch]) -> int:
    return max(stretch.upper_us for stretch in run)
