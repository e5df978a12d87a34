"""`repartition` on the real chain, where it can't go on: the stream flows, or what stands still is named."""

from __future__ import annotations

from typing import Any

import pytest

from cdc_consumer import repartition as repartition_module
from cdc_consumer.connector import snapshot_name
from cdc_consumer.repartition import repartition
from cdc_consumer.snapshot import give_up, snapshot
from cdc_consumer.topic import Topics
from cdc_consumer.watchdog import Lookout, Sight
from tests.pipeline_world import WAIT_S, Pipeline, wait_for
from widetable.errors import ConfigurationError, UnreachableError
from widetable.hand_off import HandOff, read_ledger

pytest_plugins = ["tests.pipeline_fixture"]
pytestmark = pytest.mark.stack

MORE = 14


def raise_to(pipeline: Pipeline, partitions: int) -> HandOff:
    """Run `repartition`; what it changed is in `changes`."""
    pipeline.changes.clear()
    return repartition(pipeline.settings, partitions, wait_s=WAIT_S, report=pipeline.changes.append)


def connector_state(pipeline: Pipeline) -> str | None:
    """What the stream's connector does."""
    with pipeline.connect() as connect:
        state = connect.state(pipeline.name)
    return state.summary if state else None


def numbers(pipeline: Pipeline) -> tuple[int, int]:
    """How many partitions the topic has, and how many the ledger knows."""
    hand_off, topic = (
        pipeline.hand_off(),
        Topics(pipeline.settings.kafka).describe(pipeline.settings.topic_name),
    )
    assert hand_off is not None
    assert topic is not None
    return topic.partitions, len(read_ledger(pipeline.target, pipeline.name, hand_off.topic_id))


def look(pipeline: Pipeline) -> Sight:
    """What the watchdog of a running consumer sees."""
    hand_off = pipeline.hand_off()
    assert hand_off is not None
    return Lookout(pipeline.settings, hand_off).look()


def test_beside_a_snapshot_it_refuses_to_begin_and_the_stream_flows(pipeline: Pipeline) -> None:
    """A snapshot fills the old partitions for hours; it can be given up, and nothing else changes then."""
    pipeline.insert(1, 50)
    pipeline.init()
    snapshot(pipeline.settings, wait_s=WAIT_S, detach=True, report=lambda _: None)
    try:
        with pytest.raises(ConfigurationError, match="cdc-consumer snapshot --remove"):
            raise_to(pipeline, MORE)
        assert pipeline.changes == []
        assert connector_state(pipeline) == "RUNNING"
        assert numbers(pipeline) == (12, 12)
    finally:
        give_up(pipeline.settings, wait_s=WAIT_S, report=pipeline.changes.append)
    assert pipeline.changes == [f"removed connector {snapshot_name(pipeline.name)} and its position"]
    assert connector_state(pipeline) == "RUNNING"


def test_where_kafka_does_not_add_partitions_the_way_on_is_named_and_run_goes_on(
    streaming: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connector stays stopped, for Kafka may still add them; the same command finishes."""
    add = Topics.add_partitions

    def away(topics: Topics, name: str, partitions: int, *, only_try: bool = False) -> None:
        if not only_try:
            raise UnreachableError("Kafka does not answer: timed out")
        add(topics, name, partitions, only_try=True)

    with monkeypatch.context() as patch:
        patch.setattr(Topics, "add_partitions", away)
        with pytest.raises(UnreachableError, match=rf"stays stopped.*--partitions {MORE}`.*timed out"):
            raise_to(streaming, MORE)
    assert connector_state(streaming) == "STOPPED"
    assert numbers(streaming) == (12, MORE)
    sight = look(streaming)
    assert (sight.broken, sight.suspected, sight.added) == ([], [], [])
    assert any(
        f"`cdc-consumer repartition --partitions {MORE}`, which finishes" in it for it in sight.passing
    )
    with pytest.raises(ConfigurationError, match=f"--partitions {MORE}`, which finishes"):
        streaming.init()
    raise_to(streaming, MORE)
    assert numbers(streaming) == (MORE, MORE)
    assert connector_state(streaming) == "RUNNING"


def test_where_the_ledger_can_not_be_changed_the_connector_goes_on(
    streaming: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic is as it was then, so nothing can go wrong with what is sent."""

    def away(*_: Any) -> None:
        raise UnreachableError("the target database does not answer")

    monkeypatch.setattr(repartition_module, "add_partitions", away)
    with pytest.raises(UnreachableError, match="the target database does not answer"):
        raise_to(streaming, MORE)
    wait_for(lambda: connector_state(streaming) == "RUNNING", "the connector goes on")
    assert numbers(streaming) == (12, 12)
