"""`make demo`: the main job, end to end, on the real chain, ending in a table and a zero-difference proof.

It runs the same commands that a person would: history is written, the tables are made, the stream is handed
off; then fleet, consumer and backfill work at the same time on the same moments, and verify compares the two
sides. What it prints is written to `build/demo.json` too.
"""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
import psycopg

from devstack.demo_figures import read_figures, wait_for_overflow
from devstack.errors import DevstackError
from devstack.fleet import HistoryReport, LiveLoad, LiveReport, plan_fleet, write_history
from devstack.product import Process, Product
from devstack.stack import Stack

HISTORY_ROWS: Final = 1_052_000
LIVE_ROWS_PER_S: Final = 4_000.0
BACKFILL_ROWS_PER_S: Final = 40_000
PROCESSES: Final = 2
LEAD_S: Final = 3.0
"""The fleet and the consumer work for so long before the backfill starts, and after it has ended."""


@dataclass(frozen=True, slots=True)
class Demo:
    """A running chain, the product's commands on it, and where the demo keeps its files."""

    stack: Stack
    product: Product
    folder: Path

    def run(self, *command: str) -> None:
        """Run one of the product's commands, its output shown."""
        click.secho(f"$ {' '.join(command)}", fg="cyan")
        done = self.product.run(*command)
        if done.returncode:
            raise DevstackError(f"`{' '.join(command)}` ended with exit code {done.returncode}; see above")

    def start(self, *command: str) -> Process:
        """Start one of the product's commands beside us."""
        process = self.product.start(*command)
        click.secho(f"$ {' '.join(command)} &    (log: {process.log})", fg="cyan")
        return process

    def read(self, name: str) -> dict[str, Any]:
        """A report that a command has written."""
        report: dict[str, Any] = json.loads((self.folder / name).read_text())
        return report


@click.command()
@click.option("--rows", default=HISTORY_ROWS, show_default=True, help="Rows of history to write.")
@click.option("--seed", default=1, show_default=True, help="Same seed, same fleet.")
@click.option("--keep", is_flag=True, help="Leave the chain and its data as they are afterwards.")
def main(rows: int, seed: int, keep: bool) -> None:
    """Run the demo."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    build = Path("build")
    build.mkdir(exist_ok=True)
    began = time.monotonic()
    with ExitStack() as stack:
        demo = _begin(stack, build, keep)
        figures = _play(demo, stack, rows, seed)
    figures["seconds"] = round(time.monotonic() - began, 1)
    (build / "demo.json").write_text(json.dumps(figures, indent=2) + "\n")
    _print(figures)
    if figures["differences"] or figures["overflow_pending"]:
        raise SystemExit(5)


def _begin(stack: ExitStack, build: Path, keep: bool) -> Demo:
    """Start an empty chain; whatever happens, nothing of it is left behind unless asked for."""
    chain = Stack(Path(".devstack") / "demo", detached=True)
    chain.wipe()
    chain = Stack(Path(".devstack") / "demo", detached=True)
    if not keep:
        stack.callback(chain.wipe)
    chain.up(click.echo)
    settings = {**chain.environment(), "CDC_CONNECT__HEARTBEAT_MS": "1000", "CDC_CONSUMER__HTTP_PORT": "0"}
    return Demo(chain, Product(settings, build), build)


def _play(demo: Demo, stack: ExitStack, rows: int, seed: int) -> dict[str, Any]:
    fleet = plan_fleet(8, seed=seed)
    source = demo.stack.postgres.dsn("source")
    now = datetime.now(UTC).replace(tzinfo=None, second=0, microsecond=0)
    history = write_history(source, fleet, rows, now - timedelta(hours=1))
    click.echo(f"history: {history.rows:,} rows in {history.seconds:.0f} s")
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("ANALYZE tenant.tbl_data_timeseries")

    demo.run("cdc-consumer", "schema", "plan", "--sample-minutes", "1000000")
    demo.run("cdc-consumer", "schema", "apply")
    demo.run("cdc-consumer", "init")
    demo.run("cdc-consumer", "check")

    report = str(demo.folder / "consumer.json")
    consumer = demo.start("cdc-consumer", "run", "--processes", str(PROCESSES), "--report", report)
    stack.callback(consumer.terminate)
    live = _live_beside_backfill(
        demo,
        history,
        LiveLoad(
            source,
            fleet,
            start=now,
            history=(history.first_moment, history.until),
            rows_per_second=LIVE_ROWS_PER_S,
        ),
    )
    wait_for_overflow(demo.stack.postgres.dsn("target"), consumer)
    demo.run("backfill", "verify", "--report", str(demo.folder / "verify.json"))
    demo.run("cdc-consumer", "status")
    consumer.terminate()
    return {
        **_events(history, live, demo.read("consumer.json"), demo.read("backfill.json")),
        **read_figures(demo.stack.postgres.dsn("target"), history),
        **_proof(demo.read("verify.json")),
    }


def _live_beside_backfill(demo: Demo, history: HistoryReport, load: LiveLoad) -> LiveReport:
    """The fleet writes, and changes history, while history is being copied."""
    with load:
        time.sleep(LEAD_S)
        demo.run(
            "backfill", "run", "--cutoff-time", history.until.isoformat(),
            "--rate-limit", str(BACKFILL_ROWS_PER_S), "--report", str(demo.folder / "backfill.json"),
        )  # fmt: skip
        time.sleep(LEAD_S)
        return load.stop()


def _events(
    history: HistoryReport, live: LiveReport, consumer: dict[str, Any], backfill: dict[str, Any]
) -> dict[str, Any]:
    both = [
        (live.started_at, live.ended_at),
        (datetime.fromisoformat(backfill["started_at"]), datetime.fromisoformat(backfill["ended_at"])),
    ]
    overlap = min(end for _, end in both) - max(start for start, _ in both)
    return {
        "history_rows": history.rows,
        "live_events": live.events,
        **{
            name: value
            for name, value in asdict(live).items()
            if name not in {"events", "started_at", "ended_at"}
        },
        "late_cells": live.late,
        "events_consumed": consumer["samples"],
        "overlap_seconds": round(max(overlap.total_seconds(), 0.0), 1),
        "backfill_rows": backfill["rows"],
        "backfill_rows_per_second": round(backfill["rows_per_second"]),
        "consumer_events_per_second": round(consumer["samples"] / max(consumer["busy_seconds"], 1e-9)),
        "apply_p99_ms": consumer["apply_p99_ms"],
        "total_p99_ms": consumer["total_p99_ms"],
    }


def _proof(verify: dict[str, Any]) -> dict[str, Any]:
    return {
        "cells_compared": verify["cells_compared"],
        "differences": verify["difference_count"] + verify["unsettled"],
        "verify_cells_per_second": verify["cells_per_second"],
    }


def _print(figures: dict[str, Any]) -> None:
    click.secho("\nWhat happened", bold=True)
    for name, value in figures.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        click.echo(f"  {name.replace('_', ' '):<34}{shown:>16}")
    equal = not figures["differences"]
    verdict = "source and target are equal" if equal else "source and target DIFFER"
    click.secho(
        f"\n{figures['cells_compared']:,} cells compared: {verdict}.",
        fg="green" if equal else "red",
        bold=True,
    )


if __name__ == "__main__":
    try:
        main()
    except DevstackError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(3) from None
