"""What `init` refuses, each with what is in the way and what to do, and nothing left half made."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from psycopg import sql

from cdc_consumer import init as init_module
from cdc_consumer.topic import Topics
from devstack import binaries
from tests.pipeline_world import Pipeline, wait_for
from widetable.errors import ConfigurationError, UnreachableError
from widetable.postgres import Connection

pytest_plugins = ["tests.pipeline_fixture"]
pytestmark = pytest.mark.stack


def test_what_holds_up_the_slot_is_named_and_nothing_is_left(pipeline: Pipeline) -> None:
    """A forgotten transaction is the usual reason why a slot isn't made; it may sit in another tool."""
    with pipeline.open_transaction() as pid, pytest.raises(UnreachableError) as raised:
        pipeline.init(wait_s=1)
    assert f"pid {pid} (postgres, report tool, idle in transaction" in str(raised.value)
    assert "did not reach its consistent point" in str(raised.value)
    assert pipeline.slot() is None
    assert pipeline.init().epoch == 1


def test_a_forgotten_prepared_transaction_is_named(pipeline: Pipeline) -> None:
    """It has no session, so nobody thinks of it."""
    with psycopg.connect(pipeline.settings.source.dsn.get_secret_value()) as other:
        other.execute("CREATE TABLE forgotten ()")
        other.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(pipeline.name)))
    with pytest.raises(UnreachableError, match=f"prepared transaction '{pipeline.name}'"):
        pipeline.init(wait_s=1)
    pipeline.source.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(pipeline.name)))
    assert pipeline.init().epoch == 1


def test_the_barrier_waits_for_transactions_that_the_slot_does_not(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that waits for a synchronous standby is in the WAL before any snapshot sees it."""
    with pipeline.open_transaction() as pid:

        def beside_another(conn: Connection, name: str, wait_s: float) -> int:
            """The slot is made as if that transaction had come just after its consistent point."""
            assert wait_s
            return _slot_without_waiting(conn, name)

        monkeypatch.setattr(init_module, "create_slot", beside_another)
        with pytest.raises(UnreachableError, match=rf"barrier \d+ was not passed.*pid {pid}"):
            pipeline.init(wait_s=1)
    assert pipeline.slot() is None
    assert pipeline.hand_off() is None


def test_a_lost_slot_is_refused_with_the_way_on(streaming: Pipeline) -> None:
    """Making a new slot in silence would hide that changes are missing."""
    with streaming.connect() as connect:
        connect.stop(streaming.name)
    streaming.source.execute("SELECT pg_drop_replication_slot(%s)", [streaming.name])
    with pytest.raises(ConfigurationError, match=r"slot .* is gone.*cdc-consumer reinit.*backfill verify"):
        streaming.init()
    assert streaming.slot() is None


def test_a_lost_publication_is_refused_with_the_way_on(streaming: Pipeline) -> None:
    """A publication that is made again does not publish what was missed."""
    streaming.source.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(streaming.name)))
    with pytest.raises(ConfigurationError, match=r"publication .* is gone.*cdc-consumer reinit"):
        streaming.init()


def test_a_topic_made_anew_is_refused_with_the_way_on(streaming: Pipeline) -> None:
    """Same name, other events: the ledger's offsets mean nothing in it."""
    settings = streaming.settings
    with streaming.connect() as connect:
        connect.stop(streaming.name)
    admin, topics = AdminClient(settings.kafka.client()), Topics(settings.kafka)
    admin.delete_topics([settings.topic_name])[settings.topic_name].result()
    wait_for(lambda: topics.describe(settings.topic_name) is None, "the topic was not deleted")
    with pytest.raises(ConfigurationError, match="is gone, with the events in it"):
        streaming.init()
    topics.create(settings.topic_name, settings.topic)
    wait_for(lambda: topics.describe(settings.topic_name) is not None, "the topic was not made")
    with pytest.raises(ConfigurationError, match="was deleted and made anew"):
        streaming.init()


def test_a_slot_that_somebody_else_reads_is_left_alone(pipeline: Pipeline) -> None:
    """It may be another deployment's."""
    with reader(pipeline) as pid:
        with pytest.raises(ConfigurationError, match=rf"is in use by pid {pid}.*CDC_CONNECT__SLOT"):
            pipeline.init()
        assert pipeline.slot() is not None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param(
            "DROP TABLE tenant.tbl_data_timeseries", "has no table tenant.tbl_data_timeseries", id="no table"
        ),
        pytest.param(
            "ALTER TABLE tenant.tbl_data_timeseries REPLICA IDENTITY NOTHING",
            "REPLICA IDENTITY DEFAULT",
            id="replica identity",
        ),
        pytest.param(
            "ALTER TABLE tenant.tbl_data_timeseries DROP CONSTRAINT tbl_data_timeseries_pkey",
            "must have the primary key",
            id="no key",
        ),
        pytest.param(
            "ALTER TABLE tenant.tbl_data_timeseries ALTER created_time TYPE timestamptz",
            "created_time must be timestamp without time zone",
            id="column type",
        ),
    ],
)
def test_a_narrow_table_that_would_misplace_cells_is_refused(
    pipeline: Pipeline, change: str, complaint: str
) -> None:
    """Before anything is made."""
    pipeline.source.execute(change.encode())
    with pytest.raises(ConfigurationError, match=complaint):
        pipeline.init()
    assert pipeline.slot() is None
    assert Topics(pipeline.settings.kafka).describe(pipeline.settings.topic_name) is None


def test_a_compacted_topic_is_refused(pipeline: Pipeline) -> None:
    """The key is the ship: compaction would keep one event of each."""
    settings = pipeline.settings
    topics = Topics(settings.kafka)
    topics.create(settings.topic_name, settings.topic)
    wait_for(lambda: topics.describe(settings.topic_name) is not None, "the topic was not made")
    compact = ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, settings.topic_name, incremental_configs=[compact])
    admin = AdminClient(settings.kafka.client())
    admin.incremental_alter_configs([resource])[resource].result()
    with pytest.raises(ConfigurationError, match=r"cleanup\.policy=compact"):
        pipeline.init()


def _slot_without_waiting(conn: Connection, name: str) -> int:
    """A physical slot stands in: logical ones wait for the open transaction by themselves."""
    conn.execute("SELECT pg_create_physical_replication_slot(%s, true)", [name])
    return 1


@contextmanager
def reader(pipeline: Pipeline) -> Iterator[int]:
    """A slot of the pipeline's name with a reader that is not ours; gives the reader's pid at the source."""
    pipeline.source.execute("CREATE PUBLICATION somebody_elses FOR ALL TABLES")
    pipeline.source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [pipeline.name])
    program = str(binaries.programs() / "pg_recvlogical")
    target = [f"--dbname={pipeline.settings.source.dsn.get_secret_value()}", f"--slot={pipeline.name}"]
    options = ["--option=proto_version=1", "--option=publication_names=somebody_elses"]
    command = [program, *target, *options, "--start", "--file=/dev/null"]
    with subprocess.Popen(command) as process:  # noqa: S603 - PostgreSQL's own program
        try:
            wait_for(lambda: pipeline.reader_pid() is not None, "nobody reads the slot")
            pid = pipeline.reader_pid()
            assert pid is not None
            yield pid
        finally:
            process.terminate()
