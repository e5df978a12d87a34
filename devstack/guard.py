"""Ends what a test run started, however that run ended.

In: the lines of `protect` and `protect_folder`. Out: no process and no folder once the owner is gone, even
after `kill -9`. A parent-death signal would not do: Linux sends it when the *thread* that started the child
ends, and nobody would remove the data. So one small process per owner watches its parent and its own input.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

POLL_S = 0.5
"""A forked copy of the owner can hold our input open: then the change of parent is the only sign."""
STOP_TIMEOUT_S = 5.0

_guard: dict[int, subprocess.Popen[str]] = {}


def protect(pid: int, stop_signal: int) -> None:
    """End process `pid` with `stop_signal`, then `SIGKILL`, when the calling process is gone."""
    _tell(f"process {pid} {stop_signal}")


def protect_folder(folder: Path) -> None:
    """Remove `folder` when the calling process is gone."""
    _tell(f"folder {folder}")


def _tell(line: str) -> None:
    owner = os.getpid()
    if owner not in _guard:
        _guard[owner] = subprocess.Popen(
            [sys.executable, __file__, str(owner)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # else a pipe behind the owner would stay open while we clean up
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    pipe = _guard[owner].stdin
    if pipe is not None:
        pipe.write(line + "\n")
        pipe.flush()


def main(owner: int) -> None:
    """Collect wards until the owner is gone, then end them."""
    wards: list[tuple[psutil.Process, int]] = []
    folders: list[Path] = []
    while True:
        # What the owner has said counts also when it was gone before we could listen.
        if not select.select([0], [], [], POLL_S)[0]:
            if os.getppid() == owner:
                continue
            break
        # One read per line: a buffered reader would hide the second line from select.
        text = _read_lines()
        if not text:
            break
        for line in text.splitlines():
            kind, value = line.split(" ", 1)
            if kind == "folder":
                folders.append(Path(value))
            else:
                wards += _ward(*map(int, value.split()))
    end(wards)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _read_lines() -> str:
    """Everything up to the last complete line; empty at the end of input."""
    text = os.read(0, 65536).decode()
    while text and not text.endswith("\n"):
        text += os.read(0, 65536).decode()
    return text


def _ward(pid: int, stop_signal: int) -> list[tuple[psutil.Process, int]]:
    try:
        return [(psutil.Process(pid), stop_signal)]
    except psutil.NoSuchProcess:
        return []


def end(wards: list[tuple[psutil.Process, int]], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Ask each process to stop, and kill those (with their children) that don't within `timeout_s`."""
    families = {process: family(process) for process, _ in wards}
    for process, stop_signal in wards:
        _send(process, stop_signal)
        for member in families[process]:
            _send(member, signal.SIGCONT)
    wait_gone(families, timeout_s)
    members = [member for members in families.values() for member in members]
    for member in members:
        _send(member, signal.SIGKILL)
    wait_gone(members, timeout_s)


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process and everything below it, the process first."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def wait_gone(processes: Iterable[psutil.Process], timeout_s: float) -> None:
    """Wait until every process has ended; a zombie has, though its parent may be slow to collect it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(map(alive, processes)):
        time.sleep(0.02)


def alive(process: psutil.Process) -> bool:
    """Whether it is still that process and not a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _send(process: psutil.Process, number: int) -> None:
    """Signal a process; psutil compares start times first, so a reused pid is never hit."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
