"""The file of failed ranges: every line by itself, whatever is wrong with the others."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator

import pytest

from backfill import failed_csv
from backfill.failed_csv import BadRow, RangeRow, range_line, read_ranges
from backfill.planner import Bounds

SHIPS = ("IMO1", 'odd "ship", 2')
DAY_US = 86_400_000_000
START_US = 1_735_689_600_000_000  # 2025-01-01
GOOD = b"IMO1,2025-01-01,2025-01-02\n"


def read(content: bytes) -> list[RangeRow | BadRow]:
    """What a file of this content holds."""
    return list(read_ranges(io.BytesIO(content), SHIPS))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"ship,start,end\n" + GOOD, id="as we write it"),
        pytest.param(b"\xef\xbb\xbfship,start,end\n" + GOOD, id="with a byte order mark"),
        pytest.param(b"ship,start,end\r\nIMO1,2025-01-01,2025-01-02\r\n", id="with CRLF"),
        pytest.param(
            b'"Ship", "Start", "End"\n\n  \nIMO1,2025-01-01,2025-01-02', id="quoted, blank lines, no end"
        ),
        pytest.param(b"IMO1, 2025-01-01 00:00:00 ,2025-01-02T00:00\n", id="without a header"),
    ],
)
def test_a_file_is_read_as_programs_and_people_write_it(content: bytes) -> None:
    """One range, in half-open bounds."""
    (row,) = read(content)
    assert isinstance(row, RangeRow)
    assert (row.ship, row.bounds) == ("IMO1", Bounds(START_US, START_US + DAY_US))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"IMO1,2025-01-01\n", "2 columns, wanted are 3"),
        (b"IMO1,2025-01-01,2025-01-02,x\n", "4 columns"),
        (b"IMO9,2025-01-01,2025-01-02\n", "ship 'IMO9' has no wide tables; known are IMO1"),
        (b"IMO1,2025-01-02,2025-01-01\n", "its end 2025-01-01 does not lie after its start 2025-01-02"),
        (b"IMO1,2025-01-01,2025-01-01\n", "does not lie after"),
        (b"IMO1,yesterday,2025-01-02\n", "start 'yesterday' is not a timestamp like"),
        (b"IMO1,2025-01-01,2025-02-30\n", "end '2025-02-30' is not a timestamp"),
        (b"IMO1,2025-01-01T00:00Z,2025-01-02\n", "no time zone"),
        (b'"IMO1,2025-01-01,2025-01-02\n', "unexpected end of data"),
        (b"IMO1,2025-01-01\x00,2025-01-02\n", "start"),
        (b"\xff\xfe,2025-01-01,2025-01-02\n", "not UTF-8 text"),
    ],
    ids=[
        "too few columns",
        "too many columns",
        "an unknown ship",
        "end before start",
        "an empty range",
        "no timestamp",
        "a day that is none",
        "a time zone",
        "an open quote",
        "a NUL character",
        "another encoding",
    ],
)
def test_a_bad_line_is_named_and_costs_no_other(line: bytes, reason: str) -> None:
    """Its number and reason are told, it is kept as it was, and the lines around it are good."""
    before, bad, after = read(b"ship,start,end\n" + GOOD + line + GOOD)
    assert isinstance(bad, BadRow)
    assert (bad.line_no, bad.text) == (3, line)
    assert reason in bad.reason
    assert [type(row) for row in (before, after)] == [RangeRow, RangeRow]


def test_an_empty_file_is_said_to_be_empty() -> None:
    """A header alone is a list of no ranges; nothing at all is a mistake."""
    (empty,) = read(b"")
    assert isinstance(empty, BadRow)
    assert "the file is empty" in empty.reason
    assert read(b"ship,start,end\n") == []


def test_a_line_of_any_length_is_kept_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of once, all of it is kept, and the next line has its own number."""
    monkeypatch.setattr(failed_csv, "MAX_LINE_BYTES", 32)
    long = b"x" * 80 + b"\n"
    *pieces, good = read(GOOD + long + GOOD)[1:]
    assert all(isinstance(piece, BadRow) and piece.line_no == 2 for piece in pieces)
    assert b"".join(piece.text for piece in pieces) == long
    assert [bool(piece.reason) for piece in pieces if isinstance(piece, BadRow)] == [True, False, False]
    assert isinstance(good, RangeRow)
    assert good.line_no == 3


@pytest.mark.parametrize(
    "bounds", [Bounds(None, START_US), Bounds(START_US, None), Bounds(START_US + 1, START_US + 7)]
)
@pytest.mark.parametrize("ship", SHIPS)
def test_what_we_write_we_read(ship: str, bounds: Bounds) -> None:
    """To the microsecond, without bounds, and whatever the ship is called."""
    (row,) = read(range_line(ship, bounds))
    assert isinstance(row, RangeRow)
    assert (row.ship, row.bounds) == (ship, bounds)


class Endless(io.RawIOBase):
    """A large file that is nowhere on the disk."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._left = size

    def readline(self, _size: int | None = -1, /) -> bytes:
        """The same good line, until the size is reached."""
        self._left -= len(GOOD)
        return GOOD if self._left > 0 else b""


def test_a_file_of_any_size_is_read_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held does not grow with the lines that were read: two megabytes, and some kilobytes are held."""
    monkeypatch.setattr(failed_csv, "_row", lambda line_no, text, _ships: BadRow(line_no, "x", text))
    rows: Iterator[RangeRow | BadRow] = read_ranges(Endless(2_000_000), SHIPS)  # type: ignore[arg-type]
    next(rows)
    tracemalloc.start()
    last = max(row.line_no for row in rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert last > 70_000
    assert peak < 100_000
