"""COPY text of wide rows: fields, moments, versions, and the buffers they are cut from."""

from __future__ import annotations

import json
import sys

import numpy as np
import pyarrow as pa
import pytest

from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US
from widetable.pivot import (
    MAX_SLOTS,
    Pool,
    buffer_slice,
    chunks,
    lines,
    moment_text,
    ordinal_set_text,
    version_text,
)


def array(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Integers as the pivot takes them."""
    return np.array(numbers, np.int64)


def test_a_field_that_nothing_is_scattered_to_is_null() -> None:
    """Row-major, tabs between, newline after; an empty text is not NULL."""
    pool = Pool.of(pa.array(["a", ""]), pa.array(["b"]))
    text = lines(pool, array(0, 1, 1), array(2, 0, 1), array(1, 2, 3), 3, 3)
    assert text.to_pylist() == ["\\N\t\\N\ta\n", "\tb\t\\N\n", "\\N\t\\N\t\\N\n"]


def test_one_column_needs_no_tab() -> None:
    """And no rows need no line."""
    pool = Pool.of(pa.array(["a"]))
    assert lines(pool, array(1), array(0), array(1), 2, 1).to_pylist() == ["\\N\n", "a\n"]
    assert lines(pool, array(), array(), array(), 0, 5).to_pylist() == []


def test_lines_are_cut_from_one_buffer() -> None:
    """Byte for byte, also of characters that take several, also of a slice of the lines."""
    text = pa.array(["é\n", "", "abc\n", "\N{SHIP}\n"])
    assert bytes(buffer_slice(text, 0, 4)) == "é\nabc\n\N{SHIP}\n".encode()
    assert bytes(buffer_slice(text, 1, 3)) == b"abc\n"
    assert bytes(buffer_slice(text, 2, 2)) == b""
    assert bytes(buffer_slice(text.slice(2), 1, 2)) == "\N{SHIP}\n".encode()


@pytest.mark.parametrize(
    ("rows", "width", "parts"),
    [(0, 10, 0), (1, 10, 1), (MAX_SLOTS // 10, 10, 1), (MAX_SLOTS // 10 + 1, 10, 2), (3, MAX_SLOTS * 2, 3)],
)
def test_chunks_cover_every_row_once_and_bound_the_slots(rows: int, width: int, parts: int) -> None:
    """A row wider than the bound is a chunk of its own."""
    found = chunks(rows, width)
    assert len(found) == parts
    assert [row for start, stop in found for row in range(start, stop)] == list(range(rows))
    assert all((stop - start) * width <= max(MAX_SLOTS, width) for start, stop in found)


MOMENTS = [
    (FIRST_MOMENT_US, "4714-11-24 00:00:00.000000 BC"),
    (-62_135_596_800_000_001, "0001-12-31 23:59:59.999999 BC"),
    (-62_135_596_800_000_000, "0001-01-01 00:00:00.000000"),
    (-1, "1969-12-31 23:59:59.999999"),
    (0, "1970-01-01 00:00:00.000000"),
    (1_767_268_815_000_000, "2026-01-01 12:00:15.000000"),
    (253_402_300_799_999_999, "9999-12-31 23:59:59.999999"),
    (253_402_300_800_000_000, "10000-01-01 00:00:00.000000"),
    (LAST_MOMENT_US, "294247-01-10 04:00:25.199999"),
]


@pytest.mark.parametrize(("moment_us", "text"), MOMENTS)
def test_moments_are_text_that_postgresql_reads(moment_us: int, text: str) -> None:
    """To the microsecond; the year before 1 is 1 BC."""
    assert moment_text(array(moment_us)).to_pylist() == [text]


def test_far_moments_do_not_change_their_neighbours() -> None:
    """One of them takes the whole batch the slow way, to the same text."""
    near = [moment for moment in MOMENTS if 0 <= moment[0] < 253_402_300_800_000_000]
    mixed = moment_text(array(FIRST_MOMENT_US, *(moment_us for moment_us, _ in near)))
    assert mixed.to_pylist()[1:] == [text for _, text in near]
    assert moment_text(array(*(moment_us for moment_us, _ in near))).to_pylist() == [text for _, text in near]
    assert moment_text(array()).to_pylist() == []


def test_versions_are_one_json_object_per_group() -> None:
    """Entries come in any order; a group without any is empty."""
    text = version_text(
        array(2, 0, 2), 3, array(7, 5, 12), array(1, 2, 3), array(2**63 - 1, 0, 9), pa.array(["u", "s", "d"])
    )
    assert [json.loads(part) for part in text.to_pylist()] == [
        {"5": [2, 0, "s"]},
        {},
        {"7": [1, 2**63 - 1, "u"], "12": [3, 9, "d"]},
    ]


def test_no_text_is_made_with_a_look_for_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow looks for dateutil wherever it has to infer the type of a str: dearer than a small batch's texts."""
    looked_for = []

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            looked_for.append(name)

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    pool = Pool.of(pa.array(["a", "b"], pa.string()))
    lines(pool, array(0, 1), array(0, 1), array(1, 2), 2, 2)
    version_text(array(0), 1, array(5), array(1), array(2), pa.array(["u"], pa.string()))
    ordinal_set_text(array(0), 1, array(4))
    assert looked_for == []


def test_ordinal_sets_are_json_arrays_of_strings() -> None:
    """As the ``?`` operator looks for them; ``[]`` where nothing is set."""
    assert [json.loads(part) for part in ordinal_set_text(array(1, 0, 1), 3, array(4, 5, 6)).to_pylist()] == [
        ["5"],
        ["4", "6"],
        [],
    ]
    assert ordinal_set_text(array(), 2, array()).to_pylist() == ["[]", "[]"]
