"""Resync heals what backfill can't, yields to the stream, and stands beside it without a gap."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pyarrow as pa
import pytest
from psycopg import sql

from tests.verify_sides import LATER, LOAD, NOON, SHIP, SPEED, STATE, Sides
from tests.waiting import wait_until
from widetable.apply import Origin, Writer
from widetable.barrier import source_identity, take_barrier
from widetable.control import check_control
from widetable.errors import ConfigurationError, StoppedError
from widetable.hand_off import HandOff, write_hand_off
from widetable.narrow import NARROW_SCHEMA, Op
from widetable.postgres import connect_target
from widetable.resync import CellKey, Resync

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.verify_fixture"]

PIPELINE = "narrow_to_wide"
NOON_US = 1_767_268_800_000_000
EPOCH = 2
WAITING = """
SELECT FROM resync r JOIN pg_stat_activity a ON a.pid = r.backend_pid AND a.backend_start = r.backend_start
WHERE a.wait_event_type = 'Lock'
"""
STREAM = Origin(PIPELINE, "topic", "topic-id")


@pytest.fixture
def healing(sides: Sides) -> Iterator[Resync]:
    """A resync in epoch 2; the ledger has three partitions."""
    hand_over(sides)
    with closing(Resync(sides.source_settings, sides.target_settings, PIPELINE)) as resync:
        yield resync


def hand_over(sides: Sides, cluster: str | None = None) -> None:
    """Begin epoch 2 behind a barrier."""
    sides.target.execute("TRUNCATE hand_off, offset_ledger, resync")
    write_hand_off(
        sides.target,
        HandOff(
            pipeline=PIPELINE,
            epoch=EPOCH,
            system_identifier=cluster or source_identity(sides.source).system_identifier,
            timeline=1,
            slot="slot",
            publication="publication",
            consistent_point=1,
            barrier_xid=take_barrier(sides.source),
            topic="topic",
            topic_id="topic-id",
            boundary_offsets={0: 0, 1: 0, 2: 0},
            placeholder="placeholder",
        ),
    )


def cell(channel: str, ship: str = SHIP) -> CellKey:
    """A cell at noon."""
    return ship, NOON_US, channel


def entry(sides: Sides, channel: str, at: str = NOON) -> object:
    """What the row has recorded of a cell: [epoch, lsn, kind]."""
    query = "SELECT table_no, ordinal FROM channel WHERE channel_id = %s"
    number, ordinal = sides.target.execute(query, [channel]).fetchall()[0]
    table = sql.Identifier("tenant", f"tbl_data_timeseries_{SHIP.lower()}_{number}")
    rows = sides.target.execute(
        sql.SQL("SELECT _x -> {} FROM {} WHERE created_time = {}").format(
            sql.Literal(str(ordinal)), table, sql.Literal(at)
        )
    ).fetchall()
    return rows[0][0] if rows else None


def event(op: Op, channel: str, value: float | None, version: tuple[int, int]) -> pa.RecordBatch:
    """One event of the stream, about the cell at noon."""
    sample = {
        "ship_id": SHIP,
        "channel_id": channel,
        "created_time": NOON_US,
        "value_format": None if value is None else "Decimal",
        "double_v": None if value is None else f"{value:g}",
        "op": op,
        "epoch": version[0],
        "lsn": version[1],
        "source_ms": 0,
        "partition": 0,
        "offset": version[1],
        "record_ms": 0,
    }
    return pa.RecordBatch.from_pylist([sample], NARROW_SCHEMA)


@contextmanager
def stream(sides: Sides) -> Iterator[Writer]:
    """A live writer on a session of its own."""
    with connect_target(sides.target_settings, "stream") as conn:
        check_control(conn, sides.target_settings.control_schema)
        writer = Writer(conn)
        writer.load()
        yield writer


def write(writer: Writer, batch: pa.RecordBatch) -> None:
    """One batch of the stream, ledger row first."""
    conn = writer._conn
    with conn.transaction():
        conn.execute("UPDATE offset_ledger SET next_offset = next_offset + 1 WHERE partition = 0")
        writer.begin()
        writer.apply(batch, [], STREAM)


def test_each_kind_of_loss_is_healed(sides: Sides, healing: Resync) -> None:
    """Lost update, delete, re-insert and insert, and a phantom."""
    sides.both(LOAD, "1", double_v=1.0)
    sides.update(LOAD, double_v=2.0)
    sides.both(SPEED, "1", double_v=1.0)
    sides.delete(SPEED)
    sides.sample(STATE, str_v="again")
    sides.hold(STATE, None, kind="d")
    sides.sample(LOAD, LATER, double_v=3.0)
    sides.hold(SPEED, "9", LATER)
    assert sides.verify().difference_count == 5
    applied = healing.heal(
        [
            cell(LOAD),
            cell(SPEED),
            cell(STATE),
            (SHIP, NOON_US + 15_000_000, LOAD),
            (SHIP, NOON_US + 15_000_000, SPEED),
        ]
    )
    assert applied.events == applied.applied == 5
    assert sides.verify().agrees
    assert entry(sides, SPEED) == [EPOCH, 0, "s"]


def test_the_stream_of_this_epoch_outranks_a_resync_and_the_one_before_does_not(
    sides: Sides, healing: Resync
) -> None:
    """Old events replayed stay without effect; an update, delete or re-insert of this epoch applies."""
    sides.sample(LOAD, double_v=5.0)
    healing.heal([cell(LOAD)])
    with stream(sides) as writer:
        for op in (Op.CREATE, Op.UPDATE, Op.DELETE):
            write(writer, event(op, LOAD, None if op is Op.DELETE else 1.0, (EPOCH - 1, 10**9)))
        assert sides.verify().agrees
        write(writer, event(Op.UPDATE, LOAD, 6.0, (EPOCH, 7)))
        assert entry(sides, LOAD) == [EPOCH, 7, "u"]
        sides.update(LOAD, double_v=6.0)
        assert sides.verify().agrees
        healing.heal([cell(LOAD)])
        assert entry(sides, LOAD) == [EPOCH, 7, "u"]
        write(writer, event(Op.DELETE, LOAD, None, (EPOCH, 8)))
        write(writer, event(Op.CREATE, LOAD, 7.0, (EPOCH, 9)))
    sides.update(LOAD, double_v=7.0)
    assert sides.verify().agrees


def test_a_correction_of_this_epoch_is_spared(sides: Sides, healing: Resync) -> None:
    """It has a higher version."""
    sides.sample(LOAD, double_v=5.0)
    with stream(sides) as writer:
        write(writer, event(Op.CORRECTION, LOAD, 4.0, (EPOCH, 50)))
    assert healing.heal([cell(LOAD)]).superseded == 1
    assert sides.verify().corrected == 1


def test_a_resync_waits_for_the_batch_in_work_and_reads_after_it(sides: Sides, healing: Resync) -> None:
    """Else it would read an absence, and wipe out the row that the batch creates."""
    sides.both(SPEED, "1", "2026-01-01 00:00:00", double_v=1.0)
    with stream(sides) as writer:
        conn = writer._conn
        with conn.transaction():
            conn.execute("UPDATE offset_ledger SET next_offset = 1 WHERE partition = 1")
            thread = threading.Thread(target=healing.heal, args=[[cell(LOAD)]])
            thread.start()
            wait_until(lambda: sides.target.execute(WAITING).fetchone() is not None, "the resync waits")
            sides.sample(LOAD, double_v=1.0)
            writer.begin()
            writer.apply(event(Op.CREATE, LOAD, 1.0, (EPOCH, 3)), [], STREAM)
        thread.join()
    assert sides.verify().agrees
    assert sides.target.execute("SELECT FROM resync").fetchone() is None


def test_cells_without_a_column_are_healed_in_overflow(sides: Sides, healing: Resync) -> None:
    """An unknown channel, and a ship that has no tables."""
    sides.sample("new/channel", double_v=2.0)
    sides.overflow("new/channel", "1")
    sides.overflow("new/gone", "1")
    sides.sample(LOAD, ship="IMO9999999", double_v=2.0)
    healing.heal([cell("new/channel"), cell("new/gone"), cell(LOAD, "IMO9999999")])
    assert sides.verify().agrees
    rows = sides.target.execute(
        "SELECT channel_id, value, epoch, lsn, kind FROM overflow_cell ORDER BY channel_id"
    ).fetchall()
    assert rows == [
        (LOAD, "2", EPOCH, 0, "s"),
        ("new/channel", "2", EPOCH, 0, "s"),
        ("new/gone", None, EPOCH, 0, "s"),
    ]


def test_what_the_source_dropped_with_all_its_time_is_left_alone(sides: Sides, healing: Resync) -> None:
    """A dropped partition is no delete."""
    sides.both(LOAD, "1", LATER, double_v=1.0)
    sides.hold(LOAD, "9")
    assert healing.heal([cell(LOAD)]).events == 0
    assert sides.verify().beyond_source == 1


def test_an_ignored_delete_that_was_lost_is_recorded_and_its_value_kept(
    sides: Sides, healing: Resync
) -> None:
    """The choice of the deployment holds for deletes that nobody saw, too."""
    sides.target.execute("UPDATE layout SET deletes = 'ignore'")
    sides.both(SPEED, "1", "2026-01-01 00:00:00", double_v=1.0)
    sides.hold(LOAD, "9")
    assert sides.verify().phantom == 1
    healing.heal([cell(LOAD)])
    report = sides.verify()
    assert (report.phantom, report.kept) == (0, 1)
    assert entry(sides, LOAD) == [EPOCH, 0, "d"]


def test_many_cells_go_in_chunks(sides: Sides, healing: Resync, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream waits for one chunk at a time."""
    monkeypatch.setattr("widetable.resync.CHUNK_CELLS", 2)
    moments = [f"2026-01-01 12:00:{second:02}" for second in range(5)]
    for at in moments:
        sides.sample(LOAD, at, double_v=1.0)
    healing.heal([(SHIP, NOON_US + second * 1_000_000, LOAD) for second in range(5)])
    assert sides.verify().agrees


def test_another_cluster_or_no_hand_off_is_refused(sides: Sides) -> None:
    """Its state says nothing about the stream's source."""
    hand_over(sides, cluster="1")
    with closing(Resync(sides.source_settings, sides.target_settings, PIPELINE)) as resync:
        with pytest.raises(StoppedError, match="the stream comes from"):
            resync.heal([cell(LOAD)])
        sides.target.execute("TRUNCATE hand_off")
        with pytest.raises(ConfigurationError, match="no hand-off"):
            resync.heal([cell(LOAD)])
