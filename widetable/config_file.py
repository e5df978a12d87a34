"""Settings from a TOML file: the layer below the environment.

In: the path that `--config` or `CDC_CONFIG` names, and the settings there are. Out: a `Layer`. A table of the
file is a section, `[source]`, a key a setting, `dsn`; `dsn_file` names a file that holds the value, as
`…_FILE` does in the environment. Guarantee: an unknown key is a problem with its place and the nearest name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, Final

from widetable.errors import ConfigurationError
from widetable.layers import Layer, Path, nearest

CONFIG: Final = "CDC_CONFIG"
"""The variable that names the file."""
VALUE_FILE: Final = "_file"


def read_config(file: FilePath, named_by: str, known: Collection[Path], sections: Collection[str]) -> Layer:
    """The layer of a TOML file.

    Args:
        file: its path.
        named_by: the flag or variable that named it, for messages.
        known: the paths of all settings of this program; a setting that holds keys of its own is one path.
        sections: the sections of both programs; those without a setting in `known` are left alone.

    Raises:
        ConfigurationError: it can't be read, or is not TOML.
    """
    layer = Layer({})
    for path, value in _leaves(_parse(file, named_by), known):
        place = f"{'.'.join(path)} in {file}"
        if path in known or path[:2] in known:
            _put(layer, path, value, place)
        elif (plain := _without_suffix(path)) in known:
            _put_from_file(layer, plain, value, place)
        elif path[0] not in sections or (value != {} and any(path[0] == name for name, *_ in known)):
            names = [".".join(name) for name in known]
            layer.problems.append(f"{place} is not a setting; {nearest('.'.join(path), names)}")
    return layer


def _parse(file: FilePath, named_by: str) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigurationError(f"{named_by} names a file that can't be read: {file}: {reason}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is not TOML: {error}. Correct it there.") from error


def _leaves(node: Mapping[str, Any], known: Collection[Path], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value with its path. Keys within a setting are one: `security.protocol` needs no quotes."""
    for name, value in node.items():
        path = (*above[:2], ".".join([*above[2:], name])) if above[:2] in known else (*above, name)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, known, path)
        elif value != {} or path in known or len(path) == 1:
            yield path, value


def _put(layer: Layer, path: Path, value: Any, place: str) -> None:
    """Set one value; keys within a setting are text, as they are in the environment."""
    *above, name = path
    node = layer.values
    for part in above:
        node = node.setdefault(part, {})
    node[name] = _text(value) if len(path) > len(("section", "setting")) else value
    layer.places[path] = place


def _put_from_file(layer: Layer, path: Path, value: Any, place: str) -> None:
    try:
        text = FilePath(str(value)).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        layer.problems.append(f"{place} names a file that can't be read: {reason}")
    else:
        _put(layer, path, text, place)


def _without_suffix(path: Path) -> Path:
    return (*path[:-1], path[-1].removesuffix(VALUE_FILE))


def _text(value: Any) -> Any:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
    return value
