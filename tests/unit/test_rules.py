"""Prometheus accepts rules and configuration, alerts fire as they should, and each has its runbook."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdc_consumer.catalogue import CATALOGUE
from tests.debian import require
from tests.doc_pages import PAGE_OF, ROOT

FOLDER = ROOT / "deploy" / "prometheus"
RULES = sorted((FOLDER / "rules").glob("*.yml"))
ALERTS = (FOLDER / "rules" / "alerts.yml").read_text(encoding="utf-8")
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
NAMED = re.findall(r"^ +- alert: (\w+)$", ALERTS, re.MULTILINE)
RECORDED = re.findall(r"^ +- record: (\S+)$", (FOLDER / "rules" / "recording.yml").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["check", "config", str(FOLDER / "prometheus.yml")], id="check config"),
        pytest.param(["check", "rules", *map(str, RULES)], id="check rules"),
        pytest.param(["test", "rules", str(ROOT / "tests" / "data" / "alerts_test.yml")], id="test rules"),
    ],
)
def test_promtool_finds_nothing_wrong(arguments: list[str]) -> None:
    """The configuration loads; each alert fires at its time, with its text, and not while all is well."""
    command = [require("promtool", "prometheus"), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_to_fire_and_to_keep_quiet() -> None:
    """`tests/data/alerts_test.yml` leaves none out."""
    tested = (ROOT / "tests" / "data" / "alerts_test.yml").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^  - name: (Cdc\w+)$", tested, re.MULTILINE)) == sorted(NAMED)
    assert sorted(re.findall(r"alertname: (\w+), exp_alerts: \[\]", tested)) == sorted(NAMED)


@pytest.mark.parametrize("alert", NAMED)
def test_every_alert_has_severity_summary_and_a_runbook(alert: str) -> None:
    """The runbook is there and names the alert; the page of runbooks leads to it."""
    block = ALERTS.partition(f"- alert: {alert}\n")[2].partition("- alert: ")[0]
    assert re.search(r"severity: (warning|critical)\n", block)
    assert re.search(r'summary: ".+"\n', block)
    page = re.search(r'runbook_url: "\{\{ \$externalLabels\.runbooks \}\}/([a-z-]+\.md)"\n', block)
    assert page
    assert f"`{alert}`" in PAGE_OF[f"docs/runbooks/{page[1]}"].text
    assert f"`{alert}`" in PAGE_OF["docs/runbooks/README.md"].text


def test_the_address_of_the_runbooks_is_said_once() -> None:
    """Whoever publishes them changes one line, and the pages say which."""
    assert "://" not in "".join(path.read_text(encoding="utf-8") for path in RULES)
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    assert config["global"]["external_labels"]["runbooks"].endswith("/docs/runbooks")
    for name in ("docs/runbooks/README.md", "docs/operations.md"):
        assert "external label `runbooks` of `deploy/prometheus/prometheus.yml`" in " ".join(
            PAGE_OF[name].text.split()
        )


def expressions(path: Path) -> list[str]:
    """All queries of a dashboard, its variables' included."""
    board: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    variables = [variable.get("definition", "") for variable in board["templating"]["list"]]
    return [*panels, *filter(None, variables)]


@pytest.mark.parametrize("path", [*DASHBOARDS, *RULES], ids=lambda path: path.name)
def test_only_metrics_of_the_catalogue_are_asked_for(path: Path) -> None:
    """A metric that is renamed takes dashboards and rules along."""
    text = "\n".join(expressions(path)) if path.suffix == ".json" else path.read_text(encoding="utf-8")
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bcdc_[a-z_]+", text)}
    assert named
    assert named <= CATALOGUE.keys()
    assert set(re.findall(r"\bcdc:[\w:]+", text)) <= set(RECORDED)


def test_every_metric_is_shown_somewhere() -> None:
    """What nobody looks at need not be counted."""
    shown = "\n".join(query for path in DASHBOARDS for query in expressions(path))
    rules = "\n".join(path.read_text(encoding="utf-8") for path in RULES)
    assert not [name for name in CATALOGUE if name not in shown and name not in rules]


def test_dashboards_are_told_apart() -> None:
    """Grafana finds them by uid; every panel has a title, and its data source is the one that is chosen."""
    boards = [json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == 3
    for board in boards:
        panels = board["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        assert all(panel["title"] for panel in panels)
        queried = [panel for panel in panels if panel["type"] != "row"]
        assert {panel["datasource"]["uid"] for panel in queried} == {"${datasource}"}


KINDS = {"row", "stat", "timeseries", "heatmap"}
"""Panels that Grafana brings along."""


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_grafana_can_draw_each_panel_in_its_place(path: Path) -> None:
    """Kinds that it has, 24 columns, no panel on another; the data source is one that is provisioned."""
    board = json.loads(path.read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["type"] in KINDS, panel["title"]
        place = panel["gridPos"]
        cells = {
            (place["x"] + across, place["y"] + down)
            for across in range(place["w"])
            for down in range(place["h"])
        }
        assert max(across for across, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        refs = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(refs)) == len(refs), panel["title"]
        assert bool(refs) == (panel["type"] != "row"), panel["title"]
    (chosen,) = (each for each in board["templating"]["list"] if each["type"] == "datasource")
    provisioned = (ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text(
        encoding="utf-8"
    )
    (source,) = yaml.safe_load(provisioned)["datasources"]
    assert chosen["query"] == source["type"]
    assert source["isDefault"]
