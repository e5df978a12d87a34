"""From `build/bench.json` to what people read: tables, a chart, and the marked sections of README and docs.

Pure but for the last function. A section between ``<!-- name -->`` and ``<!-- /name -->`` is replaced whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from benchmarks.targets import TARGETS

Figures = Mapping[str, Any]

ROOT: Final = Path(__file__).parent.parent
SECTIONS: Final = {"README.md": "figures", "docs/performance.md": "bench"}
CHART: Final = "docs/performance.svg"
SEE_ALSO: Final = (
    "Tables of all arms, latencies, the time per stage, cost curves and what did not help:"
    " [performance](docs/performance.md). Larger fleets: [scale](docs/scale.md)."
)
OURS_COLOUR, PEER_COLOUR, LIMIT_COLOUR = "#1a7f5a", "#8a8f98", "#c9b26b"
ROW_PX, BAR_PX, LEFT_PX, WIDTH_PX = 26, 16, 330, 860


LATENCIES: Final[tuple[tuple[str, Callable[[Figures], str]], ...]] = (
    ("a minute's burst (33,300 cells, 24 tables): last record in Kafka to committed rows, median / worst, hold of 200 ms included", lambda f: f"{f['bursts']['median_ms']:.0f} / {f['bursts']['worst_ms']:.0f} ms"),
    ("steady 561 rows/s: record in Kafka to committed row, p50 / p99", lambda f: _pair(f["steady"], "apply")),
    ("steady: Debezium's capture, commit at the source to record in Kafka, p50 / p99", lambda f: _pair(f["steady"], "capture")),
    ("steady: commit at the source to committed row, p50 / p99", lambda f: _pair(f["steady"], "total")),
    ("tuples written per row, bursts moment by moment / channel by channel", lambda f: f"{f['moment_major']['written_per_row']:.3f} / {f['channel_major']['written_per_row']:.3f}"),
    ("replay of the whole topic: tuples written, speed", lambda f: f"{f['replay']['tuples']:.0f}, {f['replay']['share']:.0%} of first time"),
    ("`backfill verify`, both sides on one server", lambda f: f"{_thousands(f['verify']['rate'])} cells/s"),
    ("resync, cells of whole rows / scattered cells", lambda f: f"{_thousands(f['resync']['dense_rate'])} / {_thousands(f['resync']['scattered_rate'])} cells/s"),
    ("history in which every sample has a moment of its own", lambda f: f"{_thousands(f['unaligned']['rate'])} rows/s, {f['unaligned']['peak_mb']:.0f} MB"),
)  # fmt: skip


def _pair(latencies: Figures, name: str) -> str:
    return f"{latencies[f'{name}_p50_ms']:.0f} / {latencies[f'{name}_p99_ms']:.0f} ms"


def arm_table(arms: Figures, unit: str) -> str:
    """The arms of a section, each with its median and spread."""
    lines = [f"| arm | {unit}, median | lowest-highest |", "|---|---:|---:|"]
    for name, arm in arms.items():
        spread = f"{_thousands(arm['lowest'])}-{_thousands(arm['highest'])}"
        shown = f"**{name}**" if name.startswith("ours") else name
        lines.append(f"| {shown} | {_thousands(arm['rate'])} | {spread} |")
    return "\n".join(lines)


def target_table(figures: Figures) -> str:
    """Each target with what was measured."""
    lines = ["| target | bound | measured | |", "|---|---:|---:|---|"]
    for target in TARGETS:
        try:
            found, met = target.shown(target.read(figures)), target.met(figures)
        except (KeyError, TypeError):  # not measured
            continue
        bound = f"{'at most' if target.at_most else 'at least'} {target.shown(target.bound)}"
        lines.append(f"| {target.text} | {bound} | {found} | {'met' if met else '**not met**'} |")
    return "\n".join(lines)


def stage_table(figures: Figures) -> str:
    """Where the time of one consumer and of one backfill worker goes."""
    stages = {name: figures["stages"][name]["us_per_row"] for name in ("stream", "history")}
    names = list(dict.fromkeys(stage for part in stages.values() for stage in part))
    lines = ["| stage | stream, us per event | history, us per row |", "|---|---:|---:|"]
    for name in names:
        cells = [f"{part[name]:.2f}" if name in part else "" for part in stages.values()]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    sums = [f"{sum(part.values()):.2f}" for part in stages.values()]
    return "\n".join([*lines, f"| all | {sums[0]} | {sums[1]} |"])


def latency_table(figures: Figures) -> str:
    """Latencies and the rest of what an operator waits for; what was not measured is left out."""
    lines = ["| what | figure |", "|---|---|"]
    for what, figure in LATENCIES:
        with suppress(KeyError, TypeError, ValueError):
            lines.append(f"| {what} | {figure(figures)} |")
    return "\n".join(lines)


def method_line(figures: Figures) -> str:
    """One sentence about the run."""
    machine, scale = figures["machine"], figures["scale"]
    control = [f"{section} {figures['control'][section]:.2f}" for section in ("history", "stream")]
    return (
        f"Measured {machine['measured_at'][:10]} on {machine['cores']} cores ({machine['processor']},"
        f" {machine['memory_gb']} GB), broker, Connect and PostgreSQL {figures['postgres']} (fsync on) on the same"
        f" machine; {figures['rows']:,} rows of 8 ships x 1,052 channels, all four formats; medians of"
        f" {scale['repeats']} runs in turns, each checked for equal content. Control (the same arm twice, ratio):"
        f" {', '.join(control)}. Method: [benchmarks/METHODOLOGY.md]({{root}}benchmarks/METHODOLOGY.md)."
    )


def readme_section(figures: Figures) -> str:
    """What README shows."""
    return "\n\n".join(
        [
            "![narrow rows per second, arms of history and stream](docs/performance.svg)",
            method_line(figures).format(root=""),
            target_table(figures),
            SEE_ALSO,
        ]
    )


def performance_section(figures: Figures) -> str:
    """What docs/performance.md shows."""
    parts = [
        "![narrow rows per second, arms of history and stream](performance.svg)",
        method_line(figures).format(root="../"),
        "### History",
        arm_table(figures["history"], "narrow rows/s"),
        "### Stream",
        arm_table(figures["stream"], "events/s"),
        "### Latency and upkeep",
        latency_table(figures),
        "### Targets",
        target_table(figures),
    ]
    if "stages" in figures:
        parts += ["### Where the time goes", stage_table(figures)]
    if "curves" in figures:
        parts += ["### Cost curves", *(curve_table(name, curve) for name, curve in figures["curves"].items())]
    return "\n\n".join(parts)


def curve_table(name: str, curve: Figures) -> str:
    """One curve: what was varied, and what came of it."""
    columns = list(next(iter(curve.values())))
    head = f"| {name} | {' | '.join(columns)} |"
    lines = [head, f"|---|{'---:|' * len(columns)}"]
    for point, figures in curve.items():
        lines.append(f"| {point} | {' | '.join(_thousands(figures[column]) for column in columns)} |")
    return "\n".join(lines)


def chart(figures: Figures) -> str:
    """Bars of all arms as SVG; ours in one colour, peers and limits in others."""
    shapes, y = [], 8
    for title, section in (("history, narrow rows/s", "history"), ("stream, events/s", "stream")):
        shapes.append(f'<text x="8" y="{y + 14}" font-weight="bold">{title}</text>')
        y += ROW_PX
        arms = {name: arm for name, arm in figures[section].items() if "A/A" not in name}
        most = max(arm["rate"] for arm in arms.values())
        for name, arm in arms.items():
            shapes += _bar(y, name, arm["rate"], most)
            y += ROW_PX
        y += 10
    style = 'font-family="system-ui, sans-serif" font-size="13" fill="#1f2328"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{y}" {style}>'
    return "\n".join([head, f'<rect width="{WIDTH_PX}" height="{y}" fill="#ffffff"/>', *shapes, "</svg>\n"])


def _bar(y: int, name: str, rate: float, most: float) -> list[str]:
    colour = (
        OURS_COLOUR
        if name.startswith("ours")
        else LIMIT_COLOUR
        if name.startswith(("ceiling", "floor"))
        else PEER_COLOUR
    )
    width = max(1.0, (WIDTH_PX - LEFT_PX - 90) * rate / most)
    return [
        f'<text x="{LEFT_PX - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="{LEFT_PX}" y="{y}" width="{width:.0f}" height="{BAR_PX}" fill="{colour}"/>',
        f'<text x="{LEFT_PX + width + 6:.0f}" y="{y + 13}">{_thousands(rate)}</text>',
    ]


def _thousands(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f} k"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"


def replaced(text: str, name: str, content: str) -> str:
    """`text` with what stands between the markers of a section replaced.

    Raises:
        ValueError: the markers are missing.
    """
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        message = f"no section <!-- {name} --> … <!-- /{name} --> to write to"
        raise ValueError(message)
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def write(bench: Path, root: Path = ROOT) -> None:
    """Write chart and sections from a run's JSON."""
    figures = json.loads(bench.read_text())
    (root / CHART).write_text(chart(figures))
    made = {"README.md": readme_section(figures), "docs/performance.md": performance_section(figures)}
    for file, name in SECTIONS.items():
        path = root / file
        path.write_text(replaced(path.read_text(), name, made[file]))
