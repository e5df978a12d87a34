"""Exports from the status page: what may be asked, how many at a time, and that half a file never looks whole."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from threading import Event
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from cdc_consumer import page_exports
from cdc_consumer.export_query import export_request, file_name
from cdc_consumer.monitor import Answer, Request, Stream
from cdc_consumer.page_exports import Exports
from cdc_consumer.settings import ConsumerSettings
from tests.fake_exports import CHANNELS, FIRST, QUERY, FakeTarget
from tests.status_page_world import PageWorld
from tests.waiting import wait_until
from widetable.errors import NotFoundError, RequestError, RetryableError
from widetable.export import ExportRequest

DAY_US = 86_400_000_000
START_US = 1_735_689_600_000_000
HOSTILE = '../../"; x=\r\nSet-Cookie: a=b\u202e;--' + "A" * 300

# -- what may be asked ----------------------------------------------------------------------------------------


def test_a_query_names_ship_period_channels_and_format() -> None:
    """As the page's form sends it."""
    given = {
        "ship": "IMO1",
        "from": "2025-01-01T00:00",
        "to": "2025-01-02T00:00:00.5",
        "channels": " a , b/c",
    }
    expected = ExportRequest("IMO1", START_US, START_US + DAY_US + 500_000, ("a", "b/c"), "parquet")
    assert export_request(urlencode(given | {"format": "parquet"})) == expected
    assert export_request(QUERY).format == "csv"


@pytest.mark.parametrize(
    ("query", "sentence"),
    {
        "": "needs 'ship'",
        "ship=IMO1&from=2025-01-01": "needs 'to'",
        "ship=&from=2025-01-01&to=2025-01-02": "needs 'ship'",
        "ship=IMO1&from=yesterday&to=2025-01-02": "'yesterday' is no moment such as 2025-01-31",
        "ship=IMO1&from=2025-01-01T00:00Z&to=2025-01-02": "without a time zone",
        f"ship=IMO1&from=2025-01-01&to={'9' * 9_000}": "is no moment",
        f"{QUERY}&format=xlsx": "choose csv or parquet",
        f"{QUERY}&ship=IMO2": "each once",
        f"{QUERY}&limit=1": "by nothing else",
        f"{QUERY}&a=1&b=1&c=1": "said once",
        f"{QUERY}&channels=%ff": "must be readable",
    }.items(),
)
def test_a_query_that_is_none_is_refused_in_a_sentence(query: str, sentence: str) -> None:
    """Which is short, whatever was sent."""
    with pytest.raises(RequestError, match=re.escape(sentence)) as refused:
        export_request(query)
    assert len(str(refused.value)) < 200


def test_a_files_name_is_safe_whatever_the_ship_is_called() -> None:
    """In a header, and in the folder of whoever loads it."""
    assert file_name(ExportRequest("IMO1", START_US, START_US + DAY_US)) == (
        "IMO1_20250101T000000_20250102T000000.csv"
    )
    name = file_name(ExportRequest(HOSTILE, START_US, START_US + 500_000, format="parquet"))
    assert re.fullmatch(r"[\w-]{60}_20250101T000000_20250101T000000\.500000\.parquet", name, re.ASCII)


def ask(exports: Exports, request: str, site: str = "", **settings: Any) -> Answer:
    """What the page answers to a path with its query; a stream as its head and all that it sent."""
    path, _, query = request.partition("?")
    answer = PageWorld(exports=exports).page(**settings).answer(Request(path, "127.0.0.1:9180", query, site))
    if isinstance(answer, Stream):
        body = b"".join(answer.pieces)
        answer.close(True)
        return Answer(200, body, answer.headers)
    return answer or pytest.fail("no answer")


# -- what is answered -----------------------------------------------------------------------------------------


def test_a_look_shows_the_first_rows_and_how_much_there_is() -> None:
    """As plain values, under the policy of the page."""
    answer = ask(FakeTarget().exports(), f"/export.json?{QUERY}")
    assert json.loads(answer.body) == {
        "file": "IMO9976903_20250101T000000_20250102T000000.csv",
        "rows": 5_760,
        "channels": 3,
        "overflow": 3,
        "columns": ["created_time", *CHANNELS],
        "first": FIRST,
    }
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_download_is_sent_in_chunks_and_told_of_in_the_status() -> None:
    """Chunks of the export that are empty don't end it; its session is closed."""
    target = FakeTarget(lambda: [b"created_time\n", b"", b"x" * 200_000, b""])
    world = PageWorld(exports=target.exports())
    with world.served() as client:
        answer = client.get(f"/export?{QUERY}")
        assert (answer.status_code, answer.content) == (200, b"created_time\n" + b"x" * 200_000)
        (told,) = client.get("/status.json").json()["exports"]
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == (
        'attachment; filename="IMO9976903_20250101T000000_20250102T000000.csv"'
    )
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert (told["state"], told["rows"], told["bytes"]) == ("whole", 40, 200_013)
    assert [session.closed for session in target.sessions] == [True]


@pytest.mark.parametrize("path", ["/export", "/export.json"])
@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        pytest.param(NotFoundError("No wide tables for ship X."), 404, "No wide tables", id="unknown ship"),
        pytest.param(RequestError("The period is empty"), 400, "is empty", id="empty period"),
        pytest.param(RetryableError("host secret.example"), 503, "does not answer", id="outage"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_byte(
    path: str, error: Exception, status: int, sentence: str
) -> None:
    """In a sentence, and nothing about the target that is nobody's business; the place is free again."""
    target = FakeTarget(error=error)
    exports = target.exports(at_once=1)
    for _ in range(2):
        answer = ask(exports, f"{path}?{QUERY}")
        assert (answer.status, sentence in answer.body.decode()) == (status, True)
    assert ask(exports, path).status == 400
    assert b"secret" not in answer.body
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert all(session.closed for session in target.sessions)


def test_only_so_many_at_a_time() -> None:
    """The next one is told to wait, and finds a place once one has ended; looks count, too."""
    exports = FakeTarget().exports(at_once=1)
    first = exports.download(QUERY)
    assert isinstance(first, Stream)
    for refused in (exports.download(QUERY), exports.preview(QUERY)):
        assert not isinstance(refused, Stream)
        assert (refused.status, b"wait for one to end" in refused.body) == (503, True)
    first.close(True)
    assert isinstance(exports.download(QUERY), Stream)


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        pytest.param({}, 404, id="for this machine, not asked for"),
        pytest.param({"page_exports": 1}, 200, id="for this machine, asked for"),
        pytest.param({"status_page": "on"}, 404, id="beyond this machine, not asked for"),
        pytest.param({"status_page": "on", "page_exports": 1}, 200, id="beyond this machine, asked for"),
    ],
)
def test_exports_must_be_asked_for(settings: dict[str, Any], status: int) -> None:
    """Nobody logs in to the page, and a proxy before it says that it is this machine."""
    exports = FakeTarget().exports(ConsumerSettings.model_validate(settings).page_exports)
    answer = ask(exports, f"/export?{QUERY}", **settings)
    assert (answer.status, b"CDC_CONSUMER__PAGE_EXPORTS=" in answer.body) == (status, status == 404)
    told = json.loads(ask(exports, "/status.json", **settings).body)["exports"]
    assert (told is None) == (status == 404)


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200)])
def test_another_web_page_can_not_ask_for_one(site: str, status: int) -> None:
    """It could not read it, but the target would work for it."""
    target = FakeTarget()
    assert ask(target.exports(), f"/export?{QUERY}", site).status == status
    assert len(target.sessions) == (status == 200)


# -- what breaks off ------------------------------------------------------------------------------------------


def fails() -> Iterator[bytes]:
    """An outage in the middle."""
    yield b"created_time\n"
    raise RetryableError("the server went away")


def test_an_outage_in_the_middle_breaks_the_transfer() -> None:
    """What has arrived by then does not look like a file that is whole."""
    with PageWorld(exports=FakeTarget(fails).exports(at_once=1)).served() as client:
        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                client.get(f"/export?{QUERY}")
        states = [it["state"] for it in client.get("/status.json").json()["exports"]]
    assert states == ["broken", "broken"]


def test_a_request_that_no_export_can_answer_gets_none() -> None:
    """HTTP/1.0 ends a file by ending the connection, cut or not; methods but GET and other pages do nothing."""
    target = FakeTarget()
    with PageWorld(exports=target.exports()).served() as client:
        for method in ("POST", "HEAD", "PUT", "DELETE"):
            assert client.request(method, f"/export?{QUERY}").status_code == 501
        elsewhere = {"Sec-Fetch-Site": "cross-site"}
        assert client.get(f"/export?{QUERY}", headers=elsewhere).status_code == 403
        address = ("127.0.0.1", client.base_url.port or 0)
        with closing(socket.create_connection(address, timeout=30)) as plain:
            plain.sendall(f"GET /export?{QUERY} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
            answer = plain.makefile("rb").read()
    assert b" 505 " in answer.splitlines()[0]
    assert b"must speak HTTP/1.1" in answer
    assert target.sessions == []


def endless(asked: list[int]) -> Iterator[bytes]:
    """More than any buffer holds."""
    while True:
        asked.append(len(asked))
        yield b"x" * (1 << 20)


def test_a_client_that_leaves_ends_its_export() -> None:
    """Nothing is read for it any more, no more than a few chunks were read ahead of it, and its place is free."""
    asked: list[int] = []
    target = FakeTarget(lambda: endless(asked))
    exports = target.exports(at_once=1)
    with PageWorld(exports=exports).served() as client:
        with client.stream("GET", f"/export?{QUERY}") as answer:
            assert next(answer.iter_raw(1_000))
        wait_until(lambda: [it["state"] for it in exports.facts()] == ["broken"], "the export ends")
    assert len(asked) < 30
    assert target.sessions[0].closed


def test_the_end_of_the_program_waits_for_no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """One under way breaks off, new ones are refused, and one that hangs is left behind."""
    monkeypatch.setattr(page_exports, "STOP_S", 0.1)
    go_on = Event()

    def hangs() -> Iterator[bytes]:
        yield b"created_time\n"
        go_on.wait(30)
        yield b"never\n"

    exports = FakeTarget(hangs).exports()
    with PageWorld(exports=exports).served() as client, client.stream("GET", f"/export?{QUERY}") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"created_time\n"
        exports.close()
        assert [it["state"] for it in exports.facts()] == ["running"]
        go_on.set()
        with pytest.raises(httpx.RemoteProtocolError):
            next(pieces)
    refused = ask(exports, f"/export.json?{QUERY}")
    assert (refused.status, b"is being stopped" in refused.body) == (503, True)


def test_many_exports_of_a_deaf_target_share_one_time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor's patience does not grow with the number of exports."""
    now_s, waited = [100.0], []

    def hears_nothing(timeout: float) -> None:
        waited.append(timeout)
        now_s[0] += timeout if len(waited) > 1 else 1.5
        raise RetryableError("no answer")

    monkeypatch.setattr(page_exports, "monotonic", lambda: now_s[0])
    target = FakeTarget()
    exports = target.exports(at_once=16)
    for _ in range(16):
        assert isinstance(exports.download(QUERY), Stream)
    for session in target.sessions:
        session.cancel = hears_nothing
    exports.close()
    assert waited == [2.0, 0.5]
