"""What an operator waits for besides: replay, verify, resync; and how much memory the processes hold."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from benchmarks.chain import NARROW, Scale, World, fleet_world, succeed
from benchmarks.history import Target, ours, target_of
from benchmarks.stream import PIPELINE, Stream
from benchmarks.stream import ours as stream_ours
from cdc_consumer.settings import load_settings
from devstack.fleet import plan_fleet
from devstack.stack import Stack
from widetable.resync import Resync

RESYNC_CELLS: Final = 40_000
UNALIGNED: Final = f"UPDATE {NARROW} SET created_time = created_time + random() * interval '14 s'"
DENSE: Final = f"""
SELECT ship_id, (extract(epoch FROM created_time) * 1000000)::bigint, data_channel_id FROM {NARROW}
ORDER BY created_time LIMIT %s
"""
SCATTERED: Final = f"""
SELECT ship_id, (extract(epoch FROM created_time) * 1000000)::bigint, data_channel_id FROM {NARROW}
ORDER BY md5(id::text) LIMIT %s
"""


def replay(stream: Stream) -> dict[str, Any]:
    """Apply the whole topic, then once more: the second time must write nothing."""
    stream.rewind()
    first = stream_ours(stream, 2)
    content = stream.digest()
    stream.rewind_only()
    second = stream_ours(stream, 2)
    if stream.digest() != content:
        raise RuntimeError("a replay changed the wide tables")
    return {
        "first_rate": first.rate,
        "replay_rate": second.rate,
        "share": second.rate / first.rate,
        "tuples": second.seen["tuples"],
    }


def verify(target: Target) -> dict[str, Any]:
    """`backfill verify` of a whole history, both sides hashed by one server."""
    report = target.world.folder / "verify.json"
    began = time.monotonic()
    succeed(
        target.world.product(target.pipeline), "backfill", "verify", "--no-settle", "--report", str(report)
    )
    found = json.loads(report.read_text())
    return {
        "cells": found["cells_compared"],
        "differences": found["difference_count"],
        "rate": found["cells_per_second"],
        "whole_s": time.monotonic() - began,
    }


def resync(stream: Stream) -> dict[str, Any]:
    """Heal cells of whole rows, then cells that are scattered over all rows."""
    settings = load_settings(stream.world.settings(PIPELINE))
    found = {}
    for name, query in (("dense", DENSE), ("scattered", SCATTERED)):
        with stream.world.connect() as conn:
            cells = conn.execute(query.encode(), [RESYNC_CELLS]).fetchall()
        healer = Resync(settings.source, settings.target, PIPELINE)
        try:
            healer.heal(cells[:1])  # connects, and reads the layout
            began = time.monotonic()
            healer.heal([(ship, moment, channel) for ship, moment, channel in cells])
            found[f"{name}_rate"] = len(cells) / (time.monotonic() - began)
        finally:
            healer.close()
    return {"cells": RESYNC_CELLS, **found}


def unaligned(stack: Stack, world: World) -> dict[str, Any]:
    """A copy of history in which no two samples share a moment: every sample is a wide row of its own."""
    with _unaligned_world(stack, world) as other:
        run = ours(target_of(other, "unaligned"), 2)
    return {"rows": run.rows, "rate": run.rate, "peak_mb": run.seen["peak_mb"]}


@contextmanager
def _unaligned_world(stack: Stack, world: World) -> Iterator[World]:
    scale = Scale(minutes=max(1, world.scale.minutes // 8), slow_minutes=1, repeats=1, bursts=0, steady_s=0)
    with fleet_world(stack, scale, world.folder, plan_fleet(8, seed=1), "bench_unaligned") as other:
        with other.connect() as conn:
            conn.execute(UNALIGNED.encode())
            conn.execute(f"VACUUM (ANALYZE) {NARROW}".encode())
        yield other
