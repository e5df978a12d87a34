"""The value rule and what fits a typed column, without a database."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US, NARROW_SCHEMA, Op
from widetable.values import (
    DEAD_REASONS,
    ColumnType,
    bool_text,
    copy_escape,
    double_text,
    fits,
    long_text,
    settle,
    value_sql,
)


def batch(*samples: dict[str, Any]) -> pa.RecordBatch:
    """Samples with only the columns that a test is about."""
    numbers = {column.name: 0 for column in NARROW_SCHEMA if not column.nullable}
    plain = numbers | {
        "ship_id": "IMO9976903",
        "channel_id": "/a",
        "op": Op.CREATE,
        "partition": 2,
        "offset": 40,
    }
    return pa.RecordBatch.from_pylist([plain | sample for sample in samples], NARROW_SCHEMA)


def text(*values: str | None) -> pa.StringArray:
    """An array of strings, also if all are NULL."""
    return pa.array(values, pa.string())


@pytest.mark.parametrize(
    ("sample", "value", "reason", "mismatches"),
    [
        pytest.param({"value_format": "Decimal", "double_v": "1.5"}, "1.5", "", 0, id="the named column"),
        pytest.param({"value_format": "Integer", "long_v": "7"}, "7", "", 0, id="an integer"),
        pytest.param({"value_format": "Boolean", "bool_v": "false"}, "false", "", 0, id="a boolean"),
        pytest.param({"value_format": "String", "str_v": ""}, "", "", 0, id="an empty string is not NULL"),
        pytest.param(
            {"value_format": "Integer", "long_v": "7", "double_v": "7.5"},
            "7",
            "",
            0,
            id="the named one of two",
        ),
        pytest.param({"value_format": "Integer", "str_v": "x"}, "x", "", 1, id="the only one, named wrongly"),
        pytest.param({"value_format": None, "long_v": "7"}, "7", "", 1, id="the only one, without a format"),
        pytest.param({"value_format": "decimal", "double_v": "7"}, "7", "", 1, id="an unknown format"),
        pytest.param({"value_format": "Decimal"}, None, "", 0, id="nothing set is a NULL cell"),
        pytest.param({"value_format": None}, None, "", 0, id="nothing set and no format is a NULL cell"),
        pytest.param(
            {"value_format": "String", "double_v": "1", "long_v": "1"},
            None,
            "ambiguous",
            0,
            id="two, none named",
        ),
        pytest.param(
            {"value_format": None, "double_v": "1", "long_v": "1"}, None, "ambiguous", 0, id="no format"
        ),
        pytest.param({"value_format": "String", "str_v": "a\0b"}, ..., "nul", 0, id="a NUL in the value"),
        pytest.param({"ship_id": "a\0b"}, ..., "nul", 0, id="a NUL in the ship"),
        pytest.param({"channel_id": "\0"}, ..., "nul", 0, id="a NUL in the channel"),
        pytest.param({"created_time": FIRST_MOMENT_US}, None, "", 0, id="the first moment"),
        pytest.param({"created_time": LAST_MOMENT_US}, None, "", 0, id="the last moment"),
        pytest.param({"created_time": FIRST_MOMENT_US - 1}, ..., "infinity", 0, id="before the first moment"),
        pytest.param({"created_time": LAST_MOMENT_US + 1}, ..., "infinity", 0, id="after the last moment"),
        pytest.param({"op": Op.DELETE}, None, "", 0, id="a delete has no value"),
        pytest.param(
            {"op": Op.DELETE, "double_v": "1", "long_v": "1"}, None, "", 0, id="a delete is never ambiguous"
        ),
        pytest.param(
            {"op": Op.DELETE, "str_v": "\0"}, None, "", 0, id="a delete's old value does not matter"
        ),
        pytest.param(
            {"op": Op.DELETE, "created_time": LAST_MOMENT_US + 1},
            None,
            "infinity",
            0,
            id="a delete at infinity",
        ),
    ],
)
def test_each_sample_has_one_value_or_a_reason(
    sample: dict[str, Any], value: Any, reason: str, mismatches: int
) -> None:
    """Also between others, so that no sample decides about its neighbours."""
    other = {"value_format": "Decimal", "double_v": "0.5"}
    for samples, row in (([sample], 0), ([other, sample, other], 1), ([sample, other], 0)):
        settled = settle(batch(*samples))
        assert DEAD_REASONS[settled.reasons[row]] == reason
        assert settled.dead[row] == bool(reason)
        assert settled.mismatch_count == mismatches
        assert value is ... or settled.value[row].as_py() == value
        assert settled.value.to_pylist()[row + 1 :] == ["0.5"] * (len(samples) - row - 1)
        assert not settled.dead[row + 1 :].any()


def test_the_column_of_each_value_is_told() -> None:
    """Index into the value columns, -1 for none, whatever the format says."""
    samples: list[dict[str, Any]] = [{"bool_v": "true"}, {"value_format": "Decimal"}, {"long_v": "1"}]
    assert settle(batch(*samples)).column.tolist() == [3, -1, 1]


def test_a_dead_sample_keeps_its_coordinates_and_all_its_values() -> None:
    """Enough to replay it by hand; the living are not listed."""
    dead = {"channel_id": "/b", "created_time": 17, "value_format": "X", "double_v": "1", "str_v": 'a"\0'}
    samples = batch({"double_v": "2"}, dead)
    (cell,) = settle(samples).dead_cells(samples)
    assert (cell.ship_id, cell.channel_id, cell.created_time) == ("IMO9976903", "/b", 17)
    assert (cell.partition, cell.offset, cell.reason) == (2, 40, "ambiguous")
    assert cell.raw_value is not None
    values = {"value_format": "X", "double_v": "1", "long_v": None, "str_v": 'a"\0', "bool_v": None}
    assert json.loads(cell.raw_value) == values


def test_a_slice_of_a_batch_settles_as_a_batch_of_its_own() -> None:
    """Arrow's offsets into shared buffers don't leak: a NUL outside of the slice kills nothing."""
    samples = batch({"str_v": "\0"}, {"str_v": "a"}, {"long_v": "1", "double_v": "2"}, {"str_v": "\0"})
    settled = settle(samples.slice(1, 2))
    assert settled.value.to_pylist() == ["a", None]
    assert settled.reasons.tolist() == [0, DEAD_REASONS.index("ambiguous")]


def test_no_samples_settle_to_nothing() -> None:
    """An empty batch is no special case for callers."""
    settled = settle(batch())
    assert len(settled.value) == len(settled.reasons) == settled.mismatch_count == 0
    assert settled.dead_cells(batch()) == []


def test_text_of_decoded_values_is_postgresqls() -> None:
    """The words and numbers that differ from Python's or Arrow's."""
    doubles = [100.0, 1e16, 1e15, 123456789012345.0, 1e-5, 0.0001, -0.0, math.nan, math.inf, -math.inf, None]
    wanted = [
        "100",
        "1e+16",
        "1e+15",
        "123456789012345",
        "1e-05",
        "0.0001",
        "-0",
        "NaN",
        "Infinity",
        "-Infinity",
    ]
    assert double_text(pa.array(doubles)).to_pylist() == [*wanted, None]
    longs = [-(2**63), 2**63 - 1, 0, None]
    assert long_text(pa.array(longs)).to_pylist() == [
        "-9223372036854775808",
        "9223372036854775807",
        "0",
        None,
    ]
    assert bool_text(pa.array([True, False, None])).to_pylist() == ["true", "false", None]
    assert double_text(pa.nulls(2, pa.float64())).to_pylist() == [None, None]


@pytest.mark.parametrize(
    ("column_type", "fitting", "others"),
    [
        ("text", ["", "abc", "\\", None], []),
        (
            "float8",
            [
                "0",
                "-0",
                "1.5",
                "100",
                "999999999999999",
                "1e+15",
                "1e-05",
                "5e-324",
                "NaN",
                "-Infinity",
                None,
            ],
            [
                "9007199254740993",  # rounds
                "9007199254740992",  # exact, but comes back as 9.007199254740992e+15
                "1e15",
                "1.0",
                "1.50",
                "+1",
                " 1",
                "1e400",
                "1e-400",
                "nan",
                "inf",
                "0x10",
                "007",
                "abc",
                "",
                "1e+1",
                "-NaN",
                "1\n",
            ],
        ),
        (
            "int8",
            ["0", "-1", "9223372036854775807", "-9223372036854775808", None],
            [
                "-0",
                "+1",
                "007",
                "9223372036854775808",
                "-9223372036854775809",
                "1e3",
                "1.0",
                "",
                " 1",
                "٣",
                "1\n",
                "9" * 30,
            ],
        ),
        ("bool", ["true", "false", None], ["t", "TRUE", "1", "", " true", "true\n"]),
    ],
)
def test_only_text_that_comes_back_the_same_fits(
    column_type: ColumnType, fitting: list[str | None], others: list[str]
) -> None:
    """What is not surely exact goes to overflow, where nothing is lost."""
    fit = fits(text(*fitting, *others), column_type).tolist()
    assert fit == [True] * len(fitting) + [False] * len(others)


def test_a_value_out_of_a_column_of_the_same_type_fits_without_a_look() -> None:
    """The others are looked at all the same."""
    column = np.array([0, 0, 1, 2, -1], np.int8)
    assert fits(text("1e+15", "NaN", "5", "x", None), "float8", column).tolist() == [
        True,
        True,
        True,
        False,
        True,
    ]


def test_copy_text_is_escaped_and_null_stays_null() -> None:
    """A literal backslash-N is not NULL, and a slice sees only its own bytes."""
    values = text("\t", "plain", None, "a\\N", "x\ny\rz", "")
    assert copy_escape(values).to_pylist() == ["\\t", "plain", None, "a\\\\N", "x\\ny\\rz", ""]
    assert copy_escape(values.slice(3, 1)).to_pylist() == ["a\\\\N"]


def test_text_that_needs_no_escape_is_not_copied() -> None:
    """Which is nearly all text."""
    values = text("\\", "plain", None).slice(1)
    assert copy_escape(values) is values


def test_the_sql_rule_takes_no_alias_that_is_not_a_name() -> None:
    """It is put into SQL as it is."""
    with pytest.raises(ValueError, match="alias"):
        value_sql("n; DROP TABLE x")
