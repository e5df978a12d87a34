"""Is the hand-off still true? Each part of the world, as it should be and broken."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cdc_consumer import health
from cdc_consumer.connect import StoredOffset
from cdc_consumer.settings import load_settings
from cdc_consumer.slot import Slot
from cdc_consumer.source_database import Publication, Server
from cdc_consumer.topic import Topic
from widetable.barrier import SourceIdentity
from widetable.hand_off import HandOff, LedgerRow, epoch_starts

TABLES = ["tenant.tbl_data_timeseries", "cdc.heartbeat"]
HAND_OFF = HandOff(
    pipeline="p",
    epoch=1,
    system_identifier="77",
    timeline=3,
    slot="p",
    publication="p",
    consistent_point=1000,
    barrier_xid=5,
    topic="p.tenant.tbl_data_timeseries",
    topic_id="id",
    boundary_offsets={0: 0, 1: 0},
    placeholder="x",
)
SLOT = Slot("p", "pgoutput", "db", 42, 1000, "reserved", None, 0)
TOPIC = Topic("p.tenant.tbl_data_timeseries", "id", 2, "delete", 1000)
PUBLICATION = Publication(
    puballtables=False, pubviaroot=True, publishes_all=True, tables=TABLES, filtered=False
)
SERVER = Server("logical", 180_000, standby=False, free_slots=3, free_senders=3, wal_budget=-1)


def test_a_world_as_recorded_has_no_problem() -> None:
    """The other tests change one thing at a time."""
    settings = load_settings({"CDC_SOURCE__DSN": "x", "CDC_TARGET__DSN": "x", "CDC_PIPELINE__NAME": "p"})
    assert health.settings_problem(settings, HAND_OFF) is None
    assert health.cluster_problem(SourceIdentity("77", 3), HAND_OFF) is None
    assert health.slot_problem(SLOT, HAND_OFF) is None
    assert health.publication_problem(PUBLICATION, HAND_OFF, TABLES) is None
    assert health.topic_problem(TOPIC, HAND_OFF) is None
    assert SERVER.problem() is None


@pytest.mark.parametrize(
    ("identity", "complaint"),
    [
        pytest.param(SourceIdentity("78", 3), "the source is cluster 78", id="another cluster"),
        pytest.param(SourceIdentity("77", 4), "a standby was promoted", id="another timeline"),
    ],
)
def test_another_cluster_or_history_is_not_the_streams(identity: SourceIdentity, complaint: str) -> None:
    """LSNs and transaction ids mean nothing across clusters, and little across promotions."""
    assert complaint in str(health.cluster_problem(identity, HAND_OFF))


@pytest.mark.parametrize(
    ("slot", "complaint"),
    [
        pytest.param(None, "is gone", id="dropped"),
        pytest.param(replace(SLOT, wal_status="lost"), "its WAL was removed", id="over its WAL limit"),
        pytest.param(
            replace(SLOT, invalidation_reason="idle_timeout"), r"is lost (idle_timeout)", id="invalidated"
        ),
        pytest.param(replace(SLOT, confirmed_flush=999), "not the slot of the hand-off", id="an older one"),
    ],
)
def test_a_slot_that_let_changes_go_is_lost(slot: Slot | None, complaint: str) -> None:
    """No new slot may take its place in silence."""
    assert complaint in str(health.slot_problem(slot, HAND_OFF))


@pytest.mark.parametrize(
    ("publication", "complaint"),
    [
        pytest.param(None, "is gone", id="dropped"),
        pytest.param(replace(PUBLICATION, tables=TABLES[1:]), "lacks tenant.tbl", id="without the table"),
        pytest.param(replace(PUBLICATION, publishes_all=False), "does not publish all", id="inserts only"),
        pytest.param(replace(PUBLICATION, pubviaroot=False), "names partitions", id="by partition"),
        pytest.param(replace(PUBLICATION, filtered=True), "row filter", id="filtered"),
    ],
)
def test_a_publication_that_holds_changes_back_is_broken(
    publication: Publication | None, complaint: str
) -> None:
    """What is not published is dropped in silence."""
    assert complaint in str(health.publication_problem(publication, HAND_OFF, TABLES))


@pytest.mark.parametrize(
    ("topic", "complaint"),
    [
        pytest.param(None, "is gone", id="deleted"),
        pytest.param(replace(TOPIC, topic_id="other"), "made anew", id="recreated"),
        pytest.param(replace(TOPIC, cleanup_policy="compact"), "cleanup.policy=compact", id="compacted"),
    ],
)
def test_a_topic_that_lost_events_or_their_order_is_broken(topic: Topic | None, complaint: str) -> None:
    """Offsets only mean something in the topic they were taken from."""
    assert complaint in str(health.topic_problem(topic, HAND_OFF))


@pytest.mark.parametrize(
    ("server", "advice"),
    [
        pytest.param(replace(SERVER, wal_level="replica"), "ALTER SYSTEM SET wal_level", id="wal_level"),
        pytest.param(replace(SERVER, standby=True), "at the primary", id="standby"),
    ],
)
def test_a_server_that_cannot_stream_is_told_what_to_change(server: Server, advice: str) -> None:
    """The message holds the command."""
    assert advice in str(server.problem())


def test_an_event_belongs_to_the_last_epoch_that_began_at_or_below_it() -> None:
    """Another topic's epochs, and partitions that came later, have no say."""
    epochs = [
        replace(HAND_OFF, epoch=1, topic_id="old"),
        replace(HAND_OFF, epoch=2, boundary_offsets={0: 10}),
        replace(HAND_OFF, epoch=3, boundary_offsets={0: 25, 1: 7}),
    ]
    assert epoch_starts(epochs, "id", 0) == [(10, 2), (25, 3)]
    assert epoch_starts(epochs, "id", 1) == [(7, 3)]
    assert epoch_starts(epochs, "id", 2) == []


def test_partitions_that_the_ledger_does_not_know_name_their_command() -> None:
    """A new epoch is not needed for them."""
    assert health.partition_problem(TOPIC, [0, 1]) is None
    complaint = str(health.partition_problem(replace(TOPIC, partitions=3), [0, 1]))
    assert "`cdc-consumer repartition --partitions 3`" in complaint
    assert "behind our back" in complaint
    assert health.unfinished_problem(replace(TOPIC, partitions=3), [0, 1]) is None


def test_partitions_that_the_ledger_alone_knows_are_a_repartition_on_its_way() -> None:
    """Nobody added anything behind our back, so no consumer stops for them."""
    assert health.unfinished_problem(TOPIC, [0, 1]) is None
    assert health.partition_problem(TOPIC, [0, 1, 2]) is None
    said = str(health.unfinished_problem(TOPIC, [0, 1, 2]))
    assert "`cdc-consumer repartition --partitions 3`, which finishes" in said


@pytest.mark.parametrize(
    ("held", "complaint"),
    [
        pytest.param(range(5, 9), "None", id="all there"),
        pytest.param(range(6, 9), "retention has removed events", id="expired"),
        pytest.param(range(4), "the broker has lost events", id="shorter than before"),
    ],
)
def test_a_topic_must_hold_what_was_not_read(held: range, complaint: str) -> None:
    """Offsets between what it holds and what was read are events that nobody sees."""
    row = LedgerRow(0, 5, None, datetime.now(UTC))
    assert complaint in str(health.retention_problem({0: held}, [row]))


def test_a_slot_ahead_of_the_stored_position_has_let_changes_go() -> None:
    """Debezium confirms only what Connect has stored."""
    ahead = replace(SLOT, confirmed_flush=2000)
    for position, problem in ((1000, True), (2000, False), (3000, False)):
        stored = StoredOffset(position, {"lsn": position, "lsn_commit": position})
        assert bool(health.position_problem(stored, ahead, HAND_OFF)) is problem
    assert health.position_problem(None, SLOT, HAND_OFF) is None
    assert "position was lost" in str(health.position_problem(None, ahead, HAND_OFF))
