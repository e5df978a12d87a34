"""The settings file, below the environment; and what `config show` says about all layers."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from backfill.cli import commands as backfill
from cdc_consumer.cli import cli as cdc_consumer
from cdc_consumer.settings import Settings, load_settings
from tests.doc_pages import PAGE_OF
from widetable import command_line
from widetable.environment import paths
from widetable.errors import ConfigurationError, ExitCode

MINIMAL = """
[source]
dsn = "postgresql://reader:hunter2@db.example:6543/ships"
[target]
dsn = "host=wide.example password='hunter 3' dbname=ships"
"""
NO_INTEGER = "input should be a valid integer, unable to parse string as an integer"
NO_NUMBER = "input should be a valid number, unable to parse string as a number"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file that suffices."""
    path = tmp_path / "pipeline.toml"
    path.write_text(MINIMAL)
    return path


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the machine that runs the tests."""
    for name in ("CDC_SOURCE__DSN", "CDC_TARGET__DSN", "CDC_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def refusal(text: str, file: Path, **environ: str) -> str:
    """What a settings file is refused with."""
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load_settings({"CDC_CONFIG": str(file), **environ})
    return str(refused.value)


def test_flags_win_over_the_environment_that_wins_over_the_file(file: Path) -> None:
    """The order that the page of settings promises, key by key."""
    file.write_text(
        MINIMAL + "[consumer]\nhold_ms = 1\nmax_hold_ms = 1\nprocesses = 1\n[topic]\npartitions = 3\n"
    )
    environ = {"CDC_CONFIG": str(file), "CDC_CONSUMER__HOLD_MS": "2", "CDC_CONSUMER__MAX_HOLD_MS": "2"}
    settings = load_settings(environ, consumer={"hold_ms": 3})
    consumer = settings.consumer
    assert (consumer.hold_ms, consumer.max_hold_ms, consumer.processes) == (3, 2, 1)
    assert settings.topic.partitions == 3
    assert settings.source.dsn.get_secret_value().startswith("postgresql://reader:")


def test_the_example_of_a_settings_file_is_accepted(file: Path, tmp_path: Path) -> None:
    """What the page shows can be copied."""
    (block,) = PAGE_OF["docs/settings.md"].blocks("toml")
    secret = tmp_path / "source_dsn"
    secret.write_text("postgresql://from-file/db\n")
    file.write_text(block.replace("/run/secrets/source_dsn", str(secret)))
    settings = load_settings({"CDC_CONFIG": str(file)})
    assert settings.source.dsn.get_secret_value() == "postgresql://from-file/db"
    assert settings.kafka.client()["security.protocol"] == "SASL_SSL"
    assert settings.log.file == Path("/var/log/cdc/consumer.log")


def test_keys_within_a_setting_need_no_quotes_and_mix_with_variables(file: Path) -> None:
    """Names of librdkafka have dots; the environment still wins over the file, key by key."""
    file.write_text(
        MINIMAL
        + '[kafka.extra]\nsecurity.protocol = "SSL"\n"sasl.mechanism" = "PLAIN"\nenable.idempotence = false\n'
    )
    environ = {"CDC_CONFIG": str(file), "CDC_KAFKA__EXTRA__SECURITY_PROTOCOL": "SASL_SSL"}
    client = load_settings(environ).kafka.client()
    assert client["security.protocol"] == "SASL_SSL"
    assert (client["sasl.mechanism"], client["enable.idempotence"]) == ("PLAIN", "false")


def test_all_problems_of_all_layers_are_said_at_once_with_their_places(file: Path) -> None:
    """Nobody should have to look for the line that a program does not like."""
    text = """
        [source]
        tabel = "x"
        [target]
        dsn_file = "/nowhere/dsn"
        [topic]
        partitions = 0
        retention_days = "hunter2"
        [consumr]
        processes = 2
        [backfill]
        whatever = 1
        [sourc]
    """
    message = refusal(text, file, CDC_CONSUMER__HOLD_MS="-1", CDC_TOPIC__REPLICATION_FACTOR="many")
    assert message.splitlines()[1:] == [
        f"  {line}"
        for line in sorted(
            [
                "CDC_SOURCE__DSN is not set. Connection string of the source database (libpq URI or keywords).",
                "CDC_TARGET__DSN is not set. Connection string of the target database; may equal the source's.",
                "CDC_CONSUMER__HOLD_MS: input should be greater than or equal to 0 (environment)",
                f"CDC_TOPIC__REPLICATION_FACTOR: {NO_INTEGER} (environment)",
                f"CDC_TOPIC__PARTITIONS: input should be greater than or equal to 1 (topic.partitions in {file})",
                f"CDC_TOPIC__RETENTION_DAYS: {NO_NUMBER} (topic.retention_days in {file})",
                f"source.tabel in {file} is not a setting; did you mean source.table?",
                f"consumr.processes in {file} is not a setting; did you mean consumer.processes?",
                f"target.dsn_file in {file} names a file that can't be read: No such file or directory",
                f"sourc in {file} is not a setting; did you mean source.dsn?",
            ]
        )
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "CDC_CONFIG names a file that can't be read: {}: No such file", id="no file"),
        pytest.param(
            b"\xff\xfe", "CDC_CONFIG names a file that can't be read: {}: not a text file", id="bytes"
        ),
        pytest.param(b"dsn: x", "{} is not TOML: ", id="YAML"),
        pytest.param(b"source = 3", "source in {} is not a setting", id="a section that is a number"),
        pytest.param(b"[source.dsn]\nx = 1", "CDC_SOURCE__DSN: input should be a valid string", id="a table"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused(file: Path, content: bytes | None, message: str) -> None:
    """By its name, and with what is wrong."""
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ConfigurationError) as refused:
        load_settings({"CDC_CONFIG": str(file)})
    assert message.format(file) in str(refused.value)


@pytest.mark.parametrize("program", [cdc_consumer, backfill], ids=["cdc-consumer", "backfill"])
def test_config_show_tells_each_value_and_its_origin_and_no_secret(
    program: click.Group, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every layer has its name; passwords are masked wherever they are."""
    secret = tmp_path / "ddl"
    secret.write_text("postgresql://owner:hunter4@wide/ships")
    monkeypatch.setenv("CDC_TARGET__DDL_DSN_FILE", str(secret))
    monkeypatch.setenv("CDC_PIPELINE__NAME", "north")
    monkeypatch.setenv("CDC_KAFKA__EXTRA", '{"sasl.password": "hunter5"}')
    monkeypatch.setenv("CDC_REGISTRY__URL", "http://me:hunter6@registry:8080/apis")
    arguments = ["config", "show", "--json", "--config", str(file), "--log-file", str(tmp_path / "x.log")]
    answer = CliRunner().invoke(program, arguments)
    assert answer.exit_code == 0, answer.output
    rows = {row["setting"]: (row["value"], row["from"]) for row in json.loads(answer.output)}
    dsn = "user=reader password=******** dbname=ships host=db.example port=6543"
    assert rows["CDC_SOURCE__DSN"] == (dsn, f"source.dsn in {file}")
    assert rows["CDC_TARGET__DDL_DSN"][1] == "the file that CDC_TARGET__DDL_DSN_FILE names"
    assert rows["CDC_PIPELINE__NAME"] == ("north", "environment")
    assert rows["CDC_LOG__FILE"] == (str(tmp_path / "x.log"), "command line")
    assert rows["CDC_LOG__LEVEL"] == ("info", "default")
    as_text = CliRunner().invoke(program, ["--config", str(file), "config", "show"]).output
    assert f"{dsn}  source.dsn in {file}" in as_text
    for shown in (answer.output, as_text):
        assert "hunter" not in shown
    if program is cdc_consumer:
        assert rows["CDC_KAFKA__EXTRA"] == ({"sasl.password": "********"}, "environment")
        assert rows["CDC_REGISTRY__URL"][0] == "http://me:********@registry:8080/apis"


def test_a_dsn_that_is_none_is_masked_as_a_whole(file: Path) -> None:
    """It may be a password that was put into the wrong place."""
    file.write_text(MINIMAL.replace("postgresql://reader:hunter2@db.example:6543/ships", "hunter2"))
    answer = CliRunner().invoke(cdc_consumer, ["config", "show", "--config", str(file)])
    assert "hunter2" not in answer.output
    assert "CDC_SOURCE__DSN " in answer.output


def test_a_file_named_by_the_flag_wins_over_the_variable(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As every flag does; and the message says who named it."""
    monkeypatch.setenv("CDC_CONFIG", str(file))
    arguments = ["config", "show", "--config", "/nowhere.toml"]
    assert command_line.exit_code(cdc_consumer, None, arguments) == ExitCode.CONFIGURATION
    assert "--config names a file that can't be read: /nowhere.toml" in capsys.readouterr().err


def test_no_setting_of_a_file_looks_like_the_file_of_another() -> None:
    """`dsn_file` means the file that holds `dsn`, always."""
    assert not {path for path in paths(Settings) if path[-1].endswith("_file")}
