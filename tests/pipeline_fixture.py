"""The fixtures of `tests.pipeline_world`: a pytest plugin of the modules that test `init` and what surrounds it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from devstack.databases import Server
from devstack.postgres import PASSWORD
from devstack.stack import Stack
from tests.pipeline_world import Pipeline, opened, pipeline_settings


@pytest.fixture
def pipeline(stack: Stack, source_dsn: str, target_dsn: str) -> Iterator[Pipeline]:
    """A pipeline before `init`."""
    with opened(pipeline_settings(stack, source_dsn, target_dsn)) as pipeline:
        yield pipeline


@pytest.fixture
def streaming(pipeline: Pipeline) -> Pipeline:
    """A pipeline after `init`."""
    pipeline.init()
    return pipeline


@pytest.fixture
def role(source_server: Server) -> Iterator[str]:
    """A role with REPLICATION and nothing else; dropped after the databases that it owns things in."""
    name = f"debezium_{secrets.token_hex(5)}"
    with psycopg.connect(source_server.admin_dsn, autocommit=True) as admin:
        # The password that Connect's secret holds.
        create = sql.SQL("CREATE ROLE {} LOGIN REPLICATION PASSWORD {}")
        admin.execute(create.format(sql.Identifier(name), sql.Literal(PASSWORD)))
        yield name
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
