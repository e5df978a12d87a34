"""What the source holds, as far as planning needs to know: its span, where its rows lie, how wide they pivot.

In: a session on the source and a scope. Out: `History`. Guarantee: a table of billions of rows is never
scanned: figures come from the planner's statistics and a few index probes; only a small table is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import chain
from typing import Any, Final, Literal

from psycopg import sql

from backfill.planner import Segment, density
from backfill.scope import Scope
from widetable.moments import moment_sql
from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US
from widetable.postgres import Connection
from widetable.settings import SourceSettings
from widetable.statements import load_statements

SQL: Final = load_statements(files("backfill") / "sql" / "source.sql")

COUNT_BYTES: Final = 256 * 1024 * 1024
"""A table up to this size is counted: about two million rows, a second."""
COUNT_BUCKETS: Final = 2_048
PROBES: Final = 2_048
"""Questions to the planner. Its histograms have 100 buckets by default: more would not tell more."""
FEW_SEGMENTS: Final = 8
SAMPLES: Final = 5
SAMPLE_ROWS: Final = 20_000

Basis = Literal["counted", "statistics", "guessed"]


@dataclass(frozen=True, slots=True)
class History:
    """The narrow rows of a scope.

    Attributes:
        segments: where they lie; none if the scope holds nothing.
        wide_rows_per_row: distinct (ship, moment) pairs per narrow row: small where moments are aligned, 1
            where every sample has a moment of its own.
        indexed: whether an index leads with created_time, so that a slice reads only its own rows.
        basis: how the figures were found: exact, from ANALYZE's statistics, or guessed from the table's size.
    """

    segments: tuple[Segment, ...]
    wide_rows_per_row: float
    indexed: bool
    basis: Basis

    @property
    def rows(self) -> int:
        """Narrow rows in all."""
        return round(sum(segment.rows for segment in self.segments))


def look_at_history(conn: Connection, source: SourceSettings, scope: Scope, slice_rows: int) -> History:
    """Find out where the rows of a scope lie."""
    asked = _Questions(conn, source, scope)
    size, analysed, indexed = asked.one("facts")
    span = asked.span()
    if span is None:
        return History((), 0.0, indexed, "counted")
    basis: Basis = "counted" if size <= COUNT_BYTES else "statistics" if analysed else "guessed"
    segments = asked.segments(basis, span, slice_rows)
    sampled = asked.wide_rows_per_row(segments) if indexed or basis == "counted" else 0.0
    return History(tuple(segments), sampled, indexed, basis)


class _Questions:
    """Queries about the rows of a scope."""

    def __init__(self, conn: Connection, source: SourceSettings, scope: Scope) -> None:
        self._conn = conn
        self._scope = scope
        table = sql.Identifier(*source.table.split("."))
        self._parts: dict[str, sql.Composable] = {
            "table": table,
            "table_name": sql.Literal(table.as_string()),
            "ships": sql.SQL("{}::text[]").format(sql.Literal(list(scope.ships))),
        }

    def one(self, name: str, **parts: sql.Composable) -> tuple[Any, ...]:
        """The only row of a statement."""
        row = self._conn.execute(self._statement(name, **parts)).fetchone()
        return row or ()

    def span(self) -> tuple[int, int] | None:
        """First moment and the one after the last of the scope's range, whatever ship they are of."""
        lower = FIRST_MOMENT_US if self._scope.from_us is None else self._scope.from_us
        upper = LAST_MOMENT_US if self._scope.until_us is None else self._scope.until_us
        first, last = self.one("span", **_range(lower, upper))
        return None if first is None else (first, last + 1)

    def segments(self, basis: Basis, span: tuple[int, int], slice_rows: int) -> list[Segment]:
        """Where the rows lie."""
        match basis:
            case "counted":
                return self._refined(self._counted(*span), slice_rows)
            case "statistics":
                share = self._share()
                grain = max(slice_rows / max(share, 1 / PROBES), self._explained(*span) / PROBES)
                every = density(*span, self._explained, grain, PROBES)
                return [replace(segment, rows=segment.rows * share) for segment in every]
            case "guessed":
                return [Segment(*span, self._everything())]

    def _refined(self, segments: list[Segment], slice_rows: int) -> list[Segment]:
        """Count again within the few parts that hold most: one clock that jumped makes a span of decades."""
        heavy = [part for part in segments if part.rows > slice_rows and part.upper_us - part.lower_us > 1]
        if not heavy or len(heavy) > FEW_SEGMENTS:
            return segments
        parts = [self._refined(self._counted(part.lower_us, part.upper_us), slice_rows) for part in heavy]
        light = [part for part in segments if part not in heavy]
        return sorted(chain(light, *parts), key=lambda part: part.lower_us)

    def _counted(self, lower_us: int, upper_us: int) -> list[Segment]:
        """Exact counts of equal parts of a range."""
        buckets = min(COUNT_BUCKETS, upper_us - lower_us)
        edges = [lower_us + (upper_us - lower_us) * i // buckets for i in range(buckets + 1)]
        numbers = {
            "length_s": sql.Literal((upper_us - lower_us) / 1_000_000),
            "buckets": sql.Literal(buckets),
        }
        found = self._conn.execute(self._statement("counted", **_range(lower_us, upper_us), **numbers))
        return [Segment(edges[bucket], edges[bucket + 1], rows) for bucket, rows in found]

    def _explained(self, lower_us: int, upper_us: int) -> float:
        """Rows of all ships in a range, as PostgreSQL's planner expects them."""
        return _plan_rows(self.one("explained", **_range(lower_us, upper_us)))

    def _share(self) -> float:
        """The part of all rows that belongs to the scope's ships."""
        rows = [_plan_rows(self.one("explained_ship", ship=sql.Literal(ship))) for ship in self._scope.ships]
        return min(1.0, sum(rows) / max(1.0, self._everything()))

    def _everything(self) -> float:
        """Rows of the whole table, as the planner sees it."""
        return _plan_rows(self.one("explained_all"))

    def wide_rows_per_row(self, segments: list[Segment]) -> float:
        """Look at a few runs of rows, spread over the history."""
        chosen = segments[:: max(1, len(segments) // SAMPLES)][:SAMPLES]
        limit = sql.Literal(SAMPLE_ROWS)
        found = [
            self.one("sampled", **_range(segment.lower_us, segments[-1].upper_us), rows=limit)
            for segment in chosen
        ]
        rows = sum(count for count, _ in found)
        return sum(wide for _, wide in found) / rows if rows else 0.0

    def _statement(self, name: str, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(SQL[name]).format(**self._parts, **parts)


def _range(lower_us: int, upper_us: int) -> dict[str, sql.Composable]:
    return {"lower": moment_sql(lower_us), "upper": moment_sql(upper_us)}


def _plan_rows(row: tuple[Any, ...]) -> float:
    return float(row[0][0]["Plan"]["Plan Rows"])
