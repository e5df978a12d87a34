"""`check` and `status`: bad is told apart from unknown, and looking changes nothing."""

import json
import os
from collections.abc import Mapping

import psycopg
import pytest
from psycopg import sql

from cdc_consumer.cli import cli
from cdc_consumer.preflight import CHECKS, Result, check, exit_code
from cdc_consumer.settings import Settings, load_settings
from cdc_consumer.status import status
from devstack.stack import Stack
from tests.pipeline_world import Pipeline, wait_for
from widetable import command_line
from widetable.control import migrate
from widetable.errors import ExitCode
from widetable.postgres import connect_target
from widetable.state_text import lines

pytest_plugins = ["tests.pipeline_fixture"]

NOWHERE = "127.0.0.1:1"


def results(settings: Settings) -> dict[str, Result]:
    """All results by their check's name."""
    return {result.check: result for result in check(settings)}


def database_settings(source_dsn: str, target_dsn: str, **more: str) -> Settings:
    """Settings with real databases, and nothing behind the other addresses."""
    return load_settings(
        {
            "CDC_SOURCE__DSN": source_dsn,
            "CDC_TARGET__DSN": target_dsn,
            "CDC_KAFKA__BOOTSTRAP_SERVERS": NOWHERE,
            "CDC_KAFKA__REQUEST_TIMEOUT_S": "0.5",
            "CDC_REGISTRY__URL": f"http://{NOWHERE}",
            "CDC_CONNECT__URL": f"http://{NOWHERE}",
            **more,
        }
    )


@pytest.mark.postgres
def test_what_does_not_answer_is_unknown_and_hides_nothing_else(source_dsn: str, target_dsn: str) -> None:
    """Exit 4: nothing is known to be wrong, and the databases were looked at all the same."""
    settings = database_settings(source_dsn, target_dsn)
    with connect_target(settings.target, "test") as target:
        migrate(target, settings.target.control_schema)
    found = results(settings)
    assert list(found) == list(CHECKS)
    unknown = {name for name, result in found.items() if result.status == "unknown"}
    assert unknown == {"Kafka", "topic", "schema registry", "Kafka Connect", "connector"}
    assert found["topic"].text == "needs Kafka"
    assert found["narrow table"].status == "ok"
    assert exit_code(list(found.values())) == ExitCode.UNREACHABLE


@pytest.mark.postgres
def test_wrong_credentials_are_bad_and_a_silent_server_is_unknown(source_dsn: str) -> None:
    """The first needs a person, the second may pass."""
    wrong = psycopg.conninfo.make_conninfo(source_dsn, password="wrong")
    found = results(database_settings(wrong, f"postgresql://{NOWHERE}/x"))
    assert found["source database"].status == "bad"
    assert "password authentication failed" in found["source database"].text
    assert found["target database"].status == "unknown"
    assert found["logical replication"] == Result(
        "logical replication", "unknown", "needs the source database"
    )
    assert exit_code(list(found.values())) == ExitCode.CONFIGURATION


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("change", "name", "complaint"),
    [
        pytest.param("DROP TABLE tenant.tbl_data_timeseries", "narrow table", "has no table", id="no table"),
        pytest.param(
            "ALTER TABLE tenant.tbl_data_timeseries ALTER long_v TYPE int",
            "narrow table",
            "long_v must be bigint, it is integer",
            id="a narrower integer",
        ),
        pytest.param(
            "ALTER TABLE tenant.tbl_data_timeseries DROP COLUMN bool_v",
            "narrow table",
            "bool_v must be boolean, it is missing",
            id="a missing column",
        ),
        pytest.param(
            "ALTER TABLE tenant.tbl_data_timeseries REPLICA IDENTITY NOTHING",
            "narrow table",
            "REPLICA IDENTITY DEFAULT",
            id="no replica identity",
        ),
    ],
)
def test_a_source_that_does_not_fit_is_bad(
    source_dsn: str, target_dsn: str, change: str, name: str, complaint: str
) -> None:
    """Each with what to do about it."""
    with psycopg.connect(source_dsn) as source:
        source.execute(change.encode())
    result = results(database_settings(source_dsn, target_dsn))[name]
    assert result.status == "bad"
    assert complaint in result.text


@pytest.mark.postgres
def test_a_partitioned_table_is_judged_by_its_partitions(source_dsn: str, target_dsn: str) -> None:
    """The parent's replica identity says nothing about what is logged."""
    with psycopg.connect(source_dsn) as source:
        source.execute(
            "CREATE TABLE tenant.parted (LIKE tenant.tbl_data_timeseries) PARTITION BY RANGE (created_time)"
        )
        source.execute("ALTER TABLE tenant.parted ADD PRIMARY KEY (ship_id, data_channel_id, created_time)")
        source.execute("CREATE TABLE tenant.part PARTITION OF tenant.parted DEFAULT")
    settings = database_settings(source_dsn, target_dsn, CDC_SOURCE__TABLE="tenant.parted")
    assert results(settings)["narrow table"].status == "ok"
    with psycopg.connect(source_dsn) as source:
        source.execute("ALTER TABLE tenant.part REPLICA IDENTITY NOTHING")
    assert results(settings)["narrow table"].status == "bad"


@pytest.mark.postgres
def test_missing_rights_are_named(source_dsn: str, target_dsn: str) -> None:
    """As the role that will be used, not as an administrator."""
    role = f"reader_{psycopg.conninfo.conninfo_to_dict(source_dsn)['dbname']}"
    name = sql.Identifier(role)
    with psycopg.connect(source_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'x'").format(name))
        try:
            as_role = {"user": role, "password": "x"}
            found = results(
                database_settings(
                    psycopg.conninfo.make_conninfo(source_dsn, **as_role),
                    psycopg.conninfo.make_conninfo(target_dsn, **as_role),
                )
            )
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(name))
    assert "lacks REPLICATION (ALTER ROLE) and CREATE on the database" in found["source role"].text
    assert "permission denied for schema tenant; grant it" in found["narrow table"].text
    assert "may not create tables in tenant, cdc" in found["target role"].text


@pytest.mark.postgres
def test_before_the_schema_is_applied_the_rest_can_be_checked(source_dsn: str, target_dsn: str) -> None:
    """`check` is the first thing an operator runs."""
    found = results(database_settings(source_dsn, target_dsn))
    assert "cdc-consumer schema apply" in found["control schema"].text
    assert found["hand-off"].status == "warning"
    assert "`cdc-consumer init` makes it" in found["hand-off"].text
    assert found["publication"].status == found["replication slot"].status == "ok"


@pytest.mark.stack
def test_a_streaming_pipeline_has_nothing_bad_and_nothing_unknown(streaming: Pipeline) -> None:
    """Exit 0, warnings or not."""
    found = results(streaming.settings)
    assert {result.status for result in found.values()} <= {"ok", "warning"}
    assert exit_code(list(found.values())) == ExitCode.DONE
    assert found["connector"].text == f"connector {streaming.name} is RUNNING"
    assert "3.7.0.Final" in found["Kafka Connect"].text


@pytest.mark.stack
def test_looking_changes_nothing(pipeline: Pipeline) -> None:
    """Before `init`: no slot, no publication, no topic, no connector comes of it."""
    results(pipeline.settings)
    status(pipeline.settings)
    found = pipeline.source.execute("SELECT count(*) FROM pg_publication").fetchone()
    assert (pipeline.slot(), found) == (None, (0,))
    with pipeline.connect() as connect:
        assert connect.config(pipeline.name) is None


@pytest.mark.stack
def test_a_broken_stream_is_bad_with_the_way_on(streaming: Pipeline) -> None:
    """A stopped connector, a lost slot, a heartbeat that stands still."""
    with streaming.connect() as connect:
        connect.stop(streaming.name)
    assert results(streaming.settings)["connector"].text.endswith("`cdc-consumer init` starts it")
    streaming.source.execute("SELECT pg_drop_replication_slot(%s)", [streaming.name])
    streaming.source.execute("UPDATE cdc.heartbeat SET at = now() - interval '1 hour'")
    found = results(streaming.settings)
    assert found["replication slot"].status == found["heartbeat"].status == "bad"
    assert "cdc-consumer reinit" in found["replication slot"].text


@pytest.mark.stack
def test_settings_that_no_longer_match_the_hand_off_are_bad(streaming: Pipeline) -> None:
    """Another slot name would be another slot."""
    connect = streaming.settings.connect.model_copy(update={"slot": "another"})
    changed = streaming.settings.model_copy(update={"connect": connect})
    assert "correct CDC_CONNECT__SLOT" in results(changed)["hand-off"].text


@pytest.mark.stack
def test_status_tells_the_lag_of_each_partition(streaming: Pipeline) -> None:
    """What an operator looks at first."""
    streaming.insert(1, 40)
    wait_for(lambda: streaming.events() == 40, "the changes did not arrive")
    facts = status(streaming.settings)
    assert facts["stream"]["lag"] == 40
    assert sum(row["lag"] for row in facts["stream"]["partitions"]) == 40
    assert facts["connector"]["state"] == "RUNNING"
    assert facts["slot"]["state"] == "active"
    assert facts["hand_off"]["epoch"] == 1
    assert facts["slot"]["retained_bytes"] >= 0
    assert "budget_left_bytes" in facts["slot"]
    assert facts["connector"]["tasks"] == ["RUNNING"]
    connections = facts["connections"]
    assert {name: part["state"] for name, part in connections.items() if name != "sessions"} == {
        "source": "connected",
        "target": "connected",
        "kafka": "connected",
        "connect": "answers",
        "registry": "answers",
    }
    assert connections["sessions"] >= 1  # the one that asks; others may have just ended
    assert facts["history"] == {"state": "nothing was copied yet"}
    assert json.loads(json.dumps(facts)) == facts
    text = "\n".join(lines(facts))
    assert "stream      lag 40" in text
    assert "postgres:" not in text


@pytest.mark.stack
def test_the_command_line_from_init_to_teardown(
    stack: Stack, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an operator types it: what is said, and with which exit code."""
    set_environment(monkeypatch, stack, pipeline)

    def run(*arguments: str) -> tuple[int, str]:
        code = command_line.exit_code(cli, None, arguments)
        return code, capsys.readouterr().out

    assert run("check")[0] == ExitCode.CONFIGURATION  # no control schema yet
    code, out = run("init")
    assert (code, out.splitlines()[-1]) == (0, f"hand-off of pipeline {pipeline.name}, epoch 1, is in place")
    assert run("init") == (0, f"hand-off of pipeline {pipeline.name}, epoch 1, is healthy, nothing to do\n")
    code, out = run("check", "--json")
    assert (code, {result["status"] for result in json.loads(out)} - {"ok", "warning"}) == (0, set())
    assert json.loads(run("status", "--json")[1])["hand_off"]["pipeline"] == pipeline.name
    assert run("teardown")[0] == ExitCode.USAGE  # there is no terminal to ask on
    assert run("teardown", "--yes")[0] == 0
    assert pipeline.slot() is None
    assert "torn down" in run("status")[1]


def set_environment(monkeypatch: pytest.MonkeyPatch, stack: Stack, pipeline: Pipeline) -> None:
    """Give the pipeline's settings to the command line, and nothing that was there before."""
    for name in [name for name in os.environ if name.startswith("CDC_")]:
        monkeypatch.delenv(name)
    settings = pipeline.settings
    own: Mapping[str, str] = {
        "CDC_PIPELINE__NAME": pipeline.name,
        "CDC_SOURCE__DSN": settings.source.dsn.get_secret_value(),
        "CDC_TARGET__DSN": settings.target.dsn.get_secret_value(),
        "CDC_CONNECT__HEARTBEAT_MS": "500",
    }
    for name, value in {**stack.environment(), **own}.items():
        monkeypatch.setenv(name, value)
