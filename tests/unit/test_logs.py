"""Logs: one line of JSON per event where a machine reads them, and nothing on stdout."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import structlog

from backfill.cli import commands as backfill
from cdc_consumer.cli import cli as cdc_consumer
from widetable import command_line
from widetable.errors import ConfigurationError, ExitCode, UnreachableError
from widetable.logs import LogSettings, configure

PROGRAMS: dict[str, click.Group] = {"cdc-consumer": cdc_consumer, "backfill": backfill}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """No other test logs to a file of these."""
    yield
    structlog.reset_defaults()
    logging.basicConfig(handlers=[], force=True)


def test_off_a_terminal_each_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Multi-line values must not break a log collector."""
    configure(LogSettings())
    structlog.get_logger().info("two\nlines", partition=3)
    shown = capsys.readouterr()
    assert shown.out == ""
    event = json.loads(shown.err)
    assert (event["event"], event["partition"], event["level"]) == ("two\nlines", 3, "info")
    assert shown.err.count("\n") == 1


def test_what_is_less_severe_than_asked_for_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """`CDC_LOG__LEVEL=warning` is quiet."""
    configure(LogSettings(level="warning", format="console"))
    structlog.get_logger().info("chatter")
    structlog.get_logger().warning("trouble", why="because")
    shown = capsys.readouterr().err
    assert "chatter" not in shown
    assert "trouble" in shown
    assert "why" in shown


SECRET = "hunter2"


def refuse(password: str) -> None:
    """Fail as a library might, with a local variable and a message that tell too much."""
    raise ValueError(f"bad dsn: password={password}")


def test_no_event_shows_a_password(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Whichever way it got there: field, text, exception with its cause; on stderr and in the file."""
    for format_ in ("json", "console"):
        configure(LogSettings(format=format_, file=tmp_path / "x.log"))
        log = structlog.get_logger()
        log.info(
            "connecting to postgresql://me:hunter2@db/x", password="hunter2", config={"k": "pwd=hunter2"}
        )
        try:
            refuse(SECRET)
        except ValueError:
            log.exception("bug")
    written = (tmp_path / "x.log").read_text()
    shown = capsys.readouterr().err
    for text in (shown, written):
        assert SECRET not in text
        assert text.count("ValueError: bad dsn: password=********") >= 2
    assert {"timestamp", "level", "event"} <= json.loads(written.splitlines()[0]).keys()


def test_what_libraries_log_is_an_event_like_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """A collector that expects JSON meets nothing else."""
    configure(LogSettings())
    logging.getLogger("httpx").warning("odd answer from %s", "http://me:hunter2@registry")
    logging.getLogger("httpx").info("chatter")
    event = json.loads(capsys.readouterr().err)
    assert (event["event"], event["level"]) == ("odd answer from http://me:********@registry", "warning")
    assert event["logger"] == "httpx"


def test_a_log_file_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    """Not found out by whoever looks for the logs later."""
    (tmp_path / "a file").touch()
    for place in (tmp_path / "missing" / "x.log", tmp_path / "a file" / "x.log", tmp_path):
        with pytest.raises(ConfigurationError, match=r"log file .* can't be written: .*Set CDC_LOG__FILE"):
            configure(LogSettings(file=place))


def test_why_a_program_ended_is_in_its_log_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What stderr has as plain text; whoever has the file only must find it, too."""

    @click.command()
    @click.argument("kind")
    def act(kind: str) -> None:
        configure(LogSettings(file=tmp_path / "x.log"))
        raise KeyError("password=hunter2") if kind == "bug" else UnreachableError("http://me:hunter2@h away")

    command_line.exit_code(act, None, ["outage"])
    command_line.exit_code(act, None, ["bug"])
    outage, bug = map(json.loads, (tmp_path / "x.log").read_text().splitlines())
    assert (outage["event"], outage["level"], outage["code"]) == ("ended", "error", 4)
    assert outage["reason"] == "http://me:********@h away"
    assert "Traceback" in bug["exception"]
    assert "hunter2@" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "cdc-consumer schema plan",
        "cdc-consumer schema apply",
        "cdc-consumer dead-letters list",
        "backfill plan",
        "backfill run",
        "backfill retry",
        "backfill import README.md",
        "backfill export --ship-id S --from 2025-01-01 --to 2025-01-02 -o x.csv",
        "backfill verify",
    ],
)
def test_every_command_logs_to_the_file_that_it_is_given(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here: why it ended. `cdc-consumer logs` would have nothing to show otherwise."""
    for side in ("SOURCE", "TARGET"):
        monkeypatch.setenv(f"CDC_{side}__DSN", f"postgresql:///ships?host={tmp_path}")
    program, *words = line.split()
    file = tmp_path / "x.log"
    arguments = [*words, "--log-file", str(file)]
    assert command_line.exit_code(PROGRAMS[program], None, arguments) == ExitCode.UNREACHABLE
    *_, ended = map(json.loads, file.read_text().splitlines())
    assert ended["event"] == "ended"
    assert "does not answer" in ended["reason"]
