"""The governor's chore: newcomers get their columns and tables, and the log says what was done or is stuck."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import structlog

from widetable.governor import GovernorReport, govern
from widetable.postgres import Connection
from widetable.settings import TargetSettings

log = structlog.get_logger(__name__)


class Governor:
    """Runs one bounded step at a time."""

    def __init__(self, connect: Callable[[], Connection], target: TargetSettings) -> None:
        self._connect = connect
        self._target = target
        self._told: dict[str, Any] = {}

    def step(self) -> bool:
        """Do one step; true if there is more to do at once."""
        report = govern(self._connect, self._target)
        self._tell(report)
        return report.more

    def _tell(self, report: GovernorReport) -> None:
        """Log what changed; what stays stuck or waiting is said once, not every two seconds."""
        found = {
            name: value for name, value in asdict(report).items() if value and name not in {"busy", "more"}
        }
        news = {name: value for name, value in found.items() if self._told.get(name) != value}
        if news:
            level = log.warning if report.stuck or report.waiting else log.info
            level("governed", **news)
        self._told = {name: found[name] for name in ("stuck", "waiting") if name in found}
