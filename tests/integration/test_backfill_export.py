"""`backfill export`: what is in the file, what is refused before there is one, and that a half one has no name."""

from __future__ import annotations

import csv
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg import sql
from pydantic import SecretStr

from backfill import export_command
from devstack.databases import Server
from devstack.pytest_plugin import fresh_database
from tests.backfill_world import CHANNELS, SHIPS, World
from widetable import export, parquet
from widetable.control import use_control
from widetable.ddl import apply_schema
from widetable.errors import ConfigurationError, ExitCode
from widetable.export import ExportRequest, export_chunks
from widetable.postgres import Connection, connect_target
from widetable.schema_plan import PlannedChannel, SchemaPlan, System
from widetable.settings import TargetSettings

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

SHIP = SHIPS[0]
PERIOD = ("--ship-id", SHIP, "--from", "2025-01-01", "--to", "2025-02-01")
YEAR_US = (1_735_689_600_000_000, 1_767_225_600_000_000)


def hold(
    world: World, moments: int, *, every: int = 1, tables: tuple[int, ...] = (1, 2, 3), pad: int = 0
) -> None:
    """Wide rows of one ship, 15 s apart; table 2 has a value at every `every`th moment only."""
    for table_no in tables:
        first, second = (channel for channel in CHANNELS if channel in _columns(world, table_no))
        query = sql.SQL(
            "INSERT INTO {} (created_time, {}, {}) SELECT timestamp '2025-01-01' + n * interval '15 s',"
            " CASE WHEN {} = 1 OR n %% {} = 0 THEN n::text END,"
            " 'x, \"' || n || E'\"\\n' || repeat('-', {}) FROM generate_series(0, %s) n"
            " WHERE {} <> 2 OR n %% {} = 0"
        ).format(
            world.wide_table(SHIP, table_no),
            sql.Identifier(first),
            sql.Identifier(second),
            *(sql.Literal(number) for number in (table_no, every, pad, table_no, every)),
        )
        world.target.execute(query, [moments - 1])


def _columns(world: World, table_no: int) -> list[str]:
    query = "SELECT column_name FROM channel WHERE table_no = %s"
    return [name for (name,) in world.target.execute(query, [table_no])]


def read(path: Path) -> list[list[str]]:
    """The rows of a CSV file, header first."""
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_tables_of_a_ship_are_merged_by_moment(
    emptied: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row per moment that any table has, all channels as columns by their id, page after page."""
    monkeypatch.setattr(export, "PAGE_ROWS", 3)
    monkeypatch.setattr(export_command, "PROGRESS_S", 0.0)
    hold(emptied, 10, every=4)
    file = tmp_path / "out.csv"
    assert emptied.backfill("export", *PERIOD, "-o", str(file)) == ExitCode.DONE
    header, *rows = read(file)
    assert header == ["created_time", *CHANNELS]
    assert [row[0] for row in rows][:2] == ["2025-01-01 00:00:00", "2025-01-01 00:00:15"]
    assert len(rows) == 10
    assert [row[3] for row in rows] == ["0", "", "", "", "4", "", "", "", "8", ""]
    assert rows[1][1:3] == ["1", 'x, "1"\n']
    out, err = capsys.readouterr()
    assert "10 rows of 6 channels" in out
    assert "of about 10 rows" in err


def test_chosen_channels_come_in_the_order_asked_for(emptied: World, tmp_path: Path) -> None:
    """Only their tables are read, and moments at which none of them has a value are left out."""
    hold(emptied, 10, every=5)
    file = tmp_path / "out.csv"
    chosen = ["--channels", "engine/1,engine/2", "-o", str(file)]
    assert emptied.backfill("export", *PERIOD, *chosen) == ExitCode.DONE
    assert [row[:2] for row in read(file)] == [
        ["created_time", "engine/1"],
        ["2025-01-01 00:00:00", "0"],
        ["2025-01-01 00:01:15", "5"],
    ]
    chosen = ["--channels", "nav/1", "--channels", "aux/1", "-o", str(file)]
    assert emptied.backfill("export", *PERIOD, *chosen) == ExitCode.DONE
    assert read(file)[0] == ["created_time", "nav/1", "aux/1"]


MISTAKES = {
    "no column for channel engine/11. Did you mean": ["--channels", "engine/11"],
    "has no value from 2024-01-01": ["--from", "2024-01-01", "--to", "2024-02-01"],
    "has no value of engine/1": ["--channels", "engine/1"],
    "first moment must lie before": ["--to", "2025-01-01"],
    f"Known ships: {', '.join(SHIPS)}": ["--ship-id", "IMO42"],
}


@pytest.mark.parametrize(("message", "arguments"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_leaves_no_file(
    emptied: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    message: str,
    arguments: list[str],
) -> None:
    """An unknown channel or ship, and a period without a value, are found out before the file is created."""
    hold(emptied, 3, tables=(1, 3))
    output = str(tmp_path / "out.csv")
    assert emptied.backfill("export", *PERIOD, *arguments, "-o", output) == ExitCode.CONFIGURATION
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_file_never_has_the_final_name(
    emptied: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage in the middle leaves the file of an earlier export as it was, and nothing beside it."""
    hold(emptied, 10)
    monkeypatch.setattr(export, "PAGE_ROWS", 4)
    file = tmp_path / "out.csv"
    file.write_text("earlier")
    pages = export.Export._page

    def fails(self: export.Export, lower: int, upper: int) -> bytes:
        if self.rows_read:
            raise psycopg.OperationalError("the server went away")
        return pages(self, lower, upper)

    monkeypatch.setattr(export.Export, "_page", fails)
    assert emptied.backfill("export", *PERIOD, "-o", str(file)) == ExitCode.UNREACHABLE
    assert "went away" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert file.read_text() == "earlier"
    assert (
        emptied.backfill("export", *PERIOD, "-o", str(tmp_path / "no" / "out.csv")) == ExitCode.CONFIGURATION
    )
    assert "can't be written" in capsys.readouterr().err


def test_cells_in_overflow_are_said_to_be_left_out(
    emptied: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is left away silently."""
    hold(emptied, 3)
    emptied.target.execute(
        "INSERT INTO overflow_cell (ship_id, created_time, channel_id, value, reason)"
        " VALUES (%s, '2025-01-01', 'aux/2', 'far too long', 'row_too_big')",
        [SHIP],
    )
    assert emptied.backfill("export", *PERIOD, "-o", str(tmp_path / "out.csv")) == ExitCode.DONE
    assert "1 cells of this period wait in overflow" in capsys.readouterr().err


TYPES = {"t/text": "text", "t/float": "float8", "t/int": "int8", "t/bool": "bool", 't/odd, "name"': "text"}


@pytest.fixture
def typed(target_server: Server) -> Iterator[Connection]:
    """A typed table of one ship with one row of each kind of value."""
    plan = SchemaPlan(
        column_type="typed",
        systems=(System(1, "one", is_default=True),),
        rules=(),
        channels=tuple(
            PlannedChannel(channel, 1, channel, column_type)  # type: ignore[arg-type]
            for channel, column_type in TYPES.items()
        ),
        ships=(SHIP,),
    )
    with fresh_database(target_server, "target", narrow=False) as dsn:
        settings = TargetSettings(dsn=SecretStr(dsn))
        with closing(connect_target(settings, "test")) as conn:
            apply_schema(conn, settings, plan)
            conn.execute(
                f"INSERT INTO tenant.tbl_data_timeseries_{SHIP.lower()}_1 VALUES"
                " ('2025-01-01 00:00:00.5', NULL, '', 'NaN', 9007199254740993, true, 't'),"
                " ('2025-01-02', NULL, E'a\\n\"b\"', '-Infinity', NULL, false, NULL),"
                " ('2025-01-03', '{}', NULL, NULL, NULL, NULL, NULL)".encode()
            )
            use_control(conn, settings.control_schema)
            yield conn


def test_parquet_has_the_types_of_the_columns(
    typed: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NULL is not the empty text, integers above 2**53 are exact, and a row without any value is left out."""
    monkeypatch.setattr(export, "PAGE_ROWS", 1)
    monkeypatch.setattr(parquet, "GROUP_ROWS", 1)
    file = tmp_path / "out.parquet"
    file.write_bytes(b"".join(export_chunks(typed, ExportRequest(SHIP, *YEAR_US, format="parquet"))))
    table = pq.read_table(file)
    assert [str(field.type) for field in table.schema] == [
        "timestamp[us]",
        "string",
        "double",
        "int64",
        "bool",
        "string",
    ]
    first, second = table.to_pylist()
    assert str(first.pop("created_time")) == "2025-01-01 00:00:00.500000"
    assert str(first.pop("t/float")) == "nan"
    assert first == {"t/text": "", "t/int": 9007199254740993, "t/bool": True, 't/odd, "name"': "t"}
    assert [*second.values()][1:] == ['a\n"b"', float("-inf"), None, False, None]


def test_the_header_survives_any_channel_id(typed: Connection) -> None:
    """Quotes and commas in an id are quoted as CSV wants it; the request is looked at before the first chunk."""
    header = next(export_chunks(typed, ExportRequest(SHIP, *YEAR_US))).decode()
    assert next(csv.reader([header]))[1:] == list(TYPES)
    with pytest.raises(ConfigurationError, match="no column for channel"):
        export_chunks(typed, ExportRequest(SHIP, *YEAR_US, channels=("t/none",)))


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_period(
    emptied: World, file_format: export.Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 9 MB, a page or a row group is held at a time, by Python and Arrow together."""
    monkeypatch.setattr(export, "PAGE_ROWS", 100)
    monkeypatch.setattr(parquet, "GROUP_ROWS", 300)
    hold(emptied, 3_000, pad=1_000)
    arrow, before = 0, pa.total_allocated_bytes()
    tracemalloc.start()
    for _ in export_chunks(emptied.target, ExportRequest(SHIP, *YEAR_US, format=file_format)):
        arrow = max(arrow, pa.total_allocated_bytes() - before)
    _, python = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert python + arrow < 3_000_000
