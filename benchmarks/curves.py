"""Cost curves: one thing varied, all else as in the benchmark. A point that doesn't fit the time box is left out."""

from __future__ import annotations

from typing import Any

from benchmarks.chain import World
from devstack.stack import Stack


def measure(servers: Stack, world: World, deadline: float) -> dict[str, Any]:
    """All curves that can be begun before the deadline (monotonic)."""
    _ = servers, world, deadline
    return {}
