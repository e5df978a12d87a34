"""Corrections before they are written: headers, rows, values, ships."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from backfill import correction_file
from backfill.correction_file import Channel, Chunk, CorrectionFile, HeaderError, ship_of_name
from backfill.correction_values import as_stored
from backfill.corrections import Version, correction_batch, first_of_each_cell
from widetable.values import ColumnType

SHIPS = ("IMO1", "IMO12")
CHANNELS = {
    name: Channel(name, "text", system) for name, system in {"a/1": "one", "a/2": "one", "b/1": "two"}.items()
}
START_US = 1_735_689_600_000_000  # 2025-01-01


class Read:
    """A file of some text, read to its end."""

    def __init__(self, folder: Path, text: str | bytes, ship: str | None = None, name: str = "x.csv") -> None:
        path = folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self.refused: list[tuple[int, str]] = []
        self.file = CorrectionFile(
            path,
            CHANNELS,
            SHIPS,
            ship,
            ship_of_name(path, SHIPS),
            ["note"],
            lambda line, reason: self.refused.append((line, reason)),
        )
        self.header = self.file.header()
        self.chunks = list(self.file.chunks(self.header))

    @property
    def cells(self) -> list[tuple[str, int, str, str, int]]:
        """Ship, moment, channel, text and line of every cell."""
        return [cell for chunk in self.chunks for cell in cells_of(chunk)]


def cells_of(chunk: Chunk) -> list[tuple[str, int, str, str, int]]:
    """Ship, moment, channel, text and line of every cell of a chunk."""
    channels = [channel.channel_id for channel in chunk.channels]
    return list(zip(chunk.ships, chunk.moments, channels, chunk.texts, chunk.lines, strict=True))


def test_headers_are_matched_exactly_and_listed_otherwise(tmp_path: Path) -> None:
    """What is nearly a channel is no channel; the file's other columns are read all the same."""
    read = Read(tmp_path, "\ufeffship_id, created_time ,a/1,A/2,b/1 ,note\r\nIMO1,2025-01-01,x,y,,z\r\n")
    assert read.header.unmapped == ("A/2",)
    assert read.header.coverage(set(CHANNELS.values())) == {"one": (1, 2), "two": (1, 1)}
    assert read.cells == [("IMO1", START_US, "a/1", "x", 2)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        ("ship_id,a/1\n", "no column created_time"),
        ("created_time,a/1\n", "whose rows are these"),
        ("ship_id,created_time,a/1,b/1,a/1\n", "channel a/1 has two columns"),
        ("ship_id,created_time,x,y\n", "none of its columns is a channel: x, y"),
        ('"' + "x" * 200_000, "no header of a CSV file"),
    ],
    ids=["empty", "no moment", "no ship", "a channel twice", "no channel", "no CSV"],
)
def test_a_file_that_can_not_be_meant_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    """Before anything of it is read."""
    with pytest.raises(HeaderError, match=reason):
        Read(tmp_path, text)


def test_a_bad_row_is_named_by_its_line_and_costs_no_other(tmp_path: Path) -> None:
    """Also after a value of several lines, which counts as the line that it begins in."""
    text = (
        "created_time,ship_id,a/1\n"
        '2025-01-01,IMO1,"two\nlines"\n'
        "2025-01-01,IMO1\n"
        "2025-01-01,IMO9,x\n"
        "then,IMO1,x\n"
        "infinity,IMO1,x\n"
        '2025-01-01,IMO1,"x"y\n'
        "\n"
        "2025-01-02,IMO1,last"
    )
    read = Read(tmp_path, text)
    assert [(line, reason.split(";")[0][:30]) for line, reason in read.refused] == [
        (4, "2 columns, the header has 3"),
        (5, "ship 'IMO9' has no wide tables"),
        (6, "created_time 'then' is not a t"),
        (7, "created_time 'infinity' is not"),
        (8, "',' expected after '\"'"),
    ]
    assert [(text, line) for *_, text, line in read.cells] == [("two\nlines", 2), ("last", 10)]


def test_a_column_says_the_ship_else_the_name_of_the_file_does(tmp_path: Path) -> None:
    """And --ship-id overrules the name; rows of another ship are refused."""
    plain = "created_time,a/1\n2025-01-01,x\n"
    column = "created_time,ship_id,a/1\n2025-01-01,IMO12,x\n"
    assert Read(tmp_path, plain, name="imo12_january.csv").cells[0][0] == "IMO12"
    assert Read(tmp_path, plain, "IMO1", name="imo12.csv").cells[0][0] == "IMO1"
    assert Read(tmp_path, column, name="IMO1.csv").cells[0][0] == "IMO12"
    refused = Read(tmp_path, column, "IMO1")
    assert refused.cells == []
    assert "is not the one that was asked for" in refused.refused[0][1]
    assert ship_of_name(Path("IMO123.csv"), SHIPS) is None


def test_bytes_that_are_no_text_cost_their_cell_only(tmp_path: Path) -> None:
    """They are read as what no column can hold."""
    read = Read(tmp_path, b"created_time,ship_id,a/1,a/2\n2025-01-01,IMO1,\xff,\xc3\xa4\n")
    value, fit = as_stored([text for *_, text, _ in read.cells], "text")
    assert (value.to_pylist()[1], fit.tolist()) == ("ä", [False, True])


@pytest.mark.parametrize(
    ("column_type", "written", "stored"),
    [
        ("text", ["1.50", " x ", "a\0b"], ["1.50", " x ", None]),
        (
            "float8",
            ["1.5", "1.50", "2", "1e16", "NaN", "inf"],
            ["1.5", "1.5", "2", "1e+16", "NaN", "Infinity"],
        ),
        ("float8", ["1,5", "1_000", "1e400", "x", "0x10"], [None] * 5),
        (
            "int8",
            ["7", "+7", "007", "9223372036854775807", "-0"],
            ["7", "7", "7", "9223372036854775807", "0"],
        ),
        ("int8", ["7.0", "9223372036854775808", "1_0", "seven"], [None] * 4),
        ("bool", ["true", "T", "0", "Off", "2", "maybe"], ["true", "true", "false", "false", None, None]),
    ],
)
def test_a_value_becomes_the_text_that_its_column_gives_back(
    column_type: ColumnType, written: list[str], stored: list[str | None]
) -> None:
    """As people write numbers; what would be rounded or is something else does not fit."""
    value, fit = as_stored(written, column_type)
    assert [text if ok else None for text, ok in zip(value.to_pylist(), fit, strict=True)] == stored


def test_of_a_cell_that_stands_twice_the_first_one_counts(tmp_path: Path) -> None:
    """In one chunk as over several, where the version decides."""
    read = Read(tmp_path, "created_time,ship_id,a/1,a/2\n2025-01-01,IMO1,1,\n2025-01-01,IMO1,2,3\n")
    (chunk,) = read.chunks
    batch = correction_batch(chunk, list(chunk.texts), Version(1, 7))
    assert batch.take(first_of_each_cell(batch)).column("str_v").to_pylist() == ["1", "3"]


def test_a_file_of_any_size_is_read_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunk by chunk: of two megabytes, some kilobytes are held."""
    monkeypatch.setattr(correction_file, "CHUNK_CELLS", 100)
    path = tmp_path / "IMO1.csv"
    path.write_text("created_time,a/1\n" + "2025-01-01T00:00:00,some value\n" * 60_000)
    file = CorrectionFile(path, CHANNELS, SHIPS, None, "IMO1", [], lambda _line, _reason: None)
    header = file.header()
    tracemalloc.start()
    cells = sum(len(chunk) for chunk in file.chunks(header))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cells == 60_000
    assert peak < 500_000
