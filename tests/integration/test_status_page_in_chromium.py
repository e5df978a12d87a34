"""The status page in a real browser: light and dark, no complaint in its console, a name for whatever it shows."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_consumer.heat_map import DAY_US
from cdc_consumer.metrics import Snapshot
from tests.debian import require
from tests.doc_pages import ROOT
from tests.fake_exports import QUERY, FakeTarget
from tests.status_page_world import SHIPS, PageWorld
from widetable.moments import moment_text

BUILD = ROOT / "build"
PNG = b"\x89PNG\r\n\x1a\n"
SCHEMES = {"light": 1, "dark": 0}
"""What a person prefers, in Chromium's own numbers."""
HOSTILE = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the page is."""
    with PageWorld().served() as client:
        yield f"http://127.0.0.1:{client.base_url.port}/"


def chromium(profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a browser without a window and without the network."""
    command = [
        require("chromium", "chromium"),
        "--headless",
        "--no-sandbox",  # tests run as root; the page is our own
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
        "--window-size=1280,2200",
        "--hide-scrollbars",
        *arguments,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)  # noqa: S603 - our own


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_drawn_in_light_and_dark(scheme: str, address: str, tmp_path: Path) -> None:
    """Pictures of both are in build/; they differ, and neither is blank."""
    BUILD.mkdir(exist_ok=True)
    picture = BUILD / f"status-page-{scheme}.png"
    picture.unlink(missing_ok=True)
    chromium(
        tmp_path,
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        f"--screenshot={picture}",
        address,
    )
    data = picture.read_bytes()
    assert data.startswith(PNG)
    assert len(data) > 50_000
    other = BUILD / f"status-page-{'dark' if scheme == 'light' else 'light'}.png"
    assert not other.exists() or other.read_bytes() != data


def test_all_is_drawn_and_named_and_nothing_is_complained_about(tmp_path: Path) -> None:
    """Everything of the JSON is in the document as text; controls, pictures and tables have names."""
    world = PageWorld()
    world.fleet.newest_us[HOSTILE] = None
    with world.served() as client:
        done = chromium(tmp_path, "--dump-dom", f"http://127.0.0.1:{client.base_url.port}/")
    dom = done.stdout
    assert 'data-drawn="yes"' in dom
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    for ship in SHIPS:
        assert dom.count(ship) >= 2
    assert "131.9M rows copied" in dom
    assert re.search(r'<th scope="row">&lt;img src=x onerror=', dom)
    assert "<img" not in dom
    drawings = re.findall(r"<svg [^>]*>", dom)
    assert [svg for svg in drawings if 'role="img"' in svg and re.search(r'aria-label="[^"]+: now ', svg)]
    assert all('aria-label="' in svg for svg in drawings if 'role="img"' in svg)
    assert re.search(r'<meter [^>]*aria-label="WAL budget used"', dom)
    assert re.search(r'<p id="verdict"[^>]*role="status"', dom)
    assert not re.search(r"<caption[^>]*></caption>|<h2[^>]*></h2>|<button[^>]*></button>", dom)
    assert re.search(r"\d+ of \d+ done, \d+ verified", dom), "the heat map in words"


def test_an_instance_that_knows_of_no_partition_is_not_shown_as_on_time(tmp_path: Path) -> None:
    """Its only process hangs, or could not claim anything yet: that is not 0 seconds late."""
    with PageWorld(counts=Snapshot()).served() as client:
        dom = chromium(tmp_path, "--dump-dom", f"http://127.0.0.1:{client.base_url.port}/").stdout
    assert 'data-drawn="yes"' in dom
    assert "Not all processes run, report, and have claimed their partitions." in dom
    assert "no partition seen yet" in dom
    assert "on time" not in dom


CLICKS = b"""
document.addEventListener("drawn", () => {
  byId("export-ship").value = byId("export-ship").options[1].value;
  byId("export-ship").dispatchEvent(new Event("change"));
  exportForm.requestSubmit();
  setTimeout(() => byId("export-download").click(), 500);
}, { once: true });
"""


def test_an_export_is_looked_at_and_loaded(tmp_path: Path) -> None:
    """A person chooses a ship, looks, and presses Download: its last day, first rows, and what became of files."""
    world = PageWorld(exports=FakeTarget(lambda: [b"x" * 200_000]).exports(), more_script=CLICKS)
    end_us = (world.fleet.newest_us[SHIPS[1]] or 0) + 1_000_000
    with world.served() as client:
        assert client.get(f"/export?{QUERY}").is_success
        done = chromium(tmp_path, "--dump-dom", f"http://127.0.0.1:{client.base_url.port}/")
        told, _earlier = client.get("/status.json").json()["exports"]
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert (told["ship"], told["state"], told["bytes"]) == (SHIPS[1], "whole", 200_000)
    assert (told["from"], told["to"]) == (moment_text(end_us - DAY_US), moment_text(end_us))
    dom = done.stdout
    assert "2025-01-01 00:00:00 to 2025-01-02 00:00:00, csv: whole, 10 rows, 200 kB" in dom
    assert '<th scope="row">2025-01-01 00:00:00</th><td>12.5</td><td></td><td>&lt;script&gt;</td>' in dom
    assert '<th scope="col">nav/&lt;b&gt;"2"</th>' in dom
