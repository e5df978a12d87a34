"""What each scenario found, as one row of the published matrix: a table on the terminal, `build/faults.json`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

FILE: Final = Path("build") / "faults.json"
HEAD: Final = ("row", "case", "runs", "events", "fired", "differences", "recovery p50", "p99")


@dataclass(slots=True)
class Record:
    """One run of one scenario with one seed.

    Attributes:
        row: the fault's number in the matrix.
        case: which of its cases.
        seed: of the load and of every random choice.
        control: a safeguard was off, and a difference is what must be found.
        events: changes that the load committed.
        fired: how often the fault was seen to happen.
        differences: cells that differ at rest, and broken links of the ledger's chain; None where nobody looked.
        recovery_s: from the end of each fault until a row written then has arrived; empty where a command heals.
    """

    row: str
    case: str
    seed: int
    control: bool = False
    events: int = 0
    fired: int = 0
    differences: int | None = None
    recovery_s: list[float] = field(default_factory=list)


def write(records: Iterable[Record]) -> None:
    """Write all runs and their summary, for programs and for the page of the matrix."""
    runs = in_order(records)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({"rows": summaries(runs), "runs": [asdict(run) for run in runs]}, indent=2))
    FILE.with_suffix(".md").write_text(markdown(runs))


def in_order(records: Iterable[Record]) -> list[Record]:
    """By row, case and seed."""
    return sorted(records, key=lambda record: (int(record.row[1:]), record.case, record.seed))


def summaries(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One summary per case, over its seeds."""
    cases: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        cases.setdefault((record.row, record.case), []).append(record)
    return [_summary(runs) for runs in cases.values()]


def _summary(runs: list[Record]) -> dict[str, Any]:
    recoveries = [seconds for run in runs for seconds in run.recovery_s]
    judged = [run.differences for run in runs if run.differences is not None]
    return {
        "row": runs[0].row,
        "case": runs[0].case,
        "control": runs[0].control,
        "seeds": [run.seed for run in runs],
        "events": sum(run.events for run in runs),
        "fired": sum(run.fired for run in runs),
        "differences": sum(judged) if len(judged) == len(runs) else None,
        "recovery_p50_s": round(statistics.median(recoveries), 2) if recoveries else None,
        "recovery_p99_s": round(_p99(recoveries), 2) if recoveries else None,
    }


def markdown(records: Iterable[Record]) -> str:
    """The matrix as the page about it shows it."""
    head, *rows = cells(records)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _p99(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]


def table(records: Iterable[Record]) -> list[str]:
    """The matrix as lines of text."""
    rows = cells(records)
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def cells(records: Iterable[Record]) -> list[list[str]]:
    """The matrix cell by cell, its heading first."""
    rows = [list(HEAD)]
    for row in summaries(records):
        case = f"{row['case']} (control)" if row["control"] else row["case"]
        recovery = [
            f"{row[name]:.1f} s" if row[name] is not None else ""
            for name in ("recovery_p50_s", "recovery_p99_s")
        ]
        counts = (f"{row[name]:,}" for name in ("events", "fired"))
        found = "not judged" if row["differences"] is None else f"{row['differences']:,}"
        rows.append([row["row"], case, str(len(row["seeds"])), *counts, found, *recovery])
    return rows
