"""The four roles of `deploy/roles.sql` on a fresh source and target, each with a password of its own."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import conninfo, sql

from devstack import binaries
from devstack.postgres import PASSWORD

SCRIPT = Path(__file__).parent.parent / "deploy" / "roles.sql"
NAMES = ("debezium", "history", "writer", "ddl")


@dataclass(frozen=True, slots=True)
class Roles:
    """The DSN of each role, and the passwords that must not be seen anywhere."""

    debezium: str
    history: str
    writer: str
    ddl: str
    passwords: tuple[str, ...]


def run_script(side: str, dsn: str, names: dict[str, str], **more: str) -> str:
    """Run the script as an administrator would; returns what psql said."""
    variables = [f"--set={name}={value}" for name, value in {"side": side, **names, **more}.items()]
    command = [str(binaries.programs() / "psql"), "--no-psqlrc", *variables, f"--file={SCRIPT}", dsn]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - fixed arguments
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def four_roles(source: str, target: str, publication: str) -> Iterator[Roles]:
    """Roles with names of their own, for roles belong to the whole cluster."""
    tag = secrets.token_hex(4)
    names = {name: f"{name}_{tag}" for name in NAMES}
    # Debezium's is the one that Connect's secret holds.
    passwords = {name: secrets.token_hex(12) for name in NAMES} | {"debezium": PASSWORD}
    for _ in range(2):  # a second run finds everything there
        run_script("source", source, names, publication=publication)
        run_script("target", target, names)
    with psycopg.connect(source, autocommit=True) as admin:
        for name, role in names.items():
            given = sql.SQL("ALTER ROLE {} PASSWORD {}")
            admin.execute(given.format(sql.Identifier(role), sql.Literal(passwords[name])))
    dsns = {
        name: conninfo.make_conninfo(
            source if name in {"debezium", "history"} else target, user=names[name], password=passwords[name]
        )
        for name in NAMES
    }
    hidden = tuple(text for name, text in passwords.items() if name != "debezium")
    yield Roles(**dsns, passwords=hidden)
    for dsn in (source, target):
        with psycopg.connect(dsn, autocommit=True) as admin:
            for role in names.values():
                admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
    with psycopg.connect(source, autocommit=True) as admin:
        for role in names.values():
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
