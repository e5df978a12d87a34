"""Dead records once more, after their cause is mended: `cdc-consumer dead-letters replay`.

    letters -> today's Decoder -> Writer (the cell rule of all samples), while the stream stands still

In: numbers of letters. Out: an `Outcome` for each. Guarantees: a record is applied under its own epoch and LSN, as
the stream would have, so what is newer stays; its letter goes in the same transaction; a letter whose record
still can't be applied stays, and its outcome says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final

import pyarrow as pa

from cdc_consumer.dead_letters import SQL, numbered
from cdc_consumer.dead_letters_reading import AT_THE_SOURCE, Outcome, Reading, Ready
from cdc_consumer.registry import open_registry
from cdc_consumer.settings import Settings
from widetable.apply import Applied, Origin, Writer
from widetable.control import check_control
from widetable.errors import LayoutChangedError
from widetable.hand_off import HandOff, read_epochs, require_current, require_hand_off
from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US
from widetable.postgres import Connection, connect_target, retryable_errors
from widetable.standstill import standstill

APPLICATION: Final = "cdc-consumer dead-letters"
CHUNK: Final = 500
"""Letters of one transaction: a fraction of a second, for that is how long the stream waits."""

DUE: Final = "dead records of ended epochs were replayed"


@dataclass(slots=True)
class Replayed:
    """What a replay has done so far; the span of time covers the samples that it applied."""

    outcomes: list[Outcome] = field(default_factory=list)
    applied: Applied = field(default_factory=Applied)
    ships: set[str] = field(default_factory=set)
    first_us: int | None = None
    last_us: int | None = None

    @property
    def left(self) -> list[Outcome]:
        """Letters that are still dead."""
        return [outcome for outcome in self.outcomes if not outcome.replayed]

    def saw(self, samples: pa.RecordBatch) -> None:
        """Take note of which cells were touched; an infinite moment is none."""
        moments = samples.column("created_time").to_numpy()
        moments = moments[(moments >= FIRST_MOMENT_US) & (moments < LAST_MOMENT_US)]
        if len(moments):
            first_us, last_us = int(moments.min()), int(moments.max())
            self.ships |= set(samples.column("ship_id").to_pylist())
            self.first_us = first_us if self.first_us is None else min(self.first_us, first_us)
            self.last_us = last_us if self.last_us is None else max(self.last_us, last_us)


def replay(settings: Settings, wanted: Sequence[int], done: Replayed, *, ended_epochs: bool = False) -> None:
    """Replay the letters with these numbers, in chunks of one transaction each.

    Args:
        settings: where everything is.
        wanted: numbers; those that are gone meanwhile are left out.
        done: takes up what is done, also where an outage ends the replay half-way.
        ended_epochs: also records of epochs that ended; a full verify is then due.

    Raises:
        ConfigurationError: no hand-off, or a part is not set up.
        OutdatedError: a new epoch began meanwhile: run it again.
        RetryableError, UnreachableError: an outage; what is done is done, the rest is as it was.
    """
    pipeline = settings.pipeline.name
    with (
        closing(connect_target(settings.target, APPLICATION)) as conn,
        closing(open_registry(settings.registry)) as registry,
    ):
        check_control(conn, settings.target.control_schema)
        current = require_hand_off(conn, pipeline)
        epochs = read_epochs(conn, pipeline)
        reading = Reading(
            registry, settings.source.table, epochs, ended_epochs=ended_epochs, topic=settings.topic
        )
        applying = Applying(conn, current)
        for start in range(0, len(wanted), CHUNK):
            letters = numbered(conn, pipeline, wanted[start : start + CHUNK])
            read = [reading.read(letter) for letter in letters]  # before the stream stands still
            done.outcomes += [outcome for outcome in read if isinstance(outcome, Outcome)]
            applying.apply([ready for ready in read if isinstance(ready, Ready)], done)


class Applying:
    """Writes what was read, while the stream stands still."""

    def __init__(self, conn: Connection, current: HandOff) -> None:
        self._conn = conn
        self._current = current
        self._writer = Writer(conn)
        with retryable_errors("loading the layout"):
            self._writer.load()

    def apply(self, chunk: Sequence[Ready], done: Replayed) -> None:
        """Apply the chunk in one transaction, and note its outcomes once that is committed."""
        while chunk:
            part = Replayed()
            try:
                with retryable_errors("replaying"), standstill(self._conn, self._current.pipeline):
                    self._transaction(chunk, part)
            except LayoutChangedError:
                with retryable_errors("loading the layout"):
                    self._writer.load()
                continue
            done.outcomes += part.outcomes
            done.applied += part.applied
            for ready in chunk:
                done.saw(ready.decoded.batch)
            return

    def _transaction(self, chunk: Sequence[Ready], part: Replayed) -> None:
        require_current(self._conn, self._current)
        self._writer.begin()
        listed = [ready.letter.number for ready in chunk]
        there = {number for (number,) in self._conn.execute(SQL["remove"], {"numbers": listed})}
        present = sorted(
            (ready for ready in chunk if ready.letter.number in there),
            key=lambda ready: (ready.letter.topic_id, ready.letter.partition, ready.letter.offset),
        )
        for _, group in groupby(present, key=lambda ready: ready.letter.topic_id):
            self._apply_topic(list(group), part)
        if any(ready.ended_epoch for ready in present):
            self._conn.execute(SQL["require_verify"], {"pipeline": self._current.pipeline, "reason": DUE})

    def _apply_topic(self, group: Sequence[Ready], part: Replayed) -> None:
        first = group[0].letter
        origin = Origin(self._current.pipeline, first.topic, first.topic_id)
        samples = pa.Table.from_batches([ready.decoded.batch for ready in group]).combine_chunks()
        for batch in samples.to_batches():
            part.applied += self._writer.apply(batch, [], origin)
        again = self._dead_again(group)
        for letter in map(attrgetter("letter"), group):
            text = again.get((letter.partition, letter.offset))
            part.outcomes.append(Outcome(letter.number, text is None, text or ""))

    def _dead_again(self, group: Sequence[Ready]) -> dict[tuple[int, int], str]:
        """Records that can be read now and hold a value that is dead by itself, which has a letter of its own."""
        values = {
            "topic_id": group[0].letter.topic_id,
            "partitions": [ready.letter.partition for ready in group],
            "offsets": [ready.letter.offset for ready in group],
        }
        return {
            (
                partition,
                offset,
            ): f"it can be read now, but its value is dead by itself ({reason}: {detail}; now"
            f" number {number}): {AT_THE_SOURCE}"
            for partition, offset, number, reason, detail in self._conn.execute(SQL["dead_again"], values)
        }
