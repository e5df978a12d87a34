"""Where the time goes: one consumer, or one backfill worker, in this process with a watch around each stage.

The product is not touched: its functions are wrapped for the time of the run. Time is CPU time, of this process
and of its session in PostgreSQL, so that a busy machine changes little. A stage's time is its own: what it
calls that is a stage too is taken off; what is left over belongs to "the rest".
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final
from unittest.mock import patch

from backfill.app import Request, propose
from backfill.job import Job
from backfill.pace import Pace, RateLimit
from backfill.plans import Plan, add_plan
from backfill.settings import Settings as BackfillSettings
from backfill.worker import open_session
from benchmarks.chain import World
from benchmarks.history import Target
from benchmarks.stream import PIPELINE, Stream, end_offsets
from cdc_consumer.app import build_consumer
from cdc_consumer.consumer import Consumer
from cdc_consumer.metrics import Snapshot
from cdc_consumer.settings import load_settings
from widetable.control import check_control
from widetable.environment import load
from widetable.postgres import connect_target

WAIT_S: Final = 300.0

STREAM: Final = {
    "consume": ("cdc_consumer.source.Source.read",),
    "decode": ("cdc_consumer.decoder.Decoder.decode",),
    "hold": ("cdc_consumer.assembly.Assembly.add", "cdc_consumer.assembly.Assembly.take"),
}
READ: Final = {"read": ("backfill.reader.Reader.read",)}
WRITE: Final = {
    "ledger": ("widetable.ledger.OffsetLedger.advance", "widetable.apply.Writer.begin"),
    "rule": (
        "widetable.apply.settle",
        "widetable.apply.read_events",
        "widetable.apply.fold",
        "widetable.apply.place_cells",
        "widetable.apply.has_column",
        "widetable.apply.resolve",
        "widetable.apply.void_misfits",
    ),
    "look": ("widetable.wide_rows.WideRows.lock",),
    "pivot": (
        "widetable.copy_data.Writing.new_rows",
        "widetable.copy_data.Writing.staged_rows",
        "widetable.apply.Writing",
    ),
    "copy": ("widetable.wide_rows.WideRows._copy",),
    "merge": ("widetable.wide_rows.WideRows.merge",),
    "commit": ("psycopg.transaction.Transaction.__exit__",),
}


@dataclass(slots=True)
class Watch:
    """CPU seconds per stage; stages nest."""

    seconds: dict[str, float] = field(default_factory=dict)
    open: list[float] = field(default_factory=list)
    servers: list[Path] = field(default_factory=list)
    began: float = 0.0

    def start(self, world: World) -> None:
        """Forget what was, and watch the database's present sessions."""
        query = """
            SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
        """
        with world.connect() as conn:
            self.servers = [Path(f"/proc/{pid}/schedstat") for (pid,) in conn.execute(query)]
        self.seconds.clear()
        self.began = self.now()

    def now(self) -> float:
        """CPU seconds so far, of this process and of the sessions."""
        server_ns = sum(int(place.read_text().split()[0]) for place in self.servers if place.exists())
        return time.process_time() + server_ns / 1e9

    def around(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed under `stage`."""

        def timed(*arguments: Any, **named: Any) -> Any:
            self.open.append(0.0)
            began = self.now()
            try:
                return function(*arguments, **named)
            finally:
                spent = self.now() - began
                inner = self.open.pop()
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent - inner
                if self.open:
                    self.open[-1] += spent

        return timed


@contextmanager
def watched(stages: dict[str, tuple[str, ...]]) -> Iterator[Watch]:
    """Wrap the functions of all stages."""
    watch = Watch()
    with ExitStack() as stack:
        for stage, names in stages.items():
            for name in names:
                owner, _, attribute = name.rpartition(".")
                original = getattr(resolve_name(owner), attribute)
                stack.enter_context(patch(name, watch.around(stage, original)))
        yield watch


def stream_stages(stream: Stream) -> dict[str, Any]:
    """Microseconds per event and stage of one consumer process that reads the whole topic."""
    stream.rewind()
    settings = load_settings(stream.world.settings(PIPELINE))
    snapshot = Snapshot()
    with watched({**STREAM, **WRITE}) as watch:
        consumer = build_consumer(settings, "stages", snapshot)
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            _run(consumer, stream, snapshot, watch)
            return _shares(watch, snapshot.decoded)
        finally:
            gc.enable()
            gc.unfreeze()
            consumer.close()


def _run(consumer: Consumer, stream: Stream, snapshot: Snapshot, watch: Watch) -> None:
    """Join the group, then read all."""
    total = sum(end_offsets(stream.world.stack.kafka.bootstrap, stream.topic).values())
    deadline = time.monotonic() + WAIT_S
    while not snapshot.rebalances and time.monotonic() < deadline:
        consumer.step(0.2)
    consumer.step(0.0)  # opens the session and claims
    watch.start(stream.world)
    while snapshot.applied.events < total and time.monotonic() < deadline:
        consumer.step(0.2)


def _shares(watch: Watch, rows: int) -> dict[str, Any]:
    spent_s = watch.now() - watch.began
    parts = {**watch.seconds, "the rest": max(0.0, spent_s - sum(watch.seconds.values()))}
    return {
        "rows": rows,
        "us_per_row": {stage: round(spent / rows * 1e6, 3) for stage, spent in parts.items()},
    }


def history_stages(target: Target) -> dict[str, Any]:
    """Microseconds per row and stage of one backfill worker."""
    target.empty()
    settings = load(BackfillSettings, target.world.settings(target.pipeline))
    plan = _plan(settings)
    context = multiprocessing.get_context("spawn")
    _, messages = context.Pipe(duplex=False)
    rate, pace = RateLimit(None, context.Value("d", 0.0)), Pace(context.Value("d", 1.0))
    job = Job(settings, plan, "stages/1", context.Event(), rate, pace, messages)
    with watched({**READ, **WRITE}) as watch, open_session(job) as session:
        watch.start(target.world)
        session.drain()
        return _shares(watch, target.world.rows)


def _plan(settings: BackfillSettings) -> Plan:
    """Cut the whole history into slices, as `backfill run` does."""
    request = Request(no_handoff=True, again=True)
    proposal = propose(settings, request)
    with closing(connect_target(settings.target, "stages")) as conn:
        check_control(conn, settings.target.control_schema)
        assert proposal.decision.remaining is not None
        return add_plan(conn, settings.pipeline.name, None, proposal.decision.remaining, proposal.slices)
