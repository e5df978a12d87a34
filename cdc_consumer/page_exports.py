"""Exports from the status page: a look at the first rows, and the file as a stream.

In: queries of browsers. Out: answers, and progress for `/status.json`. Guarantees: so many at a time and no more,
each on a session of its own that only reads and whose statements are bounded; whatever is wrong is said before the
first byte; what breaks off later never looks whole; the end of the program waits for none of them.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from threading import Condition
from time import monotonic
from typing import Any, Final, Literal

import structlog

from cdc_consumer.export_query import KIND, export_request, file_name
from cdc_consumer.monitor import Answer, Stream
from widetable.command_line import named
from widetable.control import check_control
from widetable.errors import NotFoundError, RequestError, StoppedError, UnreachableError, WideTableError
from widetable.export import Export, ExportRequest, open_export
from widetable.moments import moment_text
from widetable.postgres import Connection, connect_target
from widetable.settings import TargetSettings

log = structlog.get_logger(__name__)

STATEMENT_S: Final = 30
PATIENCE: Final = f"SET statement_timeout = '{STATEMENT_S}s'"
READ_ONLY: Final = "SET default_transaction_read_only = on"
PIECE_BYTES: Final = 64 << 10
"""Between two pieces an export can be told to stop, and a client shown to be away."""
ENDED: Final = 5
"""Exports that are over and still shown."""
STOP_S: Final = 2.0
"""How long the end of the program waits for exports to notice it, for all of them together."""
MIN_CANCEL_S: Final = 0.1
"""What the last session that is cancelled gets at least."""
SHOWN_ROWS: Final = 10
SHOWN_COLUMNS: Final = 9
SHOWN_LETTERS: Final = 100
"""What a look at the first rows shows of them."""

State = Literal["running", "whole", "broken"]


def export_session(target: TargetSettings) -> Connection:
    """A session on the target that can only read, and not for long.

    Raises:
        WideTableError: the target does not answer, or has no control schema of this version.
    """
    conn = connect_target(target, "cdc-consumer export")
    try:
        check_control(conn, target.control_schema)
        conn.execute(PATIENCE)
        conn.execute(READ_ONLY)
    except BaseException:
        conn.close()
        raise
    return conn


@dataclass(slots=True, eq=False)
class Transfer:
    """One export, from its first look at the target until it is over."""

    number: int
    request: ExportRequest
    conn: Connection | None = None
    found: Export | None = None
    size: int = 0
    state: State = "running"

    def facts(self) -> dict[str, Any]:
        """For the page, as plain values."""
        return {
            "number": self.number,
            "ship": self.request.ship_id,
            "from": moment_text(self.request.from_us),
            "to": moment_text(self.request.until_us),
            "format": self.request.format,
            "rows": self.found.rows_read if self.found else 0,
            "of": self.found.rows if self.found else 0,
            "bytes": self.size,
            "state": self.state,
        }


@dataclass(slots=True)
class Exports:
    """All exports of this program.

    Attributes:
        connect: opens a session that can only read (`export_session`).
        at_once: how many there may be at a time, looks included; 0 for none.
        look: finds out whether a request is good (`open_export`).
    """

    connect: Callable[[], Connection]
    at_once: int
    look: Callable[[Connection, ExportRequest], Export] = open_export
    _running: list[Transfer] = field(default_factory=list, init=False)
    _ended: deque[Transfer] = field(default_factory=lambda: deque(maxlen=ENDED), init=False)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1), init=False)
    _changed: Condition = field(default_factory=Condition, init=False)
    _stopping: bool = field(default=False, init=False)

    def facts(self) -> list[dict[str, Any]]:
        """Downloads under way and those that ended last, newest first."""
        with self._changed:
            shown = [*(transfer for transfer in self._running if transfer.number), *self._ended]
        return [transfer.facts() for transfer in sorted(shown, key=lambda transfer: -transfer.number)]

    def preview(self, query: str) -> Answer:
        """What the file would hold, and its first rows, as JSON; or a sentence that says what is wrong."""
        try:
            request = export_request(query)
            transfer = self._begin(Transfer(0, request))
            try:
                with _asking_the_target():
                    shown = _shown(request, self._open(transfer))
            finally:
                self._end(transfer)
        except Exception as error:  # noqa: BLE001 - a bug is raised again
            return _refusal(error)
        return Answer(200, json.dumps(shown).encode(), {"Content-Type": "application/json"})

    def download(self, query: str) -> Answer | Stream:
        """The file, once the request is found good; or a sentence that says what is wrong."""
        try:
            request = export_request(query)
            transfer = self._begin(Transfer(next(self._numbers), request))
            try:
                with _asking_the_target():
                    found = self._open(transfer)
            except BaseException:
                self._end(transfer)
                raise
        except Exception as error:  # noqa: BLE001 - a bug is raised again
            return _refusal(error)
        headers = {
            "Content-Type": KIND[request.format],
            "Content-Disposition": f'attachment; filename="{file_name(request)}"',
        }
        return Stream(self._pieces(transfer, found), headers, lambda whole: self._end(transfer, whole=whole))

    def close(self) -> None:
        """Break off what is under way, within `STOP_S` for all exports together.

        What hangs on a client that does not read, or on a target that does not hear, ends with the program.
        """
        deadline = monotonic() + STOP_S
        with self._changed:
            self._stopping = True
            sessions = [transfer.conn for transfer in self._running if transfer.conn]
        for conn in sessions:
            if (left_s := deadline - monotonic()) <= 0:
                break  # the target hears nobody; a supervisor does not wait for each
            try:
                conn.cancel_safe(timeout=max(MIN_CANCEL_S, left_s))
            except Exception as error:  # noqa: BLE001 - it ends with the program at the latest
                log.info("export_not_cancelled", error=str(error))
        with self._changed:
            self._changed.wait_for(lambda: not self._running, max(0.0, deadline - monotonic()))

    def _begin(self, transfer: Transfer) -> Transfer:
        with self._changed:
            if self._stopping:
                raise UnreachableError("The consumer is being stopped: ask again when it runs.")
            if len(self._running) >= self.at_once:
                raise UnreachableError(
                    f"{self.at_once} exports are under way, and no more are allowed at a time: wait for one to end."
                )
            self._running.append(transfer)
        return transfer

    def _open(self, transfer: Transfer) -> Export:
        transfer.conn = self.connect()
        transfer.found = self.look(transfer.conn, transfer.request)
        return transfer.found

    def _pieces(self, transfer: Transfer, found: Export) -> Iterator[bytes]:
        """The stream in pieces that are never empty: an empty one would be taken for its end."""
        for chunk in found.chunks():
            for at in range(0, len(chunk), PIECE_BYTES):
                if self._stopping:
                    raise StoppedError("The consumer is being stopped")
                piece = chunk[at : at + PIECE_BYTES]
                yield piece
                transfer.size += len(piece)

    def _end(self, transfer: Transfer, *, whole: bool = False) -> None:
        transfer.state = "whole" if whole else "broken"
        if transfer.conn is not None:
            transfer.conn.close()
        with self._changed:
            self._running.remove(transfer)
            if transfer.number and transfer.found:
                self._ended.append(transfer)
                log.info("export_ended", **transfer.facts())
            self._changed.notify_all()


@contextmanager
def _asking_the_target() -> Iterator[None]:
    """What is wrong with the request goes on; the target's trouble is logged, and is no stranger's business."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        if (known := named(error)) is None:
            raise
        log.warning("export_refused", error=str(known))
        raise UnreachableError(
            f"The target does not answer, or not within {STATEMENT_S} s: try again, or a shorter period."
        ) from error


def _shown(request: ExportRequest, found: Export) -> dict[str, Any]:
    rows = found.first_rows(SHOWN_ROWS, SHOWN_COLUMNS)
    return {
        "file": file_name(request),
        "rows": found.rows,
        "channels": len(found.columns),
        "overflow": found.overflow,
        "columns": ["created_time", *(column.channel_id for column in found.columns)][:SHOWN_COLUMNS],
        "first": [[None if text is None else text[:SHOWN_LETTERS] for text in row] for row in rows],
    }


def _refusal(error: Exception) -> Answer:
    """The sentence for who asked.

    Raises:
        Exception: the error itself, where it is a bug.
    """
    match named(error):
        case NotFoundError() as known:
            status = 404
        case RequestError() as known:
            status = 400
        case WideTableError() as known:
            status = 503
        case None:
            raise error
    return Answer(status, f"{known}\n".encode(), {"Content-Type": "text/plain; charset=utf-8"})
