"""Arms, and how they are compared: run in turns, in processes of their own, checked for equal content.

In: arms. Out: per arm the runs, in the order in which they were made. The machine's speed drifts over minutes,
so arms alternate: a ratio of two arms is that of runs made side by side.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

from devstack.errors import DevstackError

START_S: Final = 120.0
RUN_S: Final = 900.0

Work = Callable[..., int]
"""Called as ``work(ready, *arguments)``: prepares, calls ``ready()``, works, and returns how many rows it did."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an arm: `rows` in `seconds`, and what else was seen."""

    rows: int
    seconds: float
    seen: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to do a task.

    Attributes:
        name: how the report calls it.
        run: does the task once.
        reset: brings the target to the state before; not timed.
        check: the digest of what was written; None where nothing is.
        expected: what the digest must be.
    """

    name: str
    run: Callable[[], Run]
    reset: Callable[[], None] = lambda: None
    check: Callable[[], str] | None = None
    expected: str = ""


Results = dict[str, list[Run]]


def alternate(arms: Sequence[Arm], repeats: int) -> Results:
    """Run all arms `repeats` times in turns; the order is turned around with each round.

    Raises:
        DevstackError: an arm wrote something else than it should.
    """
    results: Results = {arm.name: [] for arm in arms}
    for number in range(repeats):
        for arm in arms if number % 2 == 0 else arms[::-1]:
            arm.reset()
            run = arm.run()
            if arm.check is not None and (found := arm.check()) != arm.expected:
                raise DevstackError(
                    f"arm {arm.name!r} wrote {found}, not {arm.expected}: its figure counts for nothing"
                )
            results[arm.name].append(run)
            print(
                f"  {arm.name:<42}{run.rows:>10,} rows {run.seconds:8.2f} s {run.rate:>12,.0f} rows/s",
                flush=True,
            )
    return results


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Median, spread and all rates of an arm, and the medians of what else was seen."""
    rates = [run.rate for run in runs]
    seen = {name: statistics.median(run.seen[name] for run in runs) for name in runs[0].seen}
    return {
        "rows": runs[0].rows,
        "rate": statistics.median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "rates": [round(rate) for rate in rates],
        **{name: round(value, 3) for name, value in seen.items()},
    }


def ratio(results: Results, arm: str, base: str) -> float:
    """The median of the ratios of runs made in the same round."""
    pairs = zip(results[arm], results[base], strict=True)
    return statistics.median(one.rate / other.rate for one, other in pairs)


# -- processes --------------------------------------------------------------------------------------------


def race(work: Work, parts: Sequence[tuple[Any, ...]]) -> Run:
    """Run `work` in a process per part, from the moment when all are ready until the last one is done."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(len(parts) + 1)
    done: Any = context.Queue()
    processes = [context.Process(target=_child, args=(work, start, done, part)) for part in parts]
    for process in processes:
        process.start()
    try:
        start.wait(START_S)
        began = time.monotonic()
        answers = [done.get(timeout=RUN_S) for _ in processes]
        seconds = time.monotonic() - began
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    if failed := [answer for answer in answers if isinstance(answer, str)]:
        raise DevstackError(f"an arm failed: {failed[0]}")
    return Run(
        sum(rows for rows, _, _ in answers),
        seconds,
        {"cpu_s": sum(cpu_s for _, cpu_s, _ in answers), "peak_mb": max(peak for _, _, peak in answers)},
    )


def _child(work: Work, start: Barrier, done: Any, part: tuple[Any, ...]) -> None:
    try:
        rows = work(lambda: start.wait(START_S), *part)
        done.put((rows, time.process_time(), peak_mb(os.getpid())))
    except BaseException as error:  # the parent says what went wrong
        start.abort()
        done.put(f"{type(error).__name__}: {error}")
        raise


def peak_mb(pid: int) -> float:
    """The most memory that a process has held so far, MB; 0 if it is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0
