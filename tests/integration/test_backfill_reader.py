"""Slices read from a real source: whole, as PostgreSQL's own text, behind the barrier, bounded in memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime

import pyarrow as pa
import pytest

from backfill import reader as reader_module
from backfill.planner import Bounds
from backfill.reader import Limits, Reader, TooLargeError
from tests.backfill_world import CHANNELS, SHIPS, World
from widetable.errors import ConfigurationError, ExitCode, RetryableError, StoppedError, UnreachableError
from widetable.hand_off import HandOff, require_hand_off
from widetable.moments import moment_sql, parse_moment
from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US, NARROW_SCHEMA
from widetable.settings import SourceSettings

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

EVERYTHING = Bounds(None, None)
ROOMY = Limits(rows=100_000, cells=1_000_000, cells_per_moment=len(CHANNELS))
MakeReader = Callable[..., Reader]


@pytest.fixture
def reader(world: World) -> Iterator[MakeReader]:
    """Makes readers of all ships; closed at the end."""
    made: list[Reader] = []

    def make(limits: Limits = ROOMY, ships: tuple[str, ...] = SHIPS) -> Reader:
        made.append(Reader(world.settings().source, ships, limits))
        return made[-1]

    yield make
    for one in made:
        one.close()


def hand_off(world: World) -> HandOff:
    """The hand-off in the target."""
    return require_hand_off(world.target, "narrow_to_wide")


def test_a_slice_holds_values_as_postgresql_writes_them(world: World, reader: MakeReader) -> None:
    """All four value columns come as ::text, NULL apart from empty, moments as microseconds."""
    world.source.execute(
        "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, value_format,"
        " double_v, long_v, str_v, bool_v) VALUES"
        f" ('{SHIPS[0]}', 'a', '2025-01-01 00:00:00.000001', 'Decimal', 1e16, NULL, NULL, NULL),"
        f" ('{SHIPS[0]}', 'b', '2025-01-01', 'Decimal', '-0', NULL, '', false),"
        f" ('{SHIPS[0]}', 'c', '2025-01-01', NULL, 'NaN', -9223372036854775808, E'\\n\\t\\\\', true)"
    )
    batch = reader().read(EVERYTHING, None).batch
    assert batch.schema == NARROW_SCHEMA
    read = sorted(batch.to_pylist(), key=lambda row: row["channel_id"])
    values = [(row["double_v"], row["long_v"], row["str_v"], row["bool_v"]) for row in read]
    assert values == [
        ("1e+16", None, None, None),
        ("-0", None, "", "false"),
        ("NaN", "-9223372036854775808", "\n\t\\", "true"),
    ]
    assert [row["created_time"] - parse_moment("2025-01-01") for row in read] == [1, 0, 0]
    assert {(row["op"], row["epoch"], row["lsn"], row["partition"], row["offset"]) for row in read} == {
        (0, 0, 0, -1, -1)
    }


def test_bounds_are_half_open_and_exact_in_every_century(world: World, reader: MakeReader) -> None:
    """A slice holds its lower bound and not its upper one, also where datetime and float8 end."""
    moments = {
        "4714-11-24 00:00:00 BC": FIRST_MOMENT_US,
        "0001-12-31 23:59:59.999999 BC": parse_moment("0001-01-01") - 1,
        "1969-12-31 23:59:59.999999": -1,
        "2025-01-01": parse_moment("2025-01-01"),
        "294247-01-10 04:00:25.199999": LAST_MOMENT_US,
    }
    for text in moments:
        world.add(text, 1.0)
    for moment_us in moments.values():
        read = reader().read(Bounds(moment_us, moment_us + 1), None).batch
        assert read.column("created_time").to_pylist() == [moment_us]


def test_moments_are_composed_exactly(world: World) -> None:
    """`moment_sql` names the very microsecond, from PostgreSQL's first timestamp to Debezium's last."""
    numbers = random.Random(7)
    chosen = [numbers.randrange(FIRST_MOMENT_US, LAST_MOMENT_US) for _ in range(300)]
    for moment_us in [FIRST_MOMENT_US, -1, 0, 1, LAST_MOMENT_US, *chosen]:
        query = f"SELECT (extract(epoch FROM {moment_sql(moment_us).as_string()}) * 1000000)::bigint"
        assert world.source.execute(query.encode()).fetchone() == (moment_us,)


def test_a_slice_is_found_by_the_index_on_created_time(world: World) -> None:
    """The bounds are constants to the planner, so a slice costs its own rows and not the table's."""
    world.fill(500)
    world.source.execute("ANALYZE tenant.tbl_data_timeseries")
    lower, upper = (moment_sql(parse_moment(text)).as_string() for text in ("2025-01-01", "2025-01-01T00:01"))
    rows = world.source.execute(
        f"EXPLAIN SELECT FROM tenant.tbl_data_timeseries"
        f" WHERE created_time >= {lower} AND created_time < {upper} AND ship_id = ANY ('{{{SHIPS[0]}}}')".encode()
    )
    plan = "\n".join(line for (line,) in rows)
    assert "tbl_data_timeseries_created_time_idx" in plan
    assert "'2025-01-01 00:00:00'::timestamp" in plan


def test_only_the_chosen_ships_are_read(world: World, reader: MakeReader) -> None:
    """Other ships' rows never leave the source; a quote in a ship's name is only a character."""
    world.fill(3)
    world.add("2025-01-01", 1.0, ship="it's; --")
    batch = reader(ships=(SHIPS[1], "it's; --")).read(EVERYTHING, None).batch
    assert set(batch.column("ship_id").to_pylist()) == {SHIPS[1], "it's; --"}
    assert batch.num_rows == 3 * len(CHANNELS) + 1


def test_a_snapshot_before_the_barrier_is_refused(world: World, reader: MakeReader) -> None:
    """What the slot may not stream and the snapshot may not see would be lost: nothing is read."""
    world.fill(3)
    world.hand_off(barrier_xid=2**40)
    with pytest.raises(RetryableError, match="barrier"):
        reader().read(EVERYTHING, hand_off(world))


def test_an_open_transaction_older_than_the_barrier_holds_slices_back(
    world: World, reader: MakeReader
) -> None:
    """The check is the snapshot's own xmin: a writer that began before the barrier is waited for."""
    with closing(world.reconnect_source()) as old, old.transaction():
        old.execute("SELECT pg_current_xact_id()")
        world.hand_off()
        with pytest.raises(RetryableError, match="barrier"):
            reader().read(EVERYTHING, hand_off(world))
    assert reader().read(EVERYTHING, hand_off(world)).batch.num_rows == 0


def test_another_cluster_is_refused(world: World, reader: MakeReader) -> None:
    """A source that is not the stream's stops the copy for a person."""
    world.hand_off(cluster="42")
    with pytest.raises(StoppedError, match="42"):
        reader().read(EVERYTHING, hand_off(world))


def test_an_old_snapshot_ends_the_run_before_it_begins(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run` checks the barrier first, says what is wrong and plans nothing."""
    world.fill(3)
    world.hand_off(barrier_xid=2**40)
    assert world.backfill("run") == ExitCode.UNREACHABLE
    assert "barrier" in capsys.readouterr().err
    assert world.one("SELECT count(*) FROM plan") == 0


def test_too_many_rows_are_not_held(world: World, reader: MakeReader) -> None:
    """Beyond four times the aim the read is broken off, and the span of its moments is told."""
    world.fill(40)
    with pytest.raises(TooLargeError) as raised:
        reader(Limits(100, 10**9, len(CHANNELS))).read(EVERYTHING, None)
    assert raised.value.first_us == parse_moment("2025-01-01")
    assert raised.value.last_us == parse_moment("2025-01-01T00:09:45")


@pytest.mark.parametrize("moments", [200_000, 1])
def test_a_read_that_the_server_is_still_busy_with_is_broken_off(
    world: World, reader: MakeReader, moments: int
) -> None:
    """Cancelling it ends its transaction: the span, or a moment that can't be cut, is read in another one."""
    rows, text_bytes = 200_000, 400  # far more than connection and driver hold on the way
    world.source.execute(
        f"INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, value_format, str_v)"
        f" SELECT '{SHIPS[0]}', 'c' || n, timestamp '2025-01-01' + n % {moments} * interval '1 s', 'String',"
        f" repeat('x', {text_bytes}) FROM generate_series(0, {rows - 1}) n".encode()
    )
    slow = reader(Limits(1_000, 10**9, len(CHANNELS)))
    if moments == 1:
        assert slow.read(EVERYTHING, None).batch.num_rows == rows
        return
    with pytest.raises(TooLargeError) as raised:
        slow.read(EVERYTHING, None)
    assert raised.value.last_us - raised.value.first_us == (rows - 1) * 1_000_000


def test_long_texts_are_bounded_by_their_bytes(
    world: World, reader: MakeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few rows can be large."""
    monkeypatch.setattr(reader_module, "MOST_BYTES", 10_000)
    world.source.execute(
        "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, value_format, str_v)"
        f" SELECT '{SHIPS[0]}', 'c', timestamp '2025-01-01' + n * interval '1 s', 'String', repeat('x', 1000)"
        " FROM generate_series(1, 20) n"
    )
    with pytest.raises(TooLargeError):
        reader().read(EVERYTHING, None)


def test_scattered_moments_are_bounded_by_wide_cells(world: World, reader: MakeReader) -> None:
    """Few rows that pivot into many wide cells are cut, too, into as many parts as it takes."""
    for second in range(50):
        world.add(f"2025-01-01 00:00:{second:02}", 1.0)
    with pytest.raises(TooLargeError) as raised:
        reader(Limits(1_000, 60, len(CHANNELS))).read(EVERYTHING, None)
    assert raised.value.parts == 5


def test_one_moment_is_read_whatever_its_size(world: World, reader: MakeReader) -> None:
    """A single moment can't be cut: it is bounded by ships and channels."""
    world.fill(1)
    batch = reader(Limits(1, 1, len(CHANNELS))).read(EVERYTHING, None).batch
    assert batch.num_rows == len(SHIPS) * len(CHANNELS)


def test_an_empty_slice_is_an_empty_batch(reader: MakeReader) -> None:
    """No rows are no error."""
    batch = reader().read(Bounds(0, 1), None).batch
    assert batch.num_rows == 0
    assert isinstance(batch, pa.RecordBatch)


def test_a_wrong_table_is_a_configuration_error(world: World) -> None:
    """The message names the setting."""
    source = world.settings().source.model_copy(update={"table": "tenant.nothing"})
    with (
        closing(Reader(source, SHIPS, ROOMY)) as reader,
        pytest.raises(ConfigurationError, match="CDC_SOURCE"),
    ):
        reader.read(EVERYTHING, None)


def test_a_source_that_does_not_answer_is_unreachable_and_keeps_its_password() -> None:
    """Connection refused is an outage; the message holds no secret."""
    source = SourceSettings.model_validate({"dsn": "postgresql://u:geheim@127.0.0.1:1/nowhere"})
    with pytest.raises(UnreachableError) as raised:
        Reader(source, SHIPS, ROOMY)
    assert "geheim" not in str(raised.value)


def test_a_plan_of_one_huge_slice_is_cut_while_it_runs(world: World) -> None:
    """A slice that proves too large is replaced by its parts until they fit; each row is copied once."""
    rows = world.fill(200)
    world.hand_off()
    plan_id = world.one(
        "INSERT INTO plan (pipeline, epoch, ships) SELECT 'narrow_to_wide', 1, array_agg(ship_id ORDER BY ship_id)"
        " FROM ship RETURNING plan_id"
    )
    world.target.execute("INSERT INTO slice (plan_id, slice_no) VALUES (%s, 1)", [plan_id])
    assert world.backfill("run") == ExitCode.DONE
    assert world.wide_cells() == world.narrow_cells()
    assert world.states()["split"] > 1
    assert world.one("SELECT sum(rows) FROM slice") == rows
    assert world.one("SELECT max(rows) <= 4 * 60 FROM slice") is True
    leaves = world.target.execute(
        "SELECT lower_us, upper_us FROM slice WHERE state = 'done' ORDER BY lower_us NULLS FIRST"
    ).fetchall()
    assert [upper for _, upper in leaves][:-1] == [lower for lower, _ in leaves][1:]
    assert (leaves[0][0], leaves[-1][1]) == (None, None)


def test_today_is_after_the_epoch() -> None:
    """Moments typed by a person are microseconds since 1970."""
    assert (
        parse_moment("2025-01-31T08:00:00.5")
        == (datetime(2025, 1, 31, 8) - datetime(1970, 1, 1)).days * (86_400_000_000)
        + 8 * 3_600_000_000
        + 500_000
    )
