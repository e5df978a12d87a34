"""The postgres container's first start, on a server of its own: databases, roles, passwords, `schema apply`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo

from devstack import binaries
from devstack.postgres import PASSWORD, Postgres
from devstack.service import free_port
from tests.container_files import ROOT, services

pytestmark = [pytest.mark.postgres]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What deploy/compose/secrets.sh makes, with the connection strings of a server on this machine."""
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run([str(ROOT / "deploy/compose/secrets.sh"), str(folder)], check=True)  # noqa: S603 - ours
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, secrets: Path) -> Iterator[Postgres]:
    """A cluster after its first start as docker-compose.yml has it: roles belong to the whole cluster."""
    port = free_port()
    cluster = Postgres(tmp_path_factory.mktemp("cluster"), port, {"fsync": "off"})
    cluster.start()
    try:
        cluster.create_database("source", narrow=False)
        _first_start(port, secrets, tmp_path_factory.mktemp("sql"))
        for path in secrets.glob("*_dsn"):
            path.write_text(path.read_text().replace("@postgres:5432/", f"@127.0.0.1:{port}/"))
        yield cluster
    finally:
        cluster.wipe()


def _first_start(port: int, secrets: Path, sql: Path) -> None:
    """Run the script as the image's entry point does, with the files that Compose mounts under their names."""
    for mount in services()["postgres"]["volumes"]:
        ours, theirs, *_ = mount.split(":")
        if theirs.endswith(".sql"):
            (sql / Path(theirs).name).write_bytes((ROOT / ours).read_bytes())
    environment = {
        "PATH": f"{binaries.programs()}:{os.environ['PATH']}",
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGPASSWORD": PASSWORD,
        "POSTGRES_USER": services()["postgres"]["environment"]["POSTGRES_USER"],
        "SECRETS": str(secrets),
        "SQL": str(sql),
    }
    script = str(ROOT / "deploy/compose/postgres-init.sh")
    done = subprocess.run([script], check=False, capture_output=True, text=True, env=environment)  # noqa: S603 - ours
    assert done.returncode == 0, done.stderr
    assert not [
        name for name in secrets.glob("*_password") if name.read_text().strip() in done.stdout + done.stderr
    ]


def dsn(secrets: Path, name: str) -> str:
    """A connection string of the containers."""
    return (secrets / name).read_text().strip()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "name", ["collector_dsn", "source_dsn", "history_dsn", "target_dsn", "target_ddl_dsn"]
)
def test_every_connection_string_lets_its_role_in(secrets: Path, name: str) -> None:
    """With its own password, into its own database."""
    with psycopg.connect(dsn(secrets, name)) as conn:
        assert conn.info.user == conninfo.conninfo_to_dict(dsn(secrets, name))["user"]


def succeed(secrets: Path, service: str, *command: str) -> str:
    """Run a program with the environment of a container; returns what it printed."""
    environment = {
        name: str(secrets / Path(text).name) if name.endswith("_FILE") else str(text)
        for name, text in services()[service]["environment"].items()
    }
    program, *rest = command
    done = subprocess.run(  # noqa: S603 - ours
        [str(Path(sys.executable).with_name(program)), *rest],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **environment},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("server")
def test_tables_are_made_before_and_after_the_first_sample(secrets: Path) -> None:
    """What `init` does first, on a source without ships and beside profile demo; no superuser is needed."""
    assert "added 1,052 channels" in succeed(secrets, "init", "cdc-consumer", "schema", "apply")
    fleet = services()["fleet-history"]["command"]
    assert fleet[:3] == ["python", "-m", "devstack.fleet"]
    succeed(secrets, "fleet-history", *fleet[:4], "--ships=2", "--rows=20000")
    assert "2 ships" in succeed(secrets, "init", "cdc-consumer", "schema", "apply")
