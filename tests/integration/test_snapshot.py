"""`cdc-consumer snapshot` on the real chain."""

from __future__ import annotations

import pytest

from cdc_consumer.connector import snapshot_name
from cdc_consumer.snapshot import snapshot
from tests.pipeline_world import WAIT_S, Pipeline, wait_for

pytest_plugins = ["tests.pipeline_fixture"]
pytestmark = pytest.mark.stack

ROWS = 50


def send_history(pipeline: Pipeline, *, detach: bool) -> None:
    """Run the command."""
    snapshot(pipeline.settings, wait_s=WAIT_S, detach=detach, report=lambda _: None)


def is_complete(pipeline: Pipeline) -> bool:
    """Whether Connect has stored that the snapshot ended."""
    with pipeline.connect() as connect:
        stored = connect.stored_offset(snapshot_name(pipeline.name))
    return stored is not None and stored.raw.get("snapshot_completed") is True


def test_a_position_that_a_deleted_connector_left_does_not_end_the_next_snapshot(pipeline: Pipeline) -> None:
    """Connect keeps positions of connectors that are gone: all rows are sent all the same."""
    pipeline.insert(1, ROWS)
    pipeline.init()
    before = pipeline.events()
    send_history(pipeline, detach=True)
    wait_for(lambda: is_complete(pipeline), "the snapshot is complete")
    assert pipeline.events() == before + ROWS
    with pipeline.connect() as connect:
        connect.delete(snapshot_name(pipeline.name))
    send_history(pipeline, detach=False)
    assert pipeline.events() == before + 2 * ROWS
