"""`cdc-consumer dead-letters replay` on a real target: records once more, after their cause is mended."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from tests.dead_letters_world import (
    CELL,
    FIRST_OFFSET,
    HAND_OFF,
    FakeRegistry,
    Run,
    bury,
    inserted,
    numbers,
    row,
)
from tests.debezium_events import VALUE_ID, change
from tests.pipeline_world import wait_for
from tests.property.model.cell import Cell
from tests.writer_samples import (
    LOAD,
    NOON_US,
    SHIP,
    STATE,
    TICK_US,
    Key,
    copied,
    created,
    deleted,
    updated,
)
from tests.writer_world import HISTORY, WriterWorld
from widetable.apply import Writer
from widetable.errors import ExitCode, RetryableError
from widetable.hand_off import end_epoch, read_hand_off, write_hand_off
from widetable.postgres import connect_target

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.writer_fixture", "tests.dead_letters_fixture"]


def test_a_replay_after_the_cause_is_mended_applies_the_record_and_removes_the_letter(
    world: WriterWorld, registry: FakeRegistry, run: Run
) -> None:
    """The registry had lost a schema; until it is back the letter stays, and says why."""
    (number,) = bury(world, inserted())
    code, out, err = run("replay", number)
    assert code == ExitCode.PARTIAL
    assert (
        f"{number}: still dead: unknown_schema: the schema registry has no schema with id {VALUE_ID}" in out
    )
    assert "1 of 1 dead cells are left" in err
    assert (world.cells(), numbers(world)) == ({}, [number])
    registry.learn()
    code, out, err = run("replay", number)
    assert (code, err) == (ExitCode.DONE, "")
    assert "replayed 1 of 1: 1 samples applied" in out
    assert (
        f"backfill verify --ship-id {SHIP} --from 2026-01-01T12:00:00.000000 --until 2026-01-01T12:00:00"
        in out
    )
    assert (world.cells(), numbers(world)) == ({CELL: Cell("early")}, [])


@pytest.mark.parametrize(
    ("later", "cell"),
    [
        pytest.param(updated("late", lsn=20), Cell("late", (1, 20), "u"), id="an update"),
        pytest.param(deleted(lsn=20), Cell(None, (1, 20), "d"), id="a delete"),
    ],
)
@pytest.mark.parametrize("op", ["c", "u"])
def test_a_replay_sets_nothing_back(
    world: WriterWorld, registry: FakeRegistry, run: Run, later: Any, cell: Cell, op: str
) -> None:
    """What the stream brought after the dead record stays, an empty cell included."""
    bury(world, change(op, row(), row() if op == "u" else None, lsn=10))
    world.write([later])
    registry.learn()
    code, out, _ = run("replay", "--all")
    assert code == ExitCode.DONE
    assert "0 samples applied, 1 outranked by newer ones" in out
    assert (world.cells(), numbers(world)) == ({CELL: cell}, [])


def test_records_of_one_cell_end_as_they_would_have_in_the_stream(
    world: WriterWorld, registry: FakeRegistry, run: Run
) -> None:
    """An insert, its delete and the insert after it, all of them dead; and a moment that was changed."""
    moved = row(created_time=NOON_US + TICK_US)
    bury(
        world,
        inserted(lsn=10),
        change("d", None, row(), lsn=20),
        inserted(lsn=30, value="again"),
        change("u", moved, row(value="again"), lsn=40),
    )
    registry.learn()
    assert run("replay", "--reason", "unknown_schema")[0] == ExitCode.DONE
    assert world.cells() == {
        CELL: Cell(None, (1, 40), "d"),
        Key(SHIP, NOON_US + TICK_US, STATE): Cell("early"),
    }
    assert len([path for path in registry.asked if path.endswith(f"/{VALUE_ID}")]) == 1


def test_values_that_are_dead_by_themselves_stay(world: WriterWorld, run: Run) -> None:
    """Of a record, or of history: no program can know better; the answer says what helps."""
    world.write([created("a\0b")])
    world.write([copied("c\0d", LOAD)], HISTORY)
    stream, history = numbers(world)
    code, out, err = run("replay", "--all")
    assert code == ExitCode.PARTIAL
    assert "2 of 2 dead cells are left" in err
    assert f"{stream}: its value is dead by itself" in out
    assert f"{history}: it comes from history, so there is no record to replay" in out
    assert out.count("correct the row at the source") == 2
    assert numbers(world) == [stream, history]


def test_a_record_that_can_be_read_now_but_holds_a_dead_value_is_dead_for_that(
    world: WriterWorld, registry: FakeRegistry, run: Run
) -> None:
    """As if the stream had read it at once; its neighbours are applied."""
    first, second = bury(world, inserted(str_v="a\0b"), inserted(data_channel_id=LOAD))
    registry.learn()
    code, out, _ = run("replay", first, second)
    (left,) = numbers(world)
    assert code == ExitCode.PARTIAL
    assert f"{first}: it can be read now, but its value is dead by itself (nul: a NUL" in out
    assert f"now number {left})" in out
    assert "replayed 1 of 2: 1 samples applied" in out
    assert world.cells() == {Key(SHIP, NOON_US, LOAD): Cell("early")}
    assert world.conn.execute("SELECT reason, kafka_offset FROM dead_cell").fetchall() == [
        ("nul", FIRST_OFFSET)
    ]


def test_records_of_an_ended_epoch_are_replayed_on_request_only(
    world: WriterWorld, registry: FakeRegistry, run: Run
) -> None:
    """What changed in the gap is in no stream, so the cell could be set back: a verify is due afterwards."""
    (number,) = bury(world, inserted())
    end_epoch(world.conn, "test", "torn down")
    write_hand_off(world.conn, replace(HAND_OFF, epoch=2, boundary_offsets={2: FIRST_OFFSET + 1}))
    registry.learn()
    code, out, _ = run("replay", number)
    assert code == ExitCode.PARTIAL
    assert f"{number}: of epoch 1, which ended" in out
    assert world.cells() == {}
    assert run("replay", number, "--ended-epochs")[0] == ExitCode.DONE
    assert world.cells() == {CELL: Cell("early")}
    hand_off = read_hand_off(world.conn, "test")
    assert hand_off
    assert hand_off.verify_required == "dead records of ended epochs were replayed"


def test_no_live_batch_comes_between_a_replay_and_its_commit(
    world: WriterWorld, registry: FakeRegistry, run: Run
) -> None:
    """It waits for the batch that holds a ledger row, and yields to what that brought."""
    bury(world, inserted())
    registry.learn()
    codes: list[int] = []
    with world.conn.transaction():
        world.conn.execute("SELECT FROM offset_ledger WHERE partition = 2 FOR UPDATE")
        replaying = threading.Thread(target=lambda: codes.append(run("replay", "--all")[0]))
        replaying.start()
        wait_for(lambda: blocks_somebody(world), "the replay waits for nobody")
        world.write([updated("live", lsn=20)])
    replaying.join()
    assert codes == [ExitCode.DONE]
    assert world.cells() == {CELL: Cell("live", (1, 20), "u")}


def blocks_somebody(world: WriterWorld) -> bool:
    """Whether a session waits for that of the world."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
    with connect_target(world.settings, "watcher") as conn:
        return conn.execute(query, [world.conn.info.backend_pid]).fetchone() != (0,)


def test_a_replay_that_fails_half_way_leaves_letters_and_cells_as_they_were(
    world: WriterWorld, registry: FakeRegistry, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letters go in the transaction that applies their records."""
    (number,) = bury(world, inserted())
    registry.learn()
    real = Writer.apply

    def apply(*arguments: Any) -> None:
        real(*arguments)
        raise RetryableError("the connection is gone")

    monkeypatch.setattr(Writer, "apply", apply)
    code, out, err = run("replay", number)
    assert (code, err) == (ExitCode.UNREACHABLE, "error: the connection is gone\n")
    assert "replayed 0 of 0" in out
    assert (world.cells(), numbers(world)) == ({}, [number])


def test_a_registry_that_is_away_is_an_outage_not_a_verdict(
    world: WriterWorld, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 4, and nothing is changed."""
    (number,) = bury(world, inserted())
    monkeypatch.setenv("CDC_REGISTRY__URL", "http://127.0.0.1:1")
    code, _, err = run("replay", number)
    assert code == ExitCode.UNREACHABLE
    assert "the schema registry at http://127.0.0.1:1 does not answer" in err
    assert numbers(world) == [number]
