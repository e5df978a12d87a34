"""`python -m benchmarks`: `run` measures and writes build/bench.json, `report` puts it into README and docs."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from benchmarks import curves, history, latency, machine, report, sizes, stages, stream, upkeep
from benchmarks.chain import SCALES, World, fleet_world, running_stack, settings_shown
from benchmarks.harness import Results, alternate, ratio, summary
from devstack.errors import DevstackError

BUILD: Final = Path("build")
RESULT: Final = BUILD / "bench.json"


@click.group()
def main() -> None:
    """Measure the product beside its peers."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@main.command()
@click.option(
    "--scale",
    type=click.Choice(list(SCALES)),
    default="full",
    show_default=True,
    help="How much: full for figures, quick for development, smoke to see that all of it works.",
)
@click.option("--curves", "with_curves", is_flag=True, help="Also the cost curves, as many as fit --minutes.")
@click.option("--minutes", default=25.0, show_default=True, help="Time for the curves.")
@click.option("--chain", type=click.Path(path_type=Path), help="Keep the servers running in this folder.")
@click.option(
    "--only", default="", help="Only these sections, separated by commas; build/bench.json is completed."
)
def run(*, scale: str, with_curves: bool, minutes: float, chain: Path | None, only: str) -> None:
    """Measure; writes build/bench.json, build/bench.md and build/bench.svg."""
    BUILD.mkdir(exist_ok=True)
    began = time.monotonic()
    chosen = set(filter(None, only.split(",")))
    figures: dict[str, Any] = json.loads(RESULT.read_text()) if chosen and RESULT.exists() else {}
    figures["machine"] = machine.describe()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        place = chain or Path(folder) / "chain"
        servers = stack.enter_context(running_stack(place, keep=chain is not None))
        logs = BUILD / "bench-logs"
        logs.mkdir(exist_ok=True)
        world = stack.enter_context(fleet_world(servers, SCALES[scale], logs.absolute()))
        _describe(figures, world)
        _measure(figures, world, chosen)
        if with_curves:
            missed: dict[str, str] = {}
            until = time.monotonic() + 60 * minutes
            figures["curves"] = curves.measure(servers, world, until, missed)
            if missed:
                figures["failed"] = {**figures.get("failed", {}), **missed}
    figures["seconds"] = round(time.monotonic() - began)
    _save(figures)
    if not chosen:
        (BUILD / "bench.md").write_text(report.performance_section(figures) + "\n")
        (BUILD / "bench.svg").write_text(report.chart(figures))
    click.echo(report.target_table(figures))
    if failed := figures.get("failed"):
        raise DevstackError(f"sections that failed: {failed}")


def _save(figures: dict[str, Any]) -> None:
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")


def _describe(figures: dict[str, Any], world: World) -> None:
    figures["scale"], figures["rows"] = asdict(world.scale), world.rows
    figures["settings"] = dict(settings_shown())
    with world.connect() as conn:
        figures["postgres"] = conn.info.parameter_status("server_version")


def _measure(figures: dict[str, Any], world: World, chosen: set[str]) -> None:
    """All sections in turn; the text target's digest is what the stream must write, too."""

    def section(name: str, measure: Callable[[], Any]) -> None:
        if not chosen or name in chosen:
            print(name, flush=True)
            try:
                figures[name] = measure()
            except Exception as error:  # noqa: BLE001 - one section that fails must not cost the figures of the others
                figures.setdefault("failed", {})[name] = f"{type(error).__name__}: {error}"
                print(f"  {name} FAILED: {error}", flush=True)
            _save(figures)

    control = figures.setdefault("control", {})
    with _timed("history"):
        arms = history.arms(world)
        if not chosen or "history" in chosen:
            results = alternate(arms, world.scale.repeats)
            figures["history"], control["history"] = (
                _summaries(results),
                ratio(results, history.CONTROL, history.OURS),
            )
    section("verify", lambda: upkeep.verify(history.target(world, "text")))

    def staged(filled: stream.Stream) -> dict[str, Any]:
        text = history.target(world, "text")
        return {"stream": stages.stream_stages(filled), "history": stages.history_stages(text)}

    with stream.open_stream(world) as filled:
        if not chosen or "stream" in chosen:
            with _timed("stream"):
                results = stream.measure(filled, arms[0].expected)
            figures["stream"], control["stream"] = (
                _summaries(results),
                ratio(results, stream.CONTROL, stream.OURS),
            )
        section("replay", lambda: upkeep.replay(filled))
        section("stages", lambda: staged(filled))
        section("resync", lambda: upkeep.resync(filled))
        section("bursts", lambda: latency.bursts(filled))
        section("moment_major", lambda: latency.amplification(filled, "moment"))
        section("channel_major", lambda: latency.amplification(filled, "channel"))
    section("steady", lambda: latency.steady(world))
    section("unaligned", lambda: upkeep.unaligned(world.stack, world))


def _summaries(results: Results) -> dict[str, Any]:
    return {name: summary(runs) for name, runs in results.items()}


@contextmanager
def _timed(name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


@main.command("report")
@click.argument("bench", type=click.Path(path_type=Path, exists=True), default=RESULT)
def write_report(bench: Path) -> None:
    """Write README's figures, the tables of docs/performance.md, and the chart, from a run's JSON."""
    report.write(bench)


@main.command("sizes")
@click.option(
    "--per-process", default=150_000.0, show_default=True, help="Events per second that a process applies."
)
def print_sizes(per_process: float) -> None:
    """Simulate larger fleets (docs/scale.md)."""
    click.echo(sizes.table(per_process))


if __name__ == "__main__":
    try:
        main()
    except DevstackError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(3)
