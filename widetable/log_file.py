"""The log file: appended to by several processes at once, and cut into pieces of a bounded size.

In: lines. Out: `FILE`, and the older pieces `FILE.1` (the youngest) to `FILE.4`: five of 10 MB. Guarantee: any
number of processes may write the same file; every line is whole, and none is lost because of a rotation.

A line is one `write` to a descriptor opened for appending, which the kernel does not mix with another. Only
who rotates takes a lock, on the file that is full, and looks once more whether it is still the current one.
A process that has not noticed yet appends to the piece that was moved: its line is in `FILE.1`. Nobody waits
for the lock, so a process that is stopped while it holds it stops nobody else.
"""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from widetable.errors import ConfigurationError

PIECE_BYTES: Final = 10 << 20
PIECES: Final = 5
MODE: Final = 0o640


class LogFile:
    """The end of a log file."""

    def __init__(self, path: Path, piece_bytes: int = PIECE_BYTES) -> None:
        """Open or create it.

        Raises:
            ConfigurationError: it can't be written.
        """
        self._path, self._piece_bytes = path, piece_bytes
        self._silent = False
        try:
            self._file = _open(path)
        except OSError as error:
            raise ConfigurationError(
                f"the log file {path} can't be written: {error.strerror}. Set CDC_LOG__FILE to a place where"
                " this user may write, in a folder that exists."
            ) from error

    def write(self, line: str) -> None:
        """Append one line; a disk that is full is said once on stderr and stops nobody."""
        try:
            self._follow()
            os.write(self._file, line.encode("utf-8", "backslashreplace") + b"\n")
            self._silent = False
        except OSError as error:
            if not self._silent:
                sys.stderr.write(f"the log file {self._path} can't be written: {error.strerror}\n")
            self._silent = True

    def close(self) -> None:
        """Let the file go."""
        os.close(self._file)

    def _follow(self) -> None:
        """Write where others write: open the current file, after rotating it if it is full."""
        if _is_current(self._file, self._path):
            if os.fstat(self._file).st_size < self._piece_bytes:
                return
            self._rotate()
        fresh = _open(self._path)
        os.close(self._file)
        self._file = fresh

    def _rotate(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process is at it, or the file system knows no locks: write on
            return
        if _is_current(self._file, self._path):
            for number in range(PIECES - 1, 0, -1):
                younger = piece(self._path, number - 1)
                with suppress(FileNotFoundError):
                    younger.replace(piece(self._path, number))


def piece(path: Path, number: int) -> Path:
    """The file of the `number`th piece, 0 being the current one."""
    return path if number == 0 else path.with_name(f"{path.name}.{number}")


def pieces(path: Path) -> list[Path]:
    """The pieces there are, the oldest first."""
    found = (piece(path, number) for number in reversed(range(PIECES)))
    return [file for file in found if file.exists()]


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)


def _is_current(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
