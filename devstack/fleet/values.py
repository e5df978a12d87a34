"""Cells in, samples out: what a sensor would say at each ship, channel and moment.

Pure: the same plan, cells and generator state give the same samples. Most values drift smoothly, as sensors
do; a few are the ones that break careless programs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from devstack.fleet.plan import FleetPlan, stable_hash
from widetable.narrow import FORMATS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("ship_id", pa.string(), nullable=False),
    pa.field("data_channel_id", pa.string(), nullable=False),
    pa.field("created_time", pa.timestamp("us"), nullable=False),
    pa.field("bool_v", pa.bool_()),
    pa.field("str_v", pa.string()),
    pa.field("long_v", pa.int64()),
    pa.field("double_v", pa.float64()),
    pa.field("value_format", pa.string(), nullable=False),
]
SAMPLES: Final = pa.schema(_FIELDS)
"""The columns of the narrow table that a collector fills, in the table's order."""

DECIMAL, INTEGER, STRING, BOOLEAN = range(len(FORMATS))

# fmt: off
NASTY_DECIMALS: Final = (
    -0.0, 0.1 + 0.2, 1e15, 1e16, -1.5e-7, 1e-300, 1.7976931348623157e308, 5e-324, 9007199254740993.0,
    123456789012.34567, float("nan"), float("inf"), float("-inf"),
)
NASTY_INTEGERS: Final = (0, -1, 2**53 + 1, -(2**53) - 1, 10**16, 2**63 - 1, -(2**63))
NASTY_STRINGS: Final = (
    "", " ", "a\tb", "two\nlines", "cr\rlf\r\n", "back\\slash", "\\N", "\\.", 'say "hi"', "it's", "a,b;c",
    "NULL", "부산항", "Ærøskøbing", "⚓ ok", "true",
)
# fmt: on
WORDS: Final = ("AUTO", "MANUAL", "STANDBY", "GAS", "DIESEL", "KRPUS", "NLRTM", "SGSIN")

# Strings and integers are few, so theirs come more often; long decimals would not fit a page in numbers.
NASTY_SHARE: Final = np.array([0.002, 0.01, 0.1, 0.0])
NULL_SHARE: Final = 0.001


@dataclass(frozen=True, slots=True)
class Cells:
    """Coordinates of n cells: indices into a plan's ships and channels, and the moment.

    Attributes:
        ship: index of the ship.
        channel: index of the channel.
        created_us: moment, microseconds since 1970 (UTC).
    """

    ship: Ints
    channel: Ints
    created_us: Ints

    def __len__(self) -> int:
        return len(self.ship)

    def __getitem__(self, rows: npt.NDArray[np.integer | np.bool_] | slice) -> Cells:
        return Cells(self.ship[rows], self.channel[rows], self.created_us[rows])

    @staticmethod
    def concat(parts: Sequence[Cells]) -> Cells:
        """All cells of `parts` in their order."""
        if not parts:
            return Cells(*(np.empty(0, np.int64) for _ in range(3)))
        return Cells(
            np.concatenate([part.ship for part in parts]),
            np.concatenate([part.channel for part in parts]),
            np.concatenate([part.created_us for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Traits:
    """What stays the same about each channel (and ship) of a plan."""

    ship_ids: pa.StringArray
    channel_ids: pa.StringArray
    ship_phase: Floats
    format_code: Ints
    middle: Floats
    swing: Floats
    cycles_per_hour: Floats
    scale: Floats
    kin: Ints
    """The next channel of the same format, in a ring."""


@lru_cache(maxsize=8)
def traits_of(plan: FleetPlan) -> Traits:
    """Derive the traits of a plan's ships and channels from their ids."""
    digest = np.array([stable_hash(channel) for channel in plan.channels], np.int64)
    middle = np.array([0.0, 1.5, 8.0, 25.0, 60.0, 85.0, 350.0, 1200.0])[digest % 8]
    codes = np.array([FORMATS.index(name) for name in plan.formats], np.int64)
    return Traits(
        ship_ids=pa.array(plan.ships, pa.string()),
        channel_ids=pa.array(plan.channels, pa.string()),
        ship_phase=np.array([stable_hash(ship) % 628 / 100 for ship in plan.ships]),
        format_code=codes,
        middle=middle,
        swing=0.05 * middle + 1.0,
        cycles_per_hour=0.05 + digest // 8 % 40 / 10,
        scale=np.array([1.0, 10.0, 100.0, 1000.0])[digest // 320 % 4],
        kin=_next_of_same_format(codes),
    )


def _next_of_same_format(codes: Ints) -> Ints:
    kin = np.arange(len(codes))
    for code in range(len(FORMATS)):
        members = np.flatnonzero(codes == code)
        kin[members] = np.roll(members, -1)
    return kin


def sample(plan: FleetPlan, cells: Cells, rng: np.random.Generator) -> pa.RecordBatch:
    """Draw one value for each cell.

    Returns:
        n rows of `SAMPLES` in the order of `cells`; at most one value column is set, the one of the format.
    """
    traits = traits_of(plan)
    code = traits.format_code[cells.channel]
    known = rng.random(len(cells)) >= NULL_SHARE
    nasty = rng.random(len(cells)) < NASTY_SHARE[code]
    lot = rng.integers(0, 1 << 30, len(cells))
    level = _drift(traits, cells) + 0.02 * rng.standard_normal(len(cells))
    raw = traits.middle[cells.channel] + traits.swing[cells.channel] * level
    values = [
        _masked(level > 0, known & (code == BOOLEAN)),
        _strings(level, nasty, lot, known & (code == STRING)),
        _masked(_integers(raw, nasty, lot), known & (code == INTEGER)),
        _masked(_decimals(raw, traits.scale[cells.channel], nasty, lot), known & (code == DECIMAL)),
    ]
    return _batch(traits, cells, values)


def without_values(plan: FleetPlan, cells: Cells) -> pa.RecordBatch:
    """Samples that know their format and have no value; also what names a cell to delete or to move."""
    fields = [SAMPLES.field(name) for name in ("bool_v", "str_v", "long_v", "double_v")]
    return _batch(traits_of(plan), cells, [pa.nulls(len(cells), field.type) for field in fields])


def _batch(traits: Traits, cells: Cells, values: list[pa.Array[Any]]) -> pa.RecordBatch:
    columns: list[pa.Array[Any]] = [
        traits.ship_ids.take(cells.ship),
        traits.channel_ids.take(cells.channel),
        pa.array(cells.created_us).cast(pa.timestamp("us")),
        *values,
        pa.array(FORMATS, pa.string()).take(traits.format_code[cells.channel]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SAMPLES)


def _drift(traits: Traits, cells: Cells) -> Floats:
    """A slow walk in about [-1, 1] that can be asked for any moment, so bursts need no common history."""
    turns = cells.created_us / 3.6e9 * traits.cycles_per_hour[cells.channel] * 2 * np.pi
    phase = traits.ship_phase[cells.ship] + cells.channel
    walk: Floats = (
        0.6 * np.sin(turns + phase) + 0.3 * np.sin(3.7 * turns + 2 * phase) + 0.1 * np.sin(17.3 * turns)
    )
    return walk


def _decimals(raw: Floats, scale: Floats, nasty: Bools, lot: Ints) -> Floats:
    """Readings with the digits of their sensor, so 0, 1, 2 or 3; -0 comes by itself near zero."""
    pool = np.array(NASTY_DECIMALS)
    return np.where(nasty, pool[lot % len(pool)], np.round(raw * scale) / scale)


def _integers(raw: Floats, nasty: Bools, lot: Ints) -> Ints:
    pool = np.array(NASTY_INTEGERS, np.int64)
    return np.where(nasty, pool[lot % len(pool)], np.rint(raw).astype(np.int64))


def _strings(level: Floats, nasty: Bools, lot: Ints, present: Bools) -> pa.Array[Any]:
    """A word that changes with the drift, or a nasty string."""
    pool = pa.array([*WORDS, *NASTY_STRINGS], pa.string())
    calm = np.clip(np.floor((level + 1) / 2 * len(WORDS)), 0, len(WORDS) - 1).astype(np.int64)
    index = np.where(nasty, len(WORDS) + lot % len(NASTY_STRINGS), calm)
    return pool.take(pa.array(index, pa.int64(), mask=~present))


def _masked(values: Floats | Ints | Bools, present: Bools) -> pa.Array[Any]:
    return pa.array(values, mask=~present)
