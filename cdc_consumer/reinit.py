"""A new epoch for a stream that is broken for good: `cdc-consumer reinit`.

In: a hand-off whose slot, publication, topic, cluster or stored position is lost. Out: the next hand-off, with a
slot, a barrier and boundaries of its own, that says why all cells must be verified. Guarantee: a stream that is
whole is left alone, and nothing is cleared away where server, table or topic would not do for a new epoch.
Interrupted anywhere, the command finishes when run again, since the old epoch is ended first, with the reason,
and every later step is skipped or repeated without harm. Consumers that run meanwhile write nothing with the
epochs that they know: the new hand-off raises their fences in its own transaction.
"""

from __future__ import annotations

from typing import Final

from cdc_consumer.deployment import Deployment, one_at_a_time, open_deployment
from cdc_consumer.init import begin, broken, require_fit, require_same_names
from cdc_consumer.registration import Report, register, require_debezium
from cdc_consumer.settings import Settings
from cdc_consumer.slot import drop_slot, require_slot
from cdc_consumer.teardown import SLOT_WAIT_S, remove_connector
from widetable.control import check_control
from widetable.errors import ConfigurationError
from widetable.hand_off import HandOff, end_epoch, read_hand_off

BY_HAND: Final = "somebody asked for it with --force"


def diagnose(settings: Settings) -> str | None:
    """Why the pipeline needs a new epoch; None while its stream is whole. Changes nothing.

    Raises:
        ConfigurationError: there is no hand-off, or the settings are not its.
    """
    with open_deployment(settings, "cdc-consumer reinit") as deployment:
        return _reason(deployment, _latest(deployment))


def reinit(settings: Settings, *, wait_s: float, force: bool, report: Report) -> HandOff:
    """Begin a new epoch if the stream is broken; `report` hears of each change, of none where it is whole.

    Args:
        settings: the deployment.
        wait_s: longest wait, in seconds, for open transactions, for the connector and for its slot, each.
        force: begin one although the stream is whole.
        report: called with a sentence per change.

    Raises:
        ConfigurationError: something a person must set right; the message says what.
        UnreachableError: a part does not answer, or transactions held the slot or the barrier up.
    """
    with open_deployment(settings, "cdc-consumer reinit") as deployment:
        require_debezium(deployment.connect)
        before = _latest(deployment)
        with one_at_a_time(deployment.target, settings.pipeline.name, wait_s):
            before = _latest(deployment)  # another command may just have begun it
            reason = _reason(deployment, before) or (BY_HAND if force else None)
            hand_off = before
            if reason:
                require_fit(deployment)  # what `begin` would refuse must not cost a slot that is whole
                if not before.ended:
                    end_epoch(deployment.target, before.pipeline, reason)
                    report(f"ended epoch {before.epoch}: {reason}")
                _clear(deployment, report)
                hand_off = begin(deployment, _latest(deployment), wait_s, report)
            slot = require_slot(deployment.source, hand_off.slot)
            register(deployment, hand_off, slot, wait_s, report)
    return hand_off


def _latest(deployment: Deployment) -> HandOff:
    """The last epoch, ended or not, made with the settings of today."""
    settings, target = deployment.settings, deployment.target
    check_control(target, settings.target.control_schema)
    latest = read_hand_off(target, settings.pipeline.name)
    if latest is None:
        raise ConfigurationError(
            f"pipeline {settings.pipeline.name!r} has no hand-off yet: run `cdc-consumer init`, or check"
            " CDC_PIPELINE__NAME"
        )
    require_same_names(deployment, latest)
    return latest


def _reason(deployment: Deployment, latest: HandOff) -> str | None:
    if latest.ended:  # by a reinit that was interrupted, or by teardown
        return latest.verify_required or f"epoch {latest.epoch} was ended"
    return broken(deployment, latest)


def _clear(deployment: Deployment, report: Report) -> None:
    """The reader goes before its slot; what it has sent by then lies below the new epoch's boundaries."""
    settings = deployment.settings
    remove_connector(deployment.connect, settings.connector, report)
    if drop_slot(deployment.source, settings.slot, SLOT_WAIT_S):
        report(f"dropped replication slot {settings.slot}")
