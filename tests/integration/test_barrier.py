"""The xid barrier: a slice that could miss a row is refused."""

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from tests.pipeline_world import wait_for
from widetable.barrier import barrier_passed, require_barrier, source_identity, take_barrier
from widetable.errors import RetryableError, StoppedError
from widetable.hand_off import HandOff
from widetable.postgres import Connection, connect_source
from widetable.settings import SourceSettings

pytestmark = pytest.mark.postgres


@pytest.fixture
def source(source_dsn: str) -> Iterator[Connection]:
    """A session in autocommit, as `init` has it."""
    with connect_source(SourceSettings(dsn=source_dsn), "test") as conn:
        yield conn


@pytest.fixture
def hand_off(source: Connection) -> HandOff:
    """A hand-off of this cluster whose barrier everybody has passed."""
    return HandOff(
        pipeline="p",
        epoch=1,
        system_identifier=source_identity(source).system_identifier,
        timeline=1,
        slot="s",
        publication="p",
        consistent_point=0,
        barrier_xid=3,
        topic="t",
        topic_id="i",
        boundary_offsets={},
        placeholder="x",
    )


def test_a_barrier_is_not_passed_while_an_older_transaction_is_open(
    source: Connection, source_dsn: str
) -> None:
    """It may still commit rows that a snapshot of now doesn't see."""
    with psycopg.connect(source_dsn) as older:
        older.execute("SELECT pg_current_xact_id()")
        barrier_xid = take_barrier(source)
        assert not barrier_passed(source, barrier_xid)
        older.rollback()
        wait_for(lambda: barrier_passed(source, barrier_xid), "the barrier was not passed")


def test_a_slice_checks_the_barrier_in_its_own_snapshot(
    source: Connection, source_dsn: str, hand_off: HandOff
) -> None:
    """A snapshot taken before the barrier stays too old, whatever is committed since."""
    with connect_source(SourceSettings(dsn=source_dsn), "slice", autocommit=False) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert require_barrier(reader, hand_off).count(":") == 2
        take_barrier(source)  # a transaction that the snapshot can't see
        late = replace(hand_off, barrier_xid=take_barrier(source))
        with pytest.raises(RetryableError, match=f"does not reach the barrier {late.barrier_xid}"):
            require_barrier(reader, late)
        reader.rollback()
        wait_for(lambda: barrier_passed(source, late.barrier_xid), "the barrier was not passed")
        require_barrier(reader, late)


def test_another_cluster_is_refused(source: Connection, hand_off: HandOff) -> None:
    """Its transaction ids say nothing about this stream."""
    with pytest.raises(StoppedError, match="check CDC_SOURCE__DSN"):
        require_barrier(source, replace(hand_off, system_identifier="1"))


def test_a_barrier_inside_a_transaction_is_refused(source_dsn: str) -> None:
    """It would wait for itself."""
    settings = SourceSettings(dsn=source_dsn)
    with (
        connect_source(settings, "test", autocommit=False) as source,
        pytest.raises(ValueError, match="open transaction"),
    ):
        take_barrier(source)
