"""A layout that moves under a writer: noticed in the transaction that would have written by the old one."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from tests.writer_samples import LOAD, NOON_US, TABLE_OF, TICK_US, created, updated
from tests.writer_world import WriterWorld
from widetable.apply import Writer
from widetable.errors import ConfigurationError, LayoutChangedError
from widetable.layout_lock import layout_change, raise_version

pytestmark = pytest.mark.postgres
pytest_plugins = ["tests.writer_fixture"]


def test_a_batch_under_an_old_layout_is_refused_until_it_is_loaded_again(own_world: WriterWorld) -> None:
    """The version is compared under the lock that a change takes alone."""
    own_world.write([created("a")])
    with own_world.second() as other, layout_change(other.conn):
        raise_version(other.conn)
    with pytest.raises(LayoutChangedError):
        own_world.write([created("b", LOAD)])
    own_world.writer.load()
    own_world.write([created("b", LOAD)])
    assert len(own_world.cells()) == 2


def test_a_column_added_by_hand_is_noticed(own_world: WriterWorld) -> None:
    """COPY without a column list would miss it; a reload takes it in its stride."""
    own_world.write([created("a")])
    with own_world.second() as other:
        other.conn.execute('ALTER TABLE wide_text_apply.tbl_data_timeseries_imo9000001_1 ADD "by hand" int')
    with pytest.raises(LayoutChangedError, match="by hand"):
        own_world.write([created("b", moment_us=NOON_US + TICK_US)])
    own_world.writer.load()
    own_world.write([created("b", moment_us=NOON_US + TICK_US), updated("c", lsn=4)])
    assert len(own_world.cells()) == 2


def test_a_column_replaced_by_hand_is_a_configuration_error(own_world: WriterWorld) -> None:
    """Its values would land in another column."""
    own_world.write([created("a")])
    with own_world.second() as other:
        other.conn.execute(
            'ALTER TABLE wide_text_apply.tbl_data_timeseries_imo9000001_1 DROP "me/load", ADD "me/lord" text'
        )
    with pytest.raises(LayoutChangedError):
        own_world.write([created("1", LOAD, moment_us=NOON_US + TICK_US)])
    with pytest.raises(ConfigurationError, match="me/load"):
        own_world.writer.load()


def test_a_table_dropped_by_hand_is_a_configuration_error(own_world: WriterWorld) -> None:
    """Said at the next batch, and by name."""
    own_world.write([created("a")])
    with own_world.second() as other:
        other.conn.execute("DROP TABLE wide_text_apply.tbl_data_timeseries_imo9000001_1")
    with pytest.raises(LayoutChangedError):
        own_world.write([created("1", LOAD)])
    with pytest.raises(ConfigurationError, match="imo9000001_1"):
        own_world.writer.load()


def test_a_load_that_failed_can_be_repeated(own_world: WriterWorld) -> None:
    """Somebody holds a table while the staging tables are made; those made by then are not in the way."""
    own_world.conn.execute("SET lock_timeout = '50ms'")
    last = [table for table, _, number in own_world.tables() if number == max(TABLE_OF.values())]
    names = sql.SQL(", ").join(sql.Identifier(own_world.settings.wide_schema, table) for table in last)
    with own_world.second() as other:
        for _ in range(2):
            with other.conn.transaction():
                other.conn.execute(sql.SQL("LOCK TABLE {}").format(names))
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    own_world.writer.load()
    with pytest.raises(LayoutChangedError):
        own_world.write([created("a")])
    own_world.writer.load()
    own_world.write([created("a")])
    assert len(own_world.cells()) == 1


def test_a_writer_without_a_layout_asks_for_one(own_world: WriterWorld) -> None:
    """As after a change: load, and try again."""
    fresh = Writer(own_world.conn)
    with pytest.raises(LayoutChangedError), own_world.conn.transaction():
        fresh.begin()
    fresh.load()
    with own_world.conn.transaction():
        fresh.begin()
    assert fresh.layout.ordinal == own_world.writer.layout.ordinal
