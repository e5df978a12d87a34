"""The status page's facts, who may see it, and what it must never do."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest

from cdc_consumer.fleet import Fleet
from cdc_consumer.heat_map import DAY_US, SliceSpan, Span, heat_map
from cdc_consumer.metrics import Snapshot
from cdc_consumer.monitor import Answer, Request
from cdc_consumer.rates import Rates
from cdc_consumer.settings import ConsumerSettings
from cdc_consumer.status_page import FILES, PATHS, is_shown
from tests.status_page_world import SHIPS, PageWorld
from widetable.applied import Applied
from widetable.errors import UnreachableError

LOCAL = "127.0.0.1:9180"

# -- who may see it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "host", "shown"),
    [
        ("auto", "127.0.0.1", True),
        ("auto", "::1", True),
        ("auto", "localhost", True),
        ("auto", "0.0.0.0", False),  # noqa: S104 - as in a container
        ("auto", "10.0.0.7", False),
        ("auto", "metrics.example", False),
        ("on", "0.0.0.0", True),  # noqa: S104
        ("off", "127.0.0.1", False),
    ],
)
def test_beyond_this_machine_the_page_must_be_asked_for(wanted: str, host: str, shown: bool) -> None:
    """Ship ids are nobody's business who merely reaches the port of metrics."""
    settings = ConsumerSettings.model_validate({"status_page": wanted, "http_host": host})
    assert is_shown(settings) is shown


@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_page_that_is_off_says_how_to_have_it(path: str) -> None:
    """Not a bare 404; metrics and health go on."""
    answer = PageWorld().page(http_host="0.0.0.0").answer(Request(path, LOCAL))  # noqa: S104 - a container
    assert isinstance(answer, Answer)
    assert (answer.status, b"CDC_CONSUMER__STATUS_PAGE=on" in answer.body) == (404, True)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (LOCAL, 200),
        ("localhost:9180", 200),
        ("[::1]:9180", 200),
        ("evil.example:9180", 404),
        ("evil.example", 404),
    ],
)
def test_a_foreign_name_that_points_here_gets_nothing(host: str, status: int) -> None:
    """A web page that rebinds its own name to 127.0.0.1 would otherwise read it all."""
    for path in ("/status.json", "/export.json"):
        answer = PageWorld().page(page_exports=1).answer(Request(path, host))
        assert isinstance(answer, Answer)
        assert (answer.status == 404) == (status == 404)


def test_a_page_that_is_on_answers_to_any_name() -> None:
    """Behind a proxy it has another one."""
    answer = PageWorld().page(status_page="on").answer(Request("/", "status.example"))
    assert isinstance(answer, Answer)
    assert answer.status == 200


def test_other_paths_are_not_the_pages() -> None:
    """Nothing of the package but its files is served."""
    page = PageWorld().page()
    assert all(
        page.answer(Request(path, LOCAL)) is None
        for path in ("/../settings.py", "/page/index.html", "/metrics")
    )


# -- what it may do -------------------------------------------------------------------------------------------


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_made_markup() -> None:
    """It works offline; ids can't become elements; the policy forbids what the code does not do."""
    with PageWorld().served() as client:
        answers = {path: client.get(path) for path in FILES}
    policy = answers["/"].headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    text = "\n".join(answer.text for answer in answers.values())
    links = set(re.findall(r"https?://[^\s\"')]+", text))
    assert links == {"http://www.w3.org/2000/svg"}, "the namespace of SVG, which is a name"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    assert not re.search(r"\son\w+=|style=|<script>|<style>", answers["/"].text)
    assert all(answer.headers["X-Content-Type-Options"] == "nosniff" for answer in answers.values())


def test_the_page_is_one_that_a_screen_reader_can_tell() -> None:
    """A language, headings, captions, scopes, and a name for what can be scrolled or pressed."""
    with PageWorld().served() as client:
        text, scripts = client.get("/").text, [client.get(path).text for path in ("/status.js", "/export.js")]
    assert '<html lang="en">' in text
    assert text.count("<table") == text.count("<caption") == 5
    assert all("scope=" in head for head in re.findall(r"<th [^>]*>|<th>", text))
    assert text.count('tabindex="0"') == text.count('role="region"') == 4
    assert re.search(r"<button[^>]*>[^<]+</button>", text)
    fields = set(re.findall(r'<(?:input|select) id="([\w-]+)"', text))
    assert fields == set(re.findall(r'<label for="([\w-]+)"', text))
    known = set(re.findall(r' id="([\w-]+)"', text))
    assert set(re.findall(r'aria-labelledby="([\w-]+)"', text)) <= known
    assert set(re.findall(r'(?:byId|rows)\("([\w-]+)"', "".join(scripts))) <= known


# -- what it says ---------------------------------------------------------------------------------------------


def test_the_json_has_all_that_the_page_shows() -> None:
    """Partitions, facts, rates, dead cells, ships and history, as plain values."""
    world = PageWorld()
    with world.served() as client:
        status = client.get("/status.json").json()
    assert status["pipeline"] == "narrow_to_wide"
    assert [it["partition"] for it in status["partitions"]] == list(range(12))
    assert status["partitions"][7] == {"partition": 7, "lag": 4_180, "late_s": 7.4, "offset": 9_039_597}
    assert status["dead"] == {"ambiguous": 3, "infinity": 12}
    assert (status["connector"], status["facts"]["budget_bytes"]) == ("RUNNING", 62.5e9)
    assert [it["ship"] for it in status["ships"]] == SHIPS
    assert (
        {len(row["cells"]) for row in status["history"]["rows"]} == {len(status["history"]["days"])} == {90}
    )
    assert len(status["rates"]["samples_per_s"]) == 180


@pytest.mark.parametrize(
    ("changed", "level", "text"),
    [
        ({"cdc_connector_running": 0.0}, "bad", "connector does not run"),
        ({"cdc_slot_wal_budget_bytes": 1e8}, "bad", "WAL budget"),
        ({"cdc_slot_wal_budget_bytes": 1e9}, "warn", "WAL budget"),
        ({"cdc_verify_required": 1.0}, "warn", "backfill verify --repair"),
        ({"cdc_slot_active": None}, "warn", "can't be looked at"),
    ],
)
def test_what_needs_a_look_is_said_in_words(changed: dict[str, float | None], level: str, text: str) -> None:
    """Each with its level; a page without colours says the same."""
    world = PageWorld()
    world.gauges["cdc_backfill_slices"] = {"done": 1}
    assert world.page().status()["problems"] == []
    world.gauges = {name: value for name, value in {**world.gauges, **changed}.items() if value is not None}
    (problem,) = world.page().status()["problems"]
    assert problem["level"] == level
    assert text in problem["text"]


def test_a_late_stream_and_a_missing_process_are_said() -> None:
    """And a failed slice."""
    world = PageWorld()
    world.counts.late_s[3], world.counts.ready = 4_000.0, False
    levels = {problem["text"][:14]: problem["level"] for problem in world.page().status()["problems"]}
    assert levels == {"Not all proces": "warn", "The stream is ": "bad", "Slices of hist": "warn"}


def test_a_target_that_is_away_leaves_what_was_seen_and_says_so() -> None:
    """And it is asked once in ten seconds, however often the page is loaded."""
    world = PageWorld()
    page = world.page()
    assert page.status()["ships"] == page.status()["ships"]
    assert world.asked == 1
    world.error, world.now_s = UnreachableError("away"), 11.0
    assert len(page.status()["ships"]) == len(SHIPS)
    assert "The target can't be looked at" in page.status()["problems"][-1]["text"]
    assert world.asked == 2
    world.error, world.now_s = None, 22.0
    assert "target" not in page.status()["problems"][-1]["text"]


def test_a_young_pipeline_is_shown_as_one() -> None:
    """No ship, no plan, no figures: still a page, and JSON without NaN."""
    world = PageWorld(Snapshot(ready=True), {}, Fleet({}, {}, None, {}), Rates())
    status = world.page().status()
    assert (status["ships"], status["history"], status["slices"], status["partitions"]) == (
        [],
        None,
        None,
        [],
    )
    json.dumps(status, allow_nan=False)


def test_moments_that_python_does_not_know_are_no_error() -> None:
    """PostgreSQL's years reach from 4713 BC to 294276."""
    fleet = Fleet({"A": 9 * 10**18, "B": -2 * 10**17, "C": None}, {}, None, {})
    assert [it["newest"] for it in fleet.facts()["ships"]] == [
        "9999-12-31T23:59:59+00:00",
        "0001-01-01T00:00:00+00:00",
        None,
    ]


# -- history as a map -----------------------------------------------------------------------------------------


def us(text: str) -> int:
    """Microseconds of a moment in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def test_a_span_is_whole_days_and_few_enough_to_be_seen() -> None:
    """Ten years are shown, too: several days in each bucket."""
    assert Span.of(us("2026-01-01T13:00"), us("2026-01-03T00:00")) == Span(us("2026-01-01"), DAY_US, 2)
    assert Span.of(us("2026-01-01"), us("2026-01-01")).buckets == 1
    long = Span.of(us("2016-01-01"), us("2026-01-01"))
    assert long.bucket_us % DAY_US == 0
    assert long.buckets <= 92
    assert long.start_us + long.bucket_us * long.buckets >= us("2026-01-01")


def test_each_day_shows_what_needs_most_attention() -> None:
    """Failed above running above waiting above done; verified where all is done and proven; plans add up."""
    span = Span(0, DAY_US, 6)
    slices = [
        SliceSpan(1, "done", 0, 3),
        SliceSpan(1, "failed", 2, 2),
        SliceSpan(1, "running", 3, 3),
        SliceSpan(1, "waiting", 3, 4),
        SliceSpan(2, "done", 5, 5),
    ]
    found = heat_map(span, {1: ["A", "B"], 2: ["A"]}, slices, {"A": 2 * DAY_US, "B": None, "C": 9 * DAY_US})
    assert found == {"A": "vvfrwd", "B": "ddfrw.", "C": "......"}


def test_rates_are_per_second_between_two_looks() -> None:
    """And an hour of them is kept."""
    rates = Rates()
    for at in range(400):
        rates.note(
            Snapshot(applied=Applied(events=100 * at, rows_new=2 * at, rows_merged=at), late_s={0: 1.5}),
            10.0 * at,
        )
    series = rates.series()
    assert set(series["samples_per_s"]) == {10.0}
    assert set(series["rows_per_s"]) == {0.3}
    assert set(series["late_s"]) == {1.5}
    assert len(series["late_s"]) == 180
