"""Structured logs on stderr, and in a file if one is named: JSON for machines, aligned and coloured for people.

Guarantee: stdout stays free for a command's answer; one event is one line off a terminal, libraries' events
included; no event shows a password (`widetable.masking`).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import structlog
from pydantic import Field

from widetable.log_file import LogFile
from widetable.masking import masked
from widetable.settings import LogFormat, Section

Level = Literal["debug", "info", "warning", "error"]
Event = MutableMapping[str, Any]


class LogSettings(Section):
    """What is logged, and how."""

    level: Level = Field("info", description="Least severe level that is logged.")
    format: LogFormat = Field("auto", description="json, console, or auto: console on a terminal, else json.")
    file: Path | None = Field(
        None, description="File that gets the logs, too, as JSON; 5 pieces of 10 MB. Unset: stderr only."
    )


def configure(settings: LogSettings) -> None:
    """Set up structlog and the standard library's logging for the whole process.

    Raises:
        ConfigurationError: the log file can't be written.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    file = [_Tee(LogFile(settings.file))] if settings.file else []
    structlog.configure(
        processors=[*_shared(), *file, *(_console() if console else _json())],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries log through the standard library; their warnings matter, their chatter does not.
    logging.basicConfig(handlers=[_Forward()], level=max(level, logging.WARNING), force=True)


def record_end(reason: str, code: int, trace: str | None = None) -> None:
    """Write to the log file why the program ends; stderr gets that as plain text."""
    tees = (part for part in structlog.get_config()["processors"] if isinstance(part, _Tee))
    for tee in tees:
        event = {"level": "error", "event": "ended", "code": int(code), "reason": reason}
        tee(None, "", {**_mask(None, "", event), **({"exception": trace} if trace else {})})


class _Forward(logging.Handler):
    """What libraries log becomes an event like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        logger.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


class _Tee:
    """Writes each event to the file as it passes by."""

    def __init__(self, file: LogFile) -> None:
        self._file = file

    def __call__(self, _logger: object, _method: str, event: Event) -> Event:
        moment = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        first = {"timestamp": moment, "level": event.get("level"), "event": event.get("event")}
        self._file.write(json.dumps({**first, **event}, default=str, ensure_ascii=False))
        return event


def _mask(_logger: object, _method: str, event: Event) -> Event:
    return dict(masked(event))


def _shared() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _mask,
    ]


def _console() -> list[structlog.typing.Processor]:
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        # rich's tracebacks show local variables, passwords among them
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _json() -> list[structlog.typing.Processor]:
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(sort_keys=False, default=str),
    ]
