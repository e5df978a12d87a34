"""`cdc-consumer run`, put together: read this file for the map of the live side, in the order of the data.

    Kafka -> Source -> Decoder -> Assembly -> Target (rule, pivot, apply, ledger: package `widetable`)

Each consumer process runs that loop; the parent supervises them, gives newcomers their columns and tables,
records how far the target is settled, watches the stream's premises, and answers HTTP.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from cdc_consumer.assembly import Assembly, HoldLimits
from cdc_consumer.consumer import Consumer
from cdc_consumer.decoder import Epochs
from cdc_consumer.fleet import read_fleet
from cdc_consumer.governing import Governor
from cdc_consumer.meter import Meter
from cdc_consumer.metrics import Snapshot
from cdc_consumer.monitor import Probe, serve
from cdc_consumer.page_exports import Exports, export_session
from cdc_consumer.plain_decoder import open_decoder
from cdc_consumer.rates import EVERY_S as RATES_EVERY_S
from cdc_consumer.rates import Rates
from cdc_consumer.registration import RUNBOOK
from cdc_consumer.registry import HEARSAY_S, open_registry
from cdc_consumer.settings import Settings
from cdc_consumer.settle import Settler
from cdc_consumer.source import Source
from cdc_consumer.status_page import Sources, StatusPage
from cdc_consumer.supervisor import Chore, Supervisor
from cdc_consumer.target import Target
from cdc_consumer.target_facts import Gauges, TargetFacts, facts_of
from cdc_consumer.topic import Topics
from cdc_consumer.watchdog import Watchdog, watch
from cdc_consumer.worker import run_worker
from widetable.control import check_control
from widetable.errors import StoppedError
from widetable.hand_off import HandOff, read_epochs, require_hand_off
from widetable.layout import load_layout
from widetable.postgres import connect_ddl, connect_target

SETTLE_EVERY_S = 1.0
GOVERN_EVERY_S = 2.0
FACTS_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Stream:
    """What the hand-offs say about the stream that is read."""

    hand_off: HandOff
    epochs: Epochs


def read_stream(settings: Settings) -> Stream:
    """The current hand-off, and where each epoch began in its topic.

    Raises:
        ConfigurationError: no control schema, no hand-off, or no wide tables yet.
    """
    with connect_target(settings.target, "cdc-consumer start") as conn:
        check_control(conn, settings.target.control_schema)
        current = require_hand_off(conn, settings.pipeline.name)
        epochs = read_epochs(conn, settings.pipeline.name)
        load_layout(conn)
    same_topic = [epoch for epoch in epochs if epoch.topic_id == current.topic_id]
    return Stream(current, Epochs(tuple((epoch.epoch, epoch.boundary_offsets) for epoch in same_topic)))


def build_consumer(settings: Settings, owner: str, snapshot: Snapshot) -> Consumer:
    """The parts of one consumer process, in the order in which a record meets them."""
    stream = read_stream(settings)
    hand_off, limits = stream.hand_off, settings.consumer
    meter = Meter(snapshot, time.monotonic, time.time)
    kafka = settings.kafka.client(
        **{"group.id": settings.group_id, "client.id": owner, **_protocol(settings.kafka.group_protocol)}
    )
    return Consumer(
        settings=limits,
        make_source=lambda assigned, revoked: Source(kafka, hand_off.topic, assigned, revoked),
        decoder=open_decoder(
            settings.topic,
            open_registry(settings.registry, HEARSAY_S),
            hand_off.placeholder,
            stream.epochs,
            settings.source.table,
        ),
        assembly=Assembly(
            HoldLimits(limits.hold_ms, limits.max_hold_ms, limits.max_held_events, limits.max_held_bytes)
        ),
        target=Target(settings.target, hand_off, owner, meter),
        meter=meter,
        monotonic_s=time.monotonic,
    )


def _protocol(protocol: str) -> dict[str, str]:
    """Both protocols hand over partitions one by one; the classic one needs its cooperative assignor."""
    if protocol == "consumer":
        return {"group.protocol": "consumer"}
    return {"partition.assignment.strategy": "cooperative-sticky"}


def run(settings: Settings, report: Path | None = None) -> None:
    """Run until SIGTERM or SIGINT; writes the final counts to `report` if given.

    Raises:
        WideTableError: see its `exit_code`.
    """
    stream = read_stream(settings)
    check_topic(settings, stream.hand_off)
    with ExitStack() as stack:
        settler = stack.enter_context(Settler.connect(settings))
        watchdog, facts = watch(settings, stream.hand_off), TargetFacts(facts_of(settings))
        rates = Rates()
        supervisor = Supervisor(
            lambda number: _start_worker(settings, number),
            settings.consumer.processes,
            [
                *_chores(settings, settler, watchdog, facts),
                Chore("rates", RATES_EVERY_S, lambda: rates.note(supervisor.snapshot(), time.monotonic())),
            ],
            settings.consumer.shutdown_s,
        )
        if settings.consumer.http_port:
            stack.enter_context(_answering(settings, supervisor, watchdog, facts, rates))
        stack.enter_context(_reporting(supervisor, report))
        supervisor.run()


@contextmanager
def _answering(
    settings: Settings, supervisor: Supervisor, watchdog: Watchdog, facts: TargetFacts, rates: Rates
) -> Iterator[None]:
    """Metrics, health and the status page over HTTP, from a thread, while the context lasts."""

    def watched() -> Gauges:
        return {
            **watchdog.gauges(),
            **facts.gauges(),
            "cdc_chore_failures_total": supervisor.chore_failures(),
            "cdc_worker_silent_seconds": supervisor.silent_s(),
        }

    name, snapshot, ready = settings.pipeline.name, supervisor.snapshot, supervisor.ready
    sources = Sources(name, snapshot, ready, watched, rates, lambda: read_fleet(settings))
    exports = Exports(lambda: export_session(settings.target), settings.consumer.page_exports)
    page = StatusPage(settings.consumer, sources, exports)
    probe = Probe(snapshot, supervisor.alive_s, ready, watched, page.answer)
    server = serve(settings.consumer.http_host, settings.consumer.http_port, probe)
    try:
        yield
    finally:
        exports.close()
        server.shutdown()


@contextmanager
def _reporting(supervisor: Supervisor, report: Path | None) -> Iterator[None]:
    """Writes the counts at the end, if asked for; a run that stops for a person has counts, too."""
    started = time.monotonic()
    try:
        yield
    finally:
        if report is not None:
            summary = summarise(supervisor.snapshot(), time.monotonic() - started)
            report.write_text(json.dumps(summary, indent=2))


def check_topic(settings: Settings, hand_off: HandOff) -> None:
    """Refuse a topic that was made anew under the same name: its offsets mean nothing to us."""
    topic = Topics(settings.kafka).describe(hand_off.topic)
    if topic is None or topic.topic_id != hand_off.topic_id:
        raise StoppedError(
            f"Topic {hand_off.topic} was deleted, or made anew, since `cdc-consumer init`: events may be lost."
            f" {RUNBOOK}."
        )


def _chores(settings: Settings, settler: Settler, watchdog: Watchdog, facts: TargetFacts) -> list[Chore]:
    governor = Governor(lambda: connect_ddl(settings.target, "cdc-consumer governor"), settings.target)
    return [
        Chore("settle", SETTLE_EVERY_S, settler.step),
        Chore("govern", GOVERN_EVERY_S, governor.step),
        Chore("watch", settings.consumer.watch_s, watchdog.step),
        Chore("facts", FACTS_EVERY_S, facts.step),
    ]


def _start_worker(settings: Settings, number: int) -> tuple[BaseProcess, Pipe]:
    """A fresh interpreter: librdkafka and libpq don't survive a fork."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_worker, args=(settings, number, theirs), name=f"worker-{number}")
    process.start()
    theirs.close()
    return process, ours


def _worker(settings: Settings, number: int, pipe: Pipe) -> None:
    run_worker(lambda owner, snapshot: build_consumer(settings, owner, snapshot), settings.log, number, pipe)


def summarise(counts: Snapshot, seconds: float) -> dict[str, Any]:
    """The counts of a run as plain values, for people and scripts."""
    return {
        "seconds": round(seconds, 3),
        "records": counts.polled,
        "samples": counts.decoded,
        "dead_records": counts.dead_records,
        "filtered": dict(counts.filtered),
        **asdict(counts.applied),
        "batches": counts.batches,
        "rebalances": counts.rebalances,
        "outages": counts.outages,
        "rereads": counts.rereads,
        "fence_losses": counts.fence_losses,
        "busy_seconds": round(counts.busy_s, 3),
        "apply_p50_ms": counts.apply_ms.quantile(0.5),
        "apply_p99_ms": counts.apply_ms.quantile(0.99),
        "total_p50_ms": counts.total_ms.quantile(0.5),
        "total_p99_ms": counts.total_ms.quantile(0.99),
    }
