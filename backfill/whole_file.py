"""A file that has its name only once it is whole.

In: a path. Out: a file object whose content appears under that path when the block ends well, and leaves no
trace when it does not.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from widetable.errors import ConfigurationError


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write to a temporary file beside `path`; renamed at the end of the block, removed after an error.

    Raises:
        ConfigurationError: the folder is not there, or nobody may write to it.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        file = partial.open("xb")
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be written: {error.strerror}. Name a file in a folder that is there."
        ) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
