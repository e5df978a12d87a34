"""No password gets into a log or an error, wherever a library put it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from widetable.masking import MASK, is_secret_name, mask_text, masked

IN_URL = st.text("abcXYZ089!$+-.:_~%@é", min_size=8, max_size=20)
IN_WORD = st.text("abcXYZ089!#$+-./:_~%@é=?", min_size=8, max_size=20)
PLACES = (
    "connection to postgresql://me:{}@db.example:5432/ships failed",
    "http://me:{}@registry/apis",
    "could not connect (kafka://me:{}@h)",
)
PAIRS = (
    "host=db password={} dbname=ships",
    'FATAL: "sasl.password": "{}", "x": 1',
    "host=db password='{}' dbname=x",
    "sslpassword={}",
    "client_secret={}&x=1",
    "GET /?api_key={}",
    "access_token: {}",
)


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=40, deadline=None)
@given(secret=IN_URL)
def test_the_password_of_a_url_is_masked(place: str, secret: str) -> None:
    """Users and hosts stay, for they tell where the trouble is."""
    shown = mask_text(place.format(secret))
    assert secret not in shown
    assert shown == place.format(MASK)


@pytest.mark.parametrize("place", PAIRS)
@settings(max_examples=40, deadline=None)
@given(secret=IN_WORD)
def test_what_stands_after_the_name_of_a_secret_is_masked(place: str, secret: str) -> None:
    """As in connection strings, properties, JSON and query strings."""
    shown = mask_text(place.format(secret))
    assert secret not in shown
    assert MASK in shown


@pytest.mark.parametrize(
    "text",
    [
        'password authentication failed for user "writer"',
        "http://localhost:8083/connectors/x/status answers 404",
        "set CDC_CONNECT__AUTH_PASSWORD_FILE",
        "database.password=${file:/opt/kafka/secrets/source.properties:password}",
        "slot north retains 10 MB: wal_status=extended",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """A log that masks everything tells nothing."""
    assert mask_text(text) == text


def test_values_are_masked_by_their_names_and_however_deep() -> None:
    """An event's fields, a configuration, a list of texts, an exception."""
    event = {
        "event": "x",
        "password": "hunter2",
        "config": {"sasl.password": "hunter2", "database.user": "me"},
        "urls": ["amqp://me:hunter2@h"],
        "error": ValueError("password=hunter2"),
        "header": "Authorization: Basic bWU6aHVudGVyMg==",
        "count": 3,
        "password_reference": "${file:/x:y}",
        "auth_password": None,
    }
    shown = masked(event)
    assert "hunter2" not in repr(shown)
    assert "bWU6" not in repr(shown)
    assert (shown["count"], shown["config"]["database.user"], shown["auth_password"]) == (3, "me", None)
    assert shown["password_reference"] == "${file:/x:y}"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("password", True),
        ("database.sslpassword", True),
        ("SASL_PASSWORD", True),
        ("aws.token", True),
        ("password_reference", False),
        ("token_file", False),
        ("compass", False),
        ("user", False),
    ],
)
def test_names_of_secrets_are_known(name: str, *, secret: bool) -> None:
    """Not those that say where one is kept."""
    assert is_secret_name(name) is secret
