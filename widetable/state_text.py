"""Facts of a `status` command as text: a line for each part, then tables of partitions and ships.

In: facts by part, as `widetable.state` and the programs make them. Out: lines. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

MB: Final = 1 << 20
TABLES: Final = frozenset({"partitions", "ships", "plans"})
BARE: Final = frozenset({"state", "pipeline", "name", "error", "version"})
"""Their values need no label."""
NAMED: Final = 10
"""Entries of a list that are shown; JSON has all."""
UNGROUPED: Final = frozenset({"barrier_xid", "epoch"})

Facts = dict[str, Any]


def lines(facts: Facts) -> Iterator[str]:
    """The facts as text: one line per part, then a table of the partitions, and one of the ships."""
    for name, part in facts.items():
        shown = [_shown(key, value) for key, value in part.items() if key not in TABLES]
        if shown:
            yield f"{name.replace('_', '-'):<12}" + ", ".join(shown)
    if partitions := facts.get("stream", {}).get("partitions"):
        yield from ("", f"{'partition':>9} {'next offset':>14} {'end offset':>14} {'lag':>10}  owner")
        yield from map(_partition, partitions)
    if ships := facts.get("ships", {}).get("ships"):
        yield from ("", f"{'ship':<16} {'newest moment':<26} {'age':>15}  verified through")
        yield from map(_ship, ships)


def duration(seconds: float) -> str:
    """Days, hours, minutes and seconds, as a person reads them."""
    sign = "-" if seconds < 0 else ""
    return f"{sign}{timedelta(seconds=round(abs(seconds)))}"


def _partition(row: Facts) -> str:
    counts = f"{row['next_offset']:>14,} {row['end_offset']:>14,} {row['lag']:>10,}"
    return f"{row['partition']:>9} {counts}  {row['owner'] or '-'}"


def _ship(row: Facts) -> str:
    age = "-" if row["age_s"] is None else duration(row["age_s"])
    return f"{row['ship_id']:<16} {row['newest'] or '-':<26} {age:>15}  {row['verified_through'] or '-'}"


def _shown(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{key} {', '.join(_shown(*pair) for pair in value.items())}"
    if key == "budget_left_bytes" and value is None:
        return "budget unlimited"
    if key in MEASURES and value is not None:
        return MEASURES[key](value)
    return _plain(key, value)


MEASURES: Final[dict[str, Callable[[float], str]]] = {
    "retained_bytes": lambda size: f"retains {size / MB:,.0f} MB",
    "budget_left_bytes": lambda size: f"budget left {size / MB:,.0f} MB",
    "rows_per_s": lambda speed: f"{speed:,.0f} rows/s",
    "eta_s": lambda seconds: f"about {duration(seconds)} left",
}
"""What is shown in a unit of its own."""


def _plain(key: str, value: Any) -> str:
    if isinstance(value, list):
        more = [f"and {len(value) - NAMED:,} more"] if len(value) > NAMED else []
        value = ", ".join([*map(str, value[:NAMED]), *more])
    if isinstance(value, int) and key not in UNGROUPED:
        value = f"{value:,}"
    shown = "-" if value is None else str(value)
    return shown if key in BARE else f"{key.replace('_', ' ')} {shown}"
