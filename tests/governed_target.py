"""A target with a writer and a governor, and the samples of a channel that nobody has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from psycopg import sql

from widetable.apply import Origin, Writer
from widetable.channel_map import ChannelList
from widetable.ddl import apply_schema
from widetable.errors import LayoutChangedError
from widetable.governor import GovernorReport, govern
from widetable.narrow import FORMATS, NARROW_SCHEMA, VALUE_COLUMNS, Op
from widetable.postgres import Connection, connect_target
from widetable.registry import require_registry
from widetable.sampling import Sample
from widetable.schema_plan import plan_schema
from widetable.settings import TargetSettings

ORIGIN = Origin("test")
LISTS = (
    ChannelList(1, "auxiliary_systems", ("/v1/ab01//x",)),
    ChannelList(2, "engine_generator", ("/v1/me01//x", "/v1/me01//y")),
    ChannelList(3, "navigation_ship", ("/v1/vdr//x",)),
)
KNOWN, NEW = "/v1/me01//x", "/v1/me02//new"


def event(
    op: Op,
    value: str | None,
    *,
    ship: str = "S1",
    channel: str = NEW,
    moment_s: int = 0,
    lsn: int = 0,
    form: str = "Decimal",
) -> dict[str, Any]:
    """One sample of a NarrowBatch; the version is (1, lsn)."""
    column = VALUE_COLUMNS[FORMATS.index(form)]
    return {
        "ship_id": ship,
        "channel_id": channel,
        "created_time": moment_s * 1_000_000,
        "value_format": form,
        **dict.fromkeys(VALUE_COLUMNS),
        column: value,
        "op": int(op),
        "epoch": 0 if op == Op.READ else 1,
        "lsn": 0 if op == Op.READ else lsn,
        "partition": -1,
        "offset": -1,
    }


@dataclass
class Target:
    """A target with a writer, as the consumer has one."""

    settings: TargetSettings
    conn: Connection
    writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        self.writer = Writer(self.conn)
        self.writer.load()

    def write(self, *events: dict[str, Any]) -> None:
        """One batch, applied as the consumer does: on a changed layout, load and try again."""
        batch = pa.RecordBatch.from_pylist(list(events), NARROW_SCHEMA)
        while True:
            try:
                with self.conn.transaction():
                    self.writer.begin()
                    assert self.writer.apply(batch, [], ORIGIN).balanced
            except LayoutChangedError:
                self.writer.load()
            else:
                return

    def govern(self, **options: float) -> GovernorReport:
        """One step of the governor, on a session of its own."""
        return govern(lambda: connect_target(self.settings, "governor"), self.settings, **options)

    def cells(self, ship: str = "S1", table_no: int = 2) -> dict[tuple[int, str], tuple[Any, Any]]:
        """(second, channel) -> (value, version) of every cell of a wide table that has either."""
        registry = require_registry(self.conn)
        name = sql.Identifier(registry.wide_schema, f"tbl_data_timeseries_{ship.lower()}_{table_no}")
        found = {}
        for column in (column for column in registry.columns[table_no] if not column.pending):
            query = sql.SQL("SELECT extract(epoch FROM created_time)::int, {}::text, _x -> {} FROM {}")
            parts = (sql.Identifier(column.name), sql.Literal(str(column.ordinal)), name)
            for second, value, version in self.conn.execute(query.format(*parts)):
                if value is not None or version is not None:
                    found[second, column.channel_id] = (value, version)
        return found

    def overflow(self) -> list[tuple[Any, ...]]:
        """(ship, channel, value, kind, reason) of every overflow row."""
        query = (
            "SELECT ship_id, channel_id, value, kind, reason FROM overflow_cell ORDER BY 1, created_time, 2"
        )
        return self.conn.execute(query).fetchall()


Open = Callable[..., Target]


@contextmanager
def governed_targets(dsn: str) -> Iterator[Open]:
    """Makes targets in one database, each in schemas of its own."""
    with ExitStack() as stack:

        def make(
            name: str = "one",
            lists: Sequence[ChannelList] = LISTS,
            ships: Sequence[str] = ("S1",),
            **choices: Any,
        ) -> Target:
            settings = TargetSettings(dsn=dsn, wide_schema=f"wide_{name}", control_schema=f"control_{name}")
            conn = stack.enter_context(connect_target(settings, "test"))
            apply_schema(conn, settings, plan_schema(lists, Sample(tuple(ships)), **choices))
            return Target(settings, conn)

        yield make
