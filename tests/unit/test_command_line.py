"""What a command raises, as a person and a supervisor see it."""

import click
import httpx
import psycopg
import pytest

from widetable import command_line
from widetable.errors import (
    ConfigurationError,
    ExitCode,
    PartialError,
    StoppedError,
    UnreachableError,
    WideTableError,
)


def command(error: BaseException | None) -> click.Command:
    """A command that raises `error`."""

    @click.command()
    def act() -> None:
        if error is not None:
            raise error

    return act


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        pytest.param(ConfigurationError("set X"), ExitCode.CONFIGURATION, "error: set X", id="configuration"),
        pytest.param(UnreachableError("away"), ExitCode.UNREACHABLE, "error: away", id="unreachable"),
        pytest.param(PartialError("half"), ExitCode.PARTIAL, "error: half", id="partly done"),
        pytest.param(StoppedError("look"), ExitCode.STOPPED, "error: look", id="stopped for a person"),
        pytest.param(
            psycopg.OperationalError("server closed the connection\nmore"),
            ExitCode.UNREACHABLE,
            "error: a database does not do its work right now: server closed the connection",
            id="a database that went away",
        ),
        pytest.param(
            psycopg.errors.InsufficientPrivilege("permission denied for table x"),
            ExitCode.CONFIGURATION,
            "error: the database role may not do this: permission denied for table x; grant it.",
            id="a right that is missing",
        ),
        pytest.param(
            httpx.ReadTimeout("timed out"),
            ExitCode.UNREACHABLE,
            "error: an HTTP service does not answer: timed out",
            id="an HTTP service that went away",
        ),
    ],
)
def test_a_mistake_or_an_outage_is_one_line_and_its_code(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int, line: str
) -> None:
    """No traceback for what a person or time can mend."""
    assert command_line.exit_code(command(error), None, []) == code
    assert capsys.readouterr().err == f"{line}\n"


def test_a_bug_shows_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Hiding it would cost whoever mends it."""
    assert command_line.exit_code(command(KeyError("boom")), None, []) == ExitCode.BUG
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "KeyError: 'boom'" in shown
    assert shown.endswith("error: this is a bug in the program; please report the lines above\n")


def test_a_program_may_name_the_errors_of_its_own_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    """The consumer knows Kafka's; this layer does not."""

    def surprise(error: Exception) -> WideTableError | None:
        return UnreachableError("broker away") if isinstance(error, LookupError) else None

    assert command_line.exit_code(command(LookupError()), surprise, []) == ExitCode.UNREACHABLE
    assert capsys.readouterr().err == "error: broker away\n"


def test_wrong_usage_and_interruption_have_the_usual_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """As every other program on the machine."""
    assert command_line.exit_code(command(None), None, ["--nonsense"]) == ExitCode.USAGE
    assert command_line.exit_code(command(KeyboardInterrupt()), None, []) == command_line.INTERRUPTED
    assert command_line.exit_code(command(None), None, []) == ExitCode.DONE
    assert "No such option" in capsys.readouterr().err
