"""`connectors/debezium.json`: the very file that `init` registers, complete, and without secrets."""

import json
import re
from pathlib import Path

import pytest

from cdc_consumer.connector import connector_file, render, substitute, values
from cdc_consumer.settings import Settings, load_settings
from widetable.errors import ConfigurationError

PASSWORD = "hunter2"


@pytest.fixture
def settings() -> Settings:
    """Settings with a password in every place that has one."""
    return load_settings(
        {
            "CDC_SOURCE__DSN": f"postgresql://reader:{PASSWORD}@db.example:6543/ships",
            "CDC_TARGET__DSN": f"postgresql://writer:{PASSWORD}@wide.example/ships",
            "CDC_CONNECT__AUTH_PASSWORD": PASSWORD,
            "CDC_CONNECT__PASSWORD_REFERENCE": "${file:/secrets/source.properties:password}",
        }
    )


def test_the_package_ships_the_file_of_the_repository() -> None:
    """One copy: what a reader sees is what `init` registers."""
    repository = Path(__file__).parents[2] / "connectors" / "debezium.json"
    assert connector_file() == repository.read_text()


def test_every_placeholder_gets_its_value(settings: Settings) -> None:
    """What is left in braces is for Connect to resolve."""
    connector = render(settings, "__placeholder__")
    text = json.dumps(connector.config)
    assert re.findall(r"\$\{[^}]*\}", text) == ["${file:/secrets/source.properties:password}"]
    assert connector.name == "narrow_to_wide"
    assert connector.config["database.hostname"] == "db.example"
    assert connector.config["unavailable.value.placeholder"] == "__placeholder__"
    assert all(isinstance(value, str) for value in connector.config.values())


def test_no_password_reaches_the_connector(settings: Settings) -> None:
    """Connect's REST interface shows configurations to everybody."""
    assert PASSWORD not in json.dumps(render(settings, "x").config)


def test_the_promises_of_the_stream_stand_in_the_file() -> None:
    """Each of these settings is a premise of the rule for cells; none may be lost in an edit."""
    config = json.loads(connector_file())["config"]
    premises = {
        "plugin.name": "pgoutput",
        "publication.autocreate.mode": "disabled",
        "snapshot.mode": "no_data",
        "offset.mismatch.strategy": "trust_offset",
        "lsn.flush.mode": "connector",
        "slot.drop.on.stop": "false",
        "tombstones.on.delete": "false",
        "skipped.operations": "none",
        "time.precision.mode": "microseconds",
        "event.processing.failure.handling.mode": "fail",
        "message.key.columns": "${NARROW_TABLE}:ship_id",
        "topic.creation.default.cleanup.policy": "delete",
        "tasks.max": "1",
    }
    assert {name: config[name] for name in premises} == premises


def test_table_names_are_not_taken_for_patterns(settings: Settings) -> None:
    """Debezium reads table names as regular expressions: a dot would match any character."""
    included = render(settings, "x").config["table.include.list"]
    assert included == r"tenant\.tbl_data_timeseries,cdc\.heartbeat"
    pattern = included.split(",", maxsplit=1)[0]
    assert re.fullmatch(pattern, "tenant.tbl_data_timeseries")
    assert not re.fullmatch(pattern, "tenantXtbl_data_timeseries")


def test_a_value_with_quotes_and_braces_stays_one_value(settings: Settings) -> None:
    """Values are put into strings, not into JSON text, and only once."""
    given = {**values(settings, "x"), "SOURCE_USER": 'a"b\\c${SLOT}'}
    assert substitute(connector_file(), given)["config"]["database.user"] == 'a"b\\c${SLOT}'


def test_extra_settings_win_over_the_file(settings: Settings) -> None:
    """A deployment may need what the file doesn't foresee."""
    extra = {"database.sslmode": "verify-full", "poll.interval.ms": "100"}
    connect = settings.connect.model_copy(update={"extra": extra})
    config = render(settings.model_copy(update={"connect": connect}), "x").config
    assert (config["database.sslmode"], config["poll.interval.ms"]) == ("verify-full", "100")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param(("${SLOT}", "${SLOTT}"), "unknown placeholders: SLOTT", id="an unknown placeholder"),
        pytest.param(("${SLOT}", "fixed"), "lacks the placeholders SLOT", id="a missing placeholder"),
        pytest.param(("{", "", 1), "is not JSON", id="broken JSON"),
    ],
)
def test_an_edited_file_that_no_longer_fits_is_refused(
    settings: Settings, change: tuple[str, str], complaint: str
) -> None:
    """Better no connector than one that doesn't follow the settings."""
    with pytest.raises(ConfigurationError, match=complaint):
        substitute(connector_file().replace(*change), values(settings, "x"))
