"""`backfill import`: corrections overwrite, stand until the source changes, and are not undone by any replay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backfill import correction_file, corrections
from backfill.corrections import source_lsn
from tests.backfill_world import CHANNELS, SHIPS, START, World
from tests.narrow_batches import narrow_batch
from widetable.apply import Origin, Writer
from widetable.control import use_control
from widetable.errors import ExitCode
from widetable.narrow import Op
from widetable.postgres import Connection, connect_target
from widetable.verify import Scope, Source, Target, Verifier

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

SHIP, CHANNEL = SHIPS[0], "engine/1"
START_US = 1_735_689_600_000_000  # 2025-01-01
ROW = f"SELECT \"{CHANNEL}\", _x FROM tenant.tbl_data_timeseries_{SHIP.lower()}_2 WHERE created_time = '{START}'"


class Desk:
    """A world whose target is written by a stream and by corrections."""

    def __init__(self, world: World, conn: Connection, folder: Path) -> None:
        self.world, self.folder = world, folder
        self._conn = conn
        self._writer = Writer(conn)
        self._writer.load()

    def stream(self, op: Op, value: str | None, lsn: int, channel: str = CHANNEL) -> None:
        """Apply a change of the first moment, as the consumer would."""
        change = {"op": int(op), "epoch": 1, "lsn": lsn, "value_format": "String", "str_v": value}
        cell = {"ship_id": SHIP, "channel_id": channel, "created_time": START_US}
        with self._conn.transaction():
            self._writer.begin()
            self._writer.apply(narrow_batch([cell | change]), [], Origin("narrow_to_wide", "topic", "id"))

    def file(self, text: str, name: str = f"{SHIP}.csv") -> str:
        """A file of corrections; returns its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def cell(self) -> tuple[str | None, list[Any] | None]:
        """The cell's value and version."""
        row = self.world.target.execute(ROW.encode()).fetchone()
        assert row is not None
        ordinal = self.world.one(f"SELECT ordinal FROM channel WHERE channel_id = '{CHANNEL}'")
        return row[0], (row[1] or {}).get(str(ordinal))


@pytest.fixture
def desk(emptied: World, tmp_path: Path) -> Iterator[Desk]:
    """Behind a hand-off, with nothing in the target."""
    emptied.hand_off(barrier_xid=3)
    settings = emptied.settings().target
    with closing(connect_target(settings, "stream")) as conn:
        use_control(conn, settings.control_schema)
        yield Desk(emptied, conn, tmp_path)


def test_a_correction_stands_until_the_source_changes_the_cell_again(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """It overwrites, no replay undoes it, a later change wins, and importing the file again changes nothing."""
    before = source_lsn(desk.world.source)
    desk.stream(Op.CREATE, "1", before)
    desk.stream(Op.UPDATE, "2", before + 1)
    file = desk.file(f"created_time,{CHANNEL}\n{START},2.5\n")
    assert desk.world.backfill("import", file) == ExitCode.DONE
    out = capsys.readouterr().out
    assert "1 rows, 1 cells imported" in out
    assert "engine_generator: 1 of 2 channels" in out
    value, version = desk.cell()
    assert value == "2.5"
    assert version is not None
    assert (version[0], version[2]) == (1, "k")
    assert before + 1 < version[1] < source_lsn(desk.world.source)
    desk.stream(Op.UPDATE, "2", before + 1)
    desk.stream(Op.DELETE, None, before + 1)
    desk.stream(Op.READ, "1", 0)
    assert desk.cell() == (value, version)
    later = source_lsn(desk.world.source)
    desk.stream(Op.UPDATE, "3", later)
    assert desk.world.backfill("import", file) == ExitCode.DONE
    assert "imported before" in capsys.readouterr().out
    assert desk.cell() == ("3", [1, later, "u"])
    assert desk.world.backfill("import", file, "--again") == ExitCode.DONE
    assert desk.cell()[0] == "2.5"


def test_a_sample_that_the_source_inserts_later_replaces_its_correction(desk: Desk) -> None:
    """Only a create above it does; history and a snapshot read leave it, and the import again leaves the create."""
    file = desk.file(f"created_time,{CHANNEL}\n{START},7\n")
    assert desk.world.backfill("import", file) == ExitCode.DONE
    _, version = desk.cell()
    assert version is not None
    desk.stream(Op.READ, "1", 0)
    desk.stream(Op.READ, "1", version[1] + 1)
    desk.stream(Op.CREATE, "2", version[1])
    assert desk.cell() == ("7", version)
    desk.world.add(START, 3.0)
    desk.stream(Op.CREATE, "3", version[1] + 1)
    assert desk.world.backfill("import", file) == ExitCode.DONE
    assert desk.cell() == ("3", [1, version[1] + 1, "c"])
    report = Verifier(
        Source(desk.world.source, "tenant.tbl_data_timeseries"), Target(desk.world.target, "cdc"), None
    ).run(Scope())
    assert (report.corrected, report.difference_count) == (0, 0)


def test_the_next_change_at_the_source_wins_and_so_does_the_next_file(desk: Desk) -> None:
    """A change begins exactly where the WAL ended; two files over a source that rests have different versions."""
    first, second = (desk.file(f"created_time,{CHANNEL}\n{START},{n}\n", f"{SHIP}_{n}.csv") for n in (1, 2))
    assert desk.world.backfill("import", first) == ExitCode.DONE
    assert desk.world.backfill("import", second) == ExitCode.DONE
    assert desk.cell()[0] == "2"
    assert desk.world.backfill("import", first) == ExitCode.DONE
    assert desk.cell()[0] == "2"
    version = desk.cell()[1]
    assert version is not None
    desk.stream(Op.UPDATE, "3", version[1] + 1)
    assert desk.cell()[0] == "3"


def test_verify_counts_corrections_and_repair_spares_them(desk: Desk) -> None:
    """They are no differences."""
    desk.world.add(START, 1.0)
    desk.stream(Op.CREATE, "1", source_lsn(desk.world.source))
    assert desk.world.backfill("import", desk.file(f"created_time,{CHANNEL}\n{START},7\n")) == ExitCode.DONE
    source = Source(desk.world.source, "tenant.tbl_data_timeseries")
    report = Verifier(source, Target(desk.world.target, "cdc"), None).run(Scope())
    assert (report.corrected, report.difference_count) == (1, 0)
    assert desk.world.backfill("verify", "--no-settle", "--repair") == ExitCode.DONE
    assert desk.cell()[0] == "7"


def test_each_ship_of_a_file_that_is_asked_for_by_name_is_an_import_of_its_own(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second ship's rows are dated by their own import, whenever the first one's was."""
    file = desk.file(f"ship_id,created_time,{CHANNEL}\n{SHIPS[1]},{START},1\n{SHIP},{START},2\n", "both.csv")
    assert desk.world.backfill("import", file, "--ship-id", SHIPS[1]) == ExitCode.PARTIAL
    between = source_lsn(desk.world.source)
    desk.stream(Op.UPDATE, "1", between)
    capsys.readouterr()
    assert desk.world.backfill("import", file, "--ship-id", SHIP) == ExitCode.PARTIAL
    assert "imported before" not in capsys.readouterr().out
    value, version = desk.cell()
    assert value == "2"
    assert version is not None
    assert version[1] > between


def test_all_files_of_a_folder_and_what_is_left_out(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers that are no channels are listed, bad rows and values named; the rest is done, exit 5."""
    monkeypatch.setattr(correction_file, "CHUNK_CELLS", 2)
    desk.file(f"created_time,{CHANNEL},nav/1\n{START},1,\n2025-01-02,2,x\n2025-01-03,3\n", f"{SHIP}_a.csv")
    desk.file(f"ship_id,created_time,aux/2,aux/1,Aux/1\n{SHIPS[1]},{START},5,a\0b,6\n", "b.csv")
    desk.file(f"created_time,{CHANNEL}\n{START},9\n", "c.csv")
    desk.file("not read", "notes.txt")
    assert desk.world.backfill("import", str(desk.folder), "--dry-run") == ExitCode.PARTIAL
    assert desk.world.wide_cells() == {}
    assert "3 cells would be imported" in capsys.readouterr().out
    assert desk.world.backfill("import", str(desk.folder)) == ExitCode.PARTIAL
    out, err = capsys.readouterr()
    assert f"{SHIP}_a.csv:4: 2 columns, the header has 3" in err
    assert "c.csv:1: whose rows are these?" in err
    assert "b.csv:2: aux/1: 'a\\x00b' is not a text: this cell is left out" in err
    assert "no channels: Aux/1" in out
    assert "3 of 3 files were not imported as a whole" in err
    assert desk.world.wide_cells() == {
        (SHIP, START, CHANNEL): "1",
        (SHIP, "2025-01-02 00:00:00", CHANNEL): "2",
        (SHIP, "2025-01-02 00:00:00", "nav/1"): "x",
        (SHIPS[1], START, "aux/2"): "5",
    }
    assert desk.world.one("SELECT count(*) FROM correction_file WHERE finished_at IS NOT NULL") == 2


def test_an_interrupted_import_is_finished_by_the_next_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had written stays with its version; the rest follows with the same one."""
    monkeypatch.setattr(correction_file, "CHUNK_CELLS", 1)
    file = desk.file(f"created_time,{CHANNEL}\n{START},1\n2025-01-02,2\n")
    write = corrections.Corrections._write

    def breaks(self: corrections.Corrections, batch: Any, conn: Connection, writer: Writer) -> Any:
        if desk.world.wide_cells():
            raise KeyboardInterrupt
        return write(self, batch, conn, writer)

    with monkeypatch.context() as patch:
        patch.setattr(corrections.Corrections, "_write", breaks)
        assert desk.world.backfill("import", file) == 130
    version = desk.cell()[1]
    assert desk.world.backfill("import", file) == ExitCode.DONE
    assert desk.cell()[1] == version
    assert len(desk.world.wide_cells()) == 2


def test_what_an_export_writes_an_import_reads(desk: Desk) -> None:
    """The same cells, of all tables."""
    for number, channel in enumerate(CHANNELS):
        desk.stream(Op.CREATE, str(number), 1, channel)
    cells = desk.world.wide_cells()
    file = desk.folder / f"{SHIP}.csv"
    period = ["--ship-id", SHIP, "--from", "2025-01-01", "--to", "2025-01-02", "-o", str(file)]
    assert desk.world.backfill("export", *period) == ExitCode.DONE
    desk.world.target.execute(
        f"UPDATE tenant.tbl_data_timeseries_{SHIP.lower()}_1 SET \"aux/1\" = 'x'".encode()
    )
    assert desk.world.backfill("import", str(file)) == ExitCode.DONE
    assert desk.world.wide_cells() == cells


def test_a_mistake_is_one_clear_message(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, and an exit code by kind."""
    assert desk.world.backfill("import", str(desk.folder)) == ExitCode.CONFIGURATION
    assert "has no CSV files" in capsys.readouterr().err
    assert desk.world.backfill("import", "no-such-file.csv") == ExitCode.USAGE
    file = desk.file(f"created_time,{CHANNEL}\n{START},1\n")
    assert desk.world.backfill("import", file, "--ship-id", "IMO42") == ExitCode.CONFIGURATION
    desk.world.target.execute("UPDATE hand_off SET system_identifier = '1'")
    assert desk.world.backfill("import", file) == ExitCode.STOPPED
    assert "another cluster" in capsys.readouterr().err
