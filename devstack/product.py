"""The product's commands, run as a person or a supervisor would: for the demo and the end-to-end tests.

In: the settings of a chain as environment variables. Out: finished commands, or processes with their log in a
file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

PROGRAMS: Final = Path(sys.executable).parent
STOP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Product:
    """The installed programs, with the environment they run in and a folder for their logs."""

    environment: Mapping[str, str]
    folder: Path
    started: list[Process] = field(default_factory=list)

    def run(self, *command: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; `quiet` keeps its output for the caller instead of showing it."""
        return subprocess.run(
            self._argv(command), env=self._environment(), check=False, text=True, capture_output=quiet
        )

    def start(self, *command: str, environment: Mapping[str, str] | None = None) -> Process:
        """Start a command beside us, with more environment if given; its output goes to a file named after it."""
        log = self.folder / f"{'-'.join(command[:2])}.log"
        with log.open("ab") as file:
            child = subprocess.Popen(
                self._argv(command),
                env={**self._environment(), **(environment or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        process = Process(child, log)
        self.started.append(process)
        return process

    def kill_started(self) -> None:
        """Leave nothing behind: SIGKILL for whatever still runs of what was started."""
        for process in self.started:
            process.kill()

    def _argv(self, command: tuple[str, ...]) -> list[str]:
        return [str(PROGRAMS / command[0]), *command[1:]]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}


@dataclass(frozen=True, slots=True)
class Process:
    """A running command and its children."""

    child: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.child.poll() is None

    def family(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        try:
            parent = psutil.Process(self.child.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def terminate(self) -> int:
        """SIGTERM, and wait; returns the exit code. A process that has ended stays ended."""
        if self.running:
            self.child.terminate()
        return self.child.wait(STOP_S)

    def kill(self) -> None:
        """SIGKILL for the process and all its descendants, as a crash of the machine would."""
        for process in self.family():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.child.wait(STOP_S)
