"""The hand-off: the record in the target that ties slot, barrier and offsets of an epoch together.

It is written once per epoch by `cdc-consumer init` and read by everyone else: the consumer takes its
topic, placeholder and epochs from it, the history side its barrier. Guarantee: the hand-off and the ledger
rows of all partitions appear in one transaction, and an earlier position in the same topic moves only where the
topic no longer holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.resources import files
from typing import Final

from psycopg.types.json import Jsonb

from widetable.errors import ConfigurationError, OutdatedError
from widetable.lsn import format_lsn, parse_lsn
from widetable.postgres import Connection
from widetable.statements import load_statements

SQL: Final = load_statements(files("widetable") / "sql" / "hand_off.sql")


@dataclass(frozen=True, slots=True)
class HandOff:
    """One epoch, the life of one slot.

    Attributes:
        consistent_point: L0; what commits at or after this LSN is in the stream.
        barrier_xid: S0; what committed before L0 has a smaller transaction id.
        boundary_offsets: first Kafka offset of this epoch, per partition.
        placeholder: what Debezium writes for an unchanged TOASTed value.
        ended: the slot was given up on purpose; nothing streams until the next epoch begins.
        verify_required: why all cells must be verified; None when nothing asks for it.
    """

    pipeline: str
    epoch: int
    system_identifier: str
    timeline: int
    slot: str
    publication: str
    consistent_point: int
    barrier_xid: int
    topic: str
    topic_id: str
    boundary_offsets: dict[int, int]
    placeholder: str
    ended: bool = False
    verify_required: str | None = None


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """How far one partition is in the target."""

    partition: int
    next_offset: int
    owner: str | None
    updated_at: datetime


def read_epochs(conn: Connection, pipeline: str) -> list[HandOff]:
    """All epochs of the pipeline, oldest first."""
    rows = conn.execute(SQL["epochs"], {"pipeline": pipeline}).fetchall()
    return [
        HandOff(
            pipeline=pipeline,
            epoch=row[0],
            system_identifier=row[1],
            timeline=row[2],
            slot=row[3],
            publication=row[4],
            consistent_point=parse_lsn(row[5]),
            barrier_xid=int(row[6]),
            topic=row[7],
            topic_id=row[8],
            boundary_offsets={int(partition): offset for partition, offset in row[9].items()},
            placeholder=row[10],
            ended=row[11],
            verify_required=row[12],
        )
        for row in rows
    ]


def read_hand_off(conn: Connection, pipeline: str) -> HandOff | None:
    """The latest epoch, ended or not; None before the first `init`."""
    epochs = read_epochs(conn, pipeline)
    return epochs[-1] if epochs else None


def streaming_hand_off(conn: Connection, pipeline: str) -> HandOff | None:
    """The epoch that streams; None before the first `init` and after `teardown`."""
    hand_off = read_hand_off(conn, pipeline)
    return None if hand_off is None or hand_off.ended else hand_off


def require_hand_off(conn: Connection, pipeline: str) -> HandOff:
    """The epoch that streams.

    Raises:
        ConfigurationError: there is none; the message names the command that makes one.
    """
    hand_off = read_hand_off(conn, pipeline)
    if hand_off is None:
        raise ConfigurationError(
            f"pipeline {pipeline!r} has no hand-off yet: run `cdc-consumer init` first,"
            " or check CDC_PIPELINE__NAME"
        )
    if hand_off.ended:
        raise ConfigurationError(
            f"pipeline {pipeline!r} was torn down after epoch {hand_off.epoch}:"
            " run `cdc-consumer init` to begin anew"
        )
    return hand_off


def epoch_starts(epochs: list[HandOff], topic_id: str, partition: int) -> list[tuple[int, int]]:
    """`(first offset, epoch)` of one partition, ascending: an event belongs to the last at or below it.

    An epoch that began on another topic, or before the partition existed, has no start here.
    """
    return [
        (epoch.boundary_offsets[partition], epoch.epoch)
        for epoch in epochs
        if epoch.topic_id == topic_id and partition in epoch.boundary_offsets
    ]


def require_current(conn: Connection, hand_off: HandOff) -> None:
    """See that the epoch and its partitions are still those that a program started with.

    To be asked after a claim, in a statement of its own: whoever changes either raises every fence in the same
    transaction, so a claim made later sees the change, and one made earlier writes nothing any more.

    Raises:
        OutdatedError: they are not: the program must be started again.
    """
    latest = read_hand_off(conn, hand_off.pipeline)
    now = latest and (latest.epoch, latest.boundary_offsets)
    if now != (hand_off.epoch, hand_off.boundary_offsets):
        raise OutdatedError(
            f"another epoch of pipeline {hand_off.pipeline!r} began, or partitions were added, since this process"
            f" started in epoch {hand_off.epoch}: it must start again"
        )


def write_hand_off(conn: Connection, hand_off: HandOff, held: Mapping[int, range] | None = None) -> None:
    """Begin an epoch: its row and a ledger row per partition, in one transaction that raises every fence.

    A partition that the ledger knows keeps its position: what the epoch before it left in the topic is
    still read. Only a position outside of `held`, the offsets that the topic has, moves to its nearer end.
    """
    offsets = Jsonb({str(partition): offset for partition, offset in hand_off.boundary_offsets.items()})
    values = asdict(hand_off) | {
        "boundary_offsets": offsets,
        "consistent_point": format_lsn(hand_off.consistent_point),
    }
    held = held or {}
    reach = {
        "partitions": list(held),
        "firsts": [offsets.start for offsets in held.values()],
        "ends": [offsets.stop for offsets in held.values()],
    }
    with conn.transaction():
        conn.execute(SQL["lock_ledger"], values)  # in the order in which all writers lock
        conn.execute(SQL["fence"], values)
        conn.execute(SQL["reach"], values | reach)
        conn.execute(SQL["insert"], values)
        conn.execute(SQL["insert_ledger"], values)


def end_epoch(conn: Connection, pipeline: str, reason: str) -> None:
    """Record that the pipeline's slot was given up on purpose, and why; the next epoch carries the reason on."""
    conn.execute(SQL["end"], {"pipeline": pipeline, "reason": reason})


def add_partitions(
    conn: Connection, hand_off: HandOff, partitions: Iterable[int], reason: str | None
) -> None:
    """Take partitions in from their begin, and ask for a verify if there is a `reason`, in one transaction.

    It raises every fence, so that whoever reads the topic learns of them before it writes again.
    """
    values = {
        "pipeline": hand_off.pipeline,
        "topic_id": hand_off.topic_id,
        "boundary_offsets": Jsonb({str(partition): 0 for partition in partitions}),
        "reason": reason,
    }
    with conn.transaction():
        conn.execute(SQL["lock_ledger"], values)
        conn.execute(SQL["fence"], values)
        conn.execute(SQL["add_partitions"], values)
        conn.execute(SQL["insert_ledger"], values)
        if reason:
            conn.execute(SQL["require_verify"], values)


def pass_record(conn: Connection, hand_off: HandOff, partition: int, offset: int, reason: str) -> bool:
    """Move a partition's position past the record on which it stands, and ask for a verify, in one transaction.

    False, and nothing is changed, if it stands elsewhere or its owner is alive.
    """
    key = {"pipeline": hand_off.pipeline, "topic_id": hand_off.topic_id}
    with conn.transaction():
        passed = conn.execute(SQL["pass"], {**key, "partition": partition, "offset": offset}).rowcount == 1
        if passed:
            conn.execute(SQL["require_verify"], {**key, "reason": reason})
    return passed


def read_ledger(conn: Connection, pipeline: str, topic_id: str) -> list[LedgerRow]:
    """The pipeline's positions in a topic, by partition."""
    rows = conn.execute(SQL["ledger"], {"pipeline": pipeline, "topic_id": topic_id}).fetchall()
    return [LedgerRow(*row) for row in rows]
