"""One server process: launch, wait until it answers, stop, kill, pause, resume.

In: a folder of its own. Out: a process in its own session, its log in `<name>.log`, its pid in `pid`. The pid
file is the only state, so any process that knows the folder can steer the server, not only its launcher.
"""

import abc
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from devstack import guard
from devstack.errors import DevstackError

POLL_S = 0.05
LOG_TAIL_LINES = 15
SAME_START_S = 2.0
"""Start times are derived from the boot time, which moves a little when the clock is set."""


class Service(abc.ABC):
    """A server of the chain.

    Args:
        name: short name, used for the log file and in messages.
        folder: the server's own folder; everything in it may be wiped.
        detached: outlive the process that launches it (`devstack up`) instead of ending with it (tests).
    """

    start_timeout_s: float = 60.0
    stop_timeout_s: float = 15.0
    stop_signal: int = signal.SIGTERM
    orphan_signal: int = signal.SIGKILL

    def __init__(self, name: str, folder: Path, *, detached: bool = False) -> None:
        self.name = name
        self.folder = folder.absolute()
        self.log_path = self.folder / f"{name}.log"
        self._pid_path = self.folder / "pid"
        self._detached = detached
        self._child: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def _prepare(self) -> None:
        """Write what the server needs before it starts; called before each start."""

    @abc.abstractmethod
    def _command(self) -> Sequence[str]:
        """The server's command line."""

    @abc.abstractmethod
    def healthy(self) -> bool:
        """Whether the server answers right now."""

    def _environment(self) -> Mapping[str, str] | None:
        """The server's environment; None means this process's own."""
        return None

    def _user(self) -> int | None:
        """The user id that the server runs as; None means this process's own."""
        return None

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it does not run."""
        process = self._process()
        return process.pid if process else None

    def launch(self) -> None:
        """Start the server unless it runs; don't wait for it."""
        if self._process() is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._prepare()
        user = self._user()
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                self._command(),
                cwd="/",
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl+C is for us to pass on
                user=user,
                extra_groups=None if user is None else [],
            )
        if not self._detached:
            guard.protect(self._child.pid, self.orphan_signal)
        started = psutil.Process(self._child.pid).create_time()
        self._pid_path.write_text(f"{self._child.pid} {started}\n")

    def wait_healthy(self, timeout_s: float | None = None) -> None:
        """Wait until the server answers.

        Raises:
            DevstackError: it ended, or did not answer in time; the end of its log is in the message.
        """
        deadline = time.monotonic() + (timeout_s or self.start_timeout_s)
        while not self.healthy():
            if self._process() is None:
                raise DevstackError(f"{self.name} ended while starting; {self._log_tail()}")
            if time.monotonic() > deadline:
                raise DevstackError(f"{self.name} runs but does not answer in time; {self._log_tail()}")
            time.sleep(POLL_S)

    def start(self) -> None:
        """Start the server unless it runs, and wait until it answers."""
        self.launch()
        self.wait_healthy()

    def stop(self) -> None:
        """Stop the server in an orderly way; kill it when it doesn't end in time."""
        if process := self._process():
            guard.end([(process, self.stop_signal)], self.stop_timeout_s)
        self._forget()

    def kill(self) -> None:
        """`kill -9` the server and its children, as a crash of the machine would."""
        if process := self._process():
            members = guard.family(process)
            self._signal(signal.SIGKILL)
            guard.wait_gone(members, self.stop_timeout_s)
        self._forget()

    def pause(self) -> None:
        """`kill -STOP` the server and its children: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """`kill -CONT` after `pause`."""
        self._signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Stop the server and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: int) -> None:
        process = self._process()
        for member in guard.family(process) if process else []:
            try:
                member.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def _process(self) -> psutil.Process | None:
        """The process named by the pid file, if it is still that process and alive."""
        if self._child is not None:
            self._child.poll()  # reaps it, so that a dead child is not taken for a running one
        try:
            pid, started = self._pid_path.read_text().split()
            process = psutil.Process(int(pid))
            same = abs(process.create_time() - float(started)) < SAME_START_S
            return process if same and guard.alive(process) else None
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None

    def _forget(self) -> None:
        self._pid_path.unlink(missing_ok=True)
        if self._child is not None:
            self._child.wait()
            self._child = None

    def _log_tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines() if self.log_path.exists() else []
        return f"the end of {self.log_path} says:\n" + "\n".join(lines[-LOG_TAIL_LINES:])


def free_ports(count: int) -> list[int]:
    """Different free TCP ports on 127.0.0.1.

    Below the kernel's ephemeral range (from 32768), so that no outgoing connection takes one while its server
    is down for a moment.
    """
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), k=1000):
        if len(found) < count and _is_free(port):
            found.append(port)
    if len(found) < count:
        raise DevstackError("no free TCP port between 20000 and 32000 on 127.0.0.1; stop what holds them")
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """One free TCP port on 127.0.0.1."""
    return free_ports(1)[0]
