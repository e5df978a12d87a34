"""The matrix's fixtures: a source cluster of its own, a world per scenario and seed, and the table at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from devstack.postgres import Postgres
from devstack.pytest_plugin import fresh_database
from devstack.service import free_port
from devstack.stack import Stack
from tests.chain_pipeline import fresh_pipeline
from tests.faults import record
from tests.faults.record import Record
from tests.faults.world import World

SEEDS: Final = [int(seed) for seed in os.environ.get("FAULT_SEEDS", "1").split()]
RECORDS: Final = pytest.StashKey[list[Record]]()


def pytest_configure(config: pytest.Config) -> None:
    """Room for what the scenarios find."""
    config.stash[RECORDS] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every scenario runs once per seed."""
    if "world" in metafunc.fixturenames:
        metafunc.parametrize("seed", SEEDS, ids=[f"seed{seed}" for seed in SEEDS])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the matrix, and write it down."""
    if found := config.stash[RECORDS]:
        terminalreporter.section("faults")
        terminalreporter.write_line("\n".join(record.table(record.in_order(found))))
        record.write(found)


@pytest.fixture(scope="session")
def source_cluster(chain: Stack) -> Iterator[Postgres]:
    """A cluster for sources, so that source and target can fail apart."""
    cluster = Postgres(chain.folder / "source", free_port(), {"fsync": "off"})
    cluster.start()
    yield cluster
    cluster.wipe()


@pytest.fixture
def target_cluster(stack: Stack) -> Postgres:
    """The cluster for targets: the chain's own, or one with other settings where a file says so."""
    return stack.postgres


@pytest.fixture
def environment() -> dict[str, str]:
    """Settings of a scenario beyond those of every pipeline; tests change it by `parametrize`."""
    return {}


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    stack: Stack,
    source_cluster: Postgres,
    target_cluster: Postgres,
    environment: dict[str, str],
    seed: int,
    tmp_path: Path,
) -> Iterator[World]:
    """A pipeline that nothing was done with yet, for the scenario named by `@pytest.mark.fault(row, case)`."""
    mark = request.node.get_closest_marker("fault")
    found = Record(mark.args[0], mark.args[1], seed, control=mark.kwargs.get("control", False))
    for server in (source_cluster, target_cluster, *stack.services):
        server.start()  # whatever an earlier scenario did to it
    with (
        fresh_database(source_cluster.server, "source", narrow=True) as source,
        fresh_database(target_cluster.server, "target", narrow=False) as target,
        fresh_pipeline(stack, source, target, tmp_path, environment) as pipeline,
    ):
        yield World(pipeline, stack, found)
    request.config.stash[RECORDS].append(found)
