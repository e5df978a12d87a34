"""Overflow drained into a new column: every cell is what it would be, had the column been there from the start."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.governed_target import LISTS, NEW, Open, Target, event, governed_targets
from widetable.channel_map import ChannelList
from widetable.drain import Destination, Drain
from widetable.layout_lock import layout_change
from widetable.narrow import Op
from widetable.registry import require_registry

pytestmark = pytest.mark.postgres

NEWCOMERS = (NEW, "/v1/me02//newer")


@pytest.fixture
def open_target(target_dsn: str) -> Iterator[Open]:
    """Makes targets with ship S1."""
    with governed_targets(target_dsn) as make:
        yield make


def history(rng: random.Random, moments: int) -> list[dict[str, Any]]:
    """What a source does to some cells of new channels, in commit order, with replays of events in between."""
    present: dict[tuple[int, str], str] = {}
    events: list[dict[str, Any]] = []
    for lsn in range(1, 4 * moments * len(NEWCOMERS)):
        cell = moment, channel = rng.randrange(moments), rng.choice(NEWCOMERS)
        value = str(lsn)
        op = rng.choice([Op.UPDATE, Op.DELETE, Op.READ]) if cell in present else Op.CREATE
        if op == Op.READ:  # a slice that reads the cell as it is now
            value = present[cell]
        elif op == Op.DELETE:
            del present[cell]
        else:
            present[cell] = value
        sent = None if op == Op.DELETE else value
        events.append(event(op, sent, channel=channel, moment_s=moment, lsn=lsn))
        if rng.random() < 0.2:  # Debezium delivers a suffix again
            events += [old for old in events[-rng.randrange(1, 6) :] if old["op"] != Op.READ]
    return events


def drain_a_little(target: Target, rng: random.Random) -> None:
    """A chunk of an interrupted governor: some cells, long before the channel is live."""
    with layout_change(target.conn):
        registry = require_registry(target.conn)
        pending = tuple(column for column in registry.columns[2] if column.pending)
        if pending:
            to = Destination("S1", registry.wide_schema, "tbl_data_timeseries_s1_2", pending)
            Drain(target.conn, to, ignore_deletes=registry.deletes == "ignore").fill(rng.randrange(1, 6))


@pytest.mark.parametrize("deletes", ["apply", "ignore"])
def test_a_late_column_holds_what_an_early_one_would(open_target: Open, deletes: str) -> None:
    """Whenever the governor comes, however often it is interrupted: same cells as with a column from the start.

    Versions are the same too, but for a re-insert whose delete was ignored: overflow keeps the delete's.
    """
    with_columns = ChannelList(2, "engine_generator", (*LISTS[1].channel_ids, *NEWCOMERS))
    for seed in range(6):
        rng = random.Random(seed)
        early = open_target(f"early_{seed}", (LISTS[0], with_columns, LISTS[2]), deletes=deletes)
        late = open_target(f"late_{seed}", deletes=deletes)
        run_history(rng, early, late)
        assert late.overflow() == []
        kept = slice(1) if deletes == "ignore" else slice(2)
        expected = {cell: content[kept] for cell, content in early.cells().items()}
        assert {cell: content[kept] for cell, content in late.cells().items()} == expected, f"seed {seed}"


def run_history(rng: random.Random, early: Target, late: Target) -> None:
    """The same batches to both; the late target's governor is cut short until a random point."""
    events = history(rng, 3)
    governed = rng.randrange(1, len(events))
    while events:
        size = rng.randrange(1, 6)
        batch, events = events[:size], events[size:]
        for target in (early, late):
            target.write(*batch)
        if len(events) > governed:
            late.govern(step_s=-1)  # registers, adds the column, has no time for more
            drain_a_little(late, rng)
        else:
            late.govern()
    assert late.govern().stuck == []


# -- values that can't be moved ---------------------------------------------------------------------------------


def test_values_that_do_not_fit_stay_in_overflow(open_target: Open) -> None:
    """The most frequent format makes the type; what the column would change stays, and the column shows NULL."""
    target = open_target(column_type="typed")
    target.write(
        *(event(Op.CREATE, f"{second}.5", moment_s=second) for second in range(3)),
        event(Op.CREATE, "0.10", moment_s=4, form="String"),
        event(Op.UPDATE, "no number", moment_s=5, lsn=7, form="String"),
        event(Op.UPDATE, "6.5", moment_s=6, lsn=8),
        event(Op.DELETE, None, moment_s=7, lsn=9),
        event(Op.CREATE, "late", moment_s=7, lsn=10, form="String"),
        event(Op.CREATE, "NaN", moment_s=8),
    )
    assert target.govern().live_channels == [NEW]
    assert target.overflow() == [
        ("S1", NEW, "0.10", None, "does_not_fit"),
        ("S1", NEW, "no number", "u", "does_not_fit"),
        ("S1", NEW, "late", None, "does_not_fit"),
    ]
    values = {second: cell for (second, _), cell in target.cells().items()}
    assert values == {
        0: ("0.5", None),
        1: ("1.5", None),
        2: ("2.5", None),
        5: (None, [1, 7, "o"]),
        6: ("6.5", [1, 8, "u"]),
        7: (None, [1, 9, "d"]),
        8: ("NaN", None),
    }


def test_a_version_goes_to_the_column_when_no_value_of_its_channel_fits(open_target: Open) -> None:
    """The stream is read again, and the column does not take what came before the value that stays outside."""
    target = open_target(column_type="typed")
    created = event(Op.CREATE, "1.5", lsn=5)
    target.write(created, event(Op.UPDATE, "2.50", lsn=7))
    assert target.govern().live_channels == [NEW]
    target.write(created)
    assert target.cells() == {(0, NEW): (None, [1, 7, "o"])}
    assert target.overflow() == [("S1", NEW, "2.50", "u", "does_not_fit")]


@pytest.mark.parametrize(
    ("form", "values", "column_type"),
    [
        ("Integer", ["1", "-9223372036854775808"], "int8"),
        ("Boolean", ["true", "false"], "bool"),
        ("String", ["", " x\t\\N'\n"], "text"),
        ("Decimal", ["-0", "1e+16"], "float8"),
    ],
)
def test_a_new_typed_channel_has_the_type_of_its_format(
    open_target: Open, form: str, values: list[str], column_type: str
) -> None:
    """And its values come out as the same text."""
    target = open_target(column_type="typed")
    target.write(*(event(Op.CREATE, value, moment_s=i, form=form) for i, value in enumerate(values)))
    target.govern()
    (column,) = [column for column in require_registry(target.conn).columns[2] if column.channel_id == NEW]
    assert column.column_type == column_type
    assert [value for value, _ in target.cells().values()] == values


@pytest.mark.parametrize("op", [Op.CREATE, Op.UPDATE])
def test_cells_of_a_row_too_big_for_its_page_stay_in_overflow(open_target: Open, op: Op) -> None:
    """One full row costs no other row its cell."""
    channels = tuple(f"/v1/me01//{i}" for i in range(430))
    target = open_target(lists=(LISTS[0], ChannelList(2, "engine_generator", channels), LISTS[2]))
    # 336 texts of 24 bytes, 80 of header and 8 of created_time: 8 bytes of the page are left.
    target.write(*(event(Op.CREATE, "x" * 23, channel=channel, form="String") for channel in channels[:336]))
    target.write(*(event(op, "y" * 23, moment_s=second, lsn=5, form="String") for second in range(9)))
    add_pending_channel(target)
    report = target.govern()
    assert report.live_channels == [NEW]
    assert target.overflow() == [("S1", NEW, "y" * 23, None if op == Op.CREATE else "u", "row_too_big")]
    assert {second for second, channel in target.cells() if channel == NEW} == set(range(1, 9))


def add_pending_channel(target: Target) -> None:
    """Register the new channel past the planner, which would refuse it."""
    with layout_change(target.conn):
        target.conn.execute(
            "INSERT INTO channel (channel_id, table_no, column_name, column_type, state)"
            " VALUES (%s, 2, %s, 'text', 'pending')",
            [NEW, NEW],
        )
