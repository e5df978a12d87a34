"""The pages say what the programs do: commands, options, settings and links are held to the code."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from backfill.cli import commands as backfill
from backfill.settings import Settings as BackfillSettings
from cdc_consumer.cli import cli as cdc_consumer
from cdc_consumer.dead_letters_commands import dead_letters
from cdc_consumer.settings import Settings as ConsumerSettings
from devstack.__main__ import main as devstack
from devstack.fleet.cli import fleet
from tests.doc_pages import ALL_TEXT, NAMES, PAGE_OF, PAGES, ROOT, Page
from widetable.config_file import CONFIG
from widetable.environment import FILE_SUFFIX, TEST_PREFIX, load, variables

PRODUCT: dict[str, click.Command] = {"cdc-consumer": cdc_consumer, "backfill": backfill}
PROGRAMS: dict[str, click.Command] = {
    **PRODUCT,
    "python -m devstack.fleet": fleet,
    "python -m devstack": devstack,
}
SETTINGS = {name for model in (ConsumerSettings, BackfillSettings) for name, _ in variables(model)}
PLACEHOLDERS = {
    "N": "2",
    "ROWS": "1000",
    "SHIP": "IMO9976903",
    "FOLDER": "channels",
    "failed.csv": "README.md",
    "corrections/": "docs",
    "…": "x",
}
"""Words that stand for a value in a shown command line."""


def leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its full name."""
    if isinstance(command, click.Group):
        for part, below in command.commands.items():
            yield from leaves(below, f"{name} {part}")
    else:
        yield name, command


PRODUCT_COMMANDS = dict(pair for name, program in PRODUCT.items() for pair in leaves(program, name))


# -- commands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRODUCT_COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    """README's table of commands names every command of both programs."""
    assert f"| `{name}` |" in PAGE_OF["README.md"].text


@pytest.mark.parametrize("name", PRODUCT_COMMANDS)
def test_every_option_is_documented(name: str) -> None:
    """The page of commands has a section for the command, and in it all of its options."""
    _, _, rest = PAGE_OF["docs/commands.md"].text.partition(f"\n### {name}\n")
    section = rest.partition("\n##")[0]
    parts = PRODUCT_COMMANDS[name].params
    options = [part for part in parts if isinstance(part, click.Option) and not part.hidden]
    missing = [opt for option in options for opt in option.opts if f"`{opt}`" not in section]
    assert rest
    assert not missing, f"python docs/generate.py commands > docs/commands.md; missing: {missing}"


@pytest.mark.parametrize("page", ["settings", "commands", "metrics"])
def test_pages_made_from_the_code_are_current(page: str) -> None:
    """What docs/generate.py prints is what stands there."""
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"][page]()
    current = PAGE_OF[f"docs/{page}.md"].text
    assert made == current, f"run: python docs/generate.py {page} > docs/{page}.md"


def shown_commands(page: Page) -> Iterator[tuple[str, list[str]]]:
    """Program and arguments of every command line on a page that is one of ours."""
    for line in page.shell_lines():
        plain = re.sub(r"(\s\d?>.*|\s&.*|\s\|.*)$", "", line.replace(".venv/bin/", ""))
        for program in PROGRAMS:
            if plain == program or plain.startswith(f"{program} "):
                yield program, shlex.split(plain.removeprefix(program))
                break


def resolve(command: click.Command, name: str, arguments: list[str]) -> None:
    """Parse a command line as the program would, without running anything.

    Raises:
        click.UsageError: it would be refused.
    """
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        part, *arguments = arguments
        below = command.commands.get(part)
        if below is None:
            raise click.UsageError(f"{name} has no command {part}")
        command, name = below, f"{name} {part}"
    if arguments and "--help" not in arguments:
        command.make_context(name, [PLACEHOLDERS.get(word, word) for word in arguments])


@pytest.mark.parametrize("name", NAMES)
def test_every_command_line_shown_is_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who copies a command line is not told that there is no such command or option."""
    monkeypatch.setenv("CDC_SOURCE__DSN", "postgresql://u@h/d")
    for program, arguments in shown_commands(PAGE_OF[name]):
        try:
            resolve(PROGRAMS[program], program, arguments)
        except click.UsageError as error:
            pytest.fail(f"{name}: `{shlex.join([program, *arguments])}`: {error.format_message()}")


def test_the_check_of_command_lines_can_fail() -> None:
    """A command that does not exist is noticed, and so is an option."""
    for arguments in (["rewind"], ["run", "--interval", "5"], ["schema", "plan", "--sample-minutes", "x"]):
        with pytest.raises(click.UsageError):
            resolve(cdc_consumer, "cdc-consumer", arguments)


def test_the_readme_shows_every_command_by_hand() -> None:
    """All commands but those for bad days stand in the shell blocks of README, and the fleet's two."""
    blocks = "\n".join(PAGE_OF["README.md"].blocks("sh"))
    wanted = {*PRODUCT_COMMANDS, *(f"python -m devstack.fleet {part}" for part in fleet.commands)}
    assert {name for name in wanted if name not in blocks} == {
        "backfill retry",
        "backfill import",
        "backfill export",
    } | {
        f"cdc-consumer {name}"
        for name in (
            "logs",
            "reinit",
            "repartition",
            "resume",
            "snapshot",
            "teardown",
            *(f"dead-letters {part}" for part in dead_letters.commands),
        )
    }


def test_every_make_target_mentioned_exists() -> None:
    """`make …` in code is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for page in PAGES for line in page.shell_lines()]
    mentioned = {target for line in lines for target in re.findall(r"\bmake ([a-z-]+)", line)}
    assert {"demo", "test", "up", "down"} <= mentioned <= targets


# -- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_named_is_a_setting(name: str) -> None:
    """No page names a variable that the programs would refuse."""
    named = set(re.findall(r"\bCDC_[A-Z0-9_]+", PAGE_OF[name].text))
    assert not {variable for variable in named if not is_setting(variable)}


def is_setting(variable: str) -> bool:
    """Whether it is a setting, a whole section (`CDC_KAFKA__…`), its file, a key of `extra`, or the tests' own."""
    whole = variable.endswith("__") and any(name.startswith(variable) for name in SETTINGS)
    extra = variable.partition("__EXTRA__")[0] + "__EXTRA"
    return (
        whole
        or variable == CONFIG
        or variable.startswith(TEST_PREFIX)
        or bool({variable, variable.removesuffix(FILE_SUFFIX)} & SETTINGS)
        or ("__EXTRA__" in variable and extra in SETTINGS)
    )


def test_every_section_of_settings_is_in_the_readme() -> None:
    """README's table of sections leaves none out."""
    sections = {name.partition("__")[0] for name in SETTINGS}
    missing = [section for section in sections if f"`{section}__…`" not in PAGE_OF["README.md"].text]
    assert not missing


def test_the_example_settings_are_accepted(tmp_path: Path) -> None:
    """README's environment file loads in both programs."""
    secret = tmp_path / "dsn"
    secret.write_text("postgresql://writer@target.example/wide\n")
    (block,) = [block for block in PAGE_OF["README.md"].blocks("sh") if "CDC_SOURCE__DSN=" in block]
    environ = dict(word.split("=", 1) for word in shlex.split(block, comments=True))
    environ["CDC_TARGET__DSN_FILE"] = str(secret)
    settings = load(ConsumerSettings, environ)
    assert settings.topic.replication_factor == 3
    assert settings.kafka.client()["security.protocol"] == "SASL_SSL"
    assert load(BackfillSettings, environ).target.reader_role == "analysts"


def test_the_example_of_connector_settings_is_accepted() -> None:
    """The JSON that the page of settings shows is read as it should be."""
    found = re.search(r"CDC_CONNECT__EXTRA='([^']+)'", PAGE_OF["docs/settings.md"].text)
    assert found
    dsn = "postgresql://u@h/d"
    given = {"CDC_SOURCE__DSN": dsn, "CDC_TARGET__DSN": dsn, "CDC_CONNECT__EXTRA": found[1]}
    assert load(ConsumerSettings, given).connect.extra == {"database.sslmode": "require"}


# -- links and paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_link_within_the_project_resolves(name: str) -> None:
    """The page is there, and so is the heading."""
    page = PAGE_OF[name]
    for link in re.findall(r"\]\(([^)\s]+)\)", page.prose):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in PAGE_OF[str(path.relative_to(ROOT))].anchors(), f"{name}: {link}"


def test_every_page_is_linked() -> None:
    """No page is there that nobody finds."""
    linked = {
        str((page.path.parent / link.partition("#")[0]).resolve().relative_to(ROOT))
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", page.prose)
        if not link.startswith("https://")
    }
    assert set(PAGE_OF) - linked <= {"README.md"}


@pytest.mark.parametrize("name", NAMES)
def test_every_file_named_exists(name: str) -> None:
    """A path in code, from the root of the project, leads somewhere."""
    folders = "widetable|cdc_consumer|backfill|deploy|devstack|tests|docs|connectors|channels"
    paths = [span for span in PAGE_OF[name].spans() if re.fullmatch(rf"({folders})/[\w./*-]*", span)]
    missing = [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]
    assert not [path for path in missing if "NNNN" not in path]


def test_figures_have_their_place() -> None:
    """Where measured figures go is marked, once."""
    readme = PAGE_OF["README.md"].text
    assert readme.count("<!-- figures -->") == readme.count("<!-- /figures -->") == 1
    assert readme.index("<!-- figures -->") < readme.index("<!-- /figures -->")


def test_no_page_names_a_command_that_is_gone() -> None:
    """Commands that were planned or renamed are not promised."""
    promised = re.findall(r"`(?:cdc-consumer|backfill) ([a-z-]+)", ALL_TEXT)
    known = {name.split()[1] for name in PRODUCT_COMMANDS}
    assert not set(promised) - known
