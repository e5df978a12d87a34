"""Settings: read once, refused in full, and never shown."""

from pathlib import Path

import pytest

from backfill.settings import Settings as BackfillSettings
from cdc_consumer.settings import Settings, load_settings
from widetable.environment import EnvironmentSettings, load, reference, variables
from widetable.errors import ConfigurationError

MINIMAL = {
    "CDC_SOURCE__DSN": "postgresql://reader:hunter2@db.example:6543/ships",
    "CDC_TARGET__DSN": "postgresql://writer:hunter3@wide.example/ships",
}


def refusal(environ: dict[str, str]) -> str:
    """What loading these variables is refused with."""
    with pytest.raises(ConfigurationError) as refused:
        load_settings(environ)
    return str(refused.value)


def test_every_problem_is_reported_at_once_by_its_variable() -> None:
    """Nobody should have to start the program once per mistake."""
    message = refusal(
        {
            "CDC_TARGET__DSN": "x",
            "CDC_TOPIC__PARTITIONS": "many",
            "CDC_CONSUMER__HOLD_MS": "-1",
            "CDC_KAFKA__EXTRA": "{not json",
            "CDC_NONSENSE": "1",
        }
    )
    for variable in (
        "CDC_SOURCE__DSN is not set",
        "CDC_TOPIC__PARTITIONS:",
        "CDC_CONSUMER__HOLD_MS:",
        "CDC_KAFKA__EXTRA:",
        "CDC_NONSENSE is not a setting",
    ):
        assert variable in message
    assert len(message.splitlines()) == 6


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        pytest.param("CDC_SOURCE__TABEL", "CDC_SOURCE__TABLE", id="in a section"),
        pytest.param("CDC_SOURC__TABLE", "CDC_SOURCE__TABLE", id="in the section's name"),
        pytest.param("CDC_CONNECT__HEARTBEAT", "CDC_CONNECT__HEARTBEAT_MS", id="without its unit"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_name(misspelt: str, meant: str) -> None:
    """A typing error must not silently leave a default in place."""
    assert f"{misspelt} is not a setting; did you mean {meant}?" in refusal({**MINIMAL, misspelt: "1"})


def test_no_message_shows_a_value() -> None:
    """Any value may be a secret that was put into the wrong variable."""
    secret = "hunter2-in-the-wrong-place"
    message = refusal(
        {
            "CDC_SOURCE__DSN": secret,
            "CDC_TARGET__TABLE": secret,
            "CDC_TOPIC__PARTITIONS": secret,
            "CDC_CONNECT__PASSWORD_REFERENCE": secret,
            "CDC_KAFKA__EXTRA": secret,
        }
    )
    assert secret not in message
    assert "CDC_CONNECT__PASSWORD_REFERENCE: must be a reference" in message


def test_settings_shown_or_logged_hide_their_secrets() -> None:
    """A stray repr in a log must not give a password away."""
    settings = load_settings({**MINIMAL, "CDC_KAFKA__EXTRA": '{"sasl.password": "hunter4"}'})
    assert "hunter" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_a_secret_may_be_kept_in_a_file(tmp_path: Path) -> None:
    """Containers get their secrets as files; editors end them with a newline."""
    file = tmp_path / "dsn"
    file.write_text("postgresql://from-file/db\n")
    environ = {**MINIMAL, "CDC_SOURCE__DSN_FILE": str(file)}
    del environ["CDC_SOURCE__DSN"]
    assert load_settings(environ).source.dsn.get_secret_value() == "postgresql://from-file/db"


def test_a_secret_given_twice_or_from_nowhere_is_refused(tmp_path: Path) -> None:
    """Which of two would count is not for the program to guess."""
    message = refusal({**MINIMAL, "CDC_SOURCE__DSN_FILE": str(tmp_path / "no such file")})
    assert "CDC_SOURCE__DSN and CDC_SOURCE__DSN_FILE are both set" in message
    message = refusal({"CDC_SOURCE__DSN_FILE": str(tmp_path / "no such file"), "CDC_TARGET__DSN": "x"})
    assert "CDC_SOURCE__DSN_FILE names a file that can't be read: No such file" in message


def test_kafka_properties_come_as_json_or_one_by_one() -> None:
    """Environment variables can't hold the dots of librdkafka's names."""
    expected = {"bootstrap.servers": "localhost:9092", "security.protocol": "SSL"}
    as_json = {**MINIMAL, "CDC_KAFKA__EXTRA": '{"security.protocol": "SSL"}'}
    one_by_one = {**MINIMAL, "CDC_KAFKA__EXTRA__SECURITY_PROTOCOL": "SSL"}
    assert load_settings(as_json).kafka.client() == expected
    assert load_settings(one_by_one).kafka.client() == expected
    assert "are both set: keep one form" in refusal(as_json | one_by_one)


@pytest.mark.parametrize("name", ["AUTO_OFFSET_RESET", "ENABLE_AUTO_COMMIT", "ISOLATION_LEVEL"])
def test_where_to_read_is_not_for_a_copied_line_to_say(name: str) -> None:
    """With another offset reset a client would go on behind events that are gone, and nobody would hear of it."""
    message = refusal({**MINIMAL, f"CDC_KAFKA__EXTRA__{name}": "earliest"})
    assert f"{name.lower().replace('_', '.')} can't be set" in message
    assert "earliest" not in message


def test_names_follow_the_pipeline_unless_set() -> None:
    """One setting tells two pipelines on the same servers apart."""
    settings = load_settings({**MINIMAL, "CDC_PIPELINE__NAME": "north"})
    names = (
        settings.slot,
        settings.publication,
        settings.connector,
        settings.group_id,
        settings.topic_prefix,
    )
    assert names == ("north",) * 5
    assert settings.topic_name == "north.tenant.tbl_data_timeseries"
    settings = load_settings({**MINIMAL, "CDC_CONNECT__SLOT": "other", "CDC_TOPIC__PREFIX": "fleet"})
    assert (settings.slot, settings.topic_name) == ("other", "fleet.tenant.tbl_data_timeseries")


def test_a_topic_is_named_as_debezium_names_it() -> None:
    """Debezium writes what Kafka doesn't allow in a topic's name as an underscore."""
    settings = load_settings({**MINIMAL, "CDC_SOURCE__TABLE": "tenant.the table"})
    assert settings.topic_name == "narrow_to_wide.tenant.the_table"


def test_connect_may_see_the_source_under_another_address() -> None:
    """In containers, localhost is somebody else."""
    seen = load_settings(MINIMAL).source_as_connect_sees_it()
    assert seen == {"host": "db.example", "port": "6543", "dbname": "ships", "user": "reader"}
    other = {**MINIMAL, "CDC_CONNECT__SOURCE_HOST": "postgres", "CDC_CONNECT__SOURCE_USER": "debezium"}
    seen = load_settings(other).source_as_connect_sees_it()
    assert seen == {"host": "postgres", "port": "6543", "dbname": "ships", "user": "debezium"}


def test_a_flag_wins_over_the_environment() -> None:
    """Flags last."""
    environ = {**MINIMAL, "CDC_CONSUMER__HOLD_MS": "7", "CDC_CONSUMER__PROCESSES": "2"}
    settings = load_settings(environ, consumer={"hold_ms": 9})
    assert (settings.consumer.hold_ms, settings.consumer.processes) == (9, 2)


def test_one_environment_serves_both_programs_and_their_tests() -> None:
    """A container has one environment: the other program's sections are not ours to judge."""
    others = {"CDC_BACKFILL__WORKERS": "2", "CDC_TEST_SOURCE_DSN": "y"}
    assert load_settings({**MINIMAL, **others}) == load_settings(MINIMAL)


@pytest.mark.parametrize("model", [Settings, BackfillSettings])
def test_a_section_that_no_program_has_is_refused(model: type[EnvironmentSettings]) -> None:
    """Verify takes flags only: what is set for it in the environment would change nothing."""
    with pytest.raises(ConfigurationError) as refused:
        load(model, {**MINIMAL, "CDC_VERIFY__TABLE": "x"})
    assert "CDC_VERIFY__TABLE is not a setting; did you mean CDC_SOURCE__TABLE?" in str(refused.value)


def test_both_programs_log_as_they_are_told() -> None:
    """A level that one of them ignores, or does not check, is a setting that lies."""
    quiet = {**MINIMAL, "CDC_LOG__LEVEL": "error"}
    assert load(Settings, quiet).log.level == load(BackfillSettings, quiet).log.level == "error"
    for model in (Settings, BackfillSettings):
        for wrong in ("CDC_LOG__LEVEL", "CDC_LOG__LEVLE"):
            with pytest.raises(ConfigurationError, match=wrong):
                load(model, {**MINIMAL, wrong: "loud"})


def test_every_setting_is_described_in_the_help() -> None:
    """A setting that nobody can find might as well not exist."""
    text = reference(Settings)
    for variable, field in variables(Settings):
        assert field.description, variable
        assert f"{variable}  " in text or f"{variable}\n" in text
