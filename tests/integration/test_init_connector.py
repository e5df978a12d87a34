"""The connector under `init`: started, mended, and told to a person when it can't be."""

import pytest
from psycopg import sql

from cdc_consumer.connect import Connect
from devstack.postgres import PASSWORD
from devstack.stack import Stack
from tests.pipeline_world import Pipeline, opened, pipeline_settings, wait_for
from widetable.errors import ConfigurationError

pytest_plugins = ["tests.pipeline_fixture"]
pytestmark = pytest.mark.stack


def test_changed_settings_reach_the_connector_unless_they_are_wrong(streaming: Pipeline) -> None:
    """A wrong address must not replace one that works."""
    settings, connect = streaming.settings, streaming.settings.connect
    wrong = connect.model_copy(update={"source_port": 1})
    streaming.settings = settings.model_copy(update={"connect": wrong})
    with pytest.raises(ConfigurationError, match="CDC_CONNECT__SOURCE_HOST"):
        streaming.init()
    slower = connect.model_copy(update={"heartbeat_ms": 900})
    streaming.settings = settings.model_copy(update={"connect": slower})
    streaming.init()
    assert streaming.changes == [f"changed the configuration of connector {streaming.name}"]
    with streaming.connect() as client:
        config = client.config(streaming.name)
    assert config is not None
    assert config["heartbeat.interval.ms"] == "900"
    assert config["database.port"] != "1"


def test_a_stopped_connector_is_started_again(streaming: Pipeline) -> None:
    """Whatever happened to it: after init, changes flow."""
    with streaming.connect() as connect:
        connect.stop(streaming.name)
    streaming.insert(1, 5)
    streaming.init()
    assert streaming.changes == [f"started connector {streaming.name}"]
    wait_for(lambda: streaming.events() == 5, "the changes did not arrive")


def test_a_failed_connector_is_restarted_once_its_cause_is_gone(
    role: str, stack: Stack, source_dsn: str, target_dsn: str
) -> None:
    """While the cause is there, init names it; afterwards it mends what it can."""
    settings = pipeline_settings(stack, source_dsn, target_dsn, CDC_CONNECT__SOURCE_USER=role)
    with opened(settings) as pipeline, pipeline.connect() as connect:
        pipeline.init()
        set_password(pipeline, role, "another")
        pipeline.source.execute("SELECT pg_terminate_backend(%s)", [pipeline.reader_pid()])
        wait_for(lambda: failed(connect, pipeline.name), "the connector did not fail")
        with pytest.raises(ConfigurationError, match=r"authentication failed.*PASSWORD_REFERENCE"):
            pipeline.init()
        set_password(pipeline, role, PASSWORD)
        pipeline.insert(1, 5)
        pipeline.init()
        assert "which had failed" in pipeline.changes[-1]
        wait_for(lambda: pipeline.events() == 5, "the changes did not arrive")


def test_a_removed_connector_goes_on_where_it_was(streaming: Pipeline) -> None:
    """Connect keeps the position of a connector that was deleted; changes made meanwhile wait in the slot."""
    streaming.insert(1, 5)
    wait_for(lambda: streaming.events() == 5, "the changes did not arrive")
    with streaming.connect() as connect:
        connect.stop(streaming.name)
        connect.delete(streaming.name)
    streaming.insert(100, 5)
    streaming.init()
    wait_for(lambda: streaming.events() >= 10, "the changes did not arrive")


def test_a_position_that_was_lost_is_refused_when_the_slot_has_moved_on(streaming: Pipeline) -> None:
    """Nothing then says that what the slot let go of ever reached Kafka."""
    hand_off = streaming.hand_off()
    assert hand_off is not None
    streaming.insert(1, 5)

    def moved() -> bool:
        slot = streaming.slot()
        return bool(slot and slot.confirmed_flush and slot.confirmed_flush > hand_off.consistent_point)

    wait_for(moved, "the slot did not move")
    with streaming.connect() as connect:
        connect.stop(streaming.name)
        connect.reset_offsets(streaming.name)
    with pytest.raises(ConfigurationError, match=r"the position was lost.*cdc-consumer reinit"):
        streaming.init()


def test_a_connector_has_a_position_before_its_first_start(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one, a restart before the first commit would skip what came between slot and start."""
    seen = []
    resume = Connect.resume

    def look(connect: Connect, name: str) -> None:
        state, stored = connect.state(name), connect.stored_offset(name)
        assert state is not None
        assert stored is not None
        seen.append((state.connector.state, stored.lsn_commit))
        resume(connect, name)

    monkeypatch.setattr(Connect, "resume", look)
    hand_off = pipeline.init()
    assert seen == [("STOPPED", hand_off.consistent_point)]


def test_a_password_reference_that_leads_nowhere_is_told_with_advice(pipeline: Pipeline) -> None:
    """The connector's own trouble is told by init, not only by Connect's log."""
    connect = pipeline.settings.connect.model_copy(update={"password_reference": "${file:/nowhere:password}"})
    pipeline.settings = pipeline.settings.model_copy(update={"connect": connect})
    with pytest.raises(ConfigurationError, match="CDC_CONNECT__PASSWORD_REFERENCE"):
        pipeline.init()


def test_a_foreign_connector_of_the_same_name_is_left_alone(streaming: Pipeline) -> None:
    """Two deployments that share Connect must not take each other's connector."""
    assert streaming.hand_off() is not None
    streaming.target.execute("DELETE FROM hand_off")
    with pytest.raises(ConfigurationError, match=r"the target holds no hand-off for it.*CDC_PIPELINE__NAME"):
        streaming.init()


def set_password(pipeline: Pipeline, role: str, password: str) -> None:
    """Change a role's password."""
    alter = sql.SQL("ALTER ROLE {} PASSWORD {}")
    pipeline.source.execute(alter.format(sql.Identifier(role), sql.Literal(password)))


def failed(connect: Connect, name: str) -> bool:
    """Whether the connector has failed."""
    state = connect.state(name)
    return state is not None and state.failed is not None
