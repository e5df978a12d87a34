"""The fixture of `tests.backfill_world`: a pytest plugin of the modules that test `backfill`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from devstack.databases import Server
from devstack.pytest_plugin import fresh_database
from tests.backfill_world import LISTS, SHIPS, World, environment_of
from widetable.ddl import apply_schema
from widetable.postgres import connect_source, connect_target
from widetable.sampling import Sample
from widetable.schema_plan import plan_schema
from widetable.settings import SourceSettings, TargetSettings


@pytest.fixture
def world(source_dsn: str, target_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Source with an empty narrow table, target with wide tables, and `CDC_...` variables that name both."""
    with _opened(source_dsn, target_dsn) as world:
        _name(world, monkeypatch)
        yield world


@pytest.fixture(scope="module")
def module_world(source_server: Server, target_server: Server) -> Iterator[World]:
    """One world for all tests of a module: databases of their own would take most of the tests' time."""
    with (
        fresh_database(source_server, "source", narrow=True) as source_dsn,
        fresh_database(target_server, "target", narrow=False) as target_dsn,
        _opened(source_dsn, target_dsn) as world,
    ):
        yield world


@pytest.fixture
def emptied(module_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The module's world, emptied."""
    module_world.empty()
    _name(module_world, monkeypatch)
    return module_world


def _name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)


@contextmanager
def _opened(source_dsn: str, target_dsn: str) -> Iterator[World]:
    environment = environment_of(source_dsn, target_dsn, os.environ)
    source_settings = SourceSettings.model_validate({"dsn": source_dsn})
    target_settings = TargetSettings.model_validate({"dsn": target_dsn})
    with (
        closing(connect_source(source_settings, "test")) as source,
        closing(connect_target(target_settings, "test")) as target,
    ):
        apply_schema(target, target_settings, plan_schema(LISTS, Sample(SHIPS)))
        yield World(source, target, source_dsn, target_dsn, environment)
