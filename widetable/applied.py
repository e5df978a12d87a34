"""What became of a batch: every event ends as exactly one of the kinds counted here."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass(frozen=True, slots=True)
class Applied:
    """Counts of one or more applied batches; add two with ``+``.

    Invariant: ``events == applied + superseded + overflow + dead``.
    """

    events: int = 0
    applied: int = 0  # in their column now, or already so
    superseded: int = 0  # folded, or outranked by a recorded version
    overflow: int = 0
    dead: int = 0
    format_mismatch: int = 0  # of the events: value found in another column than value_format names
    rows_new: int = 0
    rows_merged: int = 0  # existing rows that were really rewritten
    cells_set: int = 0  # cells overwritten with a recorded version
    # Cells sent to rows, present ones included. For metrics only: what became of events is equal without it.
    cells_written: int = field(default=0, compare=False)

    def __add__(self, other: Applied) -> Applied:
        """Field-wise sum."""
        return Applied(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Applied)))

    @property
    def balanced(self) -> bool:
        """Whether every event is accounted for."""
        return self.events == self.applied + self.superseded + self.overflow + self.dead
