"""A connection pooler is recognised by the process ids that it makes up."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from cdc_consumer.database_checks import session_finding
from widetable.postgres import Connection


@dataclass
class FakeInfo:
    """What a handshake told."""

    backend_pid: int

    def parameter_status(self, name: str) -> str:
        """The server's version."""
        return {"server_version": "18.0"}[name]


@dataclass
class FakeSession:
    """A session whose server process changes as a pooler would have it."""

    info: FakeInfo
    pids: list[int] = field(default_factory=list)

    def transaction(self) -> Any:
        """A transaction that does nothing."""
        return nullcontext()

    def execute(self, *_: Any) -> Any:
        """The pid of the server process that answers this time."""
        return FakeRows(self.pids.pop(0))


@dataclass
class FakeRows:
    """One row of one number."""

    pid: int

    def fetchone(self) -> tuple[int]:
        """The row."""
        return (self.pid,)


@pytest.mark.parametrize(
    ("handshake", "first", "second", "status", "text"),
    [
        pytest.param(10, [10], [], "ok", "PostgreSQL 18.0", id="no pooler"),
        pytest.param(99, [10, 10], [11], "warning", "session mode", id="session mode"),
        pytest.param(99, [10, 11], [10], "bad", "transaction mode", id="transaction mode"),
    ],
)
def test_a_pooler_in_transaction_mode_is_bad(
    handshake: int, first: list[int], second: list[int], status: str, text: str
) -> None:
    """It breaks session locks, temporary tables and prepared statements."""
    sessions = FakeSession(FakeInfo(handshake), first), FakeSession(FakeInfo(98), second)
    finding = session_finding(cast("Connection", sessions[0]), cast("Connection", sessions[1]), "CDC_X")
    assert finding.status == status
    assert text in finding.text
