"""What must be reached, and whether it is: each target reads one figure of a measured run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import history, stream

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and its bound; a smaller figure is better where `at_most`."""

    text: str
    bound: float
    read: Callable[[Figures], float]
    unit: str = ""
    at_most: bool = False

    def met(self, figures: Figures) -> bool:
        """Whether the figures reach it."""
        found = self.read(figures)
        return found <= self.bound if self.at_most else found >= self.bound

    def shown(self, value: float) -> str:
        """A number as the report prints it."""
        if self.unit in {"x", ""}:
            return f"{value:.2f}" if self.unit == "" else f"{value:.1f} x"
        return f"{value:.0%}" if self.unit == "%" else f"{value:,.0f} {self.unit}"


def _ratio(section: str, arm: str, base: str) -> Callable[[Figures], float]:
    return lambda figures: float(figures[section][arm]["rate"] / figures[section][base]["rate"])


def _best_text(figures: Figures) -> float:
    """Our text arm with its best number of workers, against the predecessor's with its own."""
    rates = {name: arm["rate"] for name, arm in figures["history"].items()}
    ours = max(rate for name, rate in rates.items() if name.startswith("ours, text"))
    return float(ours / max(rate for name, rate in rates.items() if name.startswith("predecessor")))


def _backlog_mb(figures: Figures) -> float:
    """Of the largest process: one that has all partitions is larger than one of two."""
    return float(max(figures["stream"][arm]["peak_mb"] for arm in (stream.OURS, stream.ALONE)))


def _figure(*path: str) -> Callable[[Figures], float]:
    def read(figures: Figures) -> float:
        found: Any = figures
        for name in path:
            found = found[name]
        return float(found)

    return read


TARGETS: Final = (
    Target("stream: two processes against the JDBC sink", 25, _ratio("stream", stream.OURS, stream.JDBC), "x"),
    Target("stream: two processes against plain fastavro", 12, _ratio("stream", stream.OURS, stream.FASTAVRO), "x"),
    Target("stream: two processes of the `consume()` ceiling of one", 0.45, _ratio("stream", stream.OURS, stream.CEILING), "%"),
    Target("memory of a consumer process with a backlog", 600, _backlog_mb, "MB", at_most=True),
    Target("history: text against the predecessor's way, each at its best", 12, _best_text, "x"),
    Target("history: two workers against crosstab", 1.5, _ratio("history", history.OURS, history.CROSSTAB), "x"),
    Target("history: two workers of the COPY-out ceiling of two readers", 0.65, _ratio("history", history.OURS, history.CEILING), "%"),
    Target("memory of a backfill worker", 500, _figure("history", history.OURS, "peak_mb"), "MB", at_most=True),
    Target("the same, no two samples at one moment", 500, _figure("unaligned", "peak_mb"), "MB", at_most=True),
    Target("burst: last record in Kafka to committed rows, beyond the hold", 100, lambda f: float(f["bursts"]["median_ms"] - f["bursts"]["hold_ms"]), "ms", at_most=True),
    Target("steady load: apply latency p99", 500, _figure("steady", "apply_p99_ms"), "ms", at_most=True),
    Target("tuples written per row, moment by moment", 1.05, _figure("moment_major", "written_per_row"), at_most=True),
    Target("tuples written per row, channel by channel", 1.05, _figure("channel_major", "written_per_row"), at_most=True),
    Target("tuples written by a replay", 0, _figure("replay", "tuples"), at_most=True),
    Target("replay against first time", 0.5, _figure("replay", "share"), "%"),
    Target("verify", 300_000, _figure("verify", "rate"), "cells/s"),
    Target("resync of whole rows", 20_000, _figure("resync", "dense_rate"), "cells/s"),
)  # fmt: skip
