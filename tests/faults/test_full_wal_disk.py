"""F21: the disk of the WAL is full: the target stops itself, and cannot start before there is room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from devstack.postgres import Postgres
from devstack.service import free_port
from devstack.stack import Stack
from tests.faults.trouble import IMPATIENT, at_work, done, filled, lasts, small_disk, unharmed
from tests.faults.world import World
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300), pytest.mark.faults]

DISK_BYTES: Final = 256 << 20
# No segment is kept for later, so that a full disk is soon felt.
SETTINGS: Final = {"fsync": "off", "wal_recycle": "off", "min_wal_size": "32MB", "max_wal_size": "64MB"}
NO_ROOM: Final = "No space left on device"


@pytest.fixture(scope="module")
def wal_disk(chain: Stack) -> Iterator[Path]:
    """A small file system."""
    chain.folder.mkdir(exist_ok=True)
    with small_disk(chain.folder, DISK_BYTES) as folder:
        yield folder


@pytest.fixture(scope="module")
def target_cluster(chain: Stack, wal_disk: Path) -> Iterator[Postgres]:
    """One whose WAL is on that file system."""
    cluster = Postgres(chain.folder / "small-wal", free_port(), SETTINGS)
    cluster.start()
    cluster.stop()
    wal = cluster.data / "pg_wal"
    assert done("mv", str(wal), str(wal_disk))  # with owners and modes
    wal.symlink_to(wal_disk / "pg_wal")
    cluster.start()
    yield cluster
    cluster.wipe()


@pytest.fixture
def environment() -> dict[str, str]:
    """A consumer that must poll."""
    return IMPATIENT


@pytest.mark.fault("F21", "WAL disk full")
def test_a_target_that_stops_for_a_full_wal_disk_is_waited_out(
    world: World, target_cluster: Postgres, wal_disk: Path
) -> None:
    """Nothing of the last batches is half there; somebody makes room and starts the server."""
    consumer = at_work(world)
    with world.load(rows_per_second=4_000):
        world.flows()
        said = target_cluster.log_path.stat().st_size  # an earlier seed's panic is in there, too
        with filled(wal_disk):
            wait_until(lambda: panicked(target_cluster, said), "the server stops itself", 90.0)
            world.fire()
            lasts()
        target_cluster.start()
        world.recovered()
        world.flows()
    unharmed(world, consumer)


def panicked(cluster: Postgres, said: int) -> bool:
    """Whether the server found no room for its WAL since its log had so many bytes."""
    lines = cluster.log_path.read_bytes()[said:].decode(errors="replace").splitlines()
    return any("PANIC" in line and NO_ROOM in line for line in lines)
