"""The layout planner: whether rows fit a page is known before the first DDL."""

from __future__ import annotations

import dataclasses

import pytest

from widetable.channel_map import ChannelList, read_channel_lists
from widetable.errors import ConfigurationError
from widetable.planner import PAGE_BYTES, ColumnSize, doubts, misfits, row_size
from widetable.sampling import ChannelSample, Sample
from widetable.schema_plan import (
    SchemaPlan,
    conflicting_formats,
    plan_schema,
    unlisted_channels,
)
from widetable.splitting import place_in_parts, require_fit
from widetable.values import ColumnType


def sample_of(**formats: dict[str, int]) -> Sample:
    """A sample in which these channels had these formats, each value with 3 bytes of text."""
    channels = {name: ChannelSample(name, found, 3.0, 5) for name, found in formats.items()}
    return Sample(("S1",), channels=channels)


def require_plan(plan: SchemaPlan) -> None:
    """What `apply_schema` asks first."""
    require_fit(place_in_parts(plan, None))


@pytest.mark.parametrize(
    ("columns", "typical_bytes", "worst_bytes"),
    [
        # Header 23 + 1 byte of null bitmap = 24; created_time 8; worst: _x 24.
        pytest.param([], 32, 56, id="no channel"),
        pytest.param([ColumnSize("float8")], 40, 64, id="one decimal"),
        pytest.param([ColumnSize("bool")], 40, 64, id="one boolean, padded at the end"),
        pytest.param(
            [ColumnSize("bool"), ColumnSize("int8")], 48, 72, id="a boolean padded before an integer"
        ),
        pytest.param([ColumnSize("text", 3)], 40, 80, id="a text of 3 bytes has a header of 1"),
        pytest.param([ColumnSize("text", 300)], 56, 80, id="a long text is moved out of a tight row"),
        pytest.param(
            [ColumnSize("bool")] * 7, 48, 72, id="9 columns need a second byte of bitmap: header 32"
        ),
    ],
)
def test_row_sizes_follow_the_page_layout(
    columns: list[ColumnSize], typical_bytes: int, worst_bytes: int
) -> None:
    """Header, null bitmap, alignment, and values as PostgreSQL stores them."""
    size = row_size(columns)
    assert (size.typical_bytes, size.worst_bytes) == (typical_bytes, worst_bytes)


@pytest.mark.parametrize(
    ("columns", "fits"),
    [
        pytest.param([ColumnSize("float8")] * 655, True, id="655 decimals"),
        pytest.param([ColumnSize("float8")] * 1052, False, id="1,052 decimals"),
        pytest.param([ColumnSize("text", 8)] * 655, True, id="655 short texts"),
        pytest.param([ColumnSize("text", 11)] * 655, False, id="655 texts of 12 bytes leave no margin"),
        pytest.param([ColumnSize("text", 8)] * 1052, False, id="1,052 short texts"),
        pytest.param([ColumnSize("bool")] * 1596, True, id="1,598 columns"),
        pytest.param([ColumnSize("bool")] * 1597, False, id="1,599 columns"),
    ],
)
def test_only_tables_whose_rows_fit_a_page_pass(columns: list[ColumnSize], fits: bool) -> None:
    """Worst case for typed columns, typical case with a margin for text."""
    assert (misfits(row_size(columns)) == []) == fits


def test_dropped_columns_count_against_the_limit() -> None:
    """PostgreSQL never forgets a column."""
    columns = [ColumnSize("bool")] * 1000
    assert misfits(row_size(columns, dropped=596)) == []
    assert "1,599 columns" in misfits(row_size(columns, dropped=597))[0]


def test_a_text_table_that_fits_still_says_what_may_happen() -> None:
    """The worst row of texts is a warning with figures, not a refusal."""
    size = row_size([ColumnSize("text", 8)] * 655)
    (warning,) = doubts(size)
    assert f"{size.worst_bytes:,}" in warning
    assert f"{PAGE_BYTES:,}" in warning
    assert doubts(row_size([ColumnSize("text", 8)] * 50)) == []
    assert doubts(row_size([ColumnSize("float8")] * 655)) == []


@pytest.mark.parametrize("column_type", ["text", "typed"])
def test_the_single_layout_is_refused_with_the_figures(column_type: str) -> None:
    """All 1,052 channels in one table fit a page neither way."""
    plan = plan_schema(read_channel_lists(), Sample(()), layout="single", column_type=column_type)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError) as caught:
        require_plan(plan)
    assert misfits(plan.sizes()[1])[0] in str(caught.value)
    assert f"{PAGE_BYTES:,}" in str(caught.value)


def test_the_single_layout_of_few_channels_is_one_table() -> None:
    """It is refused for its size, not on principle."""
    lists = [ChannelList(1, "a", ("x",)), ChannelList(2, "b", ("y",))]
    plan = plan_schema(lists, Sample(("S",)), layout="single")
    require_plan(plan)
    assert [(system.table_no, system.name) for system in plan.systems] == [(1, "single")]
    assert {channel.table_no for channel in plan.channels} == {1}


@pytest.mark.parametrize("column_type", ["text", "typed"])
def test_the_real_lists_fit_by_system(column_type: str) -> None:
    """The default layout holds every channel of every list."""
    plan = plan_schema(read_channel_lists(), Sample(()), column_type=column_type)  # type: ignore[arg-type]
    require_plan(plan)
    assert [plan.sizes()[no].column_count for no in (1, 2, 3)] == [349, 657, 52]


@pytest.mark.parametrize(
    ("formats", "column_type"),
    [
        pytest.param({"Decimal": 2}, "float8", id="Decimal"),
        pytest.param({"Integer": 2}, "int8", id="Integer"),
        pytest.param({"String": 2}, "text", id="String"),
        pytest.param({"Boolean": 2}, "bool", id="Boolean"),
        pytest.param({"Integer": 3, "Decimal": 1}, "int8", id="the most frequent of two"),
        pytest.param({}, "float8", id="only empty samples"),
    ],
)
def test_a_typed_column_takes_the_type_of_its_samples(
    formats: dict[str, int], column_type: ColumnType
) -> None:
    """By value_format; a channel without a value is taken for a decimal, and marked."""
    plan = plan_schema([ChannelList(2, "b", ("x",))], sample_of(x=formats), column_type="typed")
    assert plan.channels[0].column_type == column_type
    assert plan.channels[0].assumed == (not formats)


def test_text_columns_are_sized_by_what_was_seen() -> None:
    """A sampled channel counts with its average, one never seen with 8 bytes."""
    plan = plan_schema([ChannelList(2, "b", ("x", "y"))], sample_of(x={"String": 1}))
    assert [(channel.column_type, channel.text_bytes) for channel in plan.channels] == [
        ("text", 3.0),
        ("text", 8.0),
    ]


def test_unknown_channels_and_conflicts_are_found() -> None:
    """What the lists don't name gets a table by prefix; two formats of a channel are shown with counts."""
    sample = sample_of(**{"/v/p02/x": {"Decimal": 1}, "z": {"Decimal": 2, "String": 1}})
    lists = [ChannelList(1, "a", ("/v/p01/x",)), ChannelList(2, "b", ("y",))]
    assert unlisted_channels(plan_schema(lists, sample), sample) == {"/v/p02/x": 1, "z": 2}
    assert conflicting_formats(sample) == {"z": {"Decimal": 2, "String": 1}}


def test_a_default_table_that_does_not_exist_is_refused() -> None:
    """The message names the option and what it may be."""
    with pytest.raises(ConfigurationError, match="--default-table is one of 1, 2, 3"):
        plan_schema(read_channel_lists(), Sample(()), default_table_no=4)


def test_two_channels_of_one_table_can_not_share_a_column() -> None:
    """Planning stops before anything is created; in two tables the same name is fine."""
    lists = [ChannelList(1, "a", ("xmin",)), ChannelList(2, "b", ("y",))]
    mapped = plan_schema(lists, Sample(())).channels[0].column_name
    with pytest.raises(ConfigurationError, match="'xmin' and"):
        plan_schema([dataclasses.replace(lists[0], channel_ids=("xmin", mapped)), lists[1]], Sample(()))
    plan_schema([lists[0], dataclasses.replace(lists[1], channel_ids=(mapped,))], Sample(()))
