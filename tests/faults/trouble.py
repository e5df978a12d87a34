"""Trouble at the target that a consumer sits out: how it is set up, how long it lasts, what it must not cost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from devstack import binaries
from devstack.product import Process
from tests.faults.world import World, logged
from tests.waiting import wait_until

POLL_LIMIT_S: Final = 7.0
TROUBLE_S: Final = 10.0
"""Longer than `POLL_LIMIT_S`: a consumer that does not poll meanwhile is out of the group."""
IMPATIENT: Final = {
    "CDC_KAFKA__EXTRA__MAX_POLL_INTERVAL_MS": str(round(POLL_LIMIT_S * 1000)),
    "CDC_TARGET__LOCK_TIMEOUT_MS": "2000",
}
"""A group that soon expels who does not poll, and a consumer that never waits so long for a lock."""
BLOCK: Final = bytes(1 << 20)


def at_work(world: World) -> Process:
    """A consumer that writes to tables which are there from the beginning."""
    world.hand_off(ships_known=True)
    return world.consume()


def lasts() -> None:
    """The trouble lasts on."""
    over_at = time.monotonic() + TROUBLE_S
    wait_until(lambda: time.monotonic() > over_at, "the trouble is over", 2 * TROUBLE_S)


def unharmed(world: World, consumer: Process) -> None:
    """Nothing differs, and it is still the member that it was."""
    assert consumer.running, logged(consumer)
    world.prove(consumer)
    (report,) = (json.loads(path.read_text()) for path in world.pipeline.folder.glob("report-*.json"))
    assert report["rebalances"] == 1, logged(consumer)
    assert report["outages"] > 0
    assert report["fence_losses"] == 0


@contextmanager
def small_disk(beside: Path, size_bytes: int) -> Iterator[Path]:
    """A folder of PostgreSQL's user on a small file system; skips the test where none can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    place = Path(tempfile.mkdtemp(prefix="small-disk-", dir=beside))
    if not done("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place)):
        place.rmdir()
        pytest.skip("no file system can be mounted here")
    try:
        place.chmod(0o755)
        folder = place / "folder"
        folder.mkdir(mode=0o700)
        if (user := binaries.server_user()) is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        yield folder
    finally:
        assert done("umount", "--lazy", str(place))
        place.rmdir()


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Not a byte is left on the disk while the context lasts."""
    ballast = disk.parent / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(BLOCK):
            pass
    yield
    ballast.unlink()


def done(program: str, *arguments: str) -> bool:
    """Whether a program of the system is there and did what it was asked to."""
    path = shutil.which(program)
    return path is not None and subprocess.call([path, *arguments]) == 0  # noqa: S603 - fixed commands
