"""`cdc-consumer check`: everything that must be right, looked at without changing anything.

In: settings. Out: one result per check. Guarantee: "bad" (a person must act) is told apart from "could not
check" (something does not answer), and one part that is away does not hide what there is to say of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cdc_consumer import database_checks, stream_checks
from cdc_consumer.findings import Finding, Status
from cdc_consumer.parts import Parts
from cdc_consumer.settings import Settings
from widetable.command_line import named
from widetable.errors import ConfigurationError, ExitCode, StoppedError

CHECKS: Final[dict[str, Callable[[Parts], Finding]]] = {
    "source database": database_checks.source_answers,
    "target database": database_checks.target_answers,
    "control schema": database_checks.control_schema,
    "logical replication": database_checks.replication,
    "WAL limit": database_checks.wal_limit,
    "source role": database_checks.source_role,
    "narrow table": database_checks.narrow_table,
    "publication": database_checks.publication,
    "target role": database_checks.target_role,
    "clusters": database_checks.same_cluster,
    "Kafka": stream_checks.kafka,
    "topic": stream_checks.topic,
    "schema registry": stream_checks.registry,
    "Kafka Connect": stream_checks.connect,
    "connector": stream_checks.connector,
    "hand-off": stream_checks.hand_off,
    "replication slot": stream_checks.slot,
    "heartbeat": database_checks.heartbeat,
}
"""In the order of the data, each part's own check before those that need it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found."""

    check: str
    status: Status
    text: str


def check(settings: Settings) -> Iterator[Result]:
    """Run all checks, in order; each result comes as soon as it is known."""
    with Parts(settings) as parts:
        for name, look in CHECKS.items():
            finding = _look(look, parts)
            yield Result(name, finding.status, finding.text)


def exit_code(results: list[Result]) -> ExitCode:
    """Something bad is a configuration error; only unknowns mean that something does not answer."""
    found = {result.status for result in results}
    if "bad" in found:
        return ExitCode.CONFIGURATION
    return ExitCode.UNREACHABLE if "unknown" in found else ExitCode.DONE


def _look(look: Callable[[Parts], Finding], parts: Parts) -> Finding:
    try:
        return look(parts)
    except Exception as error:
        known = named(error)
        if known is None:
            raise
        wrong = isinstance(known, ConfigurationError | StoppedError)
        return Finding("bad" if wrong else "unknown", str(known))
