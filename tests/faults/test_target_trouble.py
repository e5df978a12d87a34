"""F21: the target has no room, no connection, no time, or may not be written: the consumer pauses and polls on.

Each trouble lasts longer than the group waits for a member that does not poll. When it ends, nobody has to help.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg import sql

from devstack.postgres import Postgres
from devstack.product import Process
from tests.faults.trouble import IMPATIENT, at_work, filled, lasts, small_disk, unharmed
from tests.faults.world import World
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300), pytest.mark.faults]

NOTICED_S: Final = 60.0
DISK_BYTES: Final = 400 << 20
SESSIONS: Final = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = %s AND application_name LIKE 'cdc-consumer%%'"
)


@pytest.fixture
def environment() -> dict[str, str]:
    """A consumer that must poll."""
    return IMPATIENT


@pytest.fixture
def administrator(target_cluster: Postgres) -> Iterator[psycopg.Connection]:
    """A session of another database of the target's cluster, which none of the troubles touches."""
    with psycopg.connect(target_cluster.dsn(), autocommit=True) as conn:
        yield conn


@pytest.fixture
def tablespace(target_cluster: Postgres, administrator: psycopg.Connection) -> Iterator[Path]:
    """A file system of 400 MB, with a tablespace `small` on it."""
    with small_disk(target_cluster.data.parent, DISK_BYTES) as folder:
        administrator.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(str(folder)))
        yield folder
        administrator.execute("DROP TABLESPACE small")


def database(world: World) -> sql.Identifier:
    """The target database's name."""
    return sql.Identifier(world.pipeline.target.rsplit("/", 1)[1])


def end_sessions(world: World, administrator: psycopg.Connection) -> int:
    """End the consumer's sessions: the next ones come under the rules of now. Returns how many there were."""
    name = world.pipeline.target.rsplit("/", 1)[1]
    ((count,),) = administrator.execute(SESSIONS, (name,)).fetchall()
    return int(count)


def crowded_out(crowd: ExitStack, world: World, cluster: Postgres, administrator: psycopg.Connection) -> bool:
    """Take the consumer's places, too; it may be quicker, and have one again."""
    fill(crowd, cluster)
    end_sessions(world, administrator)
    all_ended = end_sessions(world, administrator) == 0
    fill(crowd, cluster)
    return all_ended and end_sessions(world, administrator) == 0


def goes_on(process: Process, complaint: str) -> None:
    """The consumer complains of it, and the trouble lasts on."""
    heard = complaint_count(process, complaint)
    wait_until(lambda: complaint_count(process, complaint) > heard, f"{complaint!r} is noticed", NOTICED_S)
    lasts()


def complaint_count(process: Process, complaint: str) -> int:
    """How many outages of the loop speak of it."""
    return sum("outage" in line and complaint in line for line in process.log.read_text().splitlines())


@contextmanager
def altered(world: World, administrator: psycopg.Connection, name: str, value: str) -> Iterator[None]:
    """New sessions of the target have another setting."""
    change = sql.SQL("ALTER DATABASE {} SET {} = {}")
    administrator.execute(change.format(database(world), sql.Identifier(name), sql.Literal(value)))
    end_sessions(world, administrator)
    yield
    reset = sql.SQL("ALTER DATABASE {} RESET {}")
    administrator.execute(reset.format(database(world), sql.Identifier(name)))
    end_sessions(world, administrator)


@pytest.mark.fault("F21", "disk full")
def test_a_full_disk_is_waited_out(tablespace: Path, world: World, administrator: psycopg.Connection) -> None:
    """Somebody makes room, and it goes on."""
    administrator.execute(sql.SQL("ALTER DATABASE {} SET TABLESPACE small").format(database(world)))
    consumer = at_work(world)
    with world.load():
        world.flows()
        with filled(tablespace):
            goes_on(consumer, "No space left on device")
            world.fire()
        world.recovered()
        world.flows()
    unharmed(world, consumer)


@pytest.mark.fault("F21", "too many connections")
def test_a_crowded_server_is_waited_out(
    world: World, target_cluster: Postgres, administrator: psycopg.Connection
) -> None:
    """Others took every place on the server, and leave again."""
    consumer = at_work(world)
    with world.load():
        world.flows()
        with ExitStack() as crowd:
            wait_until(lambda: crowded_out(crowd, world, target_cluster, administrator), "no place is left")
            goes_on(consumer, "too many clients")
            world.fire()
        world.recovered()
        world.flows()
    unharmed(world, consumer)


def fill(crowd: ExitStack, cluster: Postgres) -> None:
    """Take all connections that are left."""
    with suppress(psycopg.OperationalError):
        while True:
            crowd.enter_context(psycopg.connect(cluster.dsn()))


@pytest.mark.fault("F21", "statement_timeout")
def test_a_statement_timeout_is_waited_out(world: World, administrator: psycopg.Connection) -> None:
    """Each COPY is cut off; when they are fast enough again, it goes on."""
    consumer = at_work(world)
    with world.load():
        world.flows()
        with world.gate("in copy"), altered(world, administrator, "statement_timeout", "500ms"):
            goes_on(consumer, "statement timeout")
            world.fire()
        world.recovered()
        world.flows()
    unharmed(world, consumer)


@pytest.mark.fault("F21", "read-only target")
def test_a_read_only_target_is_waited_out(world: World, administrator: psycopg.Connection) -> None:
    """As after a failover to a standby, until it is promoted."""
    consumer = at_work(world)
    with world.load():
        world.flows()
        with altered(world, administrator, "default_transaction_read_only", "on"):
            goes_on(consumer, "read-only transaction")
            world.fire()
        world.recovered()
        world.flows()
    unharmed(world, consumer)
