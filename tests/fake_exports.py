"""Exports of a target that is not there: their rows, and when they come, are up to the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

from cdc_consumer.page_exports import Exports
from widetable.export import Export, ExportColumn, ExportRequest
from widetable.postgres import Connection

CHANNELS = ("engine/1", 'nav/<b>"2"', "nav/3")
QUERY = "ship=IMO9976903&from=2025-01-01&to=2025-01-02"
FIRST: list[list[str | None]] = [
    ["2025-01-01 00:00:00", "12.5", None, "<script>"],
    ["2025-01-01 00:00:15", "12.6", "x", "y"],
]


@dataclass
class FakeSession:
    """A session that knows whether it is closed; `cancel` is what it does when it is to break off."""

    closed: bool = False
    cancel: Callable[[float], None] = lambda _timeout: None

    def close(self) -> None:
        """End it."""
        self.closed = True

    def cancel_safe(self, *, timeout: float) -> None:
        """By default nothing is under way."""
        self.cancel(timeout)


class FakeExport(Export):
    """A good request's stream, from the chunks that it is given."""

    def __init__(self, request: ExportRequest, chunks: Iterable[bytes]) -> None:
        self.request, self._given = request, chunks
        self.rows, self.rows_read, self.overflow = 5_760, 0, 3
        self.columns = [ExportColumn(name, name, "text", f"c{at}") for at, name in enumerate(CHANNELS)]

    def chunks(self) -> Iterator[bytes]:
        """As given; each counts for ten rows."""
        for chunk in self._given:
            self.rows_read += 10
            yield chunk

    def first_rows(self, rows: int, columns: int) -> list[list[str | None]]:
        """Two."""
        return [row[:columns] for row in FIRST][:rows]


@dataclass
class FakeTarget:
    """Opens sessions and exports; `chunks` makes the stream of each, `error` refuses them."""

    chunks: Callable[[], Iterable[bytes]] = lambda: [b"created_time\n"]
    error: Exception | None = None
    sessions: list[FakeSession] = field(default_factory=list)

    def exports(self, at_once: int = 2) -> Exports:
        """Exports from here."""
        return Exports(self._connect, at_once, self._look)

    def _connect(self) -> Connection:
        self.sessions.append(FakeSession())
        return cast("Connection", self.sessions[-1])

    def _look(self, _conn: Connection, request: ExportRequest) -> Export:
        if self.error:
            raise self.error
        return FakeExport(request, self.chunks())
