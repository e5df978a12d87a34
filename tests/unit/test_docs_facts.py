"""The pages name what there is: messages, exit codes, metrics, control tables, reasons, tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from backfill.cli import commands as backfill
from cdc_consumer.catalogue import CATALOGUE
from cdc_consumer.cli import cli as cdc_consumer
from tests.doc_pages import PAGE_OF, PAGES, ROOT, Page
from widetable.control import migrations
from widetable.errors import ExitCode
from widetable.values import DEAD_REASONS

PRODUCT = ("widetable", "cdc_consumer", "backfill")
ERRORS = frozenset(
    {
        "ConfigurationError",
        "RequestError",
        "NotFoundError",
        "UnreachableError",
        "StoppedError",
        "PartialError",
        "Fatal",
        "bad",
        "warning",
    }
)
"""What a person meets: errors that end a command, and findings of `check`."""
GAP = "…"
PROGRAMS: dict[str, click.Command] = {"cdc-consumer": cdc_consumer, "backfill": backfill}
TELLING = re.compile(r"[A-Za-z][A-Za-z ,]{8,}")
"""A message with less text of its own than this gets it from somewhere else, which is looked at there."""


def template(node: ast.AST) -> str:
    """The text of an expression, a gap for everything that is not known before it runs."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(template, parts))
        case ast.BinOp(left=left, right=right):
            return template(left) + template(right)
    return GAP


@cache
def trees() -> tuple[tuple[Path, ast.Module], ...]:
    """Every file of the product, parsed."""
    paths = [path for package in PRODUCT for path in sorted((ROOT / package).rglob("*.py"))]
    return tuple((path, ast.parse(path.read_text(encoding="utf-8"))) for path in paths)


def raised_messages() -> Iterator[tuple[str, str]]:
    """Where a message is made, and its template."""
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                text = template(node.args[-1]) if node.args else ""
                if TELLING.search(text):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def texts() -> set[str]:
    """All texts of the product; those that messages are composed of are among them."""
    nodes = [node for _, tree in trees() for node in ast.walk(tree)]
    found = {template(node) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)}
    return {text for text in found if len(text) > len(GAP)}


def documented_phrases() -> list[str]:
    """The first column of the tables of messages."""
    rows = re.findall(r"^\| (`.*?`) \|", PAGE_OF["docs/troubleshooting.md"].text, re.MULTILINE)
    return [phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row)]


def says(phrase: str, text: str) -> bool:
    """Whether a text has the phrase, anything in its gaps."""
    return (
        re.search(".*".join(re.escape(part.strip()) for part in phrase.split(GAP)), text, re.DOTALL)
        is not None
    )


# -- messages -----------------------------------------------------------------------------------------------


def test_every_message_has_its_line_in_troubleshooting() -> None:
    """Whoever searches the page for a message finds what to do."""
    phrases = documented_phrases()
    missing = [
        f"{where}: {text}" for where, text in raised_messages() if not any(says(it, text) for it in phrases)
    ]
    assert not missing, "\n".join(["not in docs/troubleshooting.md:", *missing])


def test_every_line_of_troubleshooting_is_about_a_message_there_is() -> None:
    """No line outlives its message."""
    present = texts()
    stale = [phrase for phrase in documented_phrases() if not any(says(phrase, text) for text in present)]
    assert not stale


def test_messages_send_nobody_to_a_command_that_is_not_there() -> None:
    """`cdc-consumer …` and `backfill …` within a message are commands and options of the programs."""
    advised = {span for text in texts() for span in re.findall(r"`((?:cdc-consumer|backfill) [^`]+)`", text)}
    broken = {span for span in advised if not exists(span)}
    assert not broken


def exists(line: str) -> bool:
    """Whether a command line names a command, and options that it has."""
    program, *words = line.split()
    command: click.Command = PROGRAMS[program]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.commands.get(words.pop(0).rstrip(GAP))
        if below is None:
            return False
        command = below
    options = {name for option in command.params for name in option.opts}
    return {word for word in words if word.startswith("--")} <= options


def test_every_exit_code_is_explained() -> None:
    """README and operations list all of them."""
    operations = PAGE_OF["docs/operations.md"].text
    short = PAGE_OF["README.md"].text.partition("**Exit codes**:")[2].partition("\n\n")[0]
    for code in ExitCode:
        assert f"\n| {int(code)} | " in operations
        assert re.search(rf"\b{int(code)} [a-z]", short)


# -- names --------------------------------------------------------------------------------------------------


SUFFIXES = re.compile(r"_(bucket|sum|count)$")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_metrics_that_pages_name_are_in_the_catalogue(page: Page) -> None:
    """No page tells of a metric that is not exported."""
    named = {name for span in page.spans() for name in re.findall(r"^(cdc_[a-z_]+)(?:\{.*\})?$", span)}
    assert not {name for name in named if SUFFIXES.sub("", name) not in CATALOGUE}


def control_tables() -> set[str]:
    """The tables that the migrations make."""
    return {name for step in migrations() for name in re.findall(r"CREATE TABLE (\w+)", step.text)}


def test_every_control_table_is_explained() -> None:
    """The page about the target's tables has exactly those that the migrations make."""
    _, _, section = PAGE_OF["docs/how-it-works.md"].text.partition("## What the target holds")
    rows = re.findall(r"^\| (`.+?`) \|", section.partition("\n## ")[0], re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == control_tables() | {"migration"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_queries_shown_name_tables_there_are(page: Page) -> None:
    """A query that is copied from a page finds its table."""
    named = re.findall(r"\bcdc\.(\w+)", "\n".join(page.blocks("sql")))
    assert set(named) <= control_tables()


def dead_reasons() -> set[str]:
    """Reasons of dead cells: those of values, those that decoders name, those of strays."""
    found = {reason for reason in DEAD_REASONS if reason}
    for path, tree in trees():
        if path.name in {"decoder.py", "envelope.py", "plain_decoder.py"}:
            calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
            strays = [call for call in calls if getattr(call.func, "id", "") == "StrayError"]
            found |= {template(call.args[0]) for call in strays}
    return found | {"undecodable", "no_image", "no_lsn", "placeholder", "unknown_schema"}


def test_every_reason_of_a_dead_cell_is_listed() -> None:
    """A reason found in `dead_cell` is found on the page."""
    listed = set(PAGE_OF["docs/operations.md"].spans())
    assert not dead_reasons() - listed


def test_every_reason_of_overflow_is_explained() -> None:
    """The reasons that the control schema names, and only those."""
    (comment,) = re.findall(r"reason\s+text NOT NULL,\s+-- ([a-z_, ]+)\n", migrations()[0].text)
    _, _, section = PAGE_OF["docs/wide-rows.md"].text.partition("## Overflow")
    rows = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    assert set(rows) == set(comment.split(", "))


@pytest.mark.parametrize("page", ["docs/guarantees.md", "docs/coming-from-polling.md"])
def test_every_test_named_is_there(page: str) -> None:
    """What the page says is tested, is."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    there = {
        name for text in sources for name in re.findall(r"^(?:async )?\s*def (test_\w+)", text, re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", PAGE_OF[page].text))
    assert named
    assert not named - there
