"""Every error a person or supervisor can meet, sorted by what to do about it.

The docstring or message of an error says what is wrong *and* what to do next. The exit code tells a
supervisor whether to start the program again: never after 3 (configuration) or 6 (stopped for a person).
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of both programs."""

    DONE = 0
    BUG = 1
    USAGE = 2
    CONFIGURATION = 3
    UNREACHABLE = 4
    PARTIAL = 5
    STOPPED = 6


class WideTableError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the program ends with."""

    exit_code = ExitCode.BUG


class ConfigurationError(WideTableError):
    """Something a person set is wrong or missing; starting again does not help."""

    exit_code = ExitCode.CONFIGURATION


class RequestError(ConfigurationError):
    """What was asked for is not well put: an empty period, a time that is none."""


class NotFoundError(RequestError):
    """What was asked for is not there: no such ship or channel, no value in the period."""


class UnreachableError(WideTableError):
    """A database, broker, registry or Connect worker does not answer."""

    exit_code = ExitCode.UNREACHABLE


class PartialError(WideTableError):
    """Work ended, but not all of it: failed slices, or cells that differ."""

    exit_code = ExitCode.PARTIAL


class StoppedError(WideTableError):
    """Stopped for a person to decide: truncate, too many dead cells, a lost slot, a rival consumer."""

    exit_code = ExitCode.STOPPED


class RetryableError(WideTableError):
    """The transaction rolled back and can be tried again as it is; callers retry with backoff."""

    exit_code = ExitCode.UNREACHABLE


class OutdatedError(WideTableError):
    """A new epoch began, or partitions were added, since this process started: a new process sees them."""

    exit_code = ExitCode.UNREACHABLE


class LayoutChangedError(RetryableError):
    """The wide tables changed under a cached layout: roll back, reload the layout, try again."""


class FenceLostError(RetryableError):
    """Another owner holds this partition's ledger row: roll back, drop what is held, claim again."""


class PoisonError(WideTableError):
    """One record can't be stored; it becomes a dead cell and everything else goes on."""
