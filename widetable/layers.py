"""Layers of settings: defaults below, then a file, the environment, and the command line on top.

In: what each source says, as nested values with the place of each. Out: one mapping, and for any setting the
layer that it came from. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

DEFAULT: Final = "default"

Path = tuple[str, ...]
"""Where a setting is: `("source", "dsn")`."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source of settings says.

    Attributes:
        values: by section; a section that is no mapping is left for validation to refuse.
        places: for a path, or the beginning of one, where its value was found, in words for people.
        problems: what is wrong with this source, a line each.
    """

    values: dict[str, Any]
    places: dict[Path, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def place(self, path: Path) -> str | None:
        """Where this layer found the value at `path`; None where it says nothing about it."""
        if not has(self.values, path):
            return None
        at_or_above = [self.places.get(path[:length]) for length in range(len(path), 0, -1)]
        below = [place for inner, place in self.places.items() if inner[: len(path)] == path]
        return next((place for place in [*at_or_above, *below] if place), None)


def has(values: Any, path: Path) -> bool:
    """Whether there is something at `path`, in a value that stands there whole included."""
    for part in path:
        if not isinstance(values, Mapping):
            return True
        if part not in values:
            return False
        values = values[part]
    return True


def merged(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All layers in one, key by key, the last winning."""
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            below = result.get(name)
            if isinstance(value, Mapping) and isinstance(below, Mapping):
                value = merged([below, value])  # noqa: PLW2901 - the value that counts
            result[name] = value
    return result


def origin(layers: Sequence[Layer], path: Path) -> str:
    """Where the value at `path` comes from: the topmost layer that has it."""
    places = (layer.place(path) for layer in reversed(layers))
    return next((place for place in places if place), DEFAULT)


def nearest(name: str, known: Iterable[str], otherwise: str = "see --help for the settings") -> str:
    """What a wrong name may have been meant to be, as the end of a sentence."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else otherwise
