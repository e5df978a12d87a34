"""SQL kept in `.sql` files, one statement per ``-- name --`` heading, loaded as a dictionary."""

from __future__ import annotations

import re
from importlib.resources.abc import Traversable
from typing import Final, LiteralString, cast

HEADING: Final = re.compile(r"^-- (\w+) --$", re.MULTILINE)


def load_statements(file: Traversable) -> dict[str, LiteralString]:
    """Statements by name. They count as literal strings: they are part of the package, never of the input."""
    parts = HEADING.split(file.read_text())
    return {
        name: cast("LiteralString", text.strip()) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }
