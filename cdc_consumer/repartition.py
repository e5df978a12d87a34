"""More partitions for a running pipeline: `cdc-consumer repartition`.

In: a hand-off and a larger number. Out: a topic, ledger and hand-off with that many partitions. More partitions
move ships: what a ship's old partition still holds must be applied before anything of its new one is. So the
order is the guarantee:

1. stop the connector; its producer, which knows only the old partitions, goes with it
2. wait until the consumers have applied the old partitions to their end
3. ledger rows and boundaries for the new ones, in a transaction that raises every fence: consumers start again
4. raise the topic's number
5. start the connector; a new producer sees all partitions

Interrupted, it finishes when run again. It does not begin beside a `snapshot`, which fills the old partitions.
Where somebody raised the topic's number meanwhile, order may be lost, and consumers stop at partitions that they
don't know, so that nobody is left to empty the old ones: the new ones are taken in from their begin at once, and a
verify is demanded.
"""

from __future__ import annotations

import time
from typing import Final

import structlog

from cdc_consumer.connector import snapshot_name
from cdc_consumer.deployment import Deployment, one_at_a_time, open_deployment
from cdc_consumer.init import broken, require_same_names
from cdc_consumer.registration import RUNBOOK, Report, register
from cdc_consumer.settings import Settings
from cdc_consumer.slot import read_slot, require_slot
from cdc_consumer.topic import Topic
from widetable.control import check_control
from widetable.errors import ConfigurationError, UnreachableError, WideTableError
from widetable.hand_off import HandOff, add_partitions, read_ledger, require_hand_off

log = structlog.get_logger(__name__)

POLL_S: Final = 0.2
UNPLANNED: Final = "partitions were added behind the pipeline's back, so changes may have changed places"


def repartition(settings: Settings, partitions: int, *, wait_s: float, report: Report) -> HandOff:
    """Bring topic, ledger and hand-off to so many partitions; `report` hears of each change.

    Args:
        settings: the deployment; CDC_TOPIC__PARTITIONS may still be the old number.
        partitions: how many there shall be.
        wait_s: longest wait, in seconds, for consumers that make no progress, and for the connector.
        report: called with a sentence per change.

    Raises:
        ConfigurationError: the stream is broken, a snapshot is under way, or the number is lower than there is.
        UnreachableError: nobody reads the old partitions to their end, and the connector runs again; or Kafka does
            not add the new ones, and it stays stopped.
    """
    with open_deployment(settings, "cdc-consumer repartition") as deployment:
        check_control(deployment.target, settings.target.control_schema)
        with one_at_a_time(deployment.target, settings.pipeline.name, wait_s):
            hand_off = require_hand_off(deployment.target, settings.pipeline.name)
            topic = _whole(deployment, hand_off)
            known = _known(deployment, hand_off)
            _refuse_fewer(partitions, max(topic.partitions, len(known)))
            if topic.partitions < partitions or len(known) < partitions:
                _raise(deployment, hand_off, topic, known, partitions, wait_s, report)
            hand_off = require_hand_off(deployment.target, settings.pipeline.name)
            _start(deployment, hand_off, wait_s, report)
    return hand_off


def _whole(deployment: Deployment, hand_off: HandOff) -> Topic:
    """The topic of a stream that is not broken."""
    require_same_names(deployment, hand_off)
    if problem := broken(deployment, hand_off):
        raise ConfigurationError(f"{problem}. {RUNBOOK}")
    topic = deployment.topics.describe(hand_off.topic)
    if topic is None:
        raise UnreachableError("slot or topic vanished while they were looked at: run the command again")
    return topic


def _known(deployment: Deployment, hand_off: HandOff) -> list[int]:
    rows = read_ledger(deployment.target, hand_off.pipeline, hand_off.topic_id)
    return [row.partition for row in rows]


def _refuse_fewer(wanted: int, present: int) -> None:
    if wanted < present:
        raise ConfigurationError(
            f"there are {present} partitions already, and Kafka can't take any away: --partitions must be"
            f" {present} or more"
        )


def _raise(
    deployment: Deployment,
    hand_off: HandOff,
    topic: Topic,
    known: list[int],
    partitions: int,
    wait_s: float,
    report: Report,
) -> None:
    """Steps 1 to 4; what an earlier run has done is not done again."""
    missing = sorted(set(range(partitions)) - set(known))
    unplanned = any(number < topic.partitions for number in missing)
    if topic.partitions < partitions:
        deployment.topics.add_partitions(topic.name, partitions, only_try=True)
    # The ledger may know more than the topic has: an earlier run was interrupted in between.
    old = [number for number in known if number < topic.partitions]
    if unplanned:
        old = []  # no consumer runs that could empty them: each stops that meets an unknown partition, be it empty
    else:
        _refuse_beside_snapshot(deployment)
    _take_in(deployment, hand_off, old, missing, UNPLANNED if unplanned else None, wait_s, report)
    if topic.partitions < partitions:
        _enlarge(deployment, topic.name, partitions)
    report(f"topic {topic.name} has {partitions} partitions" + (f"; {UNPLANNED}" if unplanned else ""))


def _refuse_beside_snapshot(deployment: Deployment) -> None:
    """It fills the old partitions for hours, all of which the stream would stand still."""
    name = snapshot_name(deployment.settings.connector)
    if deployment.connect.config(name) is not None:
        raise ConfigurationError(
            f"connector {name} sends history into the partitions that must be read to their end first: wait for"
            " it with `cdc-consumer snapshot`, or give it up with `cdc-consumer snapshot --remove`; then run the"
            " command again"
        )


def _take_in(
    deployment: Deployment,
    hand_off: HandOff,
    old: list[int],
    missing: list[int],
    reason: str | None,
    wait_s: float,
    report: Report,
) -> None:
    """Steps 1 to 3; where they fail the topic is as it was, and the connector goes on as before."""
    connect, name = deployment.connect, deployment.settings.connector
    try:
        connect.stop(name)
        report(f"stopped connector {name}")
        if old:
            _drain(deployment, hand_off, old, wait_s)
        add_partitions(deployment.target, hand_off, missing, reason)
    except BaseException:
        connect.resume(name)
        raise


def _drain(deployment: Deployment, hand_off: HandOff, partitions: list[int], wait_s: float) -> None:
    """Step 2: wait while the ledger moves on, until it has reached the ends of the old partitions.

    The ends are those at the reader's end, so that nothing else that writes can move them away; they are read anew
    only if somebody starts the connector meanwhile.
    """
    ends: dict[int, int] = {}
    best, deadline = -1, time.monotonic() + wait_s
    while True:
        slot = read_slot(deployment.source, hand_off.slot)
        if slot is not None and slot.active_pid is not None:
            ends = {}
        elif not ends:  # read after the slot was seen silent: they are final
            ends = deployment.topics.end_offsets(hand_off.topic, partitions)
        rows = read_ledger(deployment.target, hand_off.pipeline, hand_off.topic_id)
        behind = sorted(row.partition for row in rows if row.next_offset < ends.get(row.partition, 0))
        if ends and not behind:
            return
        if (reached := sum(min(row.next_offset, ends.get(row.partition, 0)) for row in rows)) > best:
            best, deadline = reached, time.monotonic() + wait_s
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"partitions {', '.join(map(str, behind)) or 'none'} are not read to their end, and nothing has"
                f" moved for {wait_s:.0f} s: is `cdc-consumer run` running? Start it, and run the command again;"
                " the connector runs as before"
            )
        time.sleep(POLL_S)


def _enlarge(deployment: Deployment, topic: str, partitions: int) -> None:
    """Step 4. Where it fails, Kafka may still do it: a connector that ran by then would move ships under way."""
    try:
        deployment.topics.add_partitions(topic, partitions)
        deployment.topics.end_offsets(topic, range(partitions))  # answers once their leaders do
    except WideTableError as error:
        raise UnreachableError(
            f"connector {deployment.settings.connector} stays stopped, and changes wait in the slot, since the"
            f" topic's partitions could not be added: run `cdc-consumer repartition --partitions {partitions}`"
            f" again, which finishes it. The reason: {error}"
        ) from error


def _start(deployment: Deployment, hand_off: HandOff, wait_s: float, report: Report) -> None:
    """Step 5; a connector that runs is left alone."""
    register(deployment, hand_off, require_slot(deployment.source, hand_off.slot), wait_s, report)
