"""Every panel and every alert, asked of a real Prometheus that scrapes a real run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from devstack.fleet import LiveLoad, plan_fleet, write_history
from devstack.service import free_port
from tests.chain_pipeline import Pipeline
from tests.doc_pages import ROOT
from tests.prometheus import Prometheus, page_of_metrics, prometheus
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

KAFKA_EXPORTER = """\
# TYPE kafka_consumergroup_lag gauge
kafka_consumergroup_lag{consumergroup="narrow_to_wide",topic="changes",partition="0"} 7
"""
DEAD_VALUE = """
INSERT INTO tenant.tbl_data_timeseries (ship_id, data_channel_id, created_time, long_v, value_format)
VALUES (%s, 'a/b', 'infinity', 1, 'Integer')
"""
SHIPS = 2
BUDGET = "cdc_slot_wal_budget_bytes"
NOW = datetime.now(UTC).replace(tzinfo=None, second=0, microsecond=0)


def panels() -> list[tuple[str, str]]:
    """(where, expression) of every query of every dashboard, with its variables filled in."""
    found = []
    for path in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"].replace("$__rate_interval", "30s").replace("$group", ".*")
                found.append((f"{path.stem}: {panel['title']}", query))
    return found


def few_channels(folder: Path) -> Path:
    """The first channels of each list: narrow tables take little of the test's time."""
    folder.mkdir()
    for path in sorted((ROOT / "channels").glob("*.txt")):
        lines = path.read_text(encoding="utf-8").splitlines()[:4]
        (folder / path.name).write_text("\n".join([*lines, ""]), encoding="utf-8")
    return folder


def test_every_panel_has_data_and_every_alert_can_be_asked(pipeline: Pipeline, tmp_path: Path) -> None:
    """A chain at work, a backfill, a verify, a dead cell: no panel of three dashboards is empty, no rule fails."""
    channels = few_channels(tmp_path / "channels")
    fleet = plan_fleet(SHIPS, seed=3, channel_folder=channels)
    write_history(pipeline.source, fleet, 2_000, NOW - timedelta(hours=1))
    pipeline.hand_off("--channels", str(channels))
    address = f"127.0.0.1:{free_port()}"
    port = address.partition(":")[2]
    pipeline.consume(environment={"CDC_CONSUMER__HTTP_PORT": port, "CDC_CONSUMER__PAGE_EXPORTS": "1"})
    with ExitStack() as stack:
        exporter = stack.enter_context(page_of_metrics(KAFKA_EXPORTER))
        server = stack.enter_context(prometheus(tmp_path, address, exporter))
        pipeline.succeed("backfill", "run")
        pipeline.verify()
        with psycopg.connect(pipeline.source, autocommit=True) as conn:
            conn.execute(DEAD_VALUE, [fleet.ships[0]])
        stack.enter_context(LiveLoad(pipeline.source, fleet, start=NOW, rows_per_second=500))
        wait_for_data(server, unlimited=not wal_is_limited(pipeline.source))
        assert server.label_values("consumergroup") == ["narrow_to_wide"]
        rules_work(server)
        page_knows(address, fleet.ships)
        page_exports(address, fleet.ships[0])


def wait_for_data(server: Prometheus, *, unlimited: bool) -> None:
    """Wait until each panel has shown data; those that stay empty are named."""
    missing = dict(enumerate(panels()))
    if unlimited:  # documented: there is no budget to show then
        missing = {number: panel for number, panel in missing.items() if panel[1] != f"min({BUDGET})"}

    def look() -> bool:
        for number, (_, expression) in list(missing.items()):
            if server.has_data(expression):
                del missing[number]
        return not missing

    try:
        wait_until(look, "all panels have data", 120.0)
    except AssertionError:
        pytest.fail("\n".join(["no data:", *(f"{where}: {query}" for where, query in missing.values())]))


def rules_work(server: Prometheus) -> None:
    """Every rule has been evaluated without an error; what is recorded is there; alerts can be asked by hand."""
    rules = server.rules()
    wait_until(lambda: all(rule["health"] == "ok" for rule in server.rules()), "all rules were evaluated")
    assert {rule["type"] for rule in rules} == {"recording", "alerting"}
    for rule in rules:
        found = server.query(rule["query"])
        assert found or rule["type"] == "alerting", rule
    wait_until(lambda: states(server)["CdcDeadCells"] == "firing", "the dead cell is told")
    calm = states(server)
    assert {calm[name] for name in ("CdcConsumerDown", "CdcConnectorDown", "CdcVerifyRequired")} == {
        "inactive"
    }


def states(server: Prometheus) -> dict[str, str]:
    """Whether each alert fires."""
    return {rule["name"]: rule["state"] for rule in server.rules() if rule["type"] == "alerting"}


def page_knows(address: str, ships: Sequence[str]) -> None:
    """The status page of the same run: each ship is fresh, its history copied, the dead cell counted.

    The live load brings a ship that history does not know.
    """
    status = httpx.get(f"http://{address}/status.json", trust_env=False, timeout=30).json()
    known = {ship["ship"]: ship for ship in status["ships"]}
    assert all(known[ship]["newest"] and known[ship]["verified"] for ship in ships)
    cells = {row["ship"]: row["cells"] for row in status["history"]["rows"]}
    assert all(set(cells[ship]) <= set("dv") for ship in ships)
    assert status["dead"] == {"infinity": 1}
    assert status["connector"] == "RUNNING"
    assert status["partitions"]


def page_exports(address: str, ship: str) -> None:
    """The history of one of its ships as a file, from the program that writes the stream meanwhile."""
    period = {"from": (NOW - timedelta(days=1)).isoformat(), "to": NOW.isoformat()}
    query = {"ship": ship, **period}
    answer = httpx.get(f"http://{address}/export", params=query, trust_env=False, timeout=60)
    header, *rows = answer.text.splitlines()
    assert header.startswith("created_time,")
    assert len(rows) > 10
    status = httpx.get(f"http://{address}/status.json", trust_env=False, timeout=30).json()
    assert [(it["ship"], it["state"]) for it in status["exports"]] == [(ship, "whole")]


def wal_is_limited(source: str) -> bool:
    """Whether the source's server has a limit for the WAL of slots."""
    with psycopg.connect(source) as conn:
        row: tuple[Any, ...] | None = conn.execute("SHOW max_slot_wal_keep_size").fetchone()
    return row is not None and row[0] != "-1"
