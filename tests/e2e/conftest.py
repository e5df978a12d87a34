"""A pipeline for each end-to-end test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.stack import Stack
from tests.chain_pipeline import Pipeline, fresh_pipeline


@pytest.fixture
def pipeline(stack: Stack, source_dsn: str, target_dsn: str, tmp_path: Path) -> Iterator[Pipeline]:
    """The product's commands on fresh databases of the chain of this session."""
    with fresh_pipeline(stack, source_dsn, target_dsn, tmp_path, {}) as fresh:
        yield fresh
