"""Settings from the environment: every problem reported at once, by the name of its variable.

In: environment variables (`CDC_` prefix, `__` between levels, `…_FILE` for a value kept in a file) and
overrides from the command line. Out: one frozen settings object. Guarantee: a misspelt variable is an error
with the nearest name, and no message shows a value, for it may be a secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefinedType
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from widetable.errors import ConfigurationError

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


def load(model: type[S], environ: Mapping[str, str] | None = None, **overrides: Mapping[str, object]) -> S:
    """Read `model` from the environment; `overrides` are sections, e.g. `consumer={"hold_ms": 100}`.

    Raises:
        ConfigurationError: with one line per problem.
    """
    given = os.environ if environ is None else environ
    found, problems = _read_files({name: text for name, text in given.items() if _is_ours(name)})
    problems += [*_unknown_sections(model, found), *_said_twice(found)]
    try:
        # Empty sections come first, so that a missing value is reported by its full name.
        values = _merge([{name: {} for name in model.model_fields}, _explode(model, found), overrides])
        settings = model(**values)
    except ValidationError as error:
        problems += [
            _describe(model, detail) for detail in error.errors(include_url=False, include_input=False)
        ]
    if problems:
        raise ConfigurationError("\n  ".join(["the settings have problems:", *sorted(set(problems))]))
    return settings


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
    return name.startswith(PREFIX) and not name.startswith(TEST_PREFIX)


def _read_files(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Replace each `X_FILE` by `X` with the file's text, less its last newline."""
    values = {name: text for name, text in environ.items() if not name.endswith(FILE_SUFFIX)}
    problems = []
    for name in sorted(environ.keys() - values.keys()):
        plain = name.removesuffix(FILE_SUFFIX)
        if plain in values:
            problems.append(f"{plain} and {name} are both set: keep one")
            continue
        try:
            values[plain] = Path(environ[name]).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            problems.append(f"{name} names a file that can't be read: {reason}")
    return values, problems


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


def _merge(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All layers in one, the last winning; a section that is no mapping is left for pydantic to refuse."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, section in layer.items():
            below = merged.get(name)
            if isinstance(section, Mapping) and isinstance(below, Mapping):
                merged[name] = {**below, **section}
            else:
                merged[name] = section
    return merged


def _describe(model: type[BaseModel], detail: ErrorDetails) -> str:
    name = variable(*detail["loc"])
    if detail["type"] == "missing":
        field = dict(variables(model)).get(name)
        return f"{name} is not set. {field.description if field and field.description else ''}".rstrip()
    if detail["type"] == "extra_forbidden":
        return _not_a_setting(model, name)
    message = detail["msg"].removeprefix("Value error, ")
    return f"{name}: {message[:1].lower()}{message[1:]}"


def _not_a_setting(model: type[BaseModel], name: str) -> str:
    near = get_close_matches(name, [known for known, _ in variables(model)], n=1, cutoff=0.6)
    return f"{name} is not a setting" + (
        f"; did you mean {near[0]}?" if near else "; see --help for the settings"
    )
