"""Every command line in a block of the pages: known to the code, or in a block that says what it needs.

A block may say `<!-- needs containers -->` or `<!-- needs servers -->` in the line above it: no test runs it, but
the files, services, units and programs that it names are looked at all the same.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest

from tests.container_files import compose, services
from tests.doc_pages import FENCE, NAMES, PAGE_OF, ROOT
from tests.unit.test_docs import PROGRAMS, is_setting, resolve
from tests.unit.test_kubernetes import OBJECTS

BLOCK = re.compile(r"^(?:<!-- needs (\w+) -->\n)?```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = frozenset({"export", "wait", "kill", "eval"})
FLAGS_WITH_VALUES = frozenset({"--profile", "--file", "--tag", "--build-arg", "-f", "-v", "--unit"})
WITHOUT_COMMANDS = frozenset({"csv", "mermaid", "properties", "sql", "toml"})
URL = re.compile(r"http://127\.0\.0\.1:(\d+)(/\w*)")


def blocks() -> Iterator[tuple[str, str, str]]:
    """Page, what is needed (or nothing), and the lines of each shell block."""
    for name in NAMES:
        for need, body in BLOCK.findall(PAGE_OF[name].text):
            yield name, need, body


def commands(body: str) -> Iterator[list[str]]:
    """The words of each command of a block, without comments, redirections and what runs in the background."""
    for line in body.splitlines():
        plain = re.sub(r"(^|\s)#.*", "", line).strip()
        for part in re.split(r";|&&|&", re.sub(r"\d?>+\s*\S+", "", plain)):
            words = shlex.split(part)
            while len(words) > 1 and re.fullmatch(r"\w+=.*", words[0]):
                words = words[1:]
            if words:
                yield words


def ours(words: list[str]) -> bool:
    """Resolve a command line of one of the programs; False if it is none.

    Raises:
        click.UsageError: the program would refuse it.
    """
    line = " ".join(words).replace(".venv/bin/", "")
    for program in PROGRAMS:
        if line == program or line.startswith(f"{program} "):
            resolve(PROGRAMS[program], program, words[len(program.split()) :])
            return True
    return False


def operands(words: list[str]) -> list[str]:
    """The words that are neither options nor the values of those that take one."""
    found, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in FLAGS_WITH_VALUES:
            skip = True
        elif not word.startswith("-"):
            found.append(word)
    return found


def values(words: list[str], flag: str) -> list[str]:
    """What stands behind each use of an option."""
    return [after for word, after in pairwise(words) if word == flag]


# -- how each kind of command is looked at ------------------------------------------------------------------------


def make(words: list[str]) -> bool:
    """Targets are in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    return {word for word in words[1:] if "=" not in word} <= targets


def python(words: list[str]) -> bool:
    """A script of ours with an argument that it knows, or a module of Python's own."""
    if words[1] == "-m":
        return words[2] == "venv"
    script = ROOT / words[1]
    return words[2] in runpy.run_path(str(script))["PAGES"]


def pip(words: list[str]) -> bool:
    """Files of requirements are there, and hashes are asked for."""
    files = values(words, "-r")
    if files:
        return "--require-hashes" in words and all((ROOT / file).exists() for file in files)
    return words[1:] == ["install", "--no-deps", "."]


def pytest_line(words: list[str]) -> bool:
    """Folders of tests are there."""
    return all((ROOT / word).exists() for word in words[1:] if word.startswith("tests"))


def files_exist(words: list[str]) -> bool:
    """What is copied, or run as a script, is in the repository."""
    sources = words[1:-1] if words[0] == "cp" else words[:1]
    return bool(sources) and all((ROOT / source).exists() for source in sources)


def script(words: list[str]) -> bool:
    """A script of ours, executable."""
    return os.access(ROOT / words[0], os.X_OK)


def curl(words: list[str]) -> bool:
    """A path that the consumer serves, on the port that Compose publishes for it."""
    found = URL.fullmatch(words[-1])
    published = services()["cdc-consumer"]["ports"][0].split(":")[1]
    if found is None:
        return False
    return found[1] == published and found[2] in {"/metrics", "/healthz", "/readyz"}


def docker(words: list[str]) -> bool:
    """Profiles and services are in the compose file; what they run are commands of the programs."""
    if words[1] != "compose":
        return docker_itself(words)
    profiles = {profile for service in services().values() for profile in service.get("profiles", [])}
    if not set(values(words, "--profile")) <= profiles:
        return False
    verb, *rest = operands(words[2:])
    if verb in {"run", "exec"}:
        service, *command = rest
        there = words.index(service, words.index(verb))
        return service in services() and (not command or ours(words[there + 1 :]))
    return verb in {"up", "down", "logs", "build"} and set(rest) <= services().keys()


def docker_itself(words: list[str]) -> bool:
    """The image is built here, and runs our programs."""
    if words[1] == "build":
        return values(words, "--tag") == ["narrow-to-wide"] and words[-1] == "."
    image = words.index("narrow-to-wide")
    return words[1] == "run" and ours(words[image + 1 :])


def kubectl(words: list[str]) -> bool:
    """Files are there, and objects are in them."""
    named = [word for word in words if re.fullmatch(r"(job)/[\w-]+", word)]
    known = {f"{kind.lower()}/{name}" for kind, name in OBJECTS}
    return all((ROOT / path).exists() for path in values(words, "-f")) and set(named) <= known


def psql(words: list[str]) -> bool:
    """The script is there, and knows the side."""
    return all((ROOT / path).exists() for path in values(words, "-f")) and values(words, "-v")[0] in {
        "side=source",
        "side=target",
    }


def systemd(words: list[str]) -> bool:
    """Units are those of deploy/systemd."""
    units = [word for word in words if word.endswith(".service")]
    return all((ROOT / "deploy/systemd" / unit).exists() for unit in units)


Look = Callable[[list[str]], bool]
ANYWHERE: dict[str, Look] = {
    "make": make,
    "python3.11": python,
    ".venv/bin/python": python,
    ".venv/bin/pip": pip,
    ".venv/bin/pytest": pytest_line,
}
WITH: dict[str, dict[str, Look]] = {
    "containers": {
        "cp": files_exist,
        "deploy/compose/secrets.sh": script,
        "curl": curl,
        "docker": docker,
        "kubectl": kubectl,
    },
    "servers": {"psql": psql, "cp": files_exist, "systemctl": systemd, "journalctl": systemd},
    "": {},
}


def complaint(need: str, words: list[str]) -> str | None:
    """What is wrong with a command line of a block; None if nothing is."""
    variable, assigned, _ = words[0].partition("=")
    if words[0] in SHELL or (assigned and len(words) == 1 and (variable.islower() or is_setting(variable))):
        return None
    try:
        if ours(words):
            return None
        look = (ANYWHERE | WITH[need]).get(words[0])
        if look is None:
            return "no test knows this command, and the block does not say what it needs"
        return None if look(words) else "names something that is not there"
    except (click.UsageError, ValueError, IndexError) as error:
        return error.format_message() if isinstance(error, click.UsageError) else repr(error)


def test_every_command_line_of_a_block_is_known_or_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader can run each of them, or is told what it needs."""
    monkeypatch.setenv("CDC_SOURCE__DSN", "postgresql://u@h/d")
    found = [
        f"{name}: `{' '.join(words)}`: {problem}"
        for name, need, body in blocks()
        for words in commands(body)
        if (problem := complaint(need, words))
    ]
    assert not found, "\n".join(found)


def test_every_block_is_looked_at() -> None:
    """A mark misspelt or one line too high would hide a block from its rules; so would another word than sh."""
    for name in NAMES:
        languages = {language for language, _ in FENCE.findall(PAGE_OF[name].text)}
        assert languages <= {"sh", *WITHOUT_COMMANDS}, name
        text = PAGE_OF[name].text
        marks = re.findall(r"^<!-- needs (\w+) -->$", text, re.MULTILINE)
        assert [need for page, need, _ in blocks() if page == name and need] == marks
        assert set(marks) <= WITH.keys()


@pytest.mark.parametrize(
    ("need", "line"),
    [
        pytest.param("", "docker compose up", id="containers without a mark"),
        pytest.param("containers", "docker compose up consumer", id="a service that is not there"),
        pytest.param("containers", "docker compose --profile demos up", id="a profile that is not there"),
        pytest.param(
            "containers", "docker compose run --rm backfill backfill rnu", id="a command within a container"
        ),
        pytest.param("containers", "curl http://127.0.0.1:9181/metrics", id="another port"),
        pytest.param(
            "containers", "kubectl apply -f deploy/kubernetes/none.yaml", id="a file that is not there"
        ),
        pytest.param("servers", "systemctl start consumer.service", id="a unit that is not there"),
        pytest.param("", ".venv/bin/pytest tests/units", id="a folder that is not there"),
        pytest.param("", "make demmo", id="a target that is not there"),
        pytest.param("", "cdc-consumer run --process 2", id="an option that is not there"),
        pytest.param("", "rm -rf /", id="a stranger"),
    ],
)
def test_the_rules_notice_a_mistake(need: str, line: str) -> None:
    """Each of these would be found."""
    (words,) = commands(line)
    assert complaint(need, words)


def test_the_compose_file_is_where_the_pages_say() -> None:
    """Commands run from the root of a checkout."""
    assert Path(ROOT / "docker-compose.yml").exists()
    assert compose()["name"] == "narrow-to-wide"
