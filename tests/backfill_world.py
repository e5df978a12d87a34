"""A small source and target for tests of `backfill`: three ships, three systems, two channels each."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from psycopg import sql

from backfill.cli import commands
from backfill.settings import BackfillSettings, Settings
from widetable.barrier import source_identity, take_barrier
from widetable.channel_map import ChannelList
from widetable.command_line import exit_code
from widetable.hand_off import HandOff, write_hand_off
from widetable.postgres import Connection, connect_source, fetch_one
from widetable.settings import SourceSettings, TargetSettings
from widetable.values import value_sql

SHIPS = ("IMO1000001", "IMO1000002", "IMO1000003")
LISTS = (
    ChannelList(1, "auxiliary_systems", ("aux/1", "aux/2")),
    ChannelList(2, "engine_generator", ("engine/1", "engine/2")),
    ChannelList(3, "navigation_ship", ("nav/1", "nav/2")),
)
CHANNELS = tuple(channel for part in LISTS for channel in part.channel_ids)
START = "2025-01-01 00:00:00"

Cells = dict[tuple[str, str, str], str]
"""Value by (ship, moment, channel), all as PostgreSQL text; NULL cells are left out."""

FILL = """
INSERT INTO tenant.tbl_data_timeseries
    (ship_id, data_channel_id, created_time, value_format, double_v, long_v, str_v, bool_v)
SELECT ship, channel, timestamp '{start}' + number * interval '15 s',
       CASE channel WHEN 'aux/1' THEN 'Integer' WHEN 'nav/1' THEN 'String' WHEN 'nav/2' THEN 'Boolean'
                    ELSE 'Decimal' END,
       CASE WHEN channel NOT IN ('aux/1', 'nav/1', 'nav/2') THEN number / 7.0 END,
       CASE WHEN channel = 'aux/1' THEN number END,
       CASE WHEN channel = 'nav/1' THEN 'line ' || number || E'\\n\\t\\\\end' END,
       CASE WHEN channel = 'nav/2' THEN number %% 2 = 0 END
FROM generate_series(0, {moments} - 1) number, unnest(%s::text[]) ship, unnest(%s::text[]) channel
"""


@dataclass
class World:
    """Both databases with sessions on them, and the program that is tested."""

    source: Connection
    target: Connection
    source_dsn: str
    target_dsn: str
    environment: dict[str, str] = field(default_factory=dict)

    def settings(self, **section: object) -> Settings:
        """Settings with small waits; `section` overrides those of the backfill section."""
        small = {"workers": 1, "retry_wait_max_s": 0.1, "slice_rows": 60}
        return Settings(
            source=SourceSettings.model_validate({"dsn": self.source_dsn}),
            target=TargetSettings.model_validate({"dsn": self.target_dsn}),
            backfill=BackfillSettings.model_validate(small | section),
        )

    def empty(self) -> None:
        """Forget all rows, plans and hand-offs; the layout stays."""
        self.source.execute("TRUNCATE tenant.tbl_data_timeseries")
        tables = [self.wide_table(ship, part.table_no) for ship in SHIPS for part in LISTS]
        self.target.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(tables)))
        self.target.execute(
            "TRUNCATE plan, slice, hand_off, overflow_cell, dead_cell, deferred_index, correction_file, verified"
        )

    def reconnect_source(self) -> Connection:
        """One more session on the source."""
        return connect_source(self.settings().source, "test")

    # -- the source --------------------------------------------------------------------------------------

    def fill(self, moments: int, start: str = START) -> int:
        """Samples of every ship and channel at `moments` moments, 15 s apart; returns their number."""
        text = FILL.format(start=start, moments=moments)
        return self.source.execute(text.encode(), [list(SHIPS), list(CHANNELS)]).rowcount

    def add(self, moment: str, value: float, ship: str = SHIPS[0], channel: str = "engine/1") -> None:
        """One decimal sample."""
        self.source.execute(
            "INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, value_format,"
            " double_v) VALUES (%s, %s, %s, 'Decimal', %s)",
            [ship, channel, moment, value],
        )

    def narrow_cells(self) -> Cells:
        """What the wide tables should hold."""
        query = (
            f"SELECT t.ship_id, t.created_time::text, t.data_channel_id, {value_sql('t')}"
            " FROM tenant.tbl_data_timeseries t WHERE isfinite(t.created_time)"
        )
        rows = self.source.execute(query.encode()).fetchall()
        return {(ship, moment, channel): value for ship, moment, channel, value in rows if value is not None}

    # -- the target --------------------------------------------------------------------------------------

    def wide_cells(self) -> Cells:
        """What the wide tables hold."""
        cells: Cells = {}
        for ship in SHIPS:
            for part in LISTS:
                for moment, channel, value in self._wide_table(ship, part.table_no):
                    cells[ship, moment, channel] = value
        return cells

    def wide_table(self, ship: str, table_no: int) -> sql.Identifier:
        """A wide table's name."""
        return sql.Identifier("tenant", f"tbl_data_timeseries_{ship.lower()}_{table_no}")

    def _wide_table(self, ship: str, table_no: int) -> list[tuple[str, str, str]]:
        query = sql.SQL(
            "SELECT t.created_time::text, cell.key, cell.value FROM {} t, jsonb_each_text(to_jsonb(t)) cell"
            " WHERE cell.key NOT IN ('created_time', '_x') AND cell.value IS NOT NULL"
        )
        return self.target.execute(query.format(self.wide_table(ship, table_no))).fetchall()

    def hand_off(self, epoch: int = 1, barrier_xid: int | None = None, cluster: str | None = None) -> None:
        """What `init` leaves behind; the barrier is taken now unless given."""
        identity = source_identity(self.source)
        xid = take_barrier(self.source) if barrier_xid is None else barrier_xid
        write_hand_off(
            self.target,
            HandOff(
                pipeline="narrow_to_wide",
                epoch=epoch,
                system_identifier=cluster or identity.system_identifier,
                timeline=identity.timeline,
                slot="no_such_slot",
                publication="publication",
                consistent_point=1,
                barrier_xid=xid,
                topic="topic",
                topic_id="id",
                boundary_offsets={0: 0},
                placeholder="__unavailable",
            ),
        )

    def states(self) -> dict[str, int]:
        """Slices by state."""
        return dict(self.target.execute("SELECT state, count(*) FROM slice GROUP BY state").fetchall())

    def one(self, query: str) -> object:
        """The first column of the only row that a query on the target returns."""
        return fetch_one(self.target, query)[0]

    # -- the program -------------------------------------------------------------------------------------

    def backfill(self, *arguments: str) -> int:
        """Run `backfill` in this process (its workers in theirs); returns the exit code."""
        return exit_code(commands, arguments=arguments)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start `backfill` as a process."""
        return subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "backfill", *arguments],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Wait for something to become true; fail with its name if it does not."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


def environment_of(source_dsn: str, target_dsn: str, base: Mapping[str, str]) -> dict[str, str]:
    """The process environment that points `backfill` at the test's databases."""
    kept = {name: value for name, value in base.items() if not name.startswith("CDC_")}
    return kept | {
        "CDC_SOURCE__DSN": source_dsn,
        "CDC_TARGET__DSN": target_dsn,
        "CDC_BACKFILL__WORKERS": "1",
        "CDC_BACKFILL__SLICE_ROWS": "60",
        "CDC_BACKFILL__RETRY_WAIT_MAX_S": "0.1",
        "CDC_BACKFILL__GOVERNOR": "false",  # other tests share the server, and would slow this one down
    }
