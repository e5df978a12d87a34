"""What verify found, for a person, a program and a supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from widetable.dead_cells import created_time_text
from widetable.verify.cells_sql import HASH_VERSION
from widetable.verify.scope import Cell

Kind = Literal["missing", "different", "phantom"]

MEANING: Final = {
    "cells_compared": "non-NULL cells of the source in the range",
    "missing": "cells that the source has and the target has not",
    "different": "cells with another value in the target",
    "phantom": "cells that only the target has",
    "repaired": "of these three, cells that equal the source since --repair",
    "dead": "cells that differ because a value is recorded as dead",
    "kept": "deleted at the source, kept by choice (deletes = ignore)",
    "corrected": "cells that differ because a correction was imported",
    "beyond_source": "cells older than the source's oldest row, not compared",
    "unsettled": "cells that changed whenever looked at: run verify again",
    "overflow_pending": "cells that wait in overflow; they were compared",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One cell that differs; None is no value."""

    kind: Kind
    cell: Cell
    source: str | None
    target: str | None

    def as_dict(self) -> dict[str, Any]:
        """The difference with its moment as text."""
        ship, moment_us, channel = self.cell
        return {
            "kind": self.kind,
            "ship_id": ship,
            "created_time": created_time_text(moment_us),
            "channel_id": channel,
            "source": self.source,
            "target": self.target,
        }


@dataclass(frozen=True, slots=True)
class ShipResult:
    """What was proven about one ship; moments in microseconds.

    Attributes:
        ship_id: the ship.
        cells: source cells compared.
        agrees: no cell differs or is unsettled.
        from_us: where the proof starts; None: at the source's oldest row or before.
        through_us: all moments before this one were equal; None: the source has no cell of the ship.
    """

    ship_id: str
    cells: int
    agrees: bool
    from_us: int | None
    through_us: int | None

    def as_dict(self) -> dict[str, Any]:
        """The result with its moment as text."""
        through = None if self.through_us is None else created_time_text(self.through_us)
        return {"ship_id": self.ship_id, "cells": self.cells, "agrees": self.agrees, "equal_through": through}


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Full counts, and the first differences; `MEANING` says what each count is."""

    ships: Sequence[ShipResult]
    buckets: int
    cells_compared: int
    missing: int
    different: int
    phantom: int
    repaired: int
    dead: int
    kept: int
    corrected: int
    beyond_source: int
    unsettled: int
    overflow_pending: int
    seconds: float
    differences: Sequence[Difference]
    complete: bool = True  # False: stopped at the first differences, the counts are lower bounds

    @property
    def difference_count(self) -> int:
        """Cells that were found wrong in the target."""
        return self.missing + self.different + self.phantom

    @property
    def remaining(self) -> int:
        """Cells that were found wrong and not repaired."""
        return self.difference_count - self.repaired

    @property
    def agrees(self) -> bool:
        """Whether all cells were compared and none differs now."""
        return self.remaining == 0 and self.unsettled == 0

    @property
    def cells_per_second(self) -> float:
        """Source cells compared per second, all waiting included."""
        return self.cells_compared / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        counts = {name: getattr(self, name) for name in ("buckets", *MEANING)}
        return {
            "agrees": self.agrees,
            "complete": self.complete,
            "difference_count": self.difference_count,
            "remaining": self.remaining,
            **counts,
            "seconds": round(self.seconds, 3),
            "cells_per_second": round(self.cells_per_second),
            "hash_version": HASH_VERSION,
            "ships": [ship.as_dict() for ship in self.ships],
            "differences": [difference.as_dict() for difference in self.differences],
        }

    def as_text(self) -> str:
        """The report as a table for a terminal."""
        lines = [f"{len(self.ships)} ships, {self.buckets} buckets, {self.seconds:.1f} s"]
        lines[0] += f", {self.cells_per_second:,.0f} cells/s"
        lines += [f"  {name:<17}{getattr(self, name):>15,}  {meaning}" for name, meaning in MEANING.items()]
        if self.differences:
            lines += ["", f"the first {len(self.differences)} of {self.difference_count} differences:"]
            lines += [_line(difference) for difference in self.differences]
        if not self.complete:
            lines += ["", "stopped at the first differences: there may be more"]
        return "\n".join(lines)


def _line(difference: Difference) -> str:
    ship, moment_us, channel = difference.cell
    values = f"source {difference.source!r}, target {difference.target!r}"
    return f"  {difference.kind:<10}{ship}  {created_time_text(moment_us)}  {channel}: {values}"
