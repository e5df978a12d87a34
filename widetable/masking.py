"""Secrets in text: recognised by where they stand, and masked before anything is logged or shown.

In: any text or nested value. Out: the same with the secret parts replaced. What counts: the password of a URL,
the value after a name such as `password=` or `"token":`, an `Authorization` header, and values filed under
such a name. A secret that stands alone, with nothing beside it that says what it is, can't be recognised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "********"

_NAME: Final = r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|credentials|api[_.-]?key|sasl\.jaas\.config)"
SECRET_NAME: Final = re.compile(
    rf"(?:^|[_.-]|ssl){_NAME}(?:$|[_.-](?!reference|file|location))", re.IGNORECASE
)
"""A key, field or setting that holds a secret; not one that says where a secret is kept."""

IN_URL: Final = re.compile(
    r"(?P<kept>\b[a-z][a-z0-9+.-]*://[^\s/:@?#]*:)\S+?(?=@[^\s@/]*(?:[/?\s'\"]|$))", re.IGNORECASE
)
IN_PAIR: Final = re.compile(
    rf"(?P<kept>[\w.-]*{_NAME}[\"']?\s*[=:]\s*)"  # password=…  "token": "…"
    r"(?![\"']?\$\{)(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s,;&'\"}\])]+)",  # no ${file:…}
    re.IGNORECASE,
)
IN_HEADER: Final = re.compile(r"(?P<kept>\b(?:Basic|Bearer)\s+)[A-Za-z0-9+/=._~-]{6,}")


def mask_text(text: str) -> str:
    """The text with every secret that it shows masked."""
    for pattern in (IN_URL, IN_PAIR, IN_HEADER):
        text = pattern.sub(rf"\g<kept>{MASK}", text)
    return text


def is_secret_name(name: str) -> bool:
    """Whether what is filed under this name is a secret."""
    return SECRET_NAME.search(name) is not None


def masked(value: Any) -> Any:
    """A value with every secret in it masked, however deep; what is neither text nor a container stays."""
    match value:
        case str():
            return mask_text(value)
        case Mapping():
            return {
                name: MASK if is_secret_name(str(name)) and inner not in (None, "") else masked(inner)
                for name, inner in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [masked(inner) for inner in value]
        case BaseException():
            return mask_text(repr(value))
    return value
