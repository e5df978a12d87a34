"""The rule of one cell, written the plainest way: one event after the other. The oracle of the array code.

`Rule` names each safeguard, so that a test can switch one off and show what it is good for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from widetable.narrow import KIND, Op

Version = tuple[int, int]  # epoch, lsn


@dataclass(frozen=True, slots=True)
class Event:
    """A change of the cell; a READ has no version, a DELETE no value."""

    op: Op
    version: Version
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """What the target knows of a cell."""

    value: str | None = None
    version: Version | None = None
    kind: str = ""


UNKNOWN = Cell()
"""A cell that the target has never heard of."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The safeguards; all but the first are on in the product."""

    ignore_deletes: bool = False
    tombstones: bool = True  # a delete records its version
    update_versions: bool = True  # an update records its version
    creates_only_fill: bool = True
    reads_only_fill: bool = True
    creates_replace_kept: bool = True  # ignored deletes: a create above one replaces the value that was kept
    creates_replace_corrected: bool = True  # a create above a correction: the source had no sample then


APPLY = Rule()
IGNORE = Rule(ignore_deletes=True)


def apply(cell: Cell, event: Event, rule: Rule = APPLY) -> Cell:
    """The cell after one event."""
    match event.op:
        case Op.READ:
            return _read(cell, event, rule)
        case Op.CREATE:
            return _create(cell, event, rule)
        case _ if _outranked(cell, event):
            return cell
        case Op.DELETE:
            return _delete(cell, event, rule)
    return _assign(cell, event, rule)


def apply_all(cell: Cell, events: list[Event], rule: Rule = APPLY) -> Cell:
    """The cell after all events, in order."""
    for event in events:
        cell = apply(cell, event, rule)
    return cell


def _outranked(cell: Cell, event: Event) -> bool:
    return cell.version is not None and cell.version >= event.version


def _read(cell: Cell, event: Event, rule: Rule) -> Cell:
    if not rule.reads_only_fill and event.value is not None:
        return replace(cell, value=event.value)
    return replace(cell, value=event.value) if cell.value is None and cell.version is None else cell


def _create(cell: Cell, event: Event, rule: Rule) -> Cell:
    if not rule.creates_only_fill:
        return replace(cell, value=event.value)
    if _outranked(cell, event):
        return cell
    kept = rule.ignore_deletes and rule.creates_replace_kept and cell.kind == "d"
    if kept or (rule.creates_replace_corrected and cell.kind in {"k", "o"}):
        return Cell(event.value, event.version, "c")
    return replace(cell, value=event.value) if cell.value is None else cell


def _delete(cell: Cell, event: Event, rule: Rule) -> Cell:
    value = cell.value if rule.ignore_deletes else None
    return Cell(value, event.version, "d") if rule.tombstones else replace(cell, value=value)


def _assign(cell: Cell, event: Event, rule: Rule) -> Cell:
    if event.op is Op.UPDATE and not rule.update_versions:
        return replace(cell, value=event.value)
    return Cell(event.value, event.version, KIND[event.op])
