"""What a check finds, and how it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "bad", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        status: `bad` needs a person; `unknown` could not be checked.
        text: what was found and, unless all is well, what to do.
    """

    status: Status
    text: str


def ok(text: str) -> Finding:
    """As it should be."""
    return Finding("ok", text)


def warning(text: str) -> Finding:
    """Works, and somebody should know."""
    return Finding("warning", text)


def bad(text: str) -> Finding:
    """Does not work until somebody acts."""
    return Finding("bad", text)
