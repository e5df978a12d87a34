"""The files that containers, Kubernetes and systemd are run from, as tests read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from backfill.settings import Settings as BackfillSettings
from cdc_consumer.settings import Settings
from widetable.environment import FILE_SUFFIX, PREFIX, EnvironmentSettings, load

ROOT: Final = Path(__file__).resolve().parents[1]
VARIABLE: Final = re.compile(r"\$(?:\$|\{(\w+)(?::([-?])([^}]*))?\})")
S = TypeVar("S", bound=EnvironmentSettings)
DSN: Final = "postgresql://somebody@postgres:5432/database"


def example_environment() -> dict[str, str]:
    """`.env.example`, as Compose reads it."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolated(text: str, environ: Mapping[str, str]) -> str:
    """Compose's `${NAME:-default}`, `${NAME:?message}` and `$$`.

    Raises:
        KeyError: a variable that must be set is not.
    """

    def value(found: re.Match[str]) -> str:
        name, kind, default = found.groups()
        if name is None:
            return "$"
        return environ.get(name) or (default if kind == "-" else environ[name])

    return VARIABLE.sub(value, text)


def compose(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`docker-compose.yml`, with the variables of `.env.example` unless others are given."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    uncommented = re.sub(r"(^|\s)#.*", "", text)
    given = example_environment() if environ is None else environ
    found: dict[str, Any] = yaml.safe_load(interpolated(uncommented, given))
    return found


@cache
def services() -> dict[str, dict[str, Any]]:
    """The services of `docker-compose.yml`."""
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def loaded(environment: Mapping[str, str], folder: Path, model: type[S]) -> S:
    """A program's settings in a container with this environment, secrets being files there.

    Raises:
        ConfigurationError: the program would not start.
    """
    secret = folder / "secret"
    secret.write_text(f"{DSN}\n", encoding="utf-8")
    given = {
        name: str(secret) if name.endswith(FILE_SUFFIX) else str(text)
        for name, text in environment.items()
        if name.startswith(PREFIX)
    }
    return load(model, given)


def load_both(environment: Mapping[str, str], folder: Path) -> None:
    """Start both programs, as far as their settings: one environment serves both.

    Raises:
        ConfigurationError: one of them would not start.
    """
    loaded(environment, folder, Settings)
    loaded(environment, folder, BackfillSettings)
