"""A ship's minute: the samples that its collector has, in the order in which it writes them.

In: plan, ship, minute. Out: samples, and the holes where a sample is missing. Guarantee: both follow from the
plan's seed alone, so any process can name the holes of a minute that another one wrote. The order changes
only the order.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
import pyarrow as pa

from devstack.fleet.plan import MOMENTS_PER_BURST, STEP_S, FleetPlan
from devstack.fleet.values import Bools, Cells, sample

MINUTE_US: Final = 60_000_000
STEP_US: Final = STEP_S * 1_000_000
GAP_SHARE: Final = 0.01
LATE_SHARE: Final = 0.003


@dataclass(frozen=True, slots=True)
class Burst:
    """What one ship has for one minute.

    Attributes:
        samples: rows of `SAMPLES` in the plan's order.
        cells: their coordinates, row by row.
        holes: the cells of that minute that have no sample, channel by channel.
    """

    samples: pa.RecordBatch
    cells: Cells
    holes: Cells


def burst_of(plan: FleetPlan, ship: int, minute: int) -> Burst:
    """Sample one ship's minute (`minute` counts from 1970)."""
    rng = plan.generator(ship, minute)
    present = present_cells(plan, rng).ravel()
    grid = minute_grid(plan, ship, minute)
    cells = grid[present]
    samples = sample(plan, cells, rng)
    if plan.order == "moment":
        by_moment = np.argsort(cells.created_us, kind="stable")
        cells, samples = cells[by_moment], samples.take(by_moment)
    return Burst(samples, cells, grid[~present])


def minute_grid(plan: FleetPlan, ship: int, minute: int) -> Cells:
    """Every cell of one ship's minute, channel by channel."""
    moments = minute * MINUTE_US + np.arange(MOMENTS_PER_BURST, dtype=np.int64) * STEP_US
    channels = np.arange(len(plan.channels), dtype=np.int64)
    count = len(channels) * MOMENTS_PER_BURST
    return Cells(
        np.full(count, ship, np.int64),
        np.repeat(channels, MOMENTS_PER_BURST),
        np.tile(moments, len(channels)),
    )


def present_cells(plan: FleetPlan, rng: np.random.Generator) -> Bools:
    """Which cells of a minute have a sample, as (channels, moments): the first draw of its generator."""
    return rng.random((len(plan.channels), MOMENTS_PER_BURST)) >= GAP_SHARE


def count_samples(plan: FleetPlan, minute: int) -> int:
    """How many samples the whole fleet has for a minute."""
    ships = range(len(plan.ships))
    return sum(int(np.count_nonzero(present_cells(plan, plan.generator(ship, minute)))) for ship in ships)


def late_rows(rows: int, rng: np.random.Generator) -> Bools:
    """Which of a burst's rows a collector holds back and writes with a later burst."""
    return rng.random(rows) < LATE_SHARE


def random_cells(plan: FleetPlan, minutes: range, count: int, rng: np.random.Generator) -> Cells:
    """Up to `count` different cells of the grid in `minutes`; a few of them may be holes."""
    if not minutes:
        return Cells.concat([])
    steps = rng.integers(minutes.start * MOMENTS_PER_BURST, minutes.stop * MOMENTS_PER_BURST, count)
    keys = np.stack(
        [rng.integers(0, len(plan.ships), count), rng.integers(0, len(plan.channels), count), steps]
    )
    ship, channel, step = np.unique(keys, axis=1).astype(np.int64)
    return Cells(ship, channel, step * STEP_US)


def minute_of(moment: datetime) -> int:
    """Minutes from 1970 to `moment`, rounded down; a naive moment is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() // 60)


def moment_of(minute: int) -> datetime:
    """The first moment of a minute, naive UTC like `created_time`."""
    return datetime.fromtimestamp(minute * 60, UTC).replace(tzinfo=None)
