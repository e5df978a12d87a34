"""Every mode of the polling scripts, by the command lines that docs/coming-from-polling.md shows for it."""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from devstack.databases import Server
from devstack.fleet import plan_fleet, write_history
from devstack.product import Process
from devstack.stack import Stack
from tests.chain_pipeline import DEADLINE_S, Pipeline, fresh_pipeline
from tests.doc_pages import PAGE_OF
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

FLEET = plan_fleet(2, seed=5)
SHIP = FLEET.ships[0]
NOW = datetime.now(UTC).replace(tzinfo=None, second=0, microsecond=0)
ROWS = 6_000
PAGE = PAGE_OF["docs/coming-from-polling.md"].text
BLOCKS = {
    name: block.strip().splitlines()
    for name, block in re.findall(
        r"^### ([a-z -]+)\n(?:(?!^#).)*?^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL
    )
}
"""The command lines of each mode, in the page's own order."""

CELLS = "num_nonnulls(bool_v, str_v, long_v, double_v) > 0"
LATE = "2001-02-03 04:05:06"


@dataclass
class Chain:
    """One pipeline for all modes; `reset` takes the target back to empty tables."""

    pipeline: Pipeline
    background: list[Process]

    def follow(self, mode: str, meanwhile: Callable[[], object] | None = None) -> None:
        """Type what the page shows; a line that ends in & runs on until `stop`, and `meanwhile` comes next."""
        for line in BLOCKS[mode]:
            words = [SHIP if word == "SHIP" else word for word in shlex.split(line)]
            if words[-1] == "&":
                self.background.append(self.pipeline.product.start(*words[:-1]))
                if meanwhile:
                    meanwhile()
            else:
                self.pipeline.succeed(*words)

    def stop(self) -> None:
        """SIGTERM for what runs in the background: that is how it ends well."""
        while self.background:
            process = self.background.pop()
            assert process.terminate() == 0, process.log.read_text()[-4000:]

    def source(self, query: str) -> int:
        """A number from the source, or the number of rows changed."""
        with psycopg.connect(self.pipeline.source, autocommit=True) as conn:
            cursor = conn.execute(query.encode())
            return int(cursor.fetchall()[0][0]) if cursor.description else cursor.rowcount

    def narrow(self, where: str = "true") -> int:
        """Cells that the wide tables should hold."""
        return self.source(f"SELECT count(*) FROM tenant.tbl_data_timeseries WHERE {CELLS} AND {where}")

    def tables(self) -> list[str]:
        """The wide tables there are."""
        with psycopg.connect(self.pipeline.target, autocommit=True) as conn:
            query = "SELECT tablename FROM pg_tables WHERE schemaname = 'tenant' AND tablename ~ '_[0-9]+$'"
            return [name for (name,) in conn.execute(query)]

    def wide(self, ship: str = "") -> int:
        """Cells that they hold."""
        parts = [
            f"SELECT count(*) FROM tenant.{name} t, jsonb_each(to_jsonb(t)) cell"
            " WHERE cell.key NOT IN ('created_time', '_x') AND cell.value <> 'null'"
            for name in self.tables()
            if ship.lower() in name
        ]
        return self.pipeline.target_value(f"SELECT sum(count) FROM ({' UNION ALL '.join(parts)}) AS part")

    def reset(self) -> None:
        """Empty wide tables and no plans, as if nothing had been copied yet."""
        with psycopg.connect(self.pipeline.target, autocommit=True) as conn:
            conn.execute(f"TRUNCATE {', '.join(f'tenant.{name}' for name in self.tables())}".encode())
            conn.execute("DELETE FROM cdc.plan")

    def sample(self, moment: str, value: float) -> None:
        """One sample of the first ship."""
        self.source(
            "INSERT INTO tenant.tbl_data_timeseries"
            " (ship_id, data_channel_id, created_time, double_v, value_format)"
            f" SELECT '{SHIP}', data_channel_id, '{moment}', {value}, 'Decimal' FROM tenant.tbl_data_timeseries"
            f" WHERE ship_id = '{SHIP}' AND value_format = 'Decimal' ORDER BY data_channel_id LIMIT 1"
        )

    def until_equal(self) -> None:
        """Wait until the target has as many cells as the source."""
        wanted = self.narrow()
        wait_until(lambda: self.wide() == wanted, f"{wanted} cells are there", DEADLINE_S)


@pytest.fixture(scope="module")
def modes(
    stack: Stack, source_server: Server, target_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    """A source with history, and everything else still to be made."""
    name = f"modes_{secrets.token_hex(4)}"
    source = source_server.create_database(f"{name}_source")
    target = target_server.create_database(f"{name}_target", narrow=False)
    write_history(source, FLEET, ROWS, NOW - timedelta(minutes=5))
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("ANALYZE tenant.tbl_data_timeseries")
    try:
        with fresh_pipeline(stack, source, target, tmp_path_factory.mktemp("modes"), {}) as pipeline:
            yield Chain(pipeline, [])
    finally:
        source_server.drop_database(f"{name}_source")
        target_server.drop_database(f"{name}_target")


def schema_only(chain: Chain) -> None:
    """Nothing is written."""
    chain.follow("schema-only")
    assert chain.pipeline.target_value("SELECT count(*) FROM pg_namespace WHERE nspname = 'cdc'") == 0


def tables_only(chain: Chain) -> None:
    """Three tables per ship, and no rows."""
    chain.follow("tables-only")
    assert len(chain.tables()) == 6
    assert chain.wide() == 0


def copies_all(mode: str, chain: Chain) -> None:
    """All of history, and nothing else to be done."""
    chain.reset()
    chain.follow(mode)
    assert chain.wide() == chain.narrow()


def copies_one_ship(chain: Chain) -> None:
    """That ship's history, and of the others nothing."""
    chain.reset()
    chain.follow("single ship")
    assert chain.wide(SHIP) == chain.narrow(f"ship_id = '{SHIP}'") > 0
    assert chain.wide() == chain.wide(SHIP)


def follows(chain: Chain) -> None:
    """Changes from now on, and nothing of history."""
    chain.reset()
    chain.follow("realtime")
    chain.sample(NOW.isoformat(), 1.5)
    wait_until(lambda: chain.wide() >= 1, "the sample is there", DEADLINE_S)
    chain.stop()
    assert chain.wide() == 1


def keeps_the_narrow_table(chain: Chain) -> None:
    """A sample is in both; one of a moment long past is no less new: the stream goes by commits."""
    before, wide = chain.narrow(), chain.wide()
    chain.follow("dual-write")
    chain.sample(LATE, 2.5)
    wait_until(lambda: chain.wide() == wide + 1, "the late sample is there", DEADLINE_S)
    chain.stop()
    assert chain.narrow() == before + 1


def side_by_side(mode: str, chain: Chain) -> None:
    """All of history, and what changes meanwhile."""
    chain.reset()
    change = "UPDATE tenant.tbl_data_timeseries SET double_v = double_v + 1"
    chain.follow(mode, lambda: chain.source(f"{change} WHERE ship_id = '{SHIP}' AND double_v > 0"))
    chain.until_equal()
    if mode == "streaming":
        assert chain.pipeline.target_value("SELECT count(*) FROM plan") == 0
        chain.pipeline.verify()
    chain.stop()


MODES: dict[str, Callable[[Chain], None]] = {
    "schema-only": schema_only,
    "tables-only": tables_only,
    "migration-only": lambda chain: copies_all("migration-only", chain),
    "full": lambda chain: copies_all("full", chain),
    "parallel batch": lambda chain: copies_all("parallel batch", chain),
    "single ship": copies_one_ship,
    "realtime": follows,
    "concurrent": lambda chain: side_by_side("concurrent", chain),
    "hybrid": lambda chain: side_by_side("hybrid", chain),
    "streaming": lambda chain: side_by_side("streaming", chain),
}
"""In an order in which each finds what it needs: tables before rows, the hand-off before the stream."""


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_does_what_it_did(mode: str, modes: Chain) -> None:
    """What the page shows for it is typed, and the target is looked at."""
    try:
        MODES[mode](modes)
    finally:
        for process in modes.background:
            process.kill()
        modes.background.clear()


def test_a_late_sample_arrives(modes: Chain) -> None:
    """Dual-write, with a moment long before all that was seen."""
    keeps_the_narrow_table(modes)


def test_every_mode_of_the_page_is_tried() -> None:
    """None is on the page only."""
    assert set(BLOCKS) == {*MODES, "dual-write"}


def test_no_clock_and_no_zone_decides_what_is_copied(modes: Chain) -> None:
    """Programs and sessions in another zone copy the same cells of the same moments."""
    modes.reset()
    zone = {"TZ": "Asia/Kolkata", "PGTZ": "America/St_Johns"}
    process = modes.pipeline.product.start("backfill", "run", environment=zone)
    assert process.child.wait(DEADLINE_S) == 0, process.log.read_text()[-4000:]
    assert modes.wide() == modes.narrow()
    query = f"SELECT count(*) FROM tenant.tbl_data_timeseries_{SHIP.lower()}_2 WHERE created_time = '{LATE}'"
    late = [modes.pipeline.target_value(query.replace("_2 ", f"_{number} ")) for number in (1, 2, 3)]
    assert sum(late) == 1
