"""No secret leaves the programs: not in output, logs, errors, process lists, Connect, or the control schema.

Every secret that is set holds one unmistakable word, and all that is said anywhere is searched for it, plain and in
base64. A new command that shows something goes to `SHOWING`.
"""

from __future__ import annotations

import base64
import itertools
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import click
import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from backfill.cli import commands as backfill
from cdc_consumer.cli import _surprise
from cdc_consumer.cli import cli as cdc_consumer
from devstack.product import Process
from devstack.stack import Stack
from tests.chain_pipeline import fresh_pipeline
from tests.waiting import wait_until
from widetable import command_line
from widetable.errors import ExitCode

WORD = f"s3same{secrets.token_hex(6)}"
SHOWING = (
    ("cdc-consumer", "check"),
    ("cdc-consumer", "check", "--json"),
    ("cdc-consumer", "status"),
    ("cdc-consumer", "status", "--json"),
    ("cdc-consumer", "config", "show"),
    ("cdc-consumer", "config", "show", "--json"),
    ("cdc-consumer", "schema", "plan"),
    ("cdc-consumer", "dead-letters", "list"),
    ("cdc-consumer", "dead-letters", "export", "dead.jsonl"),
    ("backfill", "config", "show"),
    ("backfill", "plan", "--json"),
    ("backfill", "status"),
    ("backfill", "status", "--json"),
    ("backfill", "verify", "--json", "--settle-timeout", "100"),
    ("cdc-consumer", "--help"),
    ("backfill", "--help"),
)
"""What looks and tells; the first and the last of each program also with settings that are wrong."""
FAILING = tuple(
    command for command in SHOWING if command[1:] in {("check", "--json"), ("status",), ("plan", "--json")}
)
PROGRAMS: Mapping[str, click.Command] = {"cdc-consumer": cdc_consumer, "backfill": backfill}
BLOBS = re.compile(rb"[A-Za-z0-9+/_-]{12,}={0,2}")
NARROW = "tenant.tbl_data_timeseries"
INSERT = f"""
INSERT INTO {NARROW} (ship_id, data_channel_id, created_time, double_v, value_format)
VALUES ('SHIP', 'a/b', %s, 1, 'Decimal')
"""
TABLES = "SELECT format('SELECT t::text FROM cdc.%I t', tablename) FROM pg_tables WHERE schemaname = 'cdc'"
SESSIONS = "SELECT coalesce(string_agg(application_name || query, ' '), '') FROM pg_stat_activity"


def secret(of: str) -> str:
    """A password that is found wherever it turns up."""
    return f"{WORD}-{of}"


def leaks(said: bytes | str) -> list[str]:
    """Where the word stands in what was said, also behind base64."""
    text = said.encode() if isinstance(said, str) else said
    word = WORD.encode()
    found = [text[max(0, at.start() - 80) : at.end() + 20] for at in re.finditer(word, text)]
    for blob in BLOBS.findall(text):
        for start in range(4):
            part = blob[start : start + (len(blob) - start) // 4 * 4]
            if word in base64.b64decode(part, altchars=b"-_", validate=False):
                found.append(blob)
    return [place.decode(errors="replace") for place in found]


def run(*command: str) -> int:
    """Run a command in this process, as its program does; returns the exit code."""
    surprise = _surprise if command[0] == "cdc-consumer" else None
    return command_line.exit_code(PROGRAMS[command[0]], surprise, command[1:])


def test_the_search_finds_what_it_looks_for() -> None:
    """Plain, in the header of a login, and in a bytea that was exported."""
    assert leaks(f"password={secret('x')}")
    assert leaks("Basic " + base64.b64encode(f"me:{secret('x')}".encode()).decode())
    assert leaks(base64.urlsafe_b64encode(f"..{secret('x')}".encode()))
    assert not leaks("password=********")


NOWHERE = "host=127.0.0.1 port=1"
GOOD = {"CDC_SOURCE__DSN": NOWHERE, "CDC_TARGET__DSN": NOWHERE, "CDC_CONNECT__SOURCE_USER": "debezium"}
WRONG: Mapping[str, Mapping[str, str]] = {
    "a server that is away, by URI": {
        f"CDC_{side}__DSN": f"postgresql://me:{secret(side)}@127.0.0.1:1/ships"
        for side in ("SOURCE", "TARGET")
    },
    "a server that is away, by keywords": {
        f"CDC_{side}__DSN": f"{NOWHERE} user=me password='{secret(side)}'" for side in ("SOURCE", "TARGET")
    },
    "a URI that is none": {"CDC_SOURCE__DSN": f"postgresql://me:{secret('source')}@host:port/ships"},
    "a URI with a stray @": {"CDC_TARGET__DSN": f"postgresql://me:p@{secret('target')}@[::1/ships"},
    "keywords that are none": {"CDC_TARGET__DSN": f"host=h password='{secret('target')}"},
    "an unknown keyword": {"CDC_SOURCE__DSN": f"host=h {secret('source')}=x"},
    "a password alone": {"CDC_SOURCE__DSN": secret("source")},
    "a misspelt setting": {"CDC_SOURCE__PASWORD": secret("source")},
    "a setting twice": {"CDC_TARGET__DSN_FILE": f"/nowhere/{secret('file')}"},
    "not JSON": {"CDC_CONNECT__EXTRA": f'{{"password": "{secret("extra")}"'},
    "not an object": {"CDC_KAFKA__EXTRA": f'["{secret("extra")}"]'},
    "not a property": {"CDC_KAFKA__EXTRA__SASL_PASWORD": secret("kafka")},
    "not a reference": {"CDC_CONNECT__PASSWORD_REFERENCE": secret("connector")},
    "not a number": {"CDC_SOURCE__CONNECT_TIMEOUT_S": secret("number")},
    "an address with a login": {
        "CDC_CONNECT__URL": f"http://me:{secret('connect')}@127.0.0.1:1",
        "CDC_REGISTRY__URL": f"http://me:{secret('registry')}@127.0.0.1:1/x",
    },
    "an address that is none": {"CDC_CONNECT__URL": f"ftp://me:{secret('connect')}@host"},
    "a port that is none": {"CDC_REGISTRY__URL": f"http://me:{secret('registry')}@host:port"},
    "a login with a broker that is away": {
        "CDC_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "CDC_KAFKA__SASL_MECHANISM": "PLAIN",
        "CDC_KAFKA__SASL_USERNAME": "me",
        "CDC_KAFKA__SASL_PASSWORD": secret("kafka"),
        "CDC_KAFKA__EXTRA__SSL_KEY_PASSWORD": secret("key"),
        "CDC_CONNECT__AUTH_USER": "me",
        "CDC_CONNECT__AUTH_PASSWORD": secret("connect"),
        "CDC_REGISTRY__AUTH_USER": "me",
        "CDC_REGISTRY__AUTH_PASSWORD": secret("registry"),
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_refused_without_its_value(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Whatever it was meant to be; nothing ends with a traceback, and the log file holds no more."""
    log = tmp_path / "log"
    away = {"CDC_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "CDC_KAFKA__REQUEST_TIMEOUT_S": "0.5"}
    http = {f"CDC_{part}__URL": "http://127.0.0.1:1" for part in ("CONNECT", "REGISTRY")}
    given = {**GOOD, **away, **http, "CDC_LOG__FILE": str(log), "CDC_LOG__LEVEL": "debug", **WRONG[name]}
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    codes = [run(*command) for command in (*FAILING, ("backfill", "config", "show"))]
    said = "".join(capfd.readouterr())
    assert leaks(said + (log.read_text() if log.exists() else "")) == []
    assert "Traceback" not in said
    assert set(codes) <= {ExitCode.DONE, ExitCode.CONFIGURATION, ExitCode.UNREACHABLE}


@contextmanager
def roles(*dsns: str) -> Iterator[tuple[str, str]]:
    """Two roles with passwords to look for: one given as a URI, and one by keywords."""
    names = [f"{side}_{secrets.token_hex(4)}" for side in ("source", "target")]
    made = sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}")
    with ExitStack() as sessions:
        admins = [sessions.enter_context(closing(psycopg.connect(dsn, autocommit=True))) for dsn in dsns]
        for name in names:
            admins[0].execute(made.format(sql.Identifier(name), sql.Literal(secret(name))))
        for admin in admins:
            admin.execute("SELECT 'what the session shows as its last statement'")
        yield names[0], names[1]
        for name in names:
            for admin in admins:
                admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(name)))
            admins[0].execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture
def settings(source_dsn: str, target_dsn: str) -> Iterator[dict[str, str]]:
    """A pipeline in which everything that may have a password has one."""
    with roles(source_dsn, target_dsn) as (reader, writer):
        source = conninfo_to_dict(source_dsn)
        yield {
            "CDC_SOURCE__DSN": "postgresql://{}:{}@{host}:{port}/{dbname}".format(
                reader, secret(reader), **source
            ),
            "CDC_TARGET__DSN": make_conninfo(target_dsn, user=writer, password=secret(writer)),
            "CDC_CONNECT__SOURCE_USER": str(source["user"]),
            "CDC_KAFKA__SASL_USERNAME": "me",
            "CDC_KAFKA__SASL_PASSWORD": secret("kafka"),
            "CDC_KAFKA__EXTRA__SSL_KEY_PASSWORD": secret("key"),
            "CDC_REGISTRY__AUTH_USER": "me",
            "CDC_REGISTRY__AUTH_PASSWORD": secret("registry"),
            "CDC_CONNECT__AUTH_USER": "me",
            "CDC_CONNECT__AUTH_PASSWORD": secret("connect"),
            "CDC_LOG__LEVEL": "debug",
            "CDC_BACKFILL__SLICE_ROWS": "1",
        }


def command_lines(process: Process) -> str:
    """What anybody on the machine sees of a process and its children."""
    return "\n".join(" ".join(member.cmdline()) for member in process.family())


@pytest.mark.stack
@pytest.mark.timeout(480)
def test_the_whole_chain_keeps_its_secrets(
    stack: Stack,
    settings: dict[str, str],
    source_dsn: str,
    target_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """From the first command to a wrong password; with a dead cell, two consumers and two workers of history."""
    heard: dict[str, str] = {}

    def hear(name: str, *command: str, codes: tuple[int, ...] = (0,)) -> None:
        assert run(*command) in codes, capfd.readouterr()
        heard[name] = "".join(capfd.readouterr())

    with (
        closing(psycopg.connect(source_dsn, autocommit=True)) as source,
        fresh_pipeline(
            stack, settings["CDC_SOURCE__DSN"], settings["CDC_TARGET__DSN"], tmp_path, settings
        ) as pipeline,
    ):
        for variable, value in pipeline.product.environment.items():
            monkeypatch.setenv(variable, value)
        for second in range(3):
            source.execute(INSERT, [f"2026-01-01 00:00:0{second}"])
        hear("apply", "cdc-consumer", "schema", "apply")
        hear("init", "cdc-consumer", "init")
        consumer = pipeline.consume(processes=2)
        source.execute(INSERT, ["infinity"])
        copy = pipeline.product.start("backfill", "run", "--rate-limit", "0.5")
        wait_until(lambda: len(copy.family()) > 2 or not copy.running, "workers of history", 60)
        heard["process list"] = command_lines(copy) + command_lines(consumer)
        wait_until(lambda: not copy.running, "history is copied", 60)
        dead = "SELECT count(*) FROM dead_cell WHERE topic IS NOT NULL"
        wait_until(lambda: pipeline.target_value(dead) == 1, "a dead cell", 60)
        monkeypatch.chdir(tmp_path)
        for command in SHOWING:
            hear(" ".join(command), *command, codes=(0, 3))
        heard["export"] = Path("dead.jsonl").read_text()
        heard["connector"] = httpx.get(f"{stack.connect.url}/connectors?expand=info&expand=status").text
        with closing(psycopg.connect(target_dsn, autocommit=True)) as target:
            queries = [query.encode() for (query,) in target.execute(TABLES).fetchall()]
            heard["control schema"] = str([target.execute(query).fetchall() for query in queries])
            heard["sessions"] = target.execute(SESSIONS).fetchall()[0][0]
        wrong = secret("wrong")
        for side, command in itertools.product(("SOURCE", "TARGET"), FAILING):
            monkeypatch.setenv(
                f"CDC_{side}__DSN", make_conninfo(settings[f"CDC_{side}__DSN"], password=wrong)
            )
            hear(f"wrong {side}: {' '.join(command)}", *command, codes=(0, 3, 4))
            monkeypatch.setenv(f"CDC_{side}__DSN", settings[f"CDC_{side}__DSN"])
        assert consumer.terminate() == 0
        heard["consumer"], heard["copy"] = consumer.log.read_text(), copy.log.read_text()
    assert "infinity" in heard["cdc-consumer dead-letters list"]
    assert "password authentication failed" in "".join(heard.values())
    assert {name: found for name, said in heard.items() if (found := leaks(said))} == {}
