"""The fixtures of `tests.writer_world`: a pytest plugin of the modules that test the writer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devstack.databases import Server
from tests.writer_world import Worlds, WriterWorld, open_world, open_worlds
from widetable import wide_rows


@pytest.fixture(scope="module")
def worlds(target_server: Server) -> Iterator[Worlds]:
    """Empty targets, by column type and deletes choice."""
    with open_worlds(target_server) as worlds:
        yield worlds


@pytest.fixture
def text_world(worlds: Worlds) -> WriterWorld:
    """An empty target of text columns."""
    return worlds("text", "apply")


@pytest.fixture
def typed_world(worlds: Worlds) -> WriterWorld:
    """An empty target of typed columns."""
    return worlds("typed", "apply")


@pytest.fixture
def own_world(target_dsn: str) -> Iterator[WriterWorld]:
    """A target of text columns that a test may alter."""
    with open_world(target_dsn) as world:
        yield world


@pytest.fixture(params=[64, 0], ids=["few columns", "all columns"])
def both_merges(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge names the columns that a batch carries, or all of them once these are many."""
    monkeypatch.setattr(wide_rows, "SPARSE_COLUMNS", request.param)
