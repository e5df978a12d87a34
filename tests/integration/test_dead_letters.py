"""`cdc-consumer dead-letters`, run as a command on a real target: what it shows, exports and refuses."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path

import pytest

from tests.dead_letters_world import (
    FIRST_OFFSET,
    Run,
    bury,
    inserted,
)
from tests.debezium_events import framed
from tests.debezium_events import key as ship_key
from tests.writer_samples import (
    LOAD,
    SHIP,
    STATE,
    copied,
    created,
    narrow_batch,
)
from tests.writer_world import HISTORY, WriterWorld
from widetable.errors import ExitCode
from widetable.narrow import DeadCell

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.writer_fixture", "tests.dead_letters_fixture"]


def test_the_list_sums_up_by_reason_and_obeys_its_filters(world: WriterWorld, run: Run) -> None:
    """Counts are of all that match, rows of the latest; a terminal is not steered by what strangers wrote."""
    bury(world, inserted(), inserted(lsn=11))
    world.apply(narrow_batch([created("a\0b")]), [DeadCell("json", "\x1b[2Jbad", 1, 7, raw_value=b"{}")])
    code, out, _ = run("list")
    assert code == ExitCode.DONE
    assert [line.split()[:2] for line in out.splitlines()[1:4]] == [
        ["unknown_schema", "2"],
        ["json", "1"],
        ["nul", "1"],
    ]
    assert "\\x1b[2Jbad" in out
    assert "\x1b" not in out
    assert f"partition 0 offset 0 {SHIP} 2026-01-01T12:00:00.000000 {STATE}: a NUL" in out
    for chosen, count in (
        (("--partition", 1), 1),
        (("--ship-id", SHIP), 1),
        (("--reason", "unknown_schema"), 2),
        (("--since", "2999-01-01"), 0),
        (("--since", "2020-01-01T00:00+02:00", "--limit", 3), 3),
    ):
        found = json.loads(run("list", "--json", *chosen)[1])
        assert len(found["dead_cells"]) == count, chosen
    assert sum(reason["count"] for reason in found["reasons"]) == 4
    assert "no dead cells" in run("list", "--partition", 99)[1]
    assert "the latest 1 of 4 are shown" in run("list", "--limit", 1)[1]


def test_a_letter_shows_coordinates_headers_and_bytes(world: WriterWorld, run: Run) -> None:
    """As hex, and as text as far as it is one."""
    (number,) = bury(world, inserted(value="wörd"))
    code, out, _ = run("show", number)
    assert code == ExitCode.DONE
    for part in (
        "reason: unknown_schema",
        f"where: partition 2 offset {FIRST_OFFSET}",
        "__connect.errors.topic: topic",
        "hex:  00 00 00 00 06",
        "wörd",
    ):
        assert part in out
    shown = json.loads(run("show", number, "--json")[1])
    assert bytes.fromhex(shown["value_hex"]) == framed(inserted(value="wörd"))
    assert bytes.fromhex(shown["key_hex"]) == ship_key(SHIP)


# -- export ---------------------------------------------------------------------------------------------------


def test_an_export_holds_every_letter_byte_for_byte(world: WriterWorld, run: Run, tmp_path: Path) -> None:
    """Both formats; the file is all that is left."""
    bury(world, inserted(), inserted(lsn=11))
    world.write([copied("c\0d", LOAD)], HISTORY)
    for name in ("letters.csv", "letters.jsonl"):
        code, out, _ = run("export", tmp_path / name)
        assert (code, out) == (ExitCode.DONE, f"3 dead cells in {tmp_path / name}\n")
    with (tmp_path / "letters.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "letters.jsonl").read_text().splitlines()]
    assert base64.b64decode(lines[1]["value_base64"]) == framed(inserted(lsn=11))
    assert lines[2]["topic_id"] is None
    for read, line in zip(table, lines, strict=True):
        line["headers"] = json.dumps(line["headers"])
        assert read == {name: "" if fact is None else str(fact) for name, fact in line.items()}
    code, out, _ = run("export", tmp_path / "some.jsonl", "--reason", "nul")
    assert out.startswith("1 dead cells")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters.csv", "letters.jsonl", "some.jsonl"]


def test_an_export_that_fails_leaves_no_file(
    world: WriterWorld, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither under its name nor under another."""
    bury(world, inserted())

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cdc_consumer.dead_letters_export.b64encode", full)
    code, _, err = run("export", tmp_path / "letters.csv")
    assert code == ExitCode.CONFIGURATION
    assert "letters.csv can't be written: No space left on device" in err
    assert list(tmp_path.iterdir()) == []


# -- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(["show", 77], ExitCode.USAGE, "no dead cell has number 77", id="an unknown number"),
        pytest.param(["show", "x"], ExitCode.USAGE, "'x' is not a valid integer", id="no number"),
        pytest.param(["replay", 7, 8], ExitCode.USAGE, "no dead cell has number 7, 8", id="unknown numbers"),
        pytest.param(["replay"], ExitCode.USAGE, "say which", id="nothing to replay"),
        pytest.param(["replay", 7, "--all"], ExitCode.USAGE, "say which", id="both ways"),
        pytest.param(["list", "--reason", "x"], ExitCode.USAGE, "'x' is not one of", id="an unknown reason"),
        pytest.param(["list", "--since", "now"], ExitCode.USAGE, "'now' is not a time", id="no time"),
        pytest.param(["list", "--partition", 2**40], ExitCode.USAGE, "not in the range", id="no partition"),
        pytest.param(["export", "a.txt"], ExitCode.USAGE, "neither .csv nor .jsonl", id="another extension"),
        pytest.param(["export", "there.csv"], ExitCode.USAGE, "there already", id="an existing file"),
        pytest.param(
            ["export", "no/a.csv"], ExitCode.CONFIGURATION, "can't be written: No such file", id="no folder"
        ),
    ],
)
def test_bad_input_is_refused_in_a_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], code: int, says: str
) -> None:
    """It says what is wrong, without a traceback, and nothing is overwritten."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").write_text("mine")
    found, _, err = run(*arguments)
    assert found == code
    assert says in err
    assert "Traceback" not in err
    assert (tmp_path / "there.csv").read_text() == "mine"
