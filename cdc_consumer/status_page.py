"""The status page at `/`: what operators of a fleet look at without Grafana.

In: the parent's counts and gauges, and the target's facts about ships. Out: four files of this package,
`/status.json`, and exports. Everything that the page shows by itself is in that JSON; the page has no other source,
loads nothing from elsewhere, and makes text of every id.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from ipaddress import ip_address
from threading import Lock
from typing import Any, Final

from cdc_consumer.fleet import Fleet
from cdc_consumer.metrics import Snapshot
from cdc_consumer.monitor import Answer, Request, Stream
from cdc_consumer.page_exports import Exports
from cdc_consumer.rates import EVERY_S, Rates
from cdc_consumer.settings import ConsumerSettings
from cdc_consumer.target_facts import Gauges
from widetable.command_line import named

FLEET_EVERY_S: Final = 10.0
LATE_S: Final = 300.0
VERY_LATE_S: Final = 3_600.0
HALF: Final = 0.5
NEARLY_GONE: Final = 0.15
FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/status.css": ("status.css", "text/css; charset=utf-8"),
    "/status.js": ("status.js", "text/javascript; charset=utf-8"),
    "/export.js": ("export.js", "text/javascript; charset=utf-8"),
}
PATHS: Final = frozenset({*FILES, "/status.json", "/export.json", "/export"})
SAFE: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
FACTS: Final = {
    "slot_active": "cdc_slot_active",
    "retained_bytes": "cdc_slot_retained_bytes",
    "budget_bytes": "cdc_slot_wal_budget_bytes",
    "heartbeat_age_s": "cdc_heartbeat_age_seconds",
    "settled_age_s": "cdc_settled_age_seconds",
    "overflow": "cdc_overflow_cells",
    "ships": "cdc_ships",
    "verified_ships": "cdc_verified_ships",
    "verified_age_s": "cdc_verified_age_seconds",
    "verify_required": "cdc_verify_required",
    "rows": "cdc_backfill_rows",
    "rows_per_s": "cdc_backfill_rows_per_second",
    "eta_s": "cdc_backfill_eta_seconds",
}
OFF: Final = Answer(
    404,
    b"the status page is off beyond this machine: CDC_CONSUMER__STATUS_PAGE=on shows it to whoever reaches this"
    b" port; here are /metrics, /healthz and /readyz\n",
)
NO_EXPORTS: Final = Answer(
    404,
    b"exports from the status page are off: CDC_CONSUMER__PAGE_EXPORTS=2 allows two at a time to whoever reaches"
    b" this port; `backfill export` writes the same file\n",
)
ELSEWHERE: Final = Answer(403, b"another web page asked for this: use the status page itself\n")
TOO_OLD: Final = Answer(
    505,
    b"an export is sent in chunks, which HTTP/1.0 does not have: a proxy in between must speak HTTP/1.1"
    b" (nginx: proxy_http_version 1.1)\n",
)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_shown(settings: ConsumerSettings) -> bool:
    """Whether there is a page: by default only for this machine."""
    return settings.status_page == "on" or (
        settings.status_page == "auto" and is_loopback(settings.http_host)
    )


@dataclass(frozen=True, slots=True)
class Sources:
    """What the page is made of."""

    pipeline: str
    snapshot: Callable[[], Snapshot]
    ready: Callable[[], bool]
    watched: Callable[[], Gauges]
    rates: Rates
    fleet: Callable[[], Fleet]


class StatusPage:
    """Answers the page's paths; the target is asked at most every few seconds, however many look."""

    def __init__(
        self,
        settings: ConsumerSettings,
        sources: Sources,
        exports: Exports,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shown = is_shown(settings)
        self._local = settings.status_page != "on"
        self._sources = sources
        self._exports = exports
        self._clock = clock
        self._lock = Lock()
        self._fleet: dict[str, Any] = {"ships": [], "history": None}
        self._problem: str | None = None
        self._read_at = float("-inf")

    def answer(self, request: Request) -> Answer | Stream | None:
        """The answer to a path of the page; None where it is none of ours."""
        if request.path not in PATHS:
            return None
        # Where only this machine may look, so may no web page that made its own name point here. It is no login: a
        # proxy on this machine names this machine, whoever asks the proxy.
        host = request.host.rpartition(":")[0] or request.host
        if not self._shown or (self._local and not is_loopback(host)):
            return OFF
        answer = self._answer(request)
        return replace(answer, headers={**answer.headers, **SAFE})

    def _answer(self, request: Request) -> Answer | Stream:
        match request.path:
            case "/status.json":
                return Answer(200, json.dumps(self.status()).encode(), {"Content-Type": "application/json"})
            case "/export.json" | "/export":
                return self._export(request)
        name, kind = FILES[request.path]
        return Answer(200, (files("cdc_consumer") / "page" / name).read_bytes(), {"Content-Type": kind})

    def _export(self, request: Request) -> Answer | Stream:
        if not self._exports.at_once:
            return NO_EXPORTS
        # Browsers say so to HTTPS and to loopback only; elsewhere a login in a proxy is the guard.
        if request.site not in {"", "none", "same-origin"}:
            return ELSEWHERE
        if request.path == "/export.json":
            return self._exports.preview(request.query)
        return TOO_OLD if request.version < "HTTP/1.1" else self._exports.download(request.query)

    def status(self) -> dict[str, Any]:
        """All that the page shows, as plain values."""
        counts, watched = self._sources.snapshot(), self._sources.watched()
        fleet = self._asked_fleet()
        dead, slices = watched.get("cdc_dead_cells"), watched.get("cdc_backfill_slices")
        level = _wal_level(watched)
        problems = [{"level": level, "text": text} for level, text in self._problems(counts, watched)]
        return {
            "pipeline": self._sources.pipeline,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "problems": problems,
            "partitions": _partitions(counts),
            "rates": {"every_s": EVERY_S, **self._sources.rates.series()},
            "facts": {name: watched.get(metric) for name, metric in FACTS.items()},
            "connector": next(iter(_labels(watched.get("cdc_connector_state"))), None),
            "wal_level": level,
            "dead": _labels(dead),
            "dead_known": dead is not None,
            "slices": None if slices is None else _labels(slices),
            "exports": self._exports.facts() if self._exports.at_once else None,
            **fleet,
        }

    def _asked_fleet(self) -> dict[str, Any]:
        with self._lock:
            if self._clock() - self._read_at >= FLEET_EVERY_S:
                try:
                    self._fleet, self._problem = self._sources.fleet().facts(), None
                except Exception as error:
                    if (known := named(error)) is None:
                        raise
                    self._problem = str(known)
                self._read_at = self._clock()
            return self._fleet

    def _problems(self, counts: Snapshot, watched: Gauges) -> Iterator[tuple[str, str]]:
        """(bad or warn, sentence) of what an alert would be about; names no ship and no value."""
        if not self._sources.ready():
            yield "warn", "Not all processes run, report, and have claimed their partitions."
        if (late_s := max(counts.late_s.values(), default=0.0)) > LATE_S:
            yield ("bad" if late_s > VERY_LATE_S else "warn"), "The stream is late: records wait in Kafka."
        if watched.get("cdc_connector_running") == 0:
            yield "bad", "Debezium's connector does not run: changes pile up in the source's WAL."
        if level := _wal_level(watched):
            yield level, "The replication slot's WAL budget runs out."
        if _labels(watched.get("cdc_backfill_slices")).get("failed"):
            yield "warn", "Slices of history were given up: see `backfill status`."
        if watched.get("cdc_verify_required"):
            yield "warn", "A full verify is due: run `backfill verify --repair`."
        if "cdc_slot_active" not in watched or "cdc_connector_running" not in watched:
            yield "warn", "The source or Kafka Connect can't be looked at."
        if self._problem:
            yield "warn", "The target can't be looked at: what is shown of ships and history is old."


def _partitions(counts: Snapshot) -> list[dict[str, Any]]:
    return [
        {
            "partition": number,
            "lag": lag,
            "late_s": round(counts.late_s.get(number, 0.0), 1),
            "offset": counts.positions.get(number),
        }
        for number, lag in sorted(counts.lag.items())
    ]


def _wal_level(watched: Gauges) -> str:
    """How near the slot is to being lost: nothing, warn or bad."""
    budget, kept = watched.get("cdc_slot_wal_budget_bytes"), watched.get("cdc_slot_retained_bytes")
    if not isinstance(budget, float | int) or not isinstance(kept, float | int) or budget + kept <= 0:
        return ""
    left = budget / (budget + kept)
    return "bad" if left < NEARLY_GONE else "warn" if left < HALF else ""


def _labels(value: float | Mapping[str, float] | None) -> dict[str, float]:
    return dict(value) if isinstance(value, Mapping) else {}
