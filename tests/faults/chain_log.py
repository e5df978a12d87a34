"""A log of everything that ever happened to the offset ledger, kept by a trigger: is each partition one chain?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import psycopg

INSTALL: Final = """
CREATE SCHEMA IF NOT EXISTS fault;
CREATE TABLE fault.chain (
    n bigint GENERATED ALWAYS AS IDENTITY, writer text, topic_id text, partition int,
    old_fence bigint, new_fence bigint, old_batch bigint, new_batch bigint, old_offset bigint, new_offset bigint);
CREATE FUNCTION fault.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO fault.chain
        (writer, topic_id, partition, old_fence, new_fence, old_batch, new_batch, old_offset, new_offset)
    VALUES (current_setting('application_name'), NEW.topic_id, NEW.partition, OLD.fence, NEW.fence,
            OLD.batch_no, NEW.batch_no, OLD.next_offset, NEW.next_offset);
    RETURN NULL;
END $$;
CREATE TRIGGER chain AFTER UPDATE ON cdc.offset_ledger FOR EACH ROW EXECUTE FUNCTION fault.note();
"""
# Each change is a claim (a new fence, nothing else) or the next batch of the same owner, which never goes back.
# Consumers name their sessions by pid and number; commands of an operator (reinit, repartition) may do more.
BREAKS: Final = """
SELECT count(*) FROM fault.chain
WHERE writer LIKE 'cdc-consumer-%'
  AND NOT (new_fence = old_fence + 1 AND new_batch = old_batch AND new_offset >= old_offset)
  AND NOT (new_fence = old_fence AND new_batch = old_batch + 1 AND new_offset >= old_offset)
"""
HOLDERS: Final = "SELECT fence, batch_no, partition FROM cdc.offset_ledger"
# A session names itself cdc-consumer-<pid>-<number>, and the ledger keeps the name.
OWNERS: Final = (
    "SELECT partition, fence, split_part(owner, '-', 3)::int FROM cdc.offset_ledger WHERE owner IS NOT NULL"
)
GIVE_BACK: Final = "UPDATE cdc.offset_ledger SET fence = %s, batch_no = %s WHERE partition = %s"
WENT_BACK: Final = "SELECT count(*) FROM fault.chain WHERE new_offset < old_offset"


def install(dsn: str) -> None:
    """Log from now on."""
    _execute(dsn, INSTALL)


def breaks(dsn: str) -> int:
    """Changes of the ledger that are no link of a chain."""
    return _count(dsn, BREAKS)


def holders(dsn: str) -> list[tuple[int, int, int]]:
    """Fence, batch number and partition, as their owners of now know them."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(HOLDERS).fetchall()


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has claimed a partition last: the worker's process, and the fence it raised."""

    fence: int
    pid: int


def owners(dsn: str) -> dict[int, Owner]:
    """The owner of each partition that was ever claimed."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return {number: Owner(fence, pid) for number, fence, pid in conn.execute(OWNERS)}


def unfence(dsn: str, holders: list[tuple[int, int, int]]) -> None:
    """The negative control: whoever held the partitions then may write, as if no claim had come since."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.cursor().executemany(GIVE_BACK, holders)


def went_back(dsn: str) -> int:
    """How often a partition's position was moved back."""
    return _count(dsn, WENT_BACK)


def _execute(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statements.encode())


def _count(dsn: str, query: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as conn:
        (row,) = conn.execute(query.encode()).fetchall()
    return int(row[0])
