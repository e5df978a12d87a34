"""Values as people write them -> the text that their column would give back. Pure.

In: texts, and the type of their column. Out: PostgreSQL's own text, or nothing where the value does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa

from widetable.arrays import Mask
from widetable.float8 import double_text
from widetable.values import ColumnType, fits

TRUE: Final = frozenset({"true", "t", "yes", "y", "on", "1"})
FALSE: Final = frozenset({"false", "f", "no", "n", "off", "0"})
MAX_INT8: Final = 2**63 - 1
NAMES: Final[dict[ColumnType, str]] = {
    "text": "a text",
    "float8": "a decimal number",
    "int8": "an integer of 64 bits",
    "bool": "true or false",
}


def as_stored(texts: list[str], column_type: ColumnType) -> tuple[pa.StringArray, Mask]:
    """The texts as a column of that type gives them back, and which of them fit it.

    A text column takes everything as it is, but for NUL characters and what is no Unicode.
    """
    good = [_storable(text) for text in texts]
    value = pa.array([text if fit else "" for text, fit in zip(texts, good, strict=True)], pa.string())
    fit = np.array(good, bool)
    if column_type == "text":
        return value, fit
    doubtful = np.flatnonzero(fit & ~fits(value, column_type))
    if not len(doubtful):
        return value, fit
    spelled = [_SPELL[column_type](texts[index]) for index in doubtful.tolist()]
    fit[doubtful] = [text is not None for text in spelled]
    written = value.to_pylist()
    for index, text in zip(doubtful.tolist(), spelled, strict=True):
        written[index] = text
    return pa.array(written, pa.string()), fit


def _storable(text: str) -> bool:
    """Whether PostgreSQL's text can hold it; bytes that are no UTF-8 were read as lone surrogates."""
    return (text.isascii() and "\0" not in text) or text.isprintable() or _encodes(text)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _float(text: str) -> str | None:
    try:
        number = float(text)
    except ValueError:
        return None
    if "_" in text or (math.isinf(number) and "inf" not in text.lower()):
        return None
    return str(double_text(pa.array([number], pa.float64()))[0].as_py())


def _integer(text: str) -> str | None:
    try:
        number = int(text)
    except ValueError:
        return None
    return str(number) if "_" not in text and -MAX_INT8 - 1 <= number <= MAX_INT8 else None


def _boolean(text: str) -> str | None:
    word = text.strip().lower()
    return "true" if word in TRUE else "false" if word in FALSE else None


_SPELL: Final[dict[ColumnType, Callable[[str], str | None]]] = {
    "float8": _float,
    "int8": _integer,
    "bool": _boolean,
}
