"""Dead cells into a file: CSV or JSON lines, by the file's name.

In: letters, one after the other. Out: a file. Guarantee: it appears under its name when it is whole,
and no more than a few letters are in memory. Raw bytes are base64.
"""

from __future__ import annotations

import csv
import json
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, Final

from cdc_consumer.dead_letters import Letter
from widetable.errors import ConfigurationError

RAW: Final = ("key", "value")
COLUMNS: Final = tuple(
    f"{field.name}_base64" if field.name in RAW else field.name for field in fields(Letter)
)


def export(letters: Iterable[Letter], file: Path) -> int:
    """Write all letters; returns how many.

    Raises:
        ConfigurationError: the file can't be written.
    """
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=file.parent, prefix=f".{file.name}.", delete=False
        ) as out:
            try:
                count = WRITERS[file.suffix](letters, out)
                out.close()
                Path(out.name).rename(file)
            finally:
                with suppress(FileNotFoundError):
                    Path(out.name).unlink()
    except OSError as error:
        raise ConfigurationError(f"{file} can't be written: {error.strerror}; name another file") from error
    return count


def _write_csv(letters: Iterable[Letter], out: IO[str]) -> int:
    rows = csv.DictWriter(out, COLUMNS)
    rows.writeheader()
    count = 0
    for count, letter in enumerate(letters, 1):  # noqa: B007 - the number of the last one is the answer
        facts = _facts(letter)
        rows.writerow(facts | {"headers": json.dumps(facts["headers"])})
    return count


def _write_jsonl(letters: Iterable[Letter], out: IO[str]) -> int:
    count = 0
    for count, letter in enumerate(letters, 1):  # noqa: B007 - likewise
        out.write(json.dumps(_facts(letter), ensure_ascii=False) + "\n")
    return count


def _facts(letter: Letter) -> dict[str, Any]:
    facts = {field.name: getattr(letter, field.name) for field in fields(Letter)}
    facts["added_at"] = letter.added_at.isoformat()
    for name in RAW:
        raw = facts.pop(name)
        facts[f"{name}_base64"] = None if raw is None else b64encode(raw).decode()
    return facts


WRITERS: Final[dict[str, Callable[[Iterable[Letter], IO[str]], int]]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}
