"""Is the hand-off still true? Each function compares one part of the world with what the hand-off recorded.

In: a fact as read, and the hand-off. Out: None while it holds, else a sentence that says what is broken. A
broken part means that changes may be missing from the stream: no program goes on by itself then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from cdc_consumer.connect import StoredOffset
from cdc_consumer.settings import Settings
from cdc_consumer.slot import Slot
from cdc_consumer.source_database import Publication
from cdc_consumer.topic import Topic
from widetable.barrier import SourceIdentity
from widetable.hand_off import HandOff, LedgerRow
from widetable.lsn import format_lsn


def settings_problem(settings: Settings, hand_off: HandOff) -> str | None:
    """Names are settled at `init`: another one would be another slot, or another topic."""
    for variable, wanted, settled in (
        ("CDC_CONNECT__SLOT", settings.slot, hand_off.slot),
        ("CDC_CONNECT__PUBLICATION", settings.publication, hand_off.publication),
        ("CDC_TOPIC__PREFIX or CDC_SOURCE__TABLE", settings.topic_name, hand_off.topic),
    ):
        if wanted != settled:
            return f"the settings ask for {wanted}, the hand-off was made with {settled}: correct {variable}"
    return None


def cluster_problem(identity: SourceIdentity, hand_off: HandOff) -> str | None:
    """The same cluster, living the same history."""
    if identity.system_identifier != hand_off.system_identifier:
        return (
            f"the source is cluster {identity.system_identifier}, the hand-off was made with"
            f" {hand_off.system_identifier}: CDC_SOURCE__DSN points elsewhere, or the source was restored"
        )
    if identity.timeline != hand_off.timeline:
        return (
            f"the source is on timeline {identity.timeline}, the hand-off on {hand_off.timeline}:"
            " a standby was promoted or a backup restored, and the slot need not have followed"
        )
    return None


def slot_problem(slot: Slot | None, hand_off: HandOff) -> str | None:
    """The slot is there, is ours, and still has its WAL."""
    if slot is None:
        return f"replication slot {hand_off.slot} is gone: changes since then are lost"
    if slot.lost:
        return f"replication slot {slot.name} is lost ({slot.lost}): changes since then are lost"
    if slot.confirmed_flush is not None and slot.confirmed_flush < hand_off.consistent_point:
        return (
            f"replication slot {slot.name} stands at {format_lsn(slot.confirmed_flush)}, before the"
            f" hand-off's {format_lsn(hand_off.consistent_point)}: it is not the slot of the hand-off"
        )
    return None


def late_heartbeat_s(settings: Settings) -> float:
    """Age, in seconds, from which on a heartbeat is late."""
    return 3 * settings.connect.heartbeat_ms / 1000 + 10


def publication_problem(publication: Publication | None, hand_off: HandOff, tables: list[str]) -> str | None:
    """The publication has published every change of the tables."""
    if publication is None:
        return f"publication {hand_off.publication} is gone: changes since then are lost"
    problem = next(publication.problems(hand_off.publication, tables), None)
    return problem and f"{problem}: changes since then are lost"


def topic_problem(topic: Topic | None, hand_off: HandOff) -> str | None:
    """The topic is the same one, and keeps every event."""
    if topic is None:
        return f"topic {hand_off.topic} is gone, with the events in it"
    if topic.topic_id != hand_off.topic_id:
        return f"topic {hand_off.topic} was deleted and made anew: the events of the old one are lost"
    if topic.cleanup_policy != "delete":
        return (
            f"topic {hand_off.topic} has cleanup.policy={topic.cleanup_policy}, which removes events before"
            " they are read: set it to delete"
        )
    return None


def partition_problem(topic: Topic, known: Collection[int]) -> str | None:
    """The ledger knows every partition that the topic has."""
    if topic.partitions <= len(known):
        return None
    return (
        f"topic {topic.name} has {topic.partitions} partitions, the ledger knows {len(known)}: partitions were"
        " added behind our back, so the order of a ship's changes is no longer certain. Run"
        f" `cdc-consumer repartition --partitions {topic.partitions}`"
    )


def unfinished_problem(topic: Topic, known: Collection[int]) -> str | None:
    """The topic has every partition that the ledger knows; `repartition` tells the ledger first."""
    if topic.partitions >= len(known):
        return None
    return (
        f"topic {topic.name} has {topic.partitions} partitions, and shall have {len(known)}: `cdc-consumer"
        " repartition` is at work, or was interrupted. Nothing is lost; run"
        f" `cdc-consumer repartition --partitions {len(known)}`, which finishes it"
    )


def retention_problem(held: Mapping[int, range], rows: Iterable[LedgerRow]) -> str | None:
    """The topic still holds what has not been read, and has not lost what was."""
    for row in rows:
        if (offsets := held.get(row.partition)) is None:
            continue
        if row.next_offset < offsets.start:
            return (
                f"partition {row.partition} begins at offset {offsets.start}, the ledger stands at"
                f" {row.next_offset}: retention has removed events that nobody had read"
            )
        if row.next_offset > offsets.stop:
            return (
                f"partition {row.partition} ends at offset {offsets.stop}, the ledger stands at"
                f" {row.next_offset}: the broker has lost events"
            )
    return None


def position_problem(stored: StoredOffset | None, slot: Slot, hand_off: HandOff) -> str | None:
    """What the slot has let go of was in Kafka by then; `stored` is to be read after the slot."""
    sent = hand_off.consistent_point if stored is None else max(stored.reached, hand_off.consistent_point)
    if slot.confirmed_flush is None or slot.confirmed_flush <= sent:
        return None
    return (
        f"slot {slot.name} has moved on to {format_lsn(slot.confirmed_flush)}, but Kafka Connect's position is"
        f" {format_lsn(sent)}: it was advanced by somebody else, or the position was lost"
    )
