"""The project's pages as tests read them: text, code, and the command lines that they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN: Final = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Page:
    """A Markdown file of the project."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its path in the repository."""
        return str(self.path.relative_to(ROOT))

    @property
    def prose(self) -> str:
        """The text without its blocks of code."""
        return FENCE.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        """The blocks of code in a language."""
        return [body for found, body in FENCE.findall(self.text) if found == language]

    def spans(self) -> list[str]:
        """Pieces of code within the prose, each on one line."""
        return [" ".join(span.split()) for span in SPAN.findall(self.prose)]

    def shell_lines(self) -> Iterator[str]:
        """Command lines, from shell blocks (without comments) and from the prose."""
        for block in self.blocks("sh"):
            yield from (re.sub(r"(^|\s)#.*", "", line).strip() for line in block.splitlines())
        yield from self.spans()

    def anchors(self) -> set[str]:
        """What `#…` may point at, as GitHub makes it of headings."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _pages() -> tuple[Page, ...]:
    top = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
    paths = [*(ROOT / name for name in top), *sorted((ROOT / "docs").rglob("*.md"))]
    return tuple(Page(path, path.read_text(encoding="utf-8")) for path in paths)


PAGES: Final = _pages()
PAGE_OF: Final = {page.name: page for page in PAGES}
NAMES: Final = sorted(PAGE_OF)
ALL_TEXT: Final = "\n".join(page.text for page in PAGES)
