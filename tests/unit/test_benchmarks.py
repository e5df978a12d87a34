"""The benchmark's report: figures land where people read them, and a missed target is said so."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

import benchmarks
from benchmarks import history, report, sizes, stream, targets
from benchmarks.harness import Run, ratio, summary
from benchmarks.stream_peers import _float_text

ARM = {"rate": 500_000.0, "lowest": 400_000.0, "highest": 600_000.0, "peak_mb": 300.0}


def _arms(*names: str, **rates: float) -> dict[str, Any]:
    return {name: {**ARM, "rate": rates.get(f"_{number}", 500_000.0)} for number, name in enumerate(names)}


@pytest.fixture
def figures() -> dict[str, Any]:
    """What a run writes."""
    return {
        "machine": {
            "measured_at": "2026-01-02T03:04",
            "cores": 2,
            "processor": "Some <CPU>",
            "memory_gb": 24,
        },
        "scale": {"repeats": 5},
        "rows": 1_000_000,
        "postgres": "18.6",
        "control": {"history": 1.01, "stream": 0.98},
        "history": _arms(
            *(history.OURS, history.PREDECESSOR, history.CROSSTAB, history.CEILING, history.CONTROL),
            _1=20_000.0,
            _2=250_000.0,
        ),
        "stream": _arms(
            stream.OURS, stream.ALONE, stream.JDBC, stream.FASTAVRO, stream.CEILING, _2=10_000.0, _3=20_000.0
        ),
        "bursts": {"cells": 33_300, "median_ms": 270.0, "worst_ms": 300.0, "hold_ms": 200},
        "steady": {
            f"{name}_p{share}_ms": 100.0 for name in ("apply", "total", "capture") for share in (50, 99)
        },
        "moment_major": {"written_per_row": 1.0},
        "channel_major": {"written_per_row": 1.2},
        "replay": {"tuples": 0, "share": 0.8},
        "verify": {"rate": 500_000.0},
        "resync": {"dense_rate": 30_000.0, "scattered_rate": 9_000.0},
        "unaligned": {"rate": 30_000.0, "peak_mb": 350.0},
        "stages": {
            "stream": {"us_per_row": {"consume": 1.0, "commit": 0.1}},
            "history": {"us_per_row": {"read": 0.9, "commit": 0.1}},
        },
        "curves": {"rows of history": {"1 M": {"rows/s": 500_000.0, "MB": 150.0}}},
    }


def test_every_module_of_the_benchmark_can_be_imported() -> None:
    """The benchmark runs seldom; what it is made of must not rot."""
    for module in pkgutil.iter_modules(benchmarks.__path__, "benchmarks."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def test_targets_are_said_to_be_met_or_not(figures: dict[str, Any]) -> None:
    """Each target is a line; the one that is missed says so."""
    table = report.target_table(figures)
    missed = [line for line in table.splitlines() if "not met" in line]
    assert len(missed) == 1
    assert "channel by channel" in missed[0]
    assert "1.20" in missed[0]
    assert "50.0 x" in table
    assert table.count("| met |") == len(targets.TARGETS) - 1


def test_a_report_replaces_the_marked_sections_and_nothing_else(
    figures: dict[str, Any], tmp_path: Path
) -> None:
    """README and the page on performance are rewritten from one JSON; a second time changes nothing."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("before\n<!-- figures -->\nlast year's\n<!-- /figures -->\nafter\n")
    (tmp_path / "docs/performance.md").write_text("# P\n<!-- bench -->\n<!-- /bench -->\ntried\n")
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps(figures))
    report.write(bench, tmp_path)
    first = (tmp_path / "README.md").read_text(), (tmp_path / "docs/performance.md").read_text()
    report.write(bench, tmp_path)
    assert ((tmp_path / "README.md").read_text(), (tmp_path / "docs/performance.md").read_text()) == first
    assert first[0].startswith("before\n<!-- figures -->\n![")
    assert first[0].endswith("<!-- /figures -->\nafter\n")
    assert "last year" not in first[0]
    assert "**ours, 2 processes**" in first[1]
    assert "| commit | 0.10 | 0.10 |" in first[1]
    assert "| 1 M | 500 k | 150 |" in first[1]
    ET.parse(tmp_path / "docs/performance.svg")  # noqa: S314 - our own file


def test_a_section_without_markers_is_an_error() -> None:
    """Figures are never written to nowhere."""
    with pytest.raises(ValueError, match="no section"):
        report.replaced("text", "figures", "new")


def test_ratios_compare_runs_of_the_same_round() -> None:
    """The machine's drift from round to round is in both arms, and not in their ratio."""
    results = {"a": [Run(100, 1), Run(10, 1), Run(50, 1)], "b": [Run(50, 1), Run(5, 1), Run(25, 1)]}
    assert ratio(results, "a", "b") == 2.0
    assert summary(results["a"])["rate"] == 50.0


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (100.0, "100"),
        (1e15, "1e+15"),
        (9007199254740993.0, "9.007199254740992e+15"),
        (-0.0, "-0"),
        (1.5e-7, "1.5e-07"),
        (float("-inf"), "-Infinity"),
        (float("nan"), "NaN"),
    ],
)
def test_the_plain_peer_writes_floats_as_postgresql_does(number: float, text: str) -> None:
    """Else its rows would not count."""
    assert _float_text(number) == text


def test_larger_fleets_queue_longer_and_load_no_process_beyond_its_share() -> None:
    """The simulation of docs/scale.md: waiting is at least the service, loads add up to the fleet's."""
    load = sizes.simulate(1_000, 48, 2, 150_000.0)
    assert 0.028 <= load.wait_p50_s <= load.wait_p99_s
    assert load.mean_load == pytest.approx(load.events_per_s / 2 / 150_000)
    assert load.mean_load <= load.highest_load < 2 * load.mean_load
