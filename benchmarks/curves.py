"""Cost curves: one thing varied, all else as in the benchmark.

Each point is one run, on data of its own where the data is what varies. Points are taken in order; those that
would begin after the deadline are left out, so the most telling curves come first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

from benchmarks import stream as streams
from benchmarks.chain import NARROW, Scale, World, fleet_world, wide_schema
from benchmarks.content import tuples_written, wide_rows
from benchmarks.harness import Run
from benchmarks.history import Target, ours, target_of
from benchmarks.topic import Place
from devstack.fleet import FleetPlan, plan_fleet
from devstack.stack import Stack

Figures = dict[str, float]
Point = tuple[str, str, Callable[[], Figures]]
"""(curve, point, measurement)."""

ROWS: Final = 1_000_000
MINUTES: Final = 30
"""Of the whole fleet: about that many rows."""
LISTS: Final = ("auxiliary_systems", "engine_generator", "navigation_ship")


def measure(servers: Stack, world: World, deadline: float, failed: dict[str, str]) -> dict[str, Any]:
    """All points that can be begun before the deadline (monotonic): curve -> point -> figures.

    A point that fails is named in `failed`, and costs no other.
    """
    curves: dict[str, dict[str, Figures]] = {}
    for curve, point, run in _points(servers, world):
        if time.monotonic() > deadline:
            print(f"  {curve}, {point}: left out, no time", flush=True)
            continue
        try:
            curves.setdefault(curve, {})[point] = found = run()
            print(f"  {curve}, {point}: {found}", flush=True)
        except Exception as error:  # noqa: BLE001 - as with the sections
            failed[f"{curve}, {point}"] = f"{type(error).__name__}: {error}"
            print(f"  {curve}, {point} FAILED: {error}", flush=True)
    return curves


def _points(servers: Stack, world: World) -> Iterator[Point]:
    bench = _Bench(servers, world)
    varied: list[tuple[str, Callable[[Any], Figures], dict[str, Any]]] = [
        ("rows of history", bench.millions, {"1 M": 1, "3 M": 3, "10 M": 10}),
        ("backfill workers", bench.workers, {str(n): n for n in (1, 2, 3, 4)}),
        ("ships, rows equal", bench.ships, {str(n): n for n in (1, 8, 50, 200)}),
        ("fill rate", bench.fill_rate, {"100 %": 1.0, "50 %": 0.5, "20 %": 0.2, "5 %": 0.05}),
        ("late cells", bench.late, {"0 %": 0.0, "5 %": 0.05, "20 %": 0.2, "50 %": 0.5}),
        ("channels", bench.channels, {f"{n:,}": n for n in (50, 350, 1_052, 1_500)}),
        ("rows per slice", bench.slices, {f"{n:,}": n for n in (25_000, 50_000, 100_000, 200_000, 400_000)}),
        ("events per batch", bench.batches, {f"{n:,}": n for n in (5_000, 20_000, 50_000, 100_000)}),
        ("consumer processes", bench.processes, {"1": 1, "2": 2}),
        ("Kafka key", bench.key, {"ship": None, "ship and moment": _by_moment}),
        ("rows of history", bench.millions, {"30 M": 30}),  # last: its data alone takes minutes to make
    ]
    for curve, run, points in varied:
        for point, value in points.items():
            yield curve, point, partial(run, value)


class _Bench:
    """Runs single points; data that several points share is made once and kept for the next."""

    def __init__(self, servers: Stack, world: World) -> None:
        self._servers, self._world = servers, world

    @contextmanager
    def _history(
        self, minutes: float, fleet: FleetPlan | None = None, *options: str, prepare: str = ""
    ) -> Iterator[Target]:
        scale = Scale(minutes=int(minutes), slow_minutes=1, repeats=1, bursts=0, steady_s=0)
        with fleet_world(self._servers, scale, self._world.folder, fleet, "bench_curve") as world:
            if prepare:
                with world.connect() as conn:
                    conn.execute(prepare.encode())
                    conn.execute(f"VACUUM (ANALYZE) {NARROW}".encode())
            yield target_of(world, "curve", *options)

    def millions(self, count: int) -> Figures:
        """A longer and longer history."""
        with self._history(count * MINUTES) as target:
            return _shown(ours(target, 2))

    def workers(self, count: int) -> Figures:
        """More workers."""
        with self._history(MINUTES) as target:
            return _shown(ours(target, count))

    def ships(self, count: int) -> Figures:
        """The same number of rows from more and more ships."""
        fleet = plan_fleet(count, seed=1)
        minutes = max(1, round(ROWS / (count * len(fleet.channels) * 4)))
        with self._history(minutes, fleet) as target:
            return _shown(ours(target, 2))

    def channels(self, count: int) -> Figures:
        """The same number of rows from more and more channels, in three tables."""
        real = plan_fleet(1).channels
        ids = [
            *real[:count],
            *(f"/hs9xx_v1/extra////{number:04}/value" for number in range(count - len(real))),
        ]
        folder = self._world.folder / f"channels-{count}"
        folder.mkdir(exist_ok=True)
        for number, name in enumerate(LISTS):
            (folder / f"{name}.txt").write_text("\n".join(ids[number::3]) + "\n")
        minutes = max(1, round(ROWS / (8 * count * 4)))
        with self._history(minutes, plan_fleet(8, seed=1, channels=ids), "--channels", str(folder)) as target:
            return _shown(ours(target, 2))

    def fill_rate(self, share: float) -> Figures:
        """Rows of history from which all but a share of the samples is missing."""
        prepare = f"DELETE FROM {NARROW} WHERE random() >= {share}" if share < 1 else ""
        with self._history(MINUTES, prepare=prepare) as target:
            return _shown(ours(target, 2))

    def late(self, share: float) -> Figures:
        """History of which a share comes in a second copy, when its rows are there: all of that is merged."""
        park = f"CREATE TABLE late AS SELECT * FROM {NARROW} WHERE hashtext(id::text) & 1023 < {1024 * share}"
        drop = f"DELETE FROM {NARROW} n USING late l WHERE n.id = l.id"
        with self._history(15, prepare=f"{park}; {drop}") as target:
            first = ours(target, 2)
            with target.world.connect() as conn:
                conn.execute(
                    f"TRUNCATE {NARROW}; INSERT INTO {NARROW} SELECT * FROM late; ANALYZE {NARROW}".encode()
                )
                ((late,),) = conn.execute("SELECT count(*) FROM late").fetchall()
                second = ours(target, 2) if late else Run(0, 1e-9)
                inserted, updated = tuples_written(conn, wide_schema(target.pipeline))
                rows = wide_rows(conn, wide_schema(target.pipeline))
        seconds = first.seconds + second.seconds
        return {"rows/s": (first.rows + late) / seconds, "written per row": (inserted + updated) / rows}

    def slices(self, rows: int) -> Figures:
        """Slices of other sizes."""
        with self._history(MINUTES) as target:
            return _shown(ours(target, 2, CDC_BACKFILL__SLICE_ROWS=str(rows)))

    @contextmanager
    def _stream(self, place: Place | None = None) -> Iterator[streams.Stream]:
        scale = replace(self._world.scale, minutes=MINUTES, slow_minutes=1)
        with (
            fleet_world(self._servers, scale, self._world.folder, None, "bench_curve") as world,
            streams.open_stream(world, place) as stream,
        ):
            yield stream

    def batches(self, events: int) -> Figures:
        """Batches of other sizes."""
        with self._stream() as stream:
            stream.rewind()
            return _shown(streams.ours(stream, 2, CDC_CONSUMER__BATCH_EVENTS=str(events)))

    def processes(self, count: int) -> Figures:
        """More processes."""
        with self._stream() as stream:
            stream.rewind()
            return _shown(streams.ours(stream, count))

    def key(self, place: Place | None) -> Figures:
        """Ships in one partition each, or each ship's moments dealt out over all (which breaks the order of cells)."""
        with self._stream(place) as stream:
            stream.rewind()
            run = streams.ours(stream, 2)
            with stream.world.connect() as conn:
                rows = wide_rows(conn, wide_schema(streams.PIPELINE))
        return {**_shown(run), "written per row": run.seen["tuples"] / rows}


def _by_moment(ship: int, moment_us: int) -> int:
    """The partition of a (ship, moment)."""
    return (ship + moment_us // 15_000_000) % streams.PARTITIONS


def _shown(run: Run) -> Figures:
    return {"rows/s": run.rate, "MB": run.seen["peak_mb"]}
