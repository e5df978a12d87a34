"""The fixture of `tests.backfill_world`: a pytest plugin of the modules that test `backfill`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.backfill_world import LISTS, SHIPS, World, environment_of
from widetable.ddl import apply_schema
from widetable.postgres import connect_source, connect_target
from widetable.sampling import Sample
from widetable.schema_plan import plan_schema
from widetable.settings import SourceSettings, TargetSettings


@pytest.fixture
def world(source_dsn: str, target_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Source with an empty narrow table, target with wide tables, and `CDC_...` variables that name both."""
    environment = environment_of(source_dsn, target_dsn, os.environ)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    source_settings = SourceSettings.model_validate({"dsn": source_dsn})
    target_settings = TargetSettings.model_validate({"dsn": target_dsn})
    with (
        closing(connect_source(source_settings, "test")) as source,
        closing(connect_target(target_settings, "test")) as target,
    ):
        apply_schema(target, target_settings, plan_schema(LISTS, Sample(SHIPS)))
        yield World(source, target, source_dsn, target_dsn, environment)
