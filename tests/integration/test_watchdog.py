"""The watchdog on the real chain: a stream that goes on is never suspected, one that broke always is."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest
from confluent_kafka.admin import AdminClient
from psycopg import sql

from cdc_consumer import watchdog
from cdc_consumer.registration import RUNBOOK
from cdc_consumer.topic import Topics
from cdc_consumer.watchdog import Lookout, Sight, watch
from tests.pipeline_world import Pipeline, wait_for
from widetable.errors import StoppedError
from widetable.hand_off import HandOff

pytestmark = pytest.mark.stack
pytest_plugins = ["tests.pipeline_fixture"]

CALM_S = 10.0


def lookout(pipeline: Pipeline) -> Lookout:
    """A lookout over the pipeline's hand-off."""
    hand_off = pipeline.hand_off()
    assert isinstance(hand_off, HandOff)
    return Lookout(pipeline.settings, hand_off)


def test_a_stream_under_load_is_never_suspected(streaming: Pipeline) -> None:
    """Every look finds the slot where Connect's stored position allows it to be."""
    seen, until = lookout(streaming), time.monotonic() + CALM_S
    first = 1
    while time.monotonic() < until:
        streaming.insert(first, 500)
        first += 500
        assert seen.look().broken == []
    sight = seen.look()
    assert sight.gauges["cdc_slot_active"] == sight.gauges["cdc_connector_running"] == 1
    age_s = sight.gauges["cdc_heartbeat_age_seconds"]
    assert isinstance(age_s, float)
    assert age_s < CALM_S
    assert sight.gauges["cdc_connector_state"] == {"RUNNING": 1}


def is_whole(sight: Sight) -> bool:
    """Whether all was looked at and found well."""
    return not (sight.broken or sight.suspected or sight.added or sight.passing)


def test_a_lock_on_the_narrow_table_ends_the_look_and_hides_nothing_else(
    streaming: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VACUUM FULL or a queued ALTER may hold it for hours, while WAL piles up: the slot is seen all the same."""
    monkeypatch.setattr(watchdog, "PATIENCE_S", 1.0)
    seen = lookout(streaming)
    wait_for(lambda: is_whole(seen.look()), "all is well")
    # A look that waits for the lock outlives it here, finds all well, and fails the test.
    own_end = "-c idle_in_transaction_session_timeout=20s"
    with psycopg.connect(streaming.settings.source.dsn.get_secret_value(), options=own_end) as other:
        other.execute("LOCK TABLE tenant.tbl_data_timeseries IN ACCESS EXCLUSIVE MODE")
        sight = seen.look()
    assert sight.broken == []
    assert "could not look at the stream" in (told := " ".join(sight.passing))
    assert "lock timeout" in told
    assert sight.gauges["cdc_slot_active"] == sight.gauges["cdc_connector_running"] == 1
    wait_for(lambda: is_whole(seen.look()), "the look is whole again")


def drop(pipeline: Pipeline) -> None:
    """Drop the slot under the connector's hands."""

    def dropped() -> bool:
        pid = pipeline.reader_pid()
        pipeline.source.execute("SELECT pg_terminate_backend(%s)", [pid])
        try:
            pipeline.source.execute("SELECT pg_drop_replication_slot(%s)", [pipeline.name])
        except psycopg.errors.ObjectInUse:
            return False
        return True

    wait_for(dropped, "the slot is dropped")


def make_anew(pipeline: Pipeline) -> None:
    """What a person might do about a slot that is gone, after changes that nobody will see."""
    with pipeline.connect() as connect:
        connect.stop(pipeline.settings.connector)
    wait_for(lambda: pipeline.reader_pid() is None, "the slot is free")
    pipeline.source.execute("SELECT pg_drop_replication_slot(%s)", [pipeline.name])
    pipeline.insert(1, 100)
    pipeline.source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [pipeline.name])


def advance(pipeline: Pipeline) -> None:
    """Move the slot past changes that nobody has read."""
    with pipeline.connect() as connect:
        connect.stop(pipeline.settings.connector)
    wait_for(lambda: pipeline.reader_pid() is None, "the slot is free")
    pipeline.insert(1, 100)
    pipeline.source.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [pipeline.name])


@pytest.mark.parametrize(
    ("harm", "said"), [(drop, "is gone"), (make_anew, "was advanced"), (advance, "was advanced")]
)
def test_a_slot_that_skipped_changes_is_seen(
    streaming: Pipeline, harm: Callable[[Pipeline], None], said: str
) -> None:
    """Dropped, made anew or advanced: the next look says so."""
    seen = lookout(streaming)
    assert seen.look().broken == []
    harm(streaming)
    assert said in " ".join(seen.look().broken)


def drop_publication(pipeline: Pipeline) -> None:
    """What is not published is in no stream."""
    pipeline.source.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(pipeline.name)))


def recreate_topic(pipeline: Pipeline) -> None:
    """Delete the topic, and make it again under its name."""
    settings, topics = pipeline.settings, Topics(pipeline.settings.kafka)
    admin = AdminClient(settings.kafka.client())
    with pipeline.connect() as connect:
        connect.stop(settings.connector)
    admin.delete_topics([settings.topic_name])[settings.topic_name].result()
    wait_for(lambda: topics.describe(settings.topic_name) is None, "the topic is gone")
    topics.create(settings.topic_name, settings.topic)
    wait_for(lambda: topics.describe(settings.topic_name) is not None, "the topic is there again")


def name_another_cluster(pipeline: Pipeline) -> None:
    """As if the source's address led to another cluster than at `init`."""
    rewrite_hand_off(pipeline, "system_identifier = '1' || system_identifier")


def name_another_timeline(pipeline: Pipeline) -> None:
    """As if a standby had been promoted since `init`."""
    rewrite_hand_off(pipeline, "timeline = timeline + 1")


def rewrite_hand_off(pipeline: Pipeline, change: str) -> None:
    """Change what `init` recorded of the source."""
    table = sql.Identifier(pipeline.settings.target.control_schema, "hand_off")
    changed = pipeline.target.execute(sql.SQL("UPDATE {} SET ").format(table) + sql.SQL(change))
    assert changed.rowcount == 1


def verdict(pipeline: Pipeline) -> str:
    """What the watchdog stops for, after as many looks as it needs to be sure."""
    hand_off, said = pipeline.hand_off(), list[str]()
    assert isinstance(hand_off, HandOff)
    dog = watch(pipeline.settings, hand_off)

    def stopped() -> bool:
        try:
            dog.step()
        except StoppedError as error:
            said.append(str(error))
        return bool(said)

    wait_for(stopped, "the watchdog stops")
    return said[0]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (drop_publication, "publication {name} is gone: changes since then are lost"),
        (recreate_topic, "topic {topic} was deleted and made anew: the events of the old one are lost"),
        (name_another_cluster, "CDC_SOURCE__DSN points elsewhere, or the source was restored"),
        (name_another_timeline, "a standby was promoted or a backup restored"),
    ],
)
def test_a_broken_premise_stops_the_consumer_with_the_way_on(
    streaming: Pipeline, harm: Callable[[Pipeline], None], said: str
) -> None:
    """Publication, topic, cluster, timeline: the verdict names which one, and the page that says what to do."""
    assert lookout(streaming).look().broken == []
    harm(streaming)
    told = verdict(streaming)
    assert said.format(name=streaming.name, topic=streaming.settings.topic_name) in told
    assert told.endswith(RUNBOOK)


@pytest.mark.parametrize("harm", [drop, make_anew])
def test_debezium_refuses_a_slot_that_is_not_its_own(
    streaming: Pipeline, harm: Callable[[Pipeline], None]
) -> None:
    """It fails, time and again, and makes no slot by itself: nothing goes on past the gap unseen."""
    seen = lookout(streaming)
    harm(streaming)
    with streaming.connect() as connect:
        connect.resume(streaming.settings.connector)
        wait_for(lambda: seen.look().failed is not None, "the connector refuses to go on")
        connect.restart_failed(streaming.settings.connector)
        wait_for(lambda: seen.look().failed is not None, "the connector refuses again")
    assert seen.look().broken
