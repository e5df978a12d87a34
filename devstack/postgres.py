"""A PostgreSQL 18 cluster: the source and the target of the chain, and the one that fault tests crash."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import psycopg

from devstack import binaries, guard
from devstack.databases import Server
from devstack.errors import DevstackError
from devstack.service import Service

PASSWORD = "devstack"  # noqa: S105 - guards nothing: it makes the handling of secrets real
DEFAULT_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "max_prepared_transactions": "10",
    "max_connections": "200",
    "log_line_prefix": "%m [%p] %q%d ",
}


class Postgres(Service):
    """One cluster on one port; user `postgres`, password over TCP, data kept over stop, kill and start.

    Args:
        folder: the cluster's own folder.
        port: TCP port on 127.0.0.1.
        settings: lines of postgresql.conf beyond the defaults, written before each start.
        programs: folder of another PostgreSQL's programs than the environment's.
        detached: see `Service`.
    """

    start_timeout_s = 30.0
    stop_signal = signal.SIGINT  # fast shutdown: does not wait for the clients to leave
    orphan_signal = signal.SIGQUIT  # immediate, but takes its children and shared memory with it

    def __init__(
        self,
        folder: Path,
        port: int,
        settings: Mapping[str, str] | None = None,
        *,
        programs: Path | None = None,
        detached: bool = False,
    ) -> None:
        super().__init__("postgres", folder, detached=detached)
        self.port = port
        self._programs = programs
        self.settings = dict(DEFAULT_SETTINGS) | dict(settings or {})
        self.server = Server(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres")

    @property
    def data(self) -> Path:
        """The data folder; outside `folder` where PostgreSQL's user can't enter that."""
        return binaries.data_folder(self.folder / "data")

    def dsn(self, database: str = "postgres") -> str:
        """The DSN of a database of this cluster."""
        return self.server.dsn(database)

    def create_database(self, name: str, *, narrow: bool = True) -> str:
        """Create a database, with the narrow table unless told otherwise; returns its DSN."""
        return self.server.create_database(name, narrow=narrow)

    def drop_database(self, name: str) -> None:
        """Drop a database with its sessions, replication slots and prepared transactions."""
        self.server.drop_database(name)

    def standby(self, folder: Path, port: int, settings: Mapping[str, str] | None = None) -> "Postgres":
        """A streaming standby of this running cluster, copied but not started."""
        copy = Postgres(folder, port, self.settings | dict(settings or {}))
        copy.folder.mkdir(parents=True, exist_ok=True)
        copy._make_data_folder()
        self.run_program(
            "pg_basebackup", f"--dbname={self.dsn()}", f"--pgdata={copy.data}", "-R", "-c", "fast"
        )
        return copy

    def run_program(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs as the server's user; returns what it printed.

        Raises:
            DevstackError: it failed; its complaint is in the message.
        """
        user = self._user()
        done = subprocess.run(
            [self._program(program), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
            user=user,
            extra_groups=None if user is None else [],
        )
        if done.returncode != 0:
            raise DevstackError(f"{program} failed: {done.stderr.strip()}")
        return done.stdout

    def healthy(self) -> bool:
        """Whether the server accepts a session."""
        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def wipe(self) -> None:
        """Stop the server and remove its folder and data."""
        data = self.data
        super().wipe()
        shutil.rmtree(data, ignore_errors=True)

    def _prepare(self) -> None:
        if not (self.data / "PG_VERSION").exists():
            self._make_data_folder()
            self._initialise()
        self._forget_dead_owner()
        lines = [f"{name} = '{value}'" for name, value in {**self.settings, "port": str(self.port)}.items()]
        write_private(self.data / "devstack.conf", "\n".join(lines) + "\n")

    def _forget_dead_owner(self) -> None:
        """Remove the lock file of a killed server: where nobody collects zombies it would look alive."""
        lock = self.data / "postmaster.pid"
        if not lock.exists():
            return
        try:
            owner = psutil.Process(int(lock.read_text().split()[0]))
        except (psutil.NoSuchProcess, ValueError, IndexError):
            return  # PostgreSQL sees this by itself
        if not guard.alive(owner):
            lock.unlink()

    def _make_data_folder(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        if self.data.parent == binaries.PUBLIC_FOLDER:
            binaries.make_public_folder()
            if not self._detached:
                guard.protect_folder(self.data)
        self.data.mkdir(parents=True, mode=0o700)
        _hand_over(self.data)

    def _initialise(self) -> None:
        secret = self.data.with_name(f"{self.data.name}.password")
        write_private(secret, PASSWORD)
        try:
            self.run_program(
                "initdb",
                f"--pgdata={self.data}",
                f"--pwfile={secret}",
                *(
                    "--username=postgres",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--no-locale",
                    "--no-instructions",
                ),
            )
        except DevstackError:
            shutil.rmtree(self.data, ignore_errors=True)
            raise
        finally:
            secret.unlink()
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write("include 'devstack.conf'\n")

    def _command(self) -> Sequence[str]:
        return [self._program("postgres"), "-D", str(self.data)]

    def _program(self, name: str) -> str:
        return str((self._programs or binaries.programs()) / name)

    def _user(self) -> int | None:
        user = binaries.server_user()
        return None if user is None else user.pw_uid


def write_private(path: Path, text: str) -> None:
    """Write a file that only PostgreSQL's user may read."""
    path.touch(mode=0o600)
    path.write_text(text)
    _hand_over(path)


def _hand_over(path: Path) -> None:
    """Give a path to PostgreSQL's user."""
    if (user := binaries.server_user()) is not None:
        os.chown(path, user.pw_uid, user.pw_gid)
