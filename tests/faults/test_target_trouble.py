"""F21: the target has no room, no connection, no time, or may not be written: the consumer pauses and polls on.

Each trouble lasts longer than the group waits for a member that does not poll. When it ends, nobody has to help.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg import sql

from devstack import binaries
from devstack.postgres import Postgres
from devstack.product import Process
from tests.faults.world import World, logged
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300), pytest.mark.faults]

POLL_LIMIT_S: Final = 7.0
TROUBLE_S: Final = 10.0
"""Longer than `POLL_LIMIT_S`: a consumer that does not poll meanwhile is out of the group."""
NOTICED_S: Final = 60.0
DISK_BYTES: Final = 400 << 20
BLOCK: Final = bytes(1 << 20)
SESSIONS: Final = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = %s AND application_name LIKE 'cdc-consumer%%'"
)


@pytest.fixture
def environment() -> dict[str, str]:
    """A group that soon expels who does not poll, and a consumer that never waits so long for a lock."""
    return {
        "CDC_KAFKA__EXTRA__MAX_POLL_INTERVAL_MS": str(round(POLL_LIMIT_S * 1000)),
        "CDC_TARGET__LOCK_TIMEOUT_MS": "2000",
    }


@pytest.fixture
def administrator(target_cluster: Postgres) -> Iterator[psycopg.Connection]:
    """A session of another database of the target's cluster, which none of the troubles touches."""
    with psycopg.connect(target_cluster.dsn(), autocommit=True) as conn:
        yield conn


@pytest.fixture
def small_disk(target_cluster: Postgres, administrator: psycopg.Connection) -> Iterator[Path]:
    """A file system of 400 MB, with a tablespace `small` on it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    place = Path(tempfile.mkdtemp(prefix="small-disk-", dir=target_cluster.data.parent))
    if not done("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)):
        place.rmdir()
        pytest.skip("no file system can be mounted here")
    try:
        folder = place / "tablespace"
        folder.mkdir(mode=0o700)
        place.chmod(0o755)
        if (user := binaries.server_user()) is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        administrator.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(str(folder)))
        yield place
        administrator.execute("DROP TABLESPACE small")
    finally:
        assert done("umount", "--lazy", str(place))
        place.rmdir()


def done(program: str, *arguments: str) -> bool:
    """Whether a program of the system is there and did what it was asked to."""
    path = shutil.which(program)
    return path is not None and subprocess.call([path, *arguments]) == 0  # noqa: S603 - fixed commands


def at_work(world: World) -> Process:
    """A consumer that writes to tables which are there from the beginning."""
    world.hand_off(ships_known=True)
    return world.consume()


def database(world: World) -> sql.Identifier:
    """The target database's name."""
    return sql.Identifier(world.pipeline.target.rsplit("/", 1)[1])


def end_sessions(world: World, administrator: psycopg.Connection) -> None:
    """End the consumer's sessions: the next ones come under the rules of now."""
    administrator.execute(SESSIONS, (world.pipeline.target.rsplit("/", 1)[1],))


def goes_on(process: Process, complaint: str) -> None:
    """The consumer complains of it, and the trouble lasts on."""
    heard = complaint_count(process, complaint)
    wait_until(lambda: complaint_count(process, complaint) > heard, f"{complaint!r} is noticed", NOTICED_S)
    over_at = time.monotonic() + TROUBLE_S
    wait_until(lambda: time.monotonic() > over_at, "the trouble is over", 2 * TROUBLE_S)


def complaint_count(process: Process, complaint: str) -> int:
    """How many outages of the loop speak of it."""
    return sum("outage" in line and complaint in line for line in process.log.read_text().splitlines())


def unharmed(world: World, consumer: Process) -> None:
    """Nothing differs, nothing is dead, and it is still the member that it was."""
    assert consumer.running, logged(consumer)
    world.prove(consumer)
    (report,) = (json.loads(path.read_text()) for path in world.pipeline.folder.glob("report-*.json"))
    assert report["rebalances"] == 1, logged(consumer)
    assert report["outages"] > 0
    assert report["fence_losses"] == 0
    assert world.pipeline.target_value("SELECT count(*) FROM dead_cell") == 0


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
def test_a_full_disk_is_waited_out(small_disk: Path, world: World, administrator: psycopg.Connection) -> None:
    """Somebody makes room, and it goes on."""
    administrator.execute(sql.SQL("ALTER DATABASE {} SET TABLESPACE small").format(database(world)))
    consumer = at_work(world)
    ballast = small_disk / "ballast"
    with world.load():
        world.flows()
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(BLOCK):
                pass
        goes_on(consumer, "No space left on device")
        world.fire()
        ballast.unlink()
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
            fill(crowd, target_cluster)
            end_sessions(world, administrator)
            fill(crowd, target_cluster)
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
