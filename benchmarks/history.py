"""History: from the narrow table to committed wide rows, all arms on the same rows and the same tables."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import psutil
from psycopg import sql

from benchmarks import history_peers as peers
from benchmarks.chain import World, control_schema, succeed, wide_schema
from benchmarks.content import WideTable, digest, empty, wide_tables
from benchmarks.harness import Arm, Run, peak_mb, race

OURS: Final = "ours, text, 2 workers"
CONTROL: Final = "ours, text, 2 workers, again (A/A)"
PREDECESSOR: Final = "predecessor's way, 2 workers"
CROSSTAB: Final = "SQL crosstab, 1 session"
CEILING: Final = "ceiling: COPY out alone, 2 readers"


@dataclass(frozen=True, slots=True)
class Target:
    """A pipeline's wide tables, and what they must hold after a copy."""

    world: World
    pipeline: str
    tables: tuple[WideTable, ...]

    @property
    def schema(self) -> str:
        """Where its tables are."""
        return wide_schema(self.pipeline)

    def empty(self) -> None:
        """Nothing is copied yet."""
        with self.world.connect() as conn:
            empty(conn, self.schema)
            conn.execute(f"DELETE FROM {control_schema(self.pipeline)}.plan".encode())
            conn.execute("CHECKPOINT")

    def digest(self) -> str:
        """What stands there."""
        with self.world.connect() as conn:
            return digest(conn, self.schema)


def target_of(world: World, pipeline: str, *options: str) -> Target:
    """Make the tables of a pipeline that copies once."""
    succeed(world.product(pipeline), "cdc-consumer", "schema", "apply", *options)
    return target(world, pipeline)


def target(world: World, pipeline: str) -> Target:
    """A pipeline whose tables are there."""
    with world.connect() as conn:
        tables = wide_tables(conn, control_schema(pipeline), wide_schema(pipeline))
    return Target(world, pipeline, tuple(tables))


def arms(world: World) -> list[Arm]:
    """All arms; the content that all must write is that of PostgreSQL's own pivot."""
    text, typed = target_of(world, "text"), target_of(world, "typed", "--column-type", "typed")
    with world.connect() as conn:
        conn.execute("CREATE EXTENSION IF NOT EXISTS tablefunc")
    text.empty()
    race(peers.max_filter, _halves(text.tables, world.dsn))
    expected = text.digest()
    floor = _floor(text)

    def arm(name: str, run: Callable[[], Run], target: Target = text) -> Arm:
        return Arm(name, run, target.empty, target.digest, expected)

    return [
        arm(OURS, lambda: ours(text, 2)),
        arm("ours, text, 1 worker", lambda: ours(text, 1)),
        arm("ours, typed, 2 workers", lambda: ours(typed, 2), typed),
        arm("ours, typed, 1 worker", lambda: ours(typed, 1), typed),
        arm(PREDECESSOR, lambda: race(peers.predecessor, _spans(world, _ship_halves(text.tables)))),
        arm("predecessor's way, 1 worker", lambda: race(peers.predecessor, _spans(world, [text.tables]))),
        arm("SQL max() FILTER, 1 session", lambda: race(peers.max_filter, [(world.dsn, text.tables)])),
        arm(CROSSTAB, lambda: race(peers.crosstab, [(world.dsn, text.tables)])),
        arm("SQL crosstab, 2 sessions", lambda: race(peers.crosstab, _halves(text.tables, world.dsn))),
        Arm("ceiling: COPY out alone, 1 reader", lambda: race(peers.read_only, _times(world, 1))),
        Arm(CEILING, lambda: race(peers.read_only, _times(world, 2))),
        arm("floor: wide COPY in alone, 1 session", floor),
        arm(CONTROL, lambda: ours(text, 2)),
    ]


# -- ours ---------------------------------------------------------------------------------------------------


def ours(target: Target, workers: int, **settings: str) -> Run:
    """`backfill run` as it is; timed from the first claim of a slice to the last commit, and as a whole."""
    world = target.world
    report = world.folder / "backfill.json"
    product = world.product(target.pipeline, **settings)
    began = time.monotonic()
    command = (
        "backfill",
        "run",
        "--no-handoff",
        "--again",
        "--workers",
        str(workers),
        "--report",
        str(report),
    )
    process = product.start(*command)
    with watching(process.child.pid) as peak:
        code = process.child.wait(900)
    whole_s = time.monotonic() - began
    if code:
        raise RuntimeError(f"backfill run ended with {code}: {process.log.read_text()[-2000:]}")
    rows = int(json.loads(report.read_text())["rows"])
    query = "SELECT extract(epoch FROM max(done_at) - min(started_at)), count(*) FROM {}.slice WHERE state = 'done'"
    with world.connect() as conn:
        ((seconds, slices),) = conn.execute(
            sql.SQL(query).format(sql.Identifier(control_schema(target.pipeline)))
        ).fetchall()
    return Run(rows, float(seconds), {"whole_s": whole_s, "peak_mb": max(peak), "slices": float(slices)})


@contextmanager
def watching(pid: int) -> Iterator[list[float]]:
    """The peak memory of the largest process among a command's children, looked at ten times a second."""
    peaks, done = [0.0], Event()

    def look() -> None:
        while not done.wait(0.1):
            try:
                family = psutil.Process(pid).children(recursive=True)
            except psutil.NoSuchProcess:
                return
            peaks.extend(peak_mb(child.pid) for child in family)

    thread = Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


# -- shares of the work -------------------------------------------------------------------------------------


def _ship_halves(tables: Sequence[WideTable]) -> list[tuple[WideTable, ...]]:
    ships = list(dict.fromkeys(table.ship for table in tables))
    return [tuple(t for t in tables if ships.index(t.ship) % 2 == half) for half in range(2)]


def _halves(tables: Sequence[WideTable], dsn: str) -> list[tuple[Any, ...]]:
    return [(dsn, half) for half in _ship_halves(tables)]


def span_of(world: World) -> tuple[datetime, datetime]:
    """First moment, and the moment after the last, of what `fleet_world` wrote."""
    with world.connect() as conn:
        ((first, last),) = conn.execute(
            "SELECT min(created_time), max(created_time) FROM tenant.tbl_data_timeseries"
        ).fetchall()
    return first, last + timedelta(seconds=1)


def _spans(world: World, shares: Sequence[tuple[WideTable, ...]]) -> list[tuple[Any, ...]]:
    start, until = span_of(world)
    return [(world.dsn, share, start, until) for share in shares]


def _times(world: World, readers: int) -> list[tuple[Any, ...]]:
    start, until = span_of(world)
    step = (until - start) / readers
    return [(world.dsn, start + i * step, start + (i + 1) * step) for i in range(readers)]


def _floor(target: Target) -> Callable[[], Run]:
    """Keep what the tables hold now as COPY text, to be written again and again."""
    world = target.world
    folder = Path(world.folder) / "floor"
    folder.mkdir(exist_ok=True)
    with world.connect() as conn:
        for table in target.tables:
            query = sql.SQL("COPY {} TO STDOUT").format(table.identifier)
            with (folder / f"{table.name}.copy").open("wb") as file, conn.cursor().copy(query) as copy:
                file.writelines(copy)
    names = [(table.schema, table.name) for table in target.tables]

    def run() -> Run:
        done = race(peers.write_only, [(world.dsn, str(folder), names)])
        return Run(world.rows, done.seconds, done.seen)

    return run
