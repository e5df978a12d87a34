"""Publication and heartbeat table: made, completed, and never narrowed."""

import psycopg
import pytest

from cdc_consumer.publication import (
    Dropped,
    drop_heartbeat,
    drop_publication,
    ensure_heartbeat,
    ensure_publication,
)
from cdc_consumer.source_database import blockers, heartbeat_age_s, publication
from widetable.errors import ConfigurationError
from widetable.postgres import Connection, connect_source
from widetable.settings import SourceSettings
from widetable.settled import beat

pytestmark = pytest.mark.postgres

NARROW, HEARTBEAT = "tenant.tbl_data_timeseries", "pulse.heartbeat"


@pytest.fixture
def source(source_dsn: str) -> Connection:
    """A session on a fresh source with a heartbeat table."""
    conn = connect_source(SourceSettings(dsn=source_dsn), "test")
    assert list(ensure_heartbeat(conn, HEARTBEAT, "postgres")) == [f"created heartbeat table {HEARTBEAT}"]
    return conn


def test_a_publication_is_made_once(source: Connection) -> None:
    """Every operation, by the partition root."""
    assert list(ensure_publication(source, "p", [NARROW, HEARTBEAT])) == ["created publication p"]
    assert list(ensure_publication(source, "p", [NARROW, HEARTBEAT])) == []
    found = publication(source, "p")
    assert found is not None
    assert list(found.problems("p", [NARROW, HEARTBEAT])) == []


def test_a_publication_that_is_there_is_completed(source: Connection) -> None:
    """An administrator may have made it, with tables of their own."""
    source.execute("CREATE TABLE other (id int PRIMARY KEY)")
    source.execute(
        "CREATE PUBLICATION p FOR TABLE other, tenant.tbl_data_timeseries WITH (publish = 'insert')"
    )
    changes = list(ensure_publication(source, "p", [NARROW, HEARTBEAT]))
    assert changes == [
        f"added {HEARTBEAT} to publication p",
        "publication p publishes all operations via the partition root",
    ]
    found = publication(source, "p")
    assert found is not None
    assert list(found.problems("p", [NARROW, HEARTBEAT, "public.other"])) == []


def test_a_publication_for_all_tables_is_enough(source: Connection) -> None:
    """It can't be given tables, and needs none."""
    source.execute("CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root)")
    assert list(ensure_publication(source, "p", [NARROW, HEARTBEAT])) == []


def test_a_row_filter_is_refused(source: Connection) -> None:
    """Rows that it hides would be missing from the stream for ever."""
    source.execute("CREATE PUBLICATION p FOR TABLE tenant.tbl_data_timeseries WHERE (ship_id = 'A')")
    with pytest.raises(ConfigurationError, match="row filter"):
        list(ensure_publication(source, "p", [NARROW]))


def test_a_role_without_rights_is_told_which(source: Connection) -> None:
    """Only the owner of a table may publish it."""
    source.execute("SET ROLE pg_read_all_data")
    with pytest.raises(ConfigurationError, match=r"may not prepare the source: permission denied.*must own"):
        list(ensure_publication(source, "p", [NARROW]))


def test_the_heartbeat_moves_even_if_its_row_was_deleted(source: Connection) -> None:
    """The connector's query must not depend on what somebody did to the table."""
    before = beat(source, HEARTBEAT)
    source.execute("DELETE FROM pulse.heartbeat")
    assert heartbeat_age_s(source, HEARTBEAT) is None
    assert beat(source, HEARTBEAT) > before
    age_s = heartbeat_age_s(source, HEARTBEAT)
    assert age_s is not None
    assert 0 <= age_s < 60


def test_what_was_made_can_be_removed_and_removed_again(source: Connection) -> None:
    """`teardown` may be interrupted and run again."""
    list(ensure_publication(source, "p", [NARROW]))
    assert [drop_publication(source, "p") for _ in range(2)] == [Dropped.YES, Dropped.NOTHING_THERE]
    assert [drop_heartbeat(source, HEARTBEAT) for _ in range(2)] == [Dropped.YES, Dropped.NOTHING_THERE]
    assert heartbeat_age_s(source, HEARTBEAT) is None


def test_only_transactions_that_can_hold_something_up_are_named(source: Connection, source_dsn: str) -> None:
    """A reader without a transaction id delays neither slot nor barrier."""
    with psycopg.connect(source_dsn, application_name="reader") as reader:
        reader.execute("SELECT 1")
        assert not [line for line in blockers(source) if f"pid {reader.info.backend_pid} " in line]
        reader.execute("SELECT pg_current_xact_id()")
        assert [line for line in blockers(source) if f"pid {reader.info.backend_pid} " in line]
