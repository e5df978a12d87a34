"""The edge of both programs: what a command raises becomes one line on stderr and an exit code.

Guarantee: a person's mistake or an outage never shows a traceback, and a bug always does; neither shows a secret.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import click
import httpx
import psycopg

from widetable import logs
from widetable.errors import ConfigurationError, ExitCode, UnreachableError, WideTableError
from widetable.masking import mask_text
from widetable.postgres import is_retryable

INTERRUPTED: Final = 130
"""What shells expect of a program that Ctrl+C ended."""

PERMISSION_DENIED: Final = "42501"

Surprise = Callable[[Exception], WideTableError | None]
"""Names the error behind another library's exception, or None where it is a bug."""


def run(
    command: click.Command, surprise: Surprise | None = None, arguments: Sequence[str] | None = None
) -> NoReturn:
    """Run a click command and end the process with its exit code (`widetable.errors.ExitCode`).

    Args:
        command: the program's command or group.
        surprise: what the program knows about exceptions of libraries that `widetable` does not use.
        arguments: the command line, without the program's name; None takes the process's own.
    """
    code = exit_code(command, surprise, arguments)
    sys.stdout.flush()
    sys.exit(code)


def exit_code(
    command: click.Command, surprise: Surprise | None = None, arguments: Sequence[str] | None = None
) -> int:
    """Run a click command; returns the exit code, having written the error to stderr."""
    try:
        result = command.main(args=arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # `status | head`: the reader left, nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.DONE
    except Exception as error:  # noqa: BLE001 - the last line of defence sorts everything
        return _report(error, surprise)
    return result if isinstance(result, int) else ExitCode.DONE


def named(error: Exception, surprise: Surprise | None = None) -> WideTableError | None:
    """The error of ours that an exception stands for; None where it is a bug."""
    match error:
        case WideTableError():
            return error
        case psycopg.Error() if is_retryable(error):
            return UnreachableError(f"a database does not do its work right now: {_first_line(error)}")
        case psycopg.Error() if error.sqlstate == PERMISSION_DENIED:
            return ConfigurationError(f"the database role may not do this: {_first_line(error)}; grant it.")
        case httpx.TransportError():
            return UnreachableError(f"an HTTP service does not answer: {_first_line(error)}")
    return surprise(error) if surprise else None


def _report(error: Exception, surprise: Surprise | None) -> int:
    known = named(error, surprise)
    if known is None:
        trace = mask_text("".join(traceback.format_exception(error)))
        logs.record_end(repr(error), ExitCode.BUG, trace)
        click.echo(trace, nl=False, err=True)
        click.echo("error: this is a bug in the program; please report the lines above", err=True)
        return ExitCode.BUG
    logs.record_end(str(known), known.exit_code)
    click.echo(f"error: {mask_text(str(known))}", err=True)
    return known.exit_code


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
