"""The watchdog of `cdc-consumer run`: are the premises of the stream still true?

In: the hand-off, and what source, Connect and Kafka say every few seconds. Out: gauges for `/metrics`, one
warning per change of what may pass, and a `StoppedError` for what is broken for good. Guarantees: the consumer
never runs on beside a slot that is gone, lost or advanced, another cluster or another topic; what could not be
looked at is never taken for broken; and what was seen too long ago is not told, for a look may hang.

Debezium moves the slot only to positions that Connect has stored: the slot is read first, so on the real chain
it never was ahead of what Connect says afterwards. A slot that is, was advanced or made anew by somebody else.

A connector that failed is started again, ever more rarely, but only beside a healthy slot: its task gives up when
the source is away for longer than its own retries, and nobody else would start it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final

import structlog

from cdc_consumer import health, source_database
from cdc_consumer.parts import Parts
from cdc_consumer.registration import RUNBOOK
from cdc_consumer.settings import Settings
from cdc_consumer.slot import Slot, read_slot
from cdc_consumer.target_facts import Gauges
from widetable.barrier import source_identity
from widetable.command_line import named
from widetable.errors import StoppedError
from widetable.hand_off import HandOff, read_ledger

log = structlog.get_logger(__name__)

CONFIRMING_LOOKS: Final = 3
"""A restarted broker may not know its topics for a moment: a suspicion counts when it is held so often in a row."""
PATIENCE_S: Final = 10.0
"""For a statement at the source, half of it for a lock: that of VACUUM FULL, say, may be held for hours."""
OLD_LOOKS: Final = 3
SLOW_LOOK_S: Final = 30.0
"""What was seen is told for so many looks, each as slow as one that finds several parts away."""
FIRST_RESTART_S: Final = 5.0
LAST_RESTART_S: Final = 300.0
"""Waits before a failed connector is started again: doubled each time, up to this."""


@dataclass(slots=True)
class Sight:
    """What one look found.

    Attributes:
        broken: what no waiting mends. Seen once it is proven: an advanced slot looks healthy again as soon as
            Debezium has gone on from its new place.
        suspected: what is broken if it is seen again.
        added: partitions that somebody added, if it is seen again: `repartition` takes them in.
        passing: what may pass by itself, or could not be looked at.
        gauges: metrics by name; one that could not be read is not there.
        slot: the slot, if it could be read.
        failed: why the connector failed, if it did.
    """

    broken: list[str] = field(default_factory=list)
    suspected: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    passing: list[str] = field(default_factory=list)
    gauges: dict[str, float | Mapping[str, float]] = field(default_factory=dict)
    slot: Slot | None = None
    failed: str | None = None


class Watchdog:
    """Looks from time to time, in a thread of its own; `step` never waits.

    Args:
        look: finds out what is true now.
        restart: starts what failed of the connector.
        every_s: how often `step` is called.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        look: Callable[[], Sight],
        restart: Callable[[], None],
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._restart = restart
        self._old_s = OLD_LOOKS * (every_s + SLOW_LOOK_S)
        self._clock = clock
        self._sights: SimpleQueue[Sight | Exception] = SimpleQueue()
        self._looking = False
        self._bad_looks = 0
        self._told: set[str] = set()
        self._restarts = 0
        self._restart_wait_s = FIRST_RESTART_S
        self._restart_at: float | None = None
        self._gauges: Gauges = {}
        self._judged_at = clock()

    def gauges(self) -> Gauges:
        """The last look's metrics unless they are old, and how often the connector was started again."""
        fresh = self._clock() - self._judged_at < self._old_s
        return {**(self._gauges if fresh else {}), "cdc_connector_restarts_total": self._restarts}

    def step(self) -> None:
        """Take the last look's result and begin the next.

        Raises:
            StoppedError: the stream is broken for good; the message names the way out.
        """
        if self._looking:
            try:
                seen = self._sights.get_nowait()
            except Empty:
                return
            self._looking = False
            if isinstance(seen, Exception):
                raise seen
            self._judge(seen)
        self._looking = True
        threading.Thread(target=self._look_once, name="watchdog", daemon=True).start()

    def _look_once(self) -> None:
        try:
            sight = self._look()
            self._mend(sight)
            self._sights.put(sight)
        except Exception as error:  # noqa: BLE001 - `step` raises it in the caller's thread
            self._sights.put(error)

    def _judge(self, sight: Sight) -> None:
        self._gauges, self._judged_at = sight.gauges, self._clock()
        news = {*sight.broken, *sight.suspected, *sight.added, *sight.passing}
        for text in sorted(news - self._told):
            log.warning("watchdog", found=text)
        self._told = news
        self._bad_looks = self._bad_looks + 1 if sight.suspected or sight.added else 0
        confirmed = self._bad_looks >= CONFIRMING_LOOKS
        if sight.broken or (sight.suspected and confirmed):
            raise StoppedError(f"{'; '.join([*sight.broken, *sight.suspected])}. {RUNBOOK}")
        if sight.added and confirmed:
            raise StoppedError("; ".join(sight.added))  # which names its own way out

    def _mend(self, sight: Sight) -> None:
        """Start a failed connector again, if its slot is known to be good."""
        if sight.failed is None:
            if sight.gauges.get("cdc_connector_running"):
                self._restart_at, self._restart_wait_s = None, FIRST_RESTART_S
            return
        if sight.broken or sight.slot is None:
            return
        now = self._clock()
        if self._restart_at is None:
            self._restart_at = now + self._restart_wait_s
        elif now >= self._restart_at:
            self._restart_wait_s = min(2 * self._restart_wait_s, LAST_RESTART_S)
            self._restart_at = now + self._restart_wait_s
            self._restarts += 1
            log.warning("connector_restarted", times=self._restarts, reason=sight.failed)
            self._restart()


class Lookout:
    """The real world, looked at; sessions are kept while all is well and opened anew after an error."""

    def __init__(self, settings: Settings, hand_off: HandOff) -> None:
        self._settings = settings
        self._hand_off = hand_off
        self._parts = Parts(settings, PATIENCE_S)

    def look(self) -> Sight:
        """One look at everything; a part that is away hides no other."""
        sight = Sight()
        # In this order: the slot's position is compared with what Connect stored later.
        for part in (_source, _connector, _topic):
            try:
                part(self._parts, self._hand_off, sight)
            except Exception as error:
                known = named(error)
                if known is None:
                    raise
                sight.passing.append(f"could not look at the stream: {known}")
                self._renew()
        return sight

    def restart(self) -> None:
        """Start what failed of the connector."""
        self._parts.connect().restart_failed(self._settings.connector)

    def _renew(self) -> None:
        self._parts.__exit__(None, None, None)
        self._parts = Parts(self._settings, PATIENCE_S)


def watch(settings: Settings, hand_off: HandOff) -> Watchdog:
    """A watchdog over this hand-off."""
    lookout = Lookout(settings, hand_off)
    return Watchdog(lookout.look, lookout.restart, settings.consumer.watch_s)


def _source(parts: Parts, hand_off: HandOff, sight: Sight) -> None:
    source, settings = parts.source(), parts.settings
    server = source_database.server(source)
    if server.standby:
        sight.passing.append("the source's address leads to a standby now: its slots say nothing")
        return
    if problem := health.cluster_problem(source_identity(source), hand_off):
        sight.broken.append(problem)
        return
    slot = read_slot(source, hand_off.slot)
    if problem := health.slot_problem(slot, hand_off):
        sight.broken.append(problem)
    sight.slot = slot
    _gauge_slot(slot, server.wal_budget, sight)
    age_s = source_database.heartbeat_age_s(source, settings.source.heartbeat_table)
    if age_s is not None:
        sight.gauges["cdc_heartbeat_age_seconds"] = age_s
    if age_s is None or age_s > health.late_heartbeat_s(settings):
        sight.passing.append("the heartbeat does not move: changes may not arrive either")
    # Last, for it opens the narrow table: while that is locked, all else is seen all the same.
    tables = [settings.source.table, settings.source.heartbeat_table]
    publication = source_database.publication(source, hand_off.publication)
    if problem := health.publication_problem(publication, hand_off, tables):
        sight.broken.append(problem)


def _gauge_slot(slot: Slot | None, wal_budget: int, sight: Sight) -> None:
    sight.gauges["cdc_slot_active"] = float(slot is not None and slot.active_pid is not None)
    if slot is None:
        return
    sight.gauges["cdc_slot_retained_bytes"] = slot.retained_bytes
    if wal_budget >= 0:
        sight.gauges["cdc_slot_wal_budget_bytes"] = wal_budget - slot.retained_bytes
    if slot.active_pid is None:
        sight.passing.append(f"replication slot {slot.name} is not read: its WAL piles up at the source")
    if slot.wal_status in {"extended", "unreserved"}:
        sight.passing.append(f"replication slot {slot.name} is {slot.wal_status}: it may be lost soon")


def _connector(parts: Parts, hand_off: HandOff, sight: Sight) -> None:
    connect, name = parts.connect(), parts.settings.connector
    state, stored = connect.state(name), connect.stored_offset(name)
    sight.gauges["cdc_connector_running"] = float(state is not None and state.running)
    sight.gauges["cdc_connector_state"] = {state.summary if state else "MISSING": 1.0}
    if state is None:
        sight.passing.append(f"connector {name} is not registered")
    elif state.failed:
        sight.failed = state.failed.reason
        sight.passing.append(f"connector {name} failed: {state.failed.reason}")
    elif not state.running:
        sight.passing.append(f"connector {name} is {state.summary}")
    if sight.slot is not None and stored is not None and not sight.broken:
        problem = health.position_problem(stored, sight.slot, hand_off)
        if problem:
            sight.broken.append(problem)


def _topic(parts: Parts, hand_off: HandOff, sight: Sight) -> None:
    rows = read_ledger(parts.control(), hand_off.pipeline, hand_off.topic_id)
    topic = parts.kafka().describe(hand_off.topic)
    problem = health.topic_problem(topic, hand_off)
    if problem is not None:
        sight.suspected.append(problem)
    elif topic:
        known = [row.partition for row in rows]
        if problem := health.partition_problem(topic, known):
            sight.added.append(problem)
        if problem := health.unfinished_problem(topic, known):
            sight.passing.append(problem)
