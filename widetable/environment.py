"""Settings from a file, the environment and the command line: every problem reported at once, with its place.

In: a TOML file (`widetable.config_file`), environment variables (`CDC_` prefix, `__` between levels, `…_FILE`
for a value kept in a file) and overrides from the command line, which win in this order. Out: one frozen
settings object. Guarantee: a misspelt name is an error with the nearest one, and no message shows a value, for
it may be a secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefinedType
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from widetable import layers
from widetable.config_file import CONFIG, read_config
from widetable.errors import ConfigurationError
from widetable.layers import Layer, merged, nearest
from widetable.program import given_config, given_overrides

PREFIX: Final = "CDC_"
DELIMITER: Final = "__"
FILE_SUFFIX: Final = "_FILE"
TEST_PREFIX: Final = "CDC_TEST_"
"""Variables of the project's own tests; they may stand in the same environment."""

SECTIONS: Final = frozenset(
    {
        "pipeline",
        "source",
        "target",
        "kafka",
        "registry",
        "connect",
        "topic",
        "consumer",
        "backfill",
        "log",
    }
)
"""The sections of both programs: one environment serves both, and each leaves the other's sections alone."""

Section = dict[str, object]


class EnvironmentSettings(BaseSettings):
    """Base of a program's settings; each field is a section (`widetable.settings.Section`).

    Only `load` reads the environment: an object constructed directly takes what it is given, nothing else.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=DELIMITER, extra="forbid", frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What the constructor is given, and nothing behind its back."""
        return (init_settings,)


S = TypeVar("S", bound=EnvironmentSettings)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """Settings, and the layers that they were made of, the strongest last."""

    settings: S
    layers: tuple[Layer, ...]

    def origin(self, *path: str) -> str:
        """Where the value of a setting comes from, in words."""
        return layers.origin(self.layers, path)


def load(model: type[S], environ: Mapping[str, str] | None = None, **overrides: Mapping[str, object]) -> S:
    """Read `model` from file and environment; `overrides` are sections, e.g. `consumer={"hold_ms": 100}`.

    Raises:
        ConfigurationError: with one line per problem.
    """
    return load_with_origins(model, environ, **overrides).settings


def load_with_origins(
    model: type[S], environ: Mapping[str, str] | None = None, **overrides: Mapping[str, object]
) -> Loaded[S]:
    """The same with the place that each value came from.

    Raises:
        ConfigurationError: with one line per problem.
    """
    given = os.environ if environ is None else environ
    flags = merged([given_overrides(), overrides])
    found = (_file_layer(model, given), _environment_layer(model, given), _flag_layer(flags))
    problems = [problem for layer in found for problem in layer.problems]
    try:
        # Empty sections come first, so that a missing value is reported by its full name.
        values = merged([{name: {} for name in model.model_fields}, *(layer.values for layer in found)])
        settings = model(**values)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        problems += [_describe(model, detail, found) for detail in details]
    if problems:
        raise ConfigurationError("\n  ".join(["the settings have problems:", *sorted(set(problems))]))
    return Loaded(settings, found)


def variable(*path: str | int) -> str:
    """The environment variable of a setting: `variable("source", "dsn")` is `CDC_SOURCE__DSN`."""
    return PREFIX + DELIMITER.join(str(part).upper() for part in path)


def variables(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, FieldInfo]]:
    """Every setting of a settings model: its environment variable and its field."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from variables(inner, (*path, name))
        else:
            yield variable(*path, name), field


def paths(model: type[BaseModel]) -> list[tuple[str, ...]]:
    """Where every setting of a settings model is: `("source", "dsn")`."""
    return [tuple(name.removeprefix(PREFIX).lower().split(DELIMITER)) for name, _ in variables(model)]


def reference(model: type[BaseModel]) -> str:
    """All settings of a model as text for people: variable, default, meaning."""
    lines = []
    for name, field in variables(model):
        default = "(required)" if field.is_required() else _plain(field.default)
        lines += [f"{name}  {default}".rstrip(), f"    {field.description or ''}"]
    return "\n".join(lines)


def _plain(default: object) -> str:
    return "" if default is None or isinstance(default, PydanticUndefinedType) else f"[{default}]"


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX) and not name.startswith(TEST_PREFIX) and name != CONFIG


# -- layers -------------------------------------------------------------------------------------------------


def _file_layer(model: type[BaseModel], environ: Mapping[str, str]) -> Layer:
    flag = given_config()
    file = flag or environ.get(CONFIG)
    if not file:
        return Layer({})
    return read_config(Path(file), "--config" if flag else CONFIG, paths(model), SECTIONS)


def _flag_layer(overrides: dict[str, Any]) -> Layer:
    return Layer(overrides, {(section,): "command line" for section in overrides})


def _environment_layer(model: type[BaseSettings], environ: Mapping[str, str]) -> Layer:
    ours = {name: text for name, text in environ.items() if _is_ours(name)}
    found, places, problems = _read_files(ours, {name for name, _ in variables(model)})
    problems += [*_unknown_sections(model, found), *_said_twice(found)]
    return Layer(_explode(model, found), places, problems)


def _read_files(
    environ: Mapping[str, str], known: set[str]
) -> tuple[dict[str, str], dict[layers.Path, str], list[str]]:
    """Replace each `X_FILE` by `X` with the file's text, less its last newline; a setting may end in that, too."""
    values = {name: text for name, text in environ.items() if not name.endswith(FILE_SUFFIX) or name in known}
    places = {_path(name): "environment" for name in values}
    problems = []
    for name in sorted(environ.keys() - values.keys()):
        plain = name.removesuffix(FILE_SUFFIX)
        if plain in values:
            problems.append(f"{plain} and {name} are both set: keep one")
            continue
        try:
            values[plain] = Path(environ[name]).read_text(encoding="utf-8").removesuffix("\n")
            places[_path(plain)] = f"the file that {name} names"
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            problems.append(f"{name} names a file that can't be read: {reason}")
    return values, places, problems


def _path(name: str) -> layers.Path:
    return tuple(name.removeprefix(PREFIX).lower().split(DELIMITER))


def _unknown_sections(model: type[BaseModel], environ: Iterable[str]) -> list[str]:
    known = {variable(section) for section in SECTIONS | set(model.model_fields)}
    unknown = [name for name in environ if name.split(DELIMITER, maxsplit=1)[0] not in known]
    return [_not_a_setting(model, name) for name in unknown]


def _said_twice(environ: Iterable[str]) -> list[str]:
    """A JSON value and single keys of it: one would silently hide the other."""
    names = sorted(environ)
    both = [(whole, part) for whole in names for part in names if part.startswith(whole + DELIMITER)]
    return [f"{whole} and {part} are both set: keep one form" for whole, part in both]


class _Given(EnvSettingsSource):
    """pydantic's reading of nested variables, from a given mapping rather than the process's environment."""

    def __init__(self, model: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self._given = {name.lower(): text for name, text in environ.items() if text}
        super().__init__(model)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return dict(self._given)

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """What is not JSON is left to validation, which names the setting."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def _explode(model: type[BaseSettings], environ: Mapping[str, str]) -> dict[str, Any]:
    return _Given(model, environ)()


def _describe(model: type[BaseModel], detail: ErrorDetails, found: tuple[Layer, ...]) -> str:
    name = variable(*detail["loc"])
    if detail["type"] == "missing":
        field = dict(variables(model)).get(name)
        return f"{name} is not set. {field.description if field and field.description else ''}".rstrip()
    if detail["type"] == "extra_forbidden":
        return _not_a_setting(model, name)
    message = detail["msg"].removeprefix("Value error, ")
    where = layers.origin(found, tuple(map(str, detail["loc"])))
    return f"{name}: {message[:1].lower()}{message[1:]} ({where})"


def _not_a_setting(model: type[BaseModel], name: str) -> str:
    return f"{name} is not a setting; {nearest(name, [CONFIG, *(known for known, _ in variables(model))])}"
