"""Splitting: a table that can't hold its rows becomes parts that can, and what has a place keeps it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from widetable.channel_map import ChannelList, read_channel_lists
from widetable.errors import ConfigurationError
from widetable.planner import PAGE_BYTES, misfits
from widetable.registry import Registry
from widetable.sampling import ChannelSample, Sample
from widetable.schema_plan import PlannedChannel, SchemaPlan, System, plan_schema
from widetable.splitting import fit_problems, place_in_parts, require_columns, require_fit
from widetable.wide_table import Column


def plan_of(count: int, text_bytes: float = 8.0, excess_bytes: float = 0.0, **choices: Any) -> SchemaPlan:
    """One table of so many channels, all seen with texts of that length."""
    ids = tuple(f"/c{number:04}" for number in range(count))
    channels = {name: ChannelSample(name, {"Decimal": 1}, text_bytes, 30) for name in ids}
    sample = Sample(("S",), channels=channels, excess_bytes={2: excess_bytes})
    return plan_schema([ChannelList(2, "engine", ids)], sample, **choices)


def parts(plan: SchemaPlan) -> list[tuple[str, int]]:
    """(suffix, number of channels) of every physical table."""
    return [
        (system.suffix, sum(channel.table_no == system.table_no for channel in plan.channels))
        for system in plan.systems
    ]


def registered(plan: SchemaPlan) -> Registry:
    """What the target has after that plan was applied."""
    columns: dict[int, list[Column]] = {}
    for ordinal, channel in enumerate(plan.channels, start=1):
        column = Column(channel.channel_id, channel.column_name, channel.column_type, ordinal=ordinal)
        columns.setdefault(channel.table_no, []).append(column)
    policies = (plan.deletes, plan.new_channels, plan.new_ships)
    return Registry(1, plan.column_type, "w", *policies, plan.systems, plan.rules, columns, {"S": False})


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        pytest.param(plan_of(655), [("2", 655)], id="655 short texts fit"),
        pytest.param(plan_of(655, 10.5), [("2p1", 328), ("2p2", 327)], id="655 longer ones don't"),
        pytest.param(
            plan_of(1052, 30), [("2p1", 263), ("2p2", 263), ("2p3", 263), ("2p4", 263)], id="long ones"
        ),
        pytest.param(
            plan_of(655, 8, 2000),
            [("2p1", 328), ("2p2", 327)],
            id="the 99.9th percentile counts, not the average",
        ),
        pytest.param(plan_of(655, column_type="typed"), [("2", 655)], id="655 decimals"),
        pytest.param(plan_of(1052, column_type="typed"), [("2p1", 526), ("2p2", 526)], id="1,052 decimals"),
        pytest.param(plan_of(1500, 0), [("2", 1500)], id="1,500 empty texts"),
    ],
)
def test_a_table_is_split_into_the_fewest_parts_that_hold_it(
    plan: SchemaPlan, expected: list[tuple[str, int]]
) -> None:
    """About equally large, neighbours together, every part with the figures that it needs."""
    placed = place_in_parts(plan, None)
    assert parts(placed) == expected
    assert all(misfits(size) == [] for size in placed.sizes().values())
    assert [channel.channel_id for channel in placed.channels] == [c.channel_id for c in plan.channels]
    assert placed.default_table_no == 2
    require_fit(placed)


def test_the_single_layout_is_never_split() -> None:
    """Readers asked for one table; they get the figures."""
    plan = place_in_parts(plan_schema(read_channel_lists(), Sample(()), layout="single"), None)
    assert [system.suffix for system in plan.systems] == ["1"]
    with pytest.raises(ConfigurationError, match=f"9,640.*{PAGE_BYTES:,}"):
        require_fit(plan)


def test_what_has_a_place_keeps_it() -> None:
    """Whatever a later sample says, and whatever the lists say."""
    first = place_in_parts(plan_of(655, 10.5), None)
    again = place_in_parts(plan_of(655, 30), registered(first))
    assert [(c.channel_id, c.table_no) for c in again.channels] == [
        (c.channel_id, c.table_no) for c in first.channels
    ]
    shorter = place_in_parts(plan_of(10), registered(first))
    assert len(shorter.channels) == 655


def test_a_new_channel_goes_to_a_part_with_room() -> None:
    """To the first that has any; a part is added where none has."""
    first = place_in_parts(plan_of(655, 10.5), None)
    more = place_in_parts(plan_of(656, 10.5), registered(first))
    assert parts(more) == [("2p1", 329), ("2p2", 327)]
    many = place_in_parts(plan_of(1400, 10.5), registered(first))
    assert [suffix for suffix, _ in parts(many)] == ["2p1", "2p2", "2p3"]
    assert all(misfits(size) == [] for size in many.sizes().values())


def test_a_table_that_is_whole_stays_so() -> None:
    """It holds rows under the name that readers know; what it has no room for is refused with figures."""
    first = place_in_parts(plan_of(655), None)
    grown = place_in_parts(plan_of(900), registered(first))
    assert parts(grown) == [("2", 900)]
    with pytest.raises(ConfigurationError, match="table 2 \\(engine\\)"):
        require_fit(grown)


def test_a_full_table_does_not_stand_in_the_way_of_another() -> None:
    """It turned out larger than planned; what it has no room for gets a table of its own, and the rest stays."""
    first = registered(place_in_parts(plan_of(655), None))
    larger = plan_of(655, 30)
    elsewhere = replace(
        larger,
        systems=(*larger.systems, System(4, "more", is_default=False)),
        channels=(*larger.channels, PlannedChannel("/new", 4, "/new", "text")),
    )
    placed = place_in_parts(elsewhere, first)
    require_fit(placed, first.channel_ids)
    with pytest.raises(ConfigurationError, match="table 2 \\(engine\\)"):
        require_fit(placed)
    with pytest.raises(ConfigurationError, match="table 2 \\(engine\\)"):
        require_fit(place_in_parts(plan_of(656, 30), first), first.channel_ids)


def test_a_view_has_a_limit_of_its_own() -> None:
    """Parts could hold more columns than readers can be shown side by side."""
    plan = place_in_parts(plan_of(1700), None)
    assert len(plan.systems) > 1
    assert "1,701 columns in its view" in fit_problems(plan)[2][0]


def test_parts_of_a_table_share_no_column() -> None:
    """Each alone could have it; the view could not."""
    placed = place_in_parts(plan_of(655, 10.5), None)
    last = replace(placed.channels[-1], column_name=placed.channels[0].column_name)
    with pytest.raises(ConfigurationError, match="'/c0000' and '/c0654' would both be column"):
        require_columns(replace(placed, channels=(*placed.channels[:-1], last)))


def test_names_of_parts_can_not_be_those_of_another_ship() -> None:
    """No table's number ends in a part's suffix, and part 1 keeps the table's number."""
    table = System(2, "engine", is_default=True)
    assert [(part.table_no, part.suffix, part.reader_no) for part in map(table.as_part, (1, 2))] == [
        (2, "2p1", 2),
        (1002, "2p2", 2),
    ]
    assert [table.as_part(number).is_default for number in (1, 2)] == [True, False]
