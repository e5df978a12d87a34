"""What a worker is told, and what it tells: the vocabulary between a run's parent and its worker processes."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event

from backfill.pace import Pace, RateLimit
from backfill.plans import Plan
from backfill.settings import Settings
from widetable.errors import ExitCode


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is started with; `name` is unique, and its prefix names the run."""

    settings: Settings
    plan: Plan
    name: str
    stop: Event
    rate: RateLimit
    pace: Pace
    messages: Pipe


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a person who watches should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Fatal:
    """Why no worker can go on."""

    exit_code: ExitCode
    text: str
