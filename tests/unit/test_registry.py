"""The schema registry's answers, good and bad, over a transport without a network."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from cdc_consumer.deployment import probe_registry
from cdc_consumer.registry import Registry
from cdc_consumer.settings import load_settings
from widetable.errors import ConfigurationError, PoisonError, UnreachableError, WideTableError

URL = "http://reader:secret@registry/apis/ccompat/v7/"
Answer = Callable[[httpx.Request], httpx.Response]


def registry(answer: Answer) -> Registry:
    """A registry whose server is a function."""
    return Registry(URL, client=httpx.Client(transport=httpx.MockTransport(answer)))


def test_a_schema_is_asked_for_once() -> None:
    """At Confluent's path; ids never change their meaning."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, json={"schema": '"string"', "references": []})

    schemas = registry(answer)
    assert [schemas.schema(6), schemas.schema(6), schemas.schema(7)] == ['"string"'] * 3
    assert asked == ["/apis/ccompat/v7/schemas/ids/6", "/apis/ccompat/v7/schemas/ids/7"]
    schemas.close()


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        pytest.param(
            httpx.Response(404, json={"error_code": 40403, "message": "No content with id/hash"}),
            PoisonError,
            "no schema with id 6",
            id="an unknown id is the message's fault",
        ),
        pytest.param(
            httpx.Response(404, json={"error_code": 40401, "message": "No artifact with ID"}),
            PoisonError,
            "no schema with id 6",
            id="an id whose artifacts were deleted, in Apicurio 3",
        ),
        pytest.param(
            httpx.Response(
                404, json={"error_code": 404, "message": "RESTEASY003210: Could not find resource"}
            ),
            ConfigurationError,
            "CDC_REGISTRY__URL",
            id="a wrong path is not taken for an unknown id",
        ),
        pytest.param(
            httpx.Response(200, html="<!doctype html><title>Apicurio Registry</title>"),
            ConfigurationError,
            "text/html",
            id="a web page is no registry",
        ),
        pytest.param(
            httpx.Response(200, json=[]), ConfigurationError, "not a schema registry", id="other JSON"
        ),
        pytest.param(httpx.Response(404, html="gone"), ConfigurationError, "404", id="another server's 404"),
        pytest.param(
            httpx.Response(302, headers={"location": "https://login.example/"}),
            ConfigurationError,
            "status 302",
            id="a login page elsewhere",
        ),
        pytest.param(httpx.Response(401), ConfigurationError, "refuses", id="no password"),
        pytest.param(httpx.Response(403), ConfigurationError, "refuses", id="no right"),
        pytest.param(httpx.Response(503), UnreachableError, "503", id="starting up"),
        pytest.param(httpx.Response(429), UnreachableError, "429", id="too many requests"),
        pytest.param(
            httpx.Response(200, json={"schema": "{}", "schemaType": "JSON"}),
            PoisonError,
            "not Avro",
            id="a schema of another kind",
        ),
        pytest.param(
            httpx.Response(200, json={"schema": "{}", "references": [{"name": "x"}]}),
            ConfigurationError,
            "refers to other",
            id="a schema in parts",
        ),
    ],
)
def test_each_bad_answer_has_its_own_error(
    answer: httpx.Response, error: type[WideTableError], says: str
) -> None:
    """Dead cell, pause or stop; never the password, and nothing is remembered."""
    schemas = registry(lambda _: answer)
    for _ in range(2):
        with pytest.raises(error, match=says) as caught:
            schemas.schema(6)
        assert type(caught.value) is error
        assert "secret" not in str(caught.value)


def test_a_registry_that_is_down_is_an_outage() -> None:
    """And the next question is asked again."""
    up = False

    def answer(request: httpx.Request) -> httpx.Response:
        if not up:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, json={"schema": '"string"'})

    schemas = registry(answer)
    with pytest.raises(UnreachableError, match="does not answer"):
        schemas.schema(6)
    up = True
    assert schemas.schema(6) == '"string"'


def not_found(_: httpx.Request) -> httpx.Response:
    """No such schema."""
    return httpx.Response(404, json={"error_code": 40403})


def test_a_schema_that_another_instance_has_just_registered_is_waited_for() -> None:
    """One of several registries may hear of it a moment later; its records are no garbage until then."""
    now = [0.0]

    def answer(request: httpx.Request) -> httpx.Response:
        return not_found(request) if now[0] < 1 else httpx.Response(200, json={"schema": '"string"'})

    client = httpx.Client(transport=httpx.MockTransport(answer))
    schemas = Registry(URL, client=client, hearsay_s=5, monotonic_s=lambda: now[0])
    with pytest.raises(UnreachableError, match="no schema with id 6 yet"):
        schemas.schema(6)
    now[0] = 2
    assert schemas.schema(6) == '"string"'


def test_garbage_is_waited_for_once_and_not_id_by_id() -> None:
    """After the first wait in vain, unknown ids are dead at once, for a while."""
    now = [0.0]
    client = httpx.Client(transport=httpx.MockTransport(not_found))
    schemas = Registry(URL, client=client, hearsay_s=5, monotonic_s=lambda: now[0])
    for now[0], schema_id, error in (
        *((0, 6, UnreachableError), (4.9, 6, UnreachableError), (5, 6, PoisonError)),
        *((5.1, 7, PoisonError), (64.9, 8, PoisonError), (65, 9, UnreachableError)),
    ):
        with pytest.raises(error):
            schemas.schema(schema_id)


def test_an_id_that_no_registry_counts_to_is_not_asked_for() -> None:
    """Four random bytes are half of the time such a number; Apicurio would answer that the path is wrong."""
    schemas = registry(lambda _: pytest.fail("asked"))
    with pytest.raises(PoisonError, match="4294967295"):
        schemas.schema(2**32 - 1)


def test_an_address_that_is_none_is_a_setting_to_correct() -> None:
    """Not an outage to wait for."""
    for url in ("registry:8080/apis", "http://registry:port", ""):
        with pytest.raises(ConfigurationError, match="address"):
            Registry(url).schema(1)


def test_only_a_topic_in_avro_needs_a_registry() -> None:
    """Whoever writes JSON may have none: `init`, `check` and `status` don't ask for it."""
    given = {"CDC_SOURCE__DSN": "x", "CDC_TARGET__DSN": "x", "CDC_REGISTRY__URL": "http://127.0.0.1:1"}
    assert not probe_registry(load_settings(given | {"CDC_TOPIC__FORMAT": "json"}))
    with pytest.raises(UnreachableError, match="does not answer"):
        probe_registry(load_settings(given))
