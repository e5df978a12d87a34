"""Kafka Connect's REST interface, with Connect played by a function."""

from collections.abc import Callable

import httpx
import pytest

from cdc_consumer.connect import Connect, TaskState
from cdc_consumer.registration import failure, require_debezium
from cdc_consumer.settings import ConnectSettings
from widetable.errors import ConfigurationError, UnreachableError

Handler = Callable[[httpx.Request], httpx.Response]
URL = "http://admin:hunter2@connect.example:8083"
DEBEZIUM = "io.debezium.connector.postgresql.PostgresConnector"
TRACE = """org.apache.kafka.connect.errors.ConnectException: An exception occurred in the producer.
\tat io.debezium.pipeline.ErrorHandler.setProducerThrowable(ErrorHandler.java:72)
Caused by: io.debezium.DebeziumException: Failed to start replication stream
\t... 5 more
Caused by: org.postgresql.util.PSQLException: ERROR: replication slot "x" is active for PID 42
\tat org.postgresql.core.v3.QueryExecutorImpl.receiveErrorResponse(QueryExecutorImpl.java:2734)
"""


def client(handler: Handler) -> Connect:
    """A client whose requests `handler` answers."""
    return Connect(ConnectSettings(url=URL), httpx.MockTransport(handler))


def answers(*responses: httpx.Response) -> Handler:
    """A handler that gives these responses in turn, the last one for ever."""
    left = list(responses)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def status(connector: str, *tasks: str, trace: str = "") -> httpx.Response:
    """Connect's answer about a connector's state."""
    parts = [{"id": number, "state": state, "trace": trace} for number, state in enumerate(tasks)]
    return httpx.Response(200, json={"name": "x", "connector": {"state": connector}, "tasks": parts})


@pytest.mark.parametrize(
    ("response", "kind", "complaint"),
    [
        pytest.param(
            httpx.Response(200, html="<html>hello</html>"),
            ConfigurationError,
            "answers with text/html .HTTP 200., not as Kafka Connect does: check CDC_CONNECT__URL",
            id="a web page",
        ),
        pytest.param(
            httpx.Response(404, html="<html>not found</html>"),
            ConfigurationError,
            "answers with text/html .HTTP 404., not as Kafka Connect does",
            id="a web server's own 404",
        ),
        pytest.param(
            httpx.Response(200, json=["a", "list"]),
            ConfigurationError,
            "not as Kafka Connect does",
            id="JSON of another shape",
        ),
        pytest.param(
            httpx.Response(401, html="<html>login</html>"),
            ConfigurationError,
            r"refuses us \(HTTP 401\): set CDC_CONNECT__AUTH_USER",
            id="a login page",
        ),
        pytest.param(
            httpx.Response(302, headers={"location": "https://login.example/"}, html="<html>moved</html>"),
            ConfigurationError,
            r"answers with text/html .HTTP 302., not as Kafka Connect does",
            id="a login page elsewhere",
        ),
        pytest.param(
            httpx.Response(407, html="<html>proxy</html>"),
            ConfigurationError,
            r"refuses us \(HTTP 407\)",
            id="a proxy that asks for a login",
        ),
        pytest.param(
            httpx.Response(502, html="<html>bad gateway</html>"),
            UnreachableError,
            r"answers HTTP 502",
            id="a proxy before a worker that is down",
        ),
        pytest.param(
            httpx.Response(500, json={"error_code": 500, "message": "Request timed out"}),
            UnreachableError,
            "answers HTTP 500: Request timed out",
            id="a worker in trouble",
        ),
        pytest.param(
            httpx.Response(400, json={"error_code": 400, "message": "Connector\nis invalid"}),
            ConfigurationError,
            "answers HTTP 400: Connector is invalid",
            id="a refused request",
        ),
    ],
)
def test_every_wrong_answer_has_its_own_message(
    response: httpx.Response, kind: type[Exception], complaint: str
) -> None:
    """What to do differs: wait, correct the address, give credentials."""
    with client(answers(response)) as connect, pytest.raises(kind, match=complaint) as raised:
        connect.state("x")
    assert "hunter2" not in str(raised.value)
    assert "connect.example:8083" in str(raised.value)


def test_a_worker_that_is_down_is_unreachable_and_named_without_its_password() -> None:
    """The address helps; the credentials in it are nobody's business."""

    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused")

    with client(refuse) as connect, pytest.raises(UnreachableError, match="Connection refused") as raised:
        connect.version()
    assert "hunter2" not in str(raised.value)
    assert "CDC_CONNECT__URL" in str(raised.value)


def test_a_rebalance_is_waited_for() -> None:
    """Connect answers 409, or 500, while workers share out the work; a moment later it does what it is asked."""
    busy = httpx.Response(409, json={"error_code": 409, "message": "rebalance in process"})
    expected = "Request cannot be completed because a rebalance is expected"
    inner = httpx.Response(500, json={"error_code": 500, "message": expected})
    with client(answers(busy, inner, status("RUNNING", "RUNNING"))) as connect:
        state = connect.state("x")
    assert state is not None
    assert state.running


def test_a_connector_that_is_not_there_is_none() -> None:
    """Not an error: `init` registers it."""
    missing = httpx.Response(404, json={"error_code": 404, "message": "Connector x not found"})
    with client(answers(missing)) as connect:
        assert connect.config("x") is None
        assert connect.state("x") is None
        assert connect.stored_offset("x") is None
        connect.delete("x")


@pytest.mark.parametrize(
    ("response", "summary", "running"),
    [
        pytest.param(status("RUNNING", "RUNNING"), "RUNNING", True, id="all run"),
        pytest.param(status("RUNNING"), "STARTING", False, id="no task yet"),
        pytest.param(status("RUNNING", "UNASSIGNED"), "UNASSIGNED", False, id="a task without a worker"),
        pytest.param(status("RUNNING", "FAILED"), "FAILED", False, id="a failed task"),
        pytest.param(status("STOPPED"), "STOPPED", False, id="stopped"),
    ],
)
def test_a_connector_runs_only_if_its_task_does(
    response: httpx.Response, summary: str, running: bool
) -> None:
    """Connect calls a connector RUNNING whose only task has failed."""
    with client(answers(response)) as connect:
        state = connect.state("x")
    assert state is not None
    assert (state.summary, state.running) == (summary, running)


def test_a_failure_is_told_by_its_first_line_and_its_cause() -> None:
    """The first line alone says nothing, and the whole trace too much."""
    reason = TaskState("FAILED", TRACE).reason
    assert reason == (
        "org.apache.kafka.connect.errors.ConnectException: An exception occurred in the producer."
        ' <- org.postgresql.util.PSQLException: ERROR: replication slot "x" is active for PID 42'
    )
    assert "another process reads that slot" in str(failure("x", reason))


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        pytest.param("FATAL: password authentication failed for user", "PASSWORD_REFERENCE", id="password"),
        pytest.param("Connection to localhost:5432 refused", "CDC_CONNECT__SOURCE_HOST", id="address"),
        pytest.param("this is no longer available on the server", "cdc-consumer reinit", id="lost slot"),
        pytest.param('publication "p" does not exist', "backfill verify", id="publication"),
        pytest.param("NullPointerException", "Kafka Connect's log", id="anything else"),
    ],
)
def test_a_failure_comes_with_what_to_do(reason: str, advice: str) -> None:
    """The usual causes are few."""
    error = failure("x", reason)
    assert reason in str(error)
    assert advice in str(error)


def test_the_stored_position_is_the_last_commit() -> None:
    """Other LSNs of the position may lie inside a transaction that is not sent in full."""
    offset = {"lsn": 300, "lsn_proc": 290, "lsn_commit": 200, "messageType": "INSERT"}
    entry = {"partition": {"server": "x"}, "offset": offset}
    with client(answers(httpx.Response(200, json={"offsets": [entry]}))) as connect:
        stored = connect.stored_offset("x")
    assert stored is not None
    assert stored.lsn_commit == 200


@pytest.mark.parametrize("offsets", [[], [{"partition": {"server": "x"}, "offset": None}]])
def test_no_position_yet_is_none(offsets: list[object]) -> None:
    """Reset offsets leave an empty entry behind."""
    with client(answers(httpx.Response(200, json={"offsets": offsets}))) as connect:
        assert connect.stored_offset("x") is None


def test_a_new_connector_is_created_stopped() -> None:
    """It must not read anything before it has been told where to begin."""
    seen: list[httpx.Request] = []

    def create(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, json={})

    with client(create) as connect:
        connect.create_stopped("x", {"a": "b"})
    assert seen[0].method == "POST"
    assert seen[0].read() == b'{"name":"x","config":{"a":"b"},"initial_state":"STOPPED"}'


@pytest.mark.parametrize(
    ("worker", "plugins", "complaint"),
    [
        pytest.param("3.6.2", {DEBEZIUM: "3.7.0.Final"}, "3.7 is the first", id="an old worker"),
        pytest.param("4.3.1", {}, "lacks Debezium", id="no plugin"),
        pytest.param("4.3.1", {DEBEZIUM: "3.6.9.Final"}, "can lose rows", id="an old plugin"),
    ],
)
def test_a_connect_that_would_lose_data_is_refused(
    worker: str, plugins: dict[str, str], complaint: str
) -> None:
    """Before anything is made at the source."""
    listed = [{"class": name, "type": "source", "version": version} for name, version in plugins.items()]

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"version": worker} if request.url.path == "/" else listed)

    with client(answer) as connect, pytest.raises(ConfigurationError, match=complaint):
        require_debezium(connect)
