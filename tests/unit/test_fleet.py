"""The fleet simulator without a database: its samples, its order, its plot."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from devstack.fleet import CALM, Mix, Order, plan_fleet
from devstack.fleet.bursts import Burst, burst_of, minute_grid, minute_of, moment_of, random_cells
from devstack.fleet.cli import fleet as fleet_command
from devstack.fleet.copytext import copy_text
from devstack.fleet.history import history_minutes, history_samples
from devstack.fleet.plan import UNKNOWN_CHANNELS, imo_number, read_channels, unknown_ship, value_format
from devstack.fleet.script import LiveScript
from devstack.fleet.steps import Step, Verb
from devstack.fleet.values import NASTY_DECIMALS, NASTY_INTEGERS, NASTY_STRINGS, SAMPLES, Cells, sample
from widetable.errors import ConfigurationError
from widetable.narrow import FORMATS, VALUE_COLUMNS

MINUTE = minute_of(datetime(2024, 5, 1))
FEW = ("/a////c/temp", "/a//////run", "/a/////hour", "/a////bar/press", "/a///destination/code")


def rows_of(batch: pa.RecordBatch) -> list[tuple[str, ...]]:
    """Rows as comparable text, NaN and -0 included."""
    return [tuple(map(repr, row.values())) for row in batch.to_pylist()]


def minute_samples(minute: int = MINUTE, seed: int = 1, order: Order = "moment") -> list[Burst]:
    """One minute of the default fleet, ship by ship."""
    plan = plan_fleet(seed=seed, order=order)
    return [burst_of(plan, ship, minute) for ship in range(len(plan.ships))]


def test_the_default_fleet_has_8_ships_and_1052_channels_of_all_formats() -> None:
    """The lists of the repository and the ships of the specification, 561 rows a second."""
    plan = plan_fleet()
    assert len(plan.ships) == 8
    assert len(plan.channels) == len(set(plan.channels)) == 1052
    assert set(plan.formats) == set(FORMATS)
    assert plan.formats.count("Decimal") > 0.9 * 1052
    assert round(plan.rows_per_second) == 561


def test_further_ships_have_valid_imo_numbers() -> None:
    """The check digit of known numbers is found, and generated ships are all different."""
    assert imo_number(997690) == "IMO9976903"
    assert imo_number(998610) == "IMO9986104"
    ships = plan_fleet(30).ships
    assert len(set(ships)) == 30
    assert all(ship == imo_number(int(ship[3:9])) for ship in ships)
    assert unknown_ship(ships) not in ships


def test_a_channel_keeps_its_format_whatever_the_seed() -> None:
    """History and live load may use different seeds and still agree about each channel."""
    assert plan_fleet(seed=1).formats == plan_fleet(seed=99).formats
    assert value_format("/hs4sd_v1/ge01/////run") == "Boolean"
    assert value_format("/hs4sd_v1/vdr////destination/code") == "String"


def test_strangers_are_in_no_list_and_come_behind_the_known() -> None:
    """The indices of the known ships and channels stay."""
    plan = plan_fleet()
    wider = plan.with_strangers()
    assert not set(UNKNOWN_CHANNELS) & set(plan.channels)
    assert wider.channels[: len(plan.channels)] == plan.channels
    assert wider.ships[: len(plan.ships)] == plan.ships
    assert len(wider.ships) == 9
    assert len(wider.formats) == len(wider.channels) == 1055


def test_same_seed_same_samples() -> None:
    """Another seed or minute gives others."""
    first = [row for burst in minute_samples(seed=7) for row in rows_of(burst.samples)]
    again = [row for burst in minute_samples(seed=7) for row in rows_of(burst.samples)]
    other = [row for burst in minute_samples(seed=8) for row in rows_of(burst.samples)]
    assert first == again
    assert first != other


def test_a_ship_has_the_same_samples_in_a_fleet_of_any_size() -> None:
    """A ship's values depend on its id, not on its neighbours."""
    alone = burst_of(plan_fleet(1), 0, MINUTE)
    assert rows_of(alone.samples) == rows_of(minute_samples()[0].samples)


def test_both_orders_write_the_same_samples() -> None:
    """The order changes nothing but the order."""
    by_moment = minute_samples(order="moment")[0].samples
    by_channel = minute_samples(order="channel")[0].samples
    assert rows_of(by_moment) != rows_of(by_channel)
    assert sorted(rows_of(by_moment)) == sorted(rows_of(by_channel))


def test_channel_major_is_one_channel_with_its_moments_and_then_the_next() -> None:
    """Each channel is one run, with rising moments inside; moment-major has four runs of moments."""
    by_channel = minute_samples(order="channel")[0].cells
    assert np.count_nonzero(np.diff(by_channel.channel)) == len(np.unique(by_channel.channel)) - 1
    within = np.diff(by_channel.channel) == 0
    assert np.all(np.diff(by_channel.created_us)[within] > 0)
    by_moment = minute_samples(order="moment")[0].cells
    assert np.count_nonzero(np.diff(by_moment.created_us)) == 3
    assert np.all(np.diff(by_moment.created_us) >= 0)


def test_a_burst_and_its_holes_are_the_whole_minute() -> None:
    """About 1 % of a minute is missing, and the holes say what."""
    burst = minute_samples()[0]
    grid = minute_grid(plan_fleet(), 0, MINUTE)
    keys = {*zip(burst.cells.channel, burst.cells.created_us, strict=True)}
    holes = {*zip(burst.holes.channel, burst.holes.created_us, strict=True)}
    assert keys.isdisjoint(holes)
    assert keys | holes == {*zip(grid.channel, grid.created_us, strict=True)}
    assert 0 < len(holes) < 0.03 * len(grid)
    assert len(burst.samples) == len(keys)


def test_all_formats_and_nasty_values_appear() -> None:
    """An hour of two ships holds each format, NULL, -0, whole numbers and every nasty value."""
    plan = plan_fleet(2)
    batches = [burst_of(plan, ship, MINUTE + i).samples for ship in (0, 1) for i in range(60)]
    table = pa.Table.from_batches(batches)
    seen = {name: {repr(value) for value in table[name].unique().to_pylist()} for name in VALUE_COLUMNS}
    assert set(table["value_format"].unique().to_pylist()) == set(FORMATS)
    assert {repr(value) for value in NASTY_DECIMALS} <= seen["double_v"]
    assert {repr(value) for value in NASTY_INTEGERS} <= seen["long_v"]
    assert {repr(value) for value in NASTY_STRINGS} <= seen["str_v"]
    assert {"True", "False"} <= seen["bool_v"]
    assert any(value.endswith(".0") for value in seen["double_v"])


def test_a_sample_sets_no_column_but_that_of_its_format() -> None:
    """Few samples have no value at all; none has two."""
    unset = 0
    for row in (row for burst in minute_samples() for row in burst.samples.to_pylist()):
        named = VALUE_COLUMNS[FORMATS.index(row["value_format"])]
        assert all(row[column] is None for column in VALUE_COLUMNS if column != named)
        unset += row[named] is None
    assert 0 < unset < 0.005 * 33_664


def test_values_drift_rather_than_jump() -> None:
    """Two samples 15 s apart differ by little against the channel's range over a day."""
    plan = plan_fleet(1, channels=["/a////c/temp"])
    steps = np.arange(0, 86_400, 15, dtype=np.int64) * 1_000_000
    zeros = np.zeros(len(steps), np.int64)
    batch = sample(plan, Cells(zeros, zeros, steps), np.random.default_rng(1))
    values = np.array([v for v in batch["double_v"].to_pylist() if v is not None and math.isfinite(v)])
    usual = values[np.abs(values - np.median(values)) < 1e4]
    assert np.median(np.abs(np.diff(usual))) < 0.1 * np.ptp(usual)


def test_text_is_what_copy_reads() -> None:
    """Escapes, NULL and the empty string, told apart; one line a row."""
    texts = pa.array(["a\tb", "two\nlines", "cr\r", "back\\slash", "", None, "\\N"], pa.string())
    numbers = pa.array([1, None, 3, 4, 5, 6, 7], pa.int64())
    lines = copy_text([texts, numbers]).to_pybytes().decode()
    assert lines == "a\\tb\t1\ntwo\\nlines\t\\N\ncr\\r\t3\nback\\\\slash\t4\n\t5\n\\N\t6\n\\\\N\t7\n"
    assert copy_text([texts[:0], numbers[:0]]).size == 0


@pytest.mark.parametrize("rows", [1, 4_000, 33_664, 100_000], ids=lambda rows: f"{rows} rows")
def test_a_history_has_exactly_the_rows_asked_for(rows: int) -> None:
    """They are the newest before the end, each key once."""
    plan = plan_fleet()
    minutes, surplus = history_minutes(plan, rows, MINUTE)
    table = pa.Table.from_batches(list(history_samples(plan, minutes, surplus)), SAMPLES)
    assert len(table) == rows
    keys = table.select(["ship_id", "data_channel_id", "created_time"])
    assert len(keys.group_by(keys.column_names).aggregate([])) == rows
    times: list[Any] = table["created_time"].to_pylist()
    assert max(times) < moment_of(MINUTE)
    assert min(times) >= moment_of(minutes.start)


def test_a_history_has_late_samples() -> None:
    """Some rows stand behind rows of the minute after them."""
    plan = plan_fleet(1)
    batches = [batch for batch in history_samples(plan, range(MINUTE, MINUTE + 5)) if len(batch)]
    times = np.concatenate([batch["created_time"].cast(pa.int64()).to_numpy() for batch in batches])
    minutes = times // 60_000_000
    late = np.count_nonzero(minutes < np.maximum.accumulate(minutes))
    assert 0 < late < 0.01 * len(times)


def test_random_cells_are_different_and_inside_their_minutes() -> None:
    """Asked for more than exist, every cell comes at most once."""
    plan = plan_fleet(2, channels=FEW)
    cells = random_cells(plan, range(MINUTE, MINUTE + 1), 500, np.random.default_rng(1))
    assert 20 < len(cells) <= 2 * len(FEW) * 4
    assert len({*zip(cells.ship, cells.channel, cells.created_us, strict=True)}) == len(cells)
    assert {int(us // 60_000_000) for us in cells.created_us} == {MINUTE}
    assert len(random_cells(plan, range(0), 5, np.random.default_rng(1))) == 0


def told(script: LiveScript, turns: int) -> list[Step]:
    """The steps of that many bursts and their corrections."""
    return [step for _ in range(turns) for step in (*script.burst(), *script.corrections())]


def step_text(step: Step) -> tuple[str, str, list[tuple[str, ...]]]:
    """A step in a form that compares."""
    return step.verb.name, step.counts_as, rows_of(step.samples)


def test_same_seed_same_plot() -> None:
    """Two scripts of one plan tell the same steps."""
    plan = plan_fleet(2, channels=FEW, seed=3)
    history = range(MINUTE - 10, MINUTE)
    first, second = (told(LiveScript(plan, MINUTE, history, Mix()), 12) for _ in range(2))
    assert list(map(step_text, first)) == list(map(step_text, second))


def test_corrections_concern_history_and_the_load_itself() -> None:
    """Updates and deletes go to moments on both sides of the start."""
    script = LiveScript(plan_fleet(), MINUTE, range(MINUTE - 30, MINUTE), Mix())
    for verb in (Verb.UPDATE, Verb.DELETE):
        moments = np.concatenate([step.cells.created_us for step in told(script, 10) if step.verb is verb])
        assert np.any(moments < MINUTE * 60_000_000)
        assert np.any(moments >= MINUTE * 60_000_000)


def test_a_key_change_changes_one_part_of_the_key() -> None:
    """Each of the three parts in turn; only another ship makes two events of it."""
    script = LiveScript(plan_fleet(), MINUTE, range(MINUTE - 30, MINUTE), Mix())
    changed_parts = set()
    for step in told(script, 3):
        if step.verb is not Verb.MOVE:
            continue
        assert step.moved_to is not None
        for old, new in zip(step.samples.to_pylist(), step.moved_to.to_pylist(), strict=True):
            changed = [key for key in ("ship_id", "data_channel_id", "created_time") if old[key] != new[key]]
            assert len(changed) == 1
            assert old["value_format"] == new["value_format"]
            assert step.events_per_row == (2 if changed == ["ship_id"] else 1)
            changed_parts.add(changed[0])
    assert changed_parts == {"ship_id", "data_channel_id", "created_time"}


def test_a_calm_load_only_inserts() -> None:
    """Bursts and late rows, no strangers."""
    steps = told(LiveScript(plan_fleet(), MINUTE, range(MINUTE - 5, MINUTE), CALM), 6)
    assert {step.verb for step in steps} == {Verb.INSERT}
    assert {step.counts_as for step in steps} == {"inserts", "late"}


def test_deleted_cells_are_written_again() -> None:
    """What the script was told is gone comes back as a re-insert."""
    plan = plan_fleet(1, channels=FEW)
    script = LiveScript(plan, MINUTE, range(0), Mix(duplicates=0, churned=0))
    gone = minute_grid(plan, 0, MINUTE - 100)
    script.remember_deleted(gone)
    again = [step for step in told(script, 1) if step.counts_as == "reinserts"]
    assert len(again) == 1
    assert set(again[0].cells.created_us) <= set(gone.created_us)
    assert len(again[0].cells) == Mix().reinserts


def test_a_naive_moment_is_utc() -> None:
    """created_time has no time zone, and the clock of the machine does not matter."""
    assert minute_of(datetime(2024, 5, 1, 0, 0, 59)) == minute_of(datetime(2024, 5, 1, tzinfo=UTC))
    assert moment_of(MINUTE) == datetime(2024, 5, 1)


def test_wrong_input_is_named(tmp_path: Path) -> None:
    """No lists, an unreadable list, no ship, no row: each says what to do."""
    with pytest.raises(ConfigurationError, match="No channel lists"):
        read_channels(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="can't be read"):
        read_channels(tmp_path)
    with pytest.raises(ConfigurationError, match="at least one"):
        plan_fleet(0)
    with pytest.raises(ConfigurationError, match="at least one"):
        history_minutes(plan_fleet(1, channels=FEW), 0, MINUTE)


def test_help_names_every_option() -> None:
    """Both commands explain themselves."""
    for command in ("history", "live"):
        result = CliRunner().invoke(fleet_command, [command, "--help"])
        assert result.exit_code == 0
        assert {"--dsn", "--ships", "--seed", "--order", "--channels"} <= set(result.output.split())
