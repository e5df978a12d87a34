"""The writer on PostgreSQL, case by case: counts, hard names and values, races, a moving layout, lost sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from devstack.databases import Server
from tests.property.model.cell import Cell, Event
from tests.writer_world import (
    COUNT,
    HISTORY,
    HOSTILE,
    LOAD,
    NOON_US,
    ON,
    SHIP,
    SISTER,
    SPEED,
    STATE,
    TABLE_OF,
    TICK_US,
    TYPES,
    UNLISTED,
    Key,
    Sample,
    Worlds,
    WriterWorld,
    copied,
    created,
    deleted,
    narrow_batch,
    open_world,
    open_worlds,
    updated,
    waiting_behind,
)
from widetable import pivot, wide_rows
from widetable.applied import Applied
from widetable.errors import ConfigurationError, LayoutChangedError
from widetable.layout_lock import layout_change, raise_version
from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US, NARROW_SCHEMA, Op, history_columns
from widetable.postgres import connect_source, is_retryable
from widetable.schema_plan import ColumnTypes
from widetable.settings import SourceSettings
from widetable.values import bool_text, double_text, long_text

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def worlds(target_server: Server) -> Iterator[Worlds]:
    """Empty targets, by column type and deletes choice."""
    with open_worlds(target_server) as worlds:
        yield worlds


@pytest.fixture
def world(worlds: Worlds) -> WriterWorld:
    """An empty target of text columns."""
    return worlds("text", "apply")


@pytest.fixture
def typed(worlds: Worlds) -> WriterWorld:
    """An empty target of typed columns."""
    return worlds("typed", "apply")


@pytest.fixture
def own(target_dsn: str) -> Iterator[WriterWorld]:
    """A target that a test may alter."""
    with open_world(target_dsn) as world:
        yield world


@pytest.fixture(params=[64, 0], ids=["few columns", "all columns"])
def both_merges(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge names the columns that a batch carries, or all of them once these are many."""
    monkeypatch.setattr(wide_rows, "SPARSE_COLUMNS", request.param)


# -- counts -----------------------------------------------------------------------------------------------------


def test_every_event_is_counted_once_as_what_became_of_it(typed: WriterWorld) -> None:
    """One batch with everything in it, on a row that is there and rows that are not."""
    typed.write([updated("7", COUNT, lsn=50), created("calm")])
    later = NOON_US + TICK_US
    applied = typed.write(
        [
            created("1.5", LOAD),  # fills a hole
            created("1.5", LOAD),  # folded
            updated("8", COUNT, lsn=40),  # outranked
            updated("rough", lsn=10),  # set
            created("true", ON, moment_us=later),  # a new row
            updated("1.5", SPEED, moment_us=later, lsn=3),  # folded
            updated("2.5", SPEED, moment_us=later, lsn=4),  # a new row
            deleted(COUNT, moment_us=later, lsn=5),  # both count: a tombstone
            created("9", COUNT, moment_us=later, lsn=6),  # and the value after it
            created("x", LOAD, moment_us=later),  # does not fit
            created("x", UNLISTED),  # no column
            created("x", ship="nobody"),  # no ship
            created("nul\0", HOSTILE),  # can't be stored
            Sample(
                Key(SISTER, NOON_US, STATE), Event(Op.CREATE, (1, 1), "fine"), "Decimal"
            ),  # another format
        ]
    )
    assert applied == Applied(
        events=14,
        applied=7,
        superseded=3,
        overflow=3,
        dead=1,
        format_mismatch=1,
        rows_new=4,
        rows_merged=1,
        cells_set=3,
    )


def test_repeated_creates_of_one_batch_are_counted_once(world: WriterWorld) -> None:
    """A batch without any version takes a short cut through the fold, but not past its duplicates."""
    applied = world.write([created("a"), created("a"), created("1", LOAD), created("a")])
    assert applied == Applied(events=4, applied=2, superseded=2, rows_new=1)


def test_ignored_deletes_are_applied_events(worlds: Worlds) -> None:
    """Each leaves its version, alone or with what it follows; a replay finds it outranked."""
    world = worlds("text", "ignore")
    batch = [
        created("a"),
        deleted(STATE, lsn=2),
        deleted(LOAD, lsn=2),
        updated("b", HOSTILE),
        deleted(HOSTILE),
    ]
    assert world.write(batch) == Applied(events=5, applied=5, rows_new=2, cells_set=1)
    assert world.write(batch) == Applied(events=5, superseded=5)
    assert world.cells() == {
        Key(SHIP, NOON_US, STATE): Cell("a", (1, 2), "d"),
        Key(SHIP, NOON_US, LOAD): Cell(None, (1, 2), "d"),
        Key(SHIP, NOON_US, HOSTILE): Cell("b", (1, 3), "d"),
    }


def test_counts_add_up_over_batches() -> None:
    """Field by field; a sum of balanced counts is balanced."""
    one = Applied(events=3, applied=1, superseded=1, overflow=1)
    other = Applied(events=2, dead=2, rows_new=4)
    assert one.balanced
    assert other.balanced
    assert one + other == Applied(events=5, applied=1, superseded=1, overflow=1, dead=2, rows_new=4)
    assert not Applied(events=1).balanced


def test_an_empty_batch_is_nothing(world: WriterWorld) -> None:
    """No row, no count."""
    assert world.write([]) == Applied()


# -- repetition -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("both_merges")
def test_a_replay_writes_no_tuple(typed: WriterWorld) -> None:
    """Creates, updates, deletes, misfits, overflow and dead cells: all of it is there already."""
    batch = [
        created("1.5", LOAD),
        created("x", COUNT),
        created("nul\0", ship=SISTER),
        created(None, SPEED),
        updated("x", ON, lsn=4),
        updated("rough", lsn=5),
        deleted(HOSTILE, lsn=6),
        created("again", HOSTILE, lsn=7),
        created("a", UNLISTED),
        deleted(UNLISTED, lsn=8),
        created("b", UNLISTED, lsn=9),
    ]
    typed.write(batch)
    before, texts = typed.tuples_written(), typed.texts()
    assert sum(before.values()) > 5
    typed.write(batch)
    typed.write(batch[4:])
    assert typed.tuples_written() == before
    assert typed.texts() == texts


@pytest.mark.usefixtures("both_merges")
def test_history_on_rows_that_the_stream_has_made_fills_holes_only(world: WriterWorld) -> None:
    """And says nothing where something is said, be it NULL by a version."""
    world.write([created("live", STATE), deleted(LOAD, lsn=9)])
    world.write([copied("old", STATE), copied("old", LOAD), copied("old", COUNT)], origin=HISTORY)
    assert world.cells() == {
        Key(SHIP, NOON_US, STATE): Cell("live"),
        Key(SHIP, NOON_US, LOAD): Cell(None, (1, 9), "d"),
        Key(SHIP, NOON_US, COUNT): Cell("old"),
    }


@pytest.mark.usefixtures("both_merges")
def test_absent_cells_are_left_alone(world: WriterWorld) -> None:
    """A statement touches the cells that it carries, and no others of the row."""
    world.write([created("a", STATE), created("1", LOAD), created("2", HOSTILE)])
    world.write([updated("b", STATE, lsn=5), updated(None, LOAD, lsn=6)])
    assert world.cells() == {
        Key(SHIP, NOON_US, STATE): Cell("b", (1, 5), "u"),
        Key(SHIP, NOON_US, LOAD): Cell(None, (1, 6), "u"),
        Key(SHIP, NOON_US, HOSTILE): Cell("2"),
    }


def test_a_delete_of_a_row_that_nobody_has_seen_leaves_its_version(world: WriterWorld) -> None:
    """Else a slice that was read before it would bring the cell back."""
    world.write([deleted(STATE, lsn=5)])
    world.write([copied("ghost")], origin=HISTORY)
    assert world.cells() == {Key(SHIP, NOON_US, STATE): Cell(None, (1, 5), "d")}


@pytest.mark.usefixtures("both_merges")
def test_batches_larger_than_a_pivot_are_written_in_parts(
    world: WriterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New rows and merged ones, ships and tables mixed: the same tables, piece by piece."""
    moments = [NOON_US + i * TICK_US for i in range(40)]
    batch = [
        event
        for i, moment_us in enumerate(moments)
        for ship in (SHIP, SISTER)
        for event in (
            created(f"a{i}", STATE, ship=ship, moment_us=moment_us),
            updated(f"b{i}", HOSTILE, ship=ship, moment_us=moment_us, lsn=i + 1),
        )
    ]
    more = [updated(f"c{i}", STATE, moment_us=moment_us, lsn=i + 1) for i, moment_us in enumerate(moments)]
    more += [created("d", SPEED, moment_us=moment_us) for moment_us in moments]
    world.write(batch)
    world.write(more)
    wanted = world.texts()
    world.clear()
    monkeypatch.setattr(pivot, "MAX_SLOTS", 23)
    world.write(batch)
    world.write(more)
    assert world.texts() == wanted
    assert len(wanted["tbl_data_timeseries_imo9000001_1"]) == len(moments)


def test_new_rows_are_copied_in_the_order_of_their_keys(
    world: WriterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Table by table, by name, and by moment within: so two writers of new rows wait, and never in a circle."""
    copied_to: list[str] = []
    copy = wide_rows.WideRows._copy

    def record(self: wide_rows.WideRows, query: str, data: memoryview) -> None:
        copied_to.extend(f"{query} {line[:26]!r}" for line in bytes(data).splitlines())
        copy(self, query, data)

    monkeypatch.setattr(wide_rows.WideRows, "_copy", record)
    batch = [
        created("x", channel, ship=ship, moment_us=NOON_US + i * TICK_US)
        for channel in (SPEED, STATE, HOSTILE)
        for ship in (SISTER, SHIP)
        for i in (2, 0, 1)
    ]
    world.write(batch)
    assert len(copied_to) == len(batch)
    assert copied_to == sorted(copied_to)


# -- hard names, moments and values -------------------------------------------------------------------------------

NAMES = [
    *('"', "'", ";--", "%", "%s", "%(x)s", "$1", "{}", "{0}", "\\", "\\N", "tab\there", "new\nline", "cr\r"),
    *("", " ", "_x", "created_time", "ctid", "tableoid", "xmin", "_job", "_set", "_job_", "_k", "_s"),
    *("t", "s", "k", "i", "x", "key", "value", "moment", "UPPER", "upper", "select", "café", "cafe\u0301"),
    *("\N{SHIP}" * 15, "y" * 63, "z" * 64, "é" * 32, "w" * 200, '"; DROP TABLE layout; --'),
]
SHIPS = ['o"b', "o'b", "%s", "\\", "tab\t", "line\n", "{0}", ";--", "é" * 20, "MiXeD", "x" * 41]


@pytest.mark.usefixtures("both_merges")
@pytest.mark.parametrize("column_type", ["text", "typed"])
def test_names_are_names_whatever_they_look_like(target_dsn: str, column_type: ColumnTypes) -> None:
    """Ships and channels that want to be SQL, placeholders, escapes or our own columns."""
    table_of = {name: number % 2 + 1 for number, name in enumerate(NAMES)}
    with open_world(target_dsn, column_type=column_type, table_of=table_of, ships=SHIPS) as world:
        keys = [Key(ship, NOON_US, name) for ship in SHIPS for name in NAMES]
        world.write([created(f"{ship}{name}", name, ship=ship) for ship, _, name in keys])
        assert world.cells() == {key: Cell(f"{key.ship}{key.channel}") for key in keys}
        world.write([updated(name, name, ship=ship, lsn=5) for ship, _, name in keys])
        assert world.cells() == {key: Cell(key.channel, (1, 5), "u") for key in keys}
        world.write([updated(None, name, ship=ship, lsn=6) for ship, _, name in keys[::2]])
        world.write([deleted(name, ship=ship, lsn=7) for ship, _, name in keys[1::2]])
        assert {cell.value for cell in world.cells().values()} == {None}
        assert not world.overflow()


def test_names_in_overflow_are_names_too(world: WriterWorld) -> None:
    """Nobody has chosen them: they arrive from the stream as they are."""
    keys = [Key(name, NOON_US, other) for name in NAMES for other in NAMES]
    world.write([created(f"{ship}{channel}", channel, ship=ship) for ship, _, channel in keys])
    assert world.overflow() == {key: Cell(f"{key.ship}{key.channel}") for key in keys}
    world.write([updated("", channel, ship=ship, lsn=5) for ship, _, channel in keys])
    assert world.overflow() == {key: Cell("", (1, 5), "u") for key in keys}


MOMENTS_US = [
    *(FIRST_MOMENT_US, FIRST_MOMENT_US + 1, -62_135_596_800_000_000 - 1, -62_135_596_800_000_000),
    *(-62_167_219_200_000_000, -1, 0, 1, 951_782_400_000_000, NOON_US + 1, 253_402_300_799_999_999),
    *(253_402_300_800_000_000, LAST_MOMENT_US - 1, LAST_MOMENT_US),
]


def test_moments_from_before_christ_to_the_far_future(world: WriterWorld) -> None:
    """To the microsecond, in new rows, merged rows and overflow, alone and among others."""
    for moments_us in ([moment_us] for moment_us in MOMENTS_US):
        world.write(
            [created("alone", channel, moment_us=m) for m in moments_us for channel in (STATE, UNLISTED)]
        )
    world.write([created("b", LOAD, moment_us=moment_us) for moment_us in MOMENTS_US])
    world.write([updated("c", STATE, moment_us=moment_us, lsn=4) for moment_us in MOMENTS_US])
    assert world.cells() == {
        **{Key(SHIP, moment_us, STATE): Cell("c", (1, 4), "u") for moment_us in MOMENTS_US},
        **{Key(SHIP, moment_us, LOAD): Cell("b") for moment_us in MOMENTS_US},
    }
    assert set(world.overflow()) == {Key(SHIP, moment_us, UNLISTED) for moment_us in MOMENTS_US}


VALUES: dict[str, list[Any]] = {
    "double_v": [
        *(0.0, -0.0, 1.0, 100.0, 0.1, 1 / 3, 1e15, 1e16, 123456789012345680.0, 1e-5, 1e-4, 5e-324),
        *(
            1.7976931348623157e308,
            float("nan"),
            float("inf"),
            float("-inf"),
            2.0**53,
            9007199254740993.0,
            None,
        ),
    ],
    "long_v": [0, -1, 2**63 - 1, -(2**63), 2**53 + 1, None],
    "str_v": [
        *(
            "",
            " ",
            "\\",
            "\\N",
            "\\.",
            "\t",
            "\n",
            "\r\n",
            '"',
            "'",
            "NULL",
            "{}",
            "\x01\x7f",
            "\N{SHIP}",
            "é",
        ),
        *("line\nline\tline\\", "long " * 2_000, "__debezium_unavailable_value", None),
    ],
    "bool_v": [True, False, None],
}
FORMAT = {"double_v": "Decimal", "long_v": "Integer", "str_v": "String", "bool_v": "Boolean"}
CHANNEL = {"double_v": LOAD, "long_v": COUNT, "str_v": STATE, "bool_v": ON}


@pytest.mark.parametrize("column_type", ["text", "typed"])
def test_hard_values_from_the_stream_and_from_history_are_the_same_bytes(
    worlds: Worlds, source_dsn: str, column_type: ColumnTypes
) -> None:
    """History reads PostgreSQL's own text, the stream makes it; the rows are compared as PostgreSQL prints them."""
    world, rows = worlds(column_type, "apply"), hard_rows()
    world.apply(streamed_batch(rows))
    streamed = world.texts()
    assert not world.overflow()
    world.clear()
    world.apply(history_batch(source_dsn, rows), origin=HISTORY)
    assert world.texts() == streamed
    values = {key.channel: cell.value for key, cell in world.cells().items() if key.moment_us == NOON_US}
    assert values == {LOAD: "0", COUNT: "0", STATE: "", ON: "true"}


def hard_rows() -> list[dict[str, Any]]:
    """Narrow rows with one value each."""
    return [
        {"moment_us": NOON_US + i * TICK_US, "column": column, "value": value}
        for column, values in VALUES.items()
        for i, value in enumerate(values)
    ]


def streamed_batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """The rows as the decoder makes them."""
    texts: dict[str, Callable[[pa.Array], pa.Array]] = {
        "double_v": double_text,
        "long_v": long_text,
        "bool_v": bool_text,
        "str_v": lambda text: text,
    }
    kinds = {"double_v": pa.float64(), "long_v": pa.int64(), "bool_v": pa.bool_(), "str_v": pa.string()}
    batch = narrow_batch([created(None, CHANNEL[row["column"]], moment_us=row["moment_us"]) for row in rows])
    columns = {name: batch.column(name) for name in NARROW_SCHEMA.names}
    columns["value_format"] = pa.array([FORMAT[row["column"]] for row in rows])
    for name, make in texts.items():
        values = [row["value"] if row["column"] == name else None for row in rows]
        columns[name] = make(pa.array(values, kinds[name]))
    return pa.RecordBatch.from_pydict(columns, NARROW_SCHEMA)


def history_batch(source_dsn: str, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """The rows written to the narrow table and read back as text."""
    with connect_source(SourceSettings(dsn=source_dsn), "test") as conn:
        for row in rows:
            query = sql.SQL(
                "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, value_format, {})"
                " VALUES (%s, %s, timestamp '1970-01-01' + %s * interval '1 us', %s, %s)"
            ).format(sql.Identifier(row["column"]))
            channel = CHANNEL[row["column"]]
            conn.execute(query, [SHIP, channel, row["moment_us"], FORMAT[row["column"]], row["value"]])
        found = conn.execute(
            """SELECT ship_id, data_channel_id, (extract(epoch FROM created_time) * 1000000)::bigint, value_format,
                      double_v::text, long_v::text, str_v, bool_v::text FROM tenant.tbl_data_timeseries"""
        ).fetchall()
    columns = {
        name: list(column)
        for name, column in zip(NARROW_SCHEMA.names, zip(*found, strict=True), strict=False)
    }
    return pa.RecordBatch.from_pydict({**columns, **history_columns(len(found))}, NARROW_SCHEMA)


# -- two writers --------------------------------------------------------------------------------------------------


def test_two_writers_of_the_same_new_row_both_arrive(world: WriterWorld) -> None:
    """The second finds the row when it wants to insert it, starts over, and merges."""
    mine = [created("a", STATE), created("1", LOAD)]
    theirs = [updated("b", STATE, lsn=7), created("2", LOAD), created("3", COUNT), created("c", HOSTILE)]
    with world.second() as other, waiting_behind(world, theirs, other) as done:
        world.writer.apply(narrow_batch(mine), [], HISTORY)
    assert done[0].rows_merged == 1
    assert done[0].rows_new == 1
    assert world.cells() == {
        Key(SHIP, NOON_US, STATE): Cell("b", (1, 7), "u"),
        Key(SHIP, NOON_US, LOAD): Cell("1"),
        Key(SHIP, NOON_US, COUNT): Cell("3"),
        Key(SHIP, NOON_US, HOSTILE): Cell("c"),
    }


def test_an_older_update_that_waited_for_a_newer_one_is_outranked(world: WriterWorld) -> None:
    """What the row has recorded is read under its lock, not before."""
    world.write([created("a"), updated("b", lsn=2)])
    with world.second() as other, waiting_behind(world, [updated("old", lsn=5)], other) as done:
        world.writer.apply(narrow_batch([updated("new", lsn=9)]), [], HISTORY)
    assert done == [Applied(events=1, superseded=1)]
    assert world.cells() == {Key(SHIP, NOON_US, STATE): Cell("new", (1, 9), "u")}


@pytest.mark.parametrize("slice_first", [True, False], ids=["slice first", "delete first"])
def test_a_delete_and_a_slice_at_the_same_time_do_not_resurrect(
    world: WriterWorld, slice_first: bool
) -> None:
    """Whoever comes second sees what the first has recorded, in the row itself."""
    slice_, live = [copied("ghost")], [deleted(STATE, lsn=5)]
    first, then = (slice_, live) if slice_first else (live, slice_)
    with world.second() as other, waiting_behind(world, then, other):
        world.writer.apply(narrow_batch(first), [], HISTORY)
    assert world.cells() == {Key(SHIP, NOON_US, STATE): Cell(None, (1, 5), "d")}


@pytest.mark.parametrize("slice_first", [True, False], ids=["slice first", "delete first"])
def test_a_delete_and_a_misfit_at_the_same_time_leave_nothing_in_overflow(
    typed: WriterWorld, slice_first: bool
) -> None:
    """The row is made though it stays empty: it is where the two writers meet."""
    slice_, live = [copied("no number", LOAD)], [deleted(LOAD, lsn=5)]
    first, then = (slice_, live) if slice_first else (live, slice_)
    with typed.second() as other, waiting_behind(typed, then, other):
        typed.writer.apply(narrow_batch(first), [], HISTORY)
    assert typed.cells() == {Key(SHIP, NOON_US, LOAD): Cell(None, (1, 5), "d")}
    assert typed.overflow() == {}


def test_writers_that_race_for_many_rows_end_equal(world: WriterWorld) -> None:
    """Live and history on the same rows in opposite order, again and again."""
    moments = [NOON_US + i * TICK_US for i in range(150)]
    live = [updated("live", channel, moment_us=m, lsn=3) for m in moments for channel in TABLE_OF]
    history = [copied("old", channel, moment_us=m) for m in reversed(moments) for channel in TABLE_OF]
    wanted = {Key(SHIP, m, channel): Cell("live", (1, 3), "u") for m in moments for channel in TABLE_OF}
    with world.second() as other:
        for _ in range(5):
            world.clear()
            with racing(lambda: other.write(history, origin=HISTORY)):
                world.write(live)
            assert world.cells() == wanted


@contextmanager
def racing(action: Callable[[], object]) -> Iterator[None]:
    """Run an action in a thread beside the block; it must succeed."""
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(action()))
    thread.start()
    yield
    thread.join()
    assert done, "the other writer failed"


def test_waiting_for_a_lock_ends_as_something_to_retry(own: WriterWorld) -> None:
    """The batch is given back whole; nothing of it is written."""
    own.write([created("a", STATE)])
    with own.second() as other:
        other.conn.execute("SET lock_timeout = '50ms'")
        with own.conn.transaction():
            own.writer.begin()
            own.writer.apply(narrow_batch([updated("b", STATE)]), [], HISTORY)
            with pytest.raises(psycopg.errors.LockNotAvailable) as caught:
                other.write([updated("c", STATE, lsn=9), created("1", LOAD, moment_us=NOON_US + TICK_US)])
    assert is_retryable(caught.value)
    assert own.cells() == {Key(SHIP, NOON_US, STATE): Cell("b", (1, 2), "u")}


# -- a layout that moves ------------------------------------------------------------------------------------------


def test_a_batch_under_an_old_layout_is_refused_until_it_is_loaded_again(own: WriterWorld) -> None:
    """The version is compared under the lock that a change takes alone."""
    own.write([created("a")])
    with own.second() as other, layout_change(other.conn):
        raise_version(other.conn)
    with pytest.raises(LayoutChangedError):
        own.write([created("b", LOAD)])
    own.writer.load()
    own.write([created("b", LOAD)])
    assert len(own.cells()) == 2


def test_a_column_added_by_hand_is_noticed(own: WriterWorld) -> None:
    """COPY without a column list would miss it; a reload takes it in its stride."""
    own.write([created("a")])
    with own.second() as other:
        other.conn.execute('ALTER TABLE wide_text_apply.tbl_data_timeseries_imo9000001_1 ADD "by hand" int')
    with pytest.raises(LayoutChangedError, match="by hand"):
        own.write([created("b", moment_us=NOON_US + TICK_US)])
    own.writer.load()
    own.write([created("b", moment_us=NOON_US + TICK_US), updated("c", lsn=4)])
    assert len(own.cells()) == 2


def test_a_column_replaced_by_hand_is_a_configuration_error(own: WriterWorld) -> None:
    """Its values would land in another column."""
    own.write([created("a")])
    with own.second() as other:
        other.conn.execute(
            'ALTER TABLE wide_text_apply.tbl_data_timeseries_imo9000001_1 DROP "me/load", ADD "me/lord" text'
        )
    with pytest.raises(LayoutChangedError):
        own.write([created("1", LOAD, moment_us=NOON_US + TICK_US)])
    with pytest.raises(ConfigurationError, match="me/load"):
        own.writer.load()


def test_a_table_dropped_by_hand_is_a_configuration_error(own: WriterWorld) -> None:
    """Said at the next batch, and by name."""
    own.write([created("a")])
    with own.second() as other:
        other.conn.execute("DROP TABLE wide_text_apply.tbl_data_timeseries_imo9000001_1")
    with pytest.raises(LayoutChangedError):
        own.write([created("1", LOAD)])
    with pytest.raises(ConfigurationError, match="imo9000001_1"):
        own.writer.load()


def test_a_load_that_failed_can_be_repeated(own: WriterWorld) -> None:
    """Somebody holds a table while the staging tables are made; those made by then are not in the way."""
    own.conn.execute("SET lock_timeout = '50ms'")
    last = [table for table, _, number in own.tables() if number == max(TABLE_OF.values())]
    names = sql.SQL(", ").join(sql.Identifier(own.settings.wide_schema, table) for table in last)
    with own.second() as other:
        for _ in range(2):
            with other.conn.transaction():
                other.conn.execute(sql.SQL("LOCK TABLE {}").format(names))
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    own.writer.load()
    with pytest.raises(LayoutChangedError):
        own.write([created("a")])
    own.writer.load()
    own.write([created("a")])
    assert len(own.cells()) == 1


# -- a session that ends ------------------------------------------------------------------------------------------


def test_a_session_killed_in_mid_transaction_leaves_nothing(own: WriterWorld) -> None:
    """Rows, overflow and dead cells go together."""
    batch = narrow_batch([created("a"), created("b", UNLISTED), created("\0", LOAD), updated("c", HOSTILE)])

    def killed(victim: WriterWorld) -> None:
        with victim.conn.transaction():
            victim.writer.begin()
            victim.writer.apply(batch, [], HISTORY)
            own.conn.execute("SELECT pg_terminate_backend(%s, 5000)", [victim.conn.info.backend_pid])

    with own.second() as victim, pytest.raises(psycopg.OperationalError) as caught:
        killed(victim)
    assert is_retryable(caught.value)
    assert own.cells() == own.overflow() == {}
    assert own.conn.execute("SELECT count(*) FROM dead_cell").fetchone() == (0,)
    assert own.apply(batch) == Applied(events=4, applied=2, overflow=1, dead=1, rows_new=2, cells_set=1)


def test_a_writer_without_a_layout_asks_for_one(own: WriterWorld) -> None:
    """As after a change: load, and try again."""
    fresh = type(own.writer)(own.conn)
    with pytest.raises(LayoutChangedError), own.conn.transaction():
        fresh.begin()
    assert set(TYPES) < set(own.writer.layout.ordinal)
    assert fresh is not own.writer
