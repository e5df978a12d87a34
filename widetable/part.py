"""A part of a deployment that may be away: opened when first asked for, and never in the way of the others.

In: a way to open it, or to look at it. Out: the open part, or what went wrong, as an error or as a fact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from widetable.command_line import named
from widetable.errors import UnreachableError, WideTableError

T = TypeVar("T")


class Part(Generic[T]):
    """A part that is opened at most once; what went wrong is kept and raised again, in short."""

    def __init__(self, name: str, opened: Callable[[], T]) -> None:
        self.name = name
        self._open = opened
        self._value: T | None = None
        self._error: WideTableError | None = None

    def __call__(self) -> T:
        """The open part.

        Raises:
            WideTableError: the first time the reason, later that it could not be opened.
        """
        if self._error is not None:
            raise UnreachableError(f"needs {self.name}")
        if self._value is None:
            try:
                self._value = self._open()
            except WideTableError as error:
                self._error = error
                raise
        return self._value


def told(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The facts that `look` finds, or `{"error": reason}` where the part is away or not as it should be."""
    try:
        return look()
    except Exception as error:
        known = named(error)
        if known is None:
            raise
        return {"error": str(known)}
