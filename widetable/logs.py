"""Structured logs on stderr: JSON where a machine reads them, aligned and coloured where a person does.

Guarantee: stdout stays free for a command's answer, and one event is one line off a terminal.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from pydantic import Field

from widetable.settings import LogFormat, Section

Level = Literal["debug", "info", "warning", "error"]


class LogSettings(Section):
    """What is logged, and how."""

    level: Level = Field("info", description="Least severe level that is logged.")
    format: LogFormat = Field("auto", description="json, console, or auto: console on a terminal, else json.")


def configure(settings: LogSettings) -> None:
    """Set up structlog and the standard library's logging for the whole process."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[*_shared(), *(_console() if console else _json())],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries log through the standard library; their warnings matter, their chatter does not.
    logging.basicConfig(stream=sys.stderr, level=max(level, logging.WARNING), force=True)


def _shared() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.StackInfoRenderer(),
    ]


def _console() -> list[structlog.typing.Processor]:
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ]


def _json() -> list[structlog.typing.Processor]:
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(sort_keys=False, default=str),
    ]
