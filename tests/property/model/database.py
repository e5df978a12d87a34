"""The target in memory: cells, ledgers and transactions, with the product's rule deciding what is written.

What SQL does here is little, and `test_writer` and `test_ledger` prove it on PostgreSQL: a batch is all or
nothing, and a ledger row moves on only for the owner who knows its fence and its batch number. Each safeguard
can be switched off, to see that its absence is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from cdc_consumer.target import PartitionBatch
from tests.consumer_world import Ledger
from tests.debezium_events import PLACEHOLDER
from tests.property.model.arrays import versions_of, written
from tests.property.model.cell import APPLY, UNKNOWN, Cell, Event, Rule, apply
from tests.property.model.source_table import Key
from widetable.applied import Applied
from widetable.cells import read_events
from widetable.errors import FenceLostError
from widetable.ledger import Claim
from widetable.narrow import Op
from widetable.rule import fold, resolve
from widetable.values import settle

Cells = dict[Key, Cell]
Point = Literal["before the ledger", "between ledger and data", "before the commit", "after the commit"]


class Violation(AssertionError):  # noqa: N818 - what the search looks for, not an error of the program
    """An invariant does not hold; the message begins with its name."""


def require(holds: bool, invariant: str, detail: object = "") -> None:
    """Raise unless the invariant holds."""
    if not holds:
        raise Violation(f"{invariant}: {detail}")


@dataclass(frozen=True, slots=True)
class Safeguards:
    """What keeps data safe; all on in the product."""

    rule: Rule | None = None  # None: the product's own fold and resolve
    whole_fold: bool = True  # off: a batch's last event of each cell is all that counts
    barrier: bool = True  # slices wait for what the slot's start may hide
    placeholders_pass: bool = True  # off: an update without its value records a version
    versions_in_row: bool = True  # off: in a side table, read on the statement's old snapshot
    chain: Literal["fence and number", "number", "offset"] = "fence and number"
    low_water: bool = True  # off: the ledger passes what is held
    one_transaction: bool = True  # off: the ledger row commits before the data


class Database(Ledger):
    """Wide cells beside the ledger."""

    def __init__(self, safeguards: Safeguards) -> None:
        super().__init__()
        self.guard = safeguards
        self.cells: Cells = {}
        self.changes = 0  # cells rewritten
        self.applied_total = Applied()
        self.events = 0

    def transact(
        self, claim: Claim, batch: PartitionBatch, reach: Callable[[Point], None]
    ) -> tuple[Claim, Applied]:
        """One batch of the stream in one transaction; `reach` may break it off at any point."""
        reach("before the ledger")
        row = self.rows[claim.partition]
        advanced = self._advanced(claim, batch.to)
        if not self.guard.one_transaction:
            self.rows[claim.partition] = advanced
        reach("between ledger and data")
        cells, applied = self._after(batch.samples)
        require(applied.balanced, "I5", applied)
        reach("before the commit")
        require(self.rows[claim.partition] in (row, advanced), "I4", "two transactions held one ledger row")
        self.rows[claim.partition] = advanced
        self._install(cells)
        offsets = batch.samples.column("offset").to_pylist()
        self.batches.append((claim.partition, offsets, [cell.offset for cell in batch.dead]))
        self.events += batch.samples.num_rows
        self.applied_total += applied
        reach("after the commit")
        return Claim(claim.partition, advanced.fence, advanced.batch_no, advanced.next_offset), applied

    def _advanced(self, claim: Claim, to: int) -> Any:
        """What `ledger.sql` makes of the row; then what must be true of it, whatever it asked."""
        row, chain = self.rows[claim.partition], self.guard.chain
        passes = {
            "fence and number": (row.fence, row.batch_no) == (claim.fence, claim.batch_no),
            "number": row.batch_no == claim.batch_no,
            "offset": row.next_offset == claim.next_offset,
        }
        if not passes[chain]:
            raise FenceLostError(f"partition {claim.partition} belongs to somebody else now")
        require(row.batch_no == claim.batch_no, "I4", f"batch {claim.batch_no + 1} exists already: {row}")
        require(to >= row.next_offset, "I4", f"the ledger goes back from {row.next_offset} to {to}")
        if chain != "offset":
            require(row.fence == claim.fence, "a stale process writes", f"{claim} at {row}")
        return replace(row, batch_no=row.batch_no + 1, next_offset=to)

    def copy_in(self, batch: pa.RecordBatch, begun: Cells) -> None:
        """A slice; `begun` is what its statement's snapshot held."""
        cells, applied = self._after(batch, None if self.guard.versions_in_row else begun)
        require(applied.balanced, "I5", applied)
        self._install(cells)

    def _install(self, cells: Cells) -> None:
        for key, cell in cells.items():
            before = self.cells.get(key, UNKNOWN)
            require((cell.version or (0, 0)) >= (before.version or (0, 0)), "I3", f"{key}: {before}, {cell}")
            self.changes += before != cell
            self.cells[key] = cell

    # -- what a batch makes of its cells --------------------------------------------------------------------

    def _after(self, batch: pa.RecordBatch, snapshot: Cells | None = None) -> tuple[Cells, Applied]:
        guard = self.guard
        if guard.rule or not guard.whole_fold or not guard.placeholders_pass:
            return self._one_by_one(batch)
        events = read_events(batch, settle(batch).value)
        folded = fold(events)
        rows, ships = events.rows, np.array(events.rows.ships, dtype=object)
        keys = [
            Key(ships[rows.ship[row]], events.channels[channel], int(rows.moment[row]))
            for row, channel in zip(folded.row.tolist(), folded.channel.tolist(), strict=True)
        ]
        current = [self.cells.get(key, UNKNOWN) for key in keys]
        known = current if snapshot is None else [snapshot.get(key, UNKNOWN) for key in keys]
        resolved = resolve(folded, events, versions_of(known))
        superseded = len(events) - folded.event_count() + resolved.superseded
        applied = Applied(len(events), folded.event_count() - resolved.superseded, superseded)
        return {key: written(current[i], events, resolved, i) for i, key in enumerate(keys)}, applied

    def _one_by_one(self, batch: pa.RecordBatch) -> tuple[Cells, Applied]:
        """The rule as `model.cell` has it, which has more to switch off."""
        events = list(events_of(batch))
        if not self.guard.whole_fold:
            events = list(dict(events).items())
        cells: Cells = {}
        for key, event in events:
            cell = cells.get(key, self.cells.get(key, UNKNOWN))
            if event.value == PLACEHOLDER:
                event = replace(event, value=cell.value)  # noqa: PLW2901 - records a version, knows no value
            cells[key] = apply(cell, event, self.guard.rule or APPLY)
        return cells, Applied(batch.num_rows, batch.num_rows)


def events_of(batch: pa.RecordBatch) -> Iterable[tuple[Key, Event]]:
    """The rows of a `NarrowBatch`, one by one."""
    for row in batch.to_pylist():
        key = Key(row["ship_id"], row["channel_id"], row["created_time"])
        yield key, Event(Op(row["op"]), (row["epoch"], row["lsn"]), row["str_v"])
