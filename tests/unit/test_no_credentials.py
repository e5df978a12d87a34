"""No password is in the tree: not in code, not in examples."""

from __future__ import annotations

import re

from tests.doc_pages import ROOT

IN_URL = re.compile(r"://[^\s/:@\"'`]+:(?P<secret>[^\s@/\"'`]+)@")
IN_PAIR = re.compile(
    r"(?i)\bpassword\s*[=:]\s*[\"']?(?P<secret>[A-Za-z0-9!#%+-]{6,})[\"']?\s*$", re.MULTILINE
)
HELD_OPEN = re.compile(r"[{}$<>…*]|^(password|secret|str|None|CHANGE-ME)$")
"""A placeholder, or a name."""
FOLDERS = ("widetable", "cdc_consumer", "backfill", "connectors", "deploy", "docs")
KINDS = {
    ".py",
    ".sql",
    ".md",
    ".json",
    ".toml",
    ".yml",
    ".yaml",
    ".properties",
    ".service",
    ".env",
    ".example",
    ".sh",
}


def test_no_credential_is_in_the_repository() -> None:
    """What runs in production, and what people copy from."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in KINDS]
    files += [path for path in ROOT.iterdir() if path.is_file() and path.suffix in KINDS]
    assert len(files) > 100
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files
        for pattern in (IN_URL, IN_PAIR)
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
        if not HELD_OPEN.search(match["secret"])
    ]
    assert not found


def test_the_search_for_credentials_can_fail() -> None:
    """A password in an address, and one beside its name, are seen; a placeholder is not."""
    assert IN_URL.search("dsn = 'postgresql://me:hunter2@db/x'")
    assert IN_PAIR.search("password = hunter22")
    found = IN_URL.search("postgresql://me:{password}@db/x")
    assert found
    assert HELD_OPEN.search(found["secret"])
