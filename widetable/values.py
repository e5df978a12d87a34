"""The one text value of a sample: which of four value columns counts, and whether that text can be stored.

In: a `NarrowBatch`, whose value columns are PostgreSQL text already (`double_text`, `long_text` and
`bool_text` make that text on the stream side). Out: `Settled`, one text per sample, and the samples that can
have none. `value_sql` is the same rule as PostgreSQL runs it, for readers of the source table and for verify.

Guarantee: `settle`, `value_sql` and PostgreSQL's own ``::text`` agree on every byte; a value that `fits` a
typed column comes out of it as the same text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from widetable.arrays import Index, Mask, mask, numbers, text_bytes, valid
from widetable.float8 import double_text
from widetable.narrow import FIRST_MOMENT_US, FORMATS, LAST_MOMENT_US, VALUE_COLUMNS, DeadCell, Op

__all__ = [
    "DEAD_REASONS",
    "ColumnType",
    "Settled",
    "bool_text",
    "copy_escape",
    "double_text",
    "fits",
    "long_text",
    "settle",
    "value_sql",
]

ColumnType = Literal["text", "float8", "int8", "bool"]

DEAD_REASONS: Final = ("", "ambiguous", "infinity", "nul")
"""`DEAD_REASONS[code]` names an entry of `Settled.reasons`; code 0 is a sample that lives."""
AMBIGUOUS, INFINITY, NUL = 1, 2, 3
DETAILS: Final = {
    AMBIGUOUS: "several value columns are set and the one that value_format names is not",
    INFINITY: "created_time is infinite or outside of PostgreSQL's range",
    NUL: "a NUL character, which PostgreSQL text can't hold",
}
NO_COLUMN: Final = -1
FORMAT_NAMES: Final = pa.array(FORMATS, pa.string())
NO_TEXT: Final = pa.scalar(None, pa.string())

NATIVE_COLUMN: Final[dict[str, int]] = {"float8": 0, "int8": 1, "bool": 3}
"""A value from `VALUE_COLUMNS[i]` fits this column type by construction."""

# As PostgreSQL prints numbers. What has another look ("+1", "007", " 1") would not come out of the column as
# the same text.
FLOAT_PATTERN: Final = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-][0-9]{2,3})?$"
INTEGER_PATTERN: Final = r"^(0|-?[1-9][0-9]{0,18})$"
DIGITS_ALWAYS_INT8: Final = 18
FLOAT_WORDS: Final = ("NaN", "Infinity", "-Infinity")

COPY_ESCAPES: Final = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"))


# -- text of the stream side ------------------------------------------------------------------------------


def long_text(values: pa.Int64Array) -> pa.StringArray:
    """Integers as PostgreSQL prints a bigint."""
    return pc.cast(values, pa.string())


def bool_text(values: pa.BooleanArray) -> pa.StringArray:
    """``true`` and ``false``, as PostgreSQL casts a boolean to text."""
    return pc.cast(values, pa.string())


# -- the value rule -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settled:
    """One value per sample of a batch.

    Attributes:
        value: the cell's new text; NULL is a NULL cell. Void where `reasons` is not 0.
        column: index into `VALUE_COLUMNS` of the column that gave the value, -1 where there is none.
        reasons: per sample a code of `DEAD_REASONS`, 0 for the living.
        mismatch_count: samples whose value stands in another column than value_format names.
    """

    value: pa.StringArray
    column: npt.NDArray[np.int8]
    reasons: npt.NDArray[np.int8]
    mismatch_count: int

    @property
    def dead(self) -> Mask:
        """The samples that can't be stored."""
        return np.asarray(self.reasons != 0)

    def dead_cells(self, batch: pa.RecordBatch) -> list[DeadCell]:
        """A record of each dead sample of `batch`, which is the batch that was settled."""
        rows = np.flatnonzero(self.reasons)
        samples = batch.take(pa.array(rows)).to_pylist() if len(rows) else []
        return [
            _dead_cell(sample, code)
            for sample, code in zip(samples, self.reasons[rows].tolist(), strict=True)
        ]


def settle(batch: pa.RecordBatch) -> Settled:
    """Choose each sample's value.

    The column that value_format names, if it is set; else the only one that is set (a mismatch, counted).
    None set is a NULL cell; several set and the named one empty can't be decided. A DELETE has no value.

    Args:
        batch: rows of `NARROW_SCHEMA`.
    """
    living = batch.column("op").to_numpy() != Op.DELETE
    texts = [batch.column(name) for name in VALUE_COLUMNS]
    is_set = np.stack([valid(text) for text in texts])
    named = _format_index(batch.column("value_format"))
    named_is_set = (named != NO_COLUMN) & is_set[named, np.arange(batch.num_rows)]
    count = is_set.sum(axis=0)
    only = np.where(count == 1, is_set.argmax(axis=0), NO_COLUMN)
    column = np.where(living, np.where(named_is_set, named, only), NO_COLUMN).astype(np.int8)
    value = _chosen(texts, is_set, column)
    reasons = np.zeros(batch.num_rows, np.int8)
    reasons[living & ~named_is_set & (count > 1)] = AMBIGUOUS
    for text in (value, batch.column("ship_id"), batch.column("channel_id")):
        _mark_nul(reasons, text)
    moments = batch.column("created_time").to_numpy()
    reasons[(moments < FIRST_MOMENT_US) | (moments > LAST_MOMENT_US)] = INFINITY
    mismatch = living & ~named_is_set & (count == 1)
    return Settled(value, column, reasons, int(np.count_nonzero(mismatch)))


def value_sql(alias: str) -> str:
    """The value rule as an SQL expression of type text over the narrow table's row `alias`.

    NULL stands for a NULL cell and for an ambiguous one. The session must pin ``extra_float_digits = 1``.

    Raises:
        ValueError: `alias` is not a plain name.
    """
    if not alias.isidentifier():
        message = f"not a plain SQL alias: {alias!r}"
        raise ValueError(message)
    columns = [f"{alias}.{name}" for name in VALUE_COLUMNS]
    named = "".join(
        f" WHEN {alias}.value_format = '{name}' AND {column} IS NOT NULL THEN {column}::text"
        for name, column in zip(FORMATS, columns, strict=True)
    )
    only = ", ".join(f"{column}::text" for column in columns)
    return f"CASE{named} WHEN num_nonnulls({', '.join(columns)}) = 1 THEN coalesce({only}) END"


def _format_index(formats: pa.StringArray) -> Index:
    index = pc.index_in(formats, value_set=FORMAT_NAMES)
    return numbers(index, NO_COLUMN)


def _chosen(texts: list[pa.StringArray], is_set: Mask, column: npt.NDArray[np.int8]) -> pa.StringArray:
    """The text of the chosen column of each sample; NULL where none is chosen."""
    if not (is_set.sum(axis=0) == (column != NO_COLUMN)).all():
        texts = [pc.if_else(pa.array(column == i), text, NO_TEXT) for i, text in enumerate(texts)]
    return pc.coalesce(*[text for text in texts if text.null_count < len(text)] or texts[:1])


def _mark_nul(reasons: npt.NDArray[np.int8], text: pa.StringArray) -> None:
    if (text_bytes(text) == 0).any():
        reasons[mask(pc.match_substring(text, "\0"))] = NUL


def _dead_cell(sample: dict[str, object], code: int) -> DeadCell:
    """The sample's coordinates, and its value columns as JSON."""
    value = json.dumps({name: sample[name] for name in ("value_format", *VALUE_COLUMNS)})
    return DeadCell(
        reason=DEAD_REASONS[code],
        detail=DETAILS[code],
        partition=cast("int", sample["partition"]),
        offset=cast("int", sample["offset"]),
        ship_id=cast("str", sample["ship_id"]),
        channel_id=cast("str", sample["channel_id"]),
        created_time=cast("int", sample["created_time"]),
        raw_value=value.encode(),
    )


# -- typed columns and COPY ---------------------------------------------------------------------------------


def fits(value: pa.StringArray, column_type: ColumnType, column: npt.NDArray[np.int8] | None = None) -> Mask:
    """Which values a typed column gives back as the very same text; the others belong into overflow.

    What is not surely exact does not fit: nothing is rounded, trimmed or rewritten. NULL fits.

    Args:
        value: settled values.
        column_type: what the column was created as.
        column: `Settled.column` of these values, if known: what comes out of a column of that type fits.
    """
    fit = np.ones(len(value), np.bool_)
    if column_type == "text":
        return fit
    doubtful = valid(value)
    if column is not None:
        doubtful &= column != NATIVE_COLUMN[column_type]
    if doubtful.any():
        fit[doubtful] = _EXACT[column_type](value.filter(pa.array(doubtful)))
    return fit


def _exact_float(text: pa.StringArray) -> Mask:
    number = mask(pc.match_substring_regex(text, FLOAT_PATTERN))
    fit = mask(pc.is_in(text, value_set=pa.array(FLOAT_WORDS, pa.string())))
    candidates = text.filter(pa.array(number))
    fit[number] = mask(pc.equal(double_text(pc.cast(candidates, pa.float64())), candidates))
    return fit


def _exact_integer(text: pa.StringArray) -> Mask:
    fit = mask(pc.match_substring_regex(text, INTEGER_PATTERN))
    long = np.flatnonzero(fit & (pc.utf8_length(text).to_numpy() > DIGITS_ALWAYS_INT8))
    numbers = [int(number) for number in text.take(pa.array(long)).to_pylist()]
    fit[long] = [-(2**63) <= number < 2**63 for number in numbers]
    return fit


def _exact_boolean(text: pa.StringArray) -> Mask:
    return mask(pc.is_in(text, value_set=pa.array(["true", "false"], pa.string())))


_EXACT: Final = {"float8": _exact_float, "int8": _exact_integer, "bool": _exact_boolean}


def copy_escape(text: pa.StringArray) -> pa.StringArray:
    """`text` as COPY's text format wants it: backslash, tab, newline and carriage return escaped, NULL kept.

    One pass over the bytes decides; text that needs nothing, nearly all of it, is returned as it is, and where
    some does, only that is rewritten.
    """
    content, found = text_bytes(text), np.zeros(len(text), np.bool_)
    for character, _ in COPY_ESCAPES:
        if len(at := np.flatnonzero(content == ord(character))):
            found[_holders(text, at)] = True
    if not found.any():
        return text
    rewritten = text.filter(pa.array(found))
    for character, escape in COPY_ESCAPES:
        rewritten = pc.replace_substring(rewritten, character, escape)
    return pc.replace_with_mask(text, pa.array(found), rewritten)


def _holders(text: pa.StringArray, places: Index) -> Index:
    """Which strings hold the bytes at these places of `text_bytes`."""
    offsets = np.frombuffer(text.buffers()[1], np.int32)[text.offset : text.offset + len(text) + 1]
    holders: Index = np.searchsorted(offsets - offsets[0], places, side="right") - 1
    return holders
