"""Larger fleets by simulation: how even keys lie on partitions, and how long bursts wait for their process.

In: ships, partitions, processes, and how many events per second a process applies. Out: load and waiting times.
Model: every ship sends its minute at once, always at the same second of the minute; a process serves bursts one
after the other. Pure and seeded.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from devstack.fleet.plan import ship_ids

BURST_EVENTS: Final = 4_208
"""1,052 channels x 4 moments."""
MINUTE_S: Final = 60.0
MINUTES: Final = 10
PLANS: Final = (
    (8, 12, 1),
    (100, 12, 1),
    (1_000, 48, 2),
    (1_000, 48, 4),
    (10_000, 240, 16),
    (10_000, 480, 24),
)
"""(ships, partitions, processes)."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a fleet makes of its processes; shares of a process's time, seconds of waiting."""

    events_per_s: float
    mean_load: float
    highest_load: float
    wait_p50_s: float
    wait_p99_s: float


def simulate(ships: int, partitions: int, processes: int, per_process: float, seed: int = 1) -> Load:
    """Let bursts queue; `per_process` is what one process applies, events per second."""
    owner = (
        np.array([zlib.crc32(ship.encode()) % partitions for ship in ship_ids(ships)])
        * processes
        // partitions
    )
    phase = np.random.default_rng(seed).random(ships) * MINUTE_S
    service_s = BURST_EVENTS / per_process
    waits: list[float] = []
    for process in range(processes):
        waits += _waits(np.sort(phase[owner == process]), service_s)
    load = np.bincount(owner, minlength=processes) * service_s / MINUTE_S
    found = np.array(waits)
    return Load(
        ships * BURST_EVENTS / MINUTE_S,
        float(load.mean()),
        float(load.max()),
        float(np.quantile(found, 0.5)),
        float(np.quantile(found, 0.99)),
    )


def _waits(
    phases: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]], service_s: float
) -> list[float]:
    """Seconds from the arrival of each burst to its commit, minute after minute."""
    free_at, found = 0.0, []
    for minute in range(MINUTES):
        for phase in phases:
            arrival = minute * MINUTE_S + float(phase)
            free_at = max(free_at, arrival) + service_s
            found.append(free_at - arrival)
    return found


def table(per_process: float) -> str:
    """All plans as a table."""
    lines = [
        "| ships | events/s | partitions | processes | load of a process, mean / highest | burst applied after, p50 / p99 |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for ships, partitions, processes in PLANS:
        load = simulate(ships, partitions, processes, per_process)
        lines.append(
            f"| {ships:,} | {load.events_per_s:,.0f} | {partitions} | {processes} |"
            f" {load.mean_load:.0%} / {load.highest_load:.0%} | {load.wait_p50_s:.2f} / {load.wait_p99_s:.2f} s |"
        )
    return "\n".join(lines)
