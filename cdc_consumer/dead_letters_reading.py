"""Letters to samples: each dead record is decoded anew, on its own, by today's decoder and registry.

In: a `Letter`. Out: `Ready`, its samples, or an `Outcome` that says why there are none. Guarantee: an outage, or
a registry that is none, is raised and is no letter's fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from cdc_consumer.dead_letters import VALUE_REASONS, Letter
from cdc_consumer.decoder import Decoder, Epochs, Records, TruncateError
from cdc_consumer.plain_decoder import open_decoder
from cdc_consumer.registry import SchemaSource
from cdc_consumer.settings import TopicSettings
from widetable.errors import ConfigurationError, PoisonError
from widetable.hand_off import HandOff
from widetable.narrow import Decoded

AT_THE_SOURCE: Final = "correct the row at the source, and the change arrives like any other"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a letter: gone because it was `replayed`, or left (or dead anew) for the reason in `text`."""

    number: int
    replayed: bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class Ready:
    """A letter whose record can be read now."""

    letter: Letter
    decoded: Decoded
    ended_epoch: bool


class Reading:
    """Decodes letters one by one, so that each has its own verdict."""

    def __init__(
        self,
        schemas: SchemaSource,
        table: str,
        epochs: list[HandOff],
        *,
        ended_epochs: bool,
        topic: TopicSettings,
    ) -> None:
        """`epochs` are all of the pipeline, the last one streaming; `table` is the narrow one."""
        self._topic = topic
        self._schemas = AskedOnce(schemas)
        self._table = table
        self._current = epochs[-1]
        self._epochs = {epoch.epoch: epoch for epoch in epochs}
        self._ended_epochs = ended_epochs
        self._decoders: dict[tuple[str, str], Decoder] = {}

    def read(self, letter: Letter) -> Ready | Outcome:
        """The letter's samples, or why there are none.

        Raises:
            ConfigurationError: the registry is not one, or refuses this client.
            UnreachableError: it does not answer.
        """
        if fault := _never(letter):
            return Outcome(letter.number, False, fault)
        records = _records(letter)
        epochs = self._epochs_of(letter.topic_id or "")
        epoch = int(epochs(records.partitions, records.offsets)[0])
        ended = epoch != self._current.epoch
        if ended and not self._ended_epochs:
            return Outcome(letter.number, False, _of_ended_epoch(epoch))
        placeholder = self._epochs.get(epoch, self._current).placeholder
        try:
            decoded = self._decoder(letter.topic_id or "", placeholder, epochs).decode(records)
        except TruncateError:
            return Outcome(letter.number, False, "a TRUNCATE of the source table, which is never applied")
        except ConfigurationError as error:
            if error is self._schemas.refusal:
                raise
            return Outcome(letter.number, False, f"still dead: {error}")
        if decoded.dead:
            return Outcome(letter.number, False, f"still dead: {_reasons(decoded)}")
        return Ready(letter, decoded, ended)

    def _epochs_of(self, topic_id: str) -> Epochs:
        same_topic = [epoch for epoch in self._epochs.values() if epoch.topic_id == topic_id]
        return Epochs(tuple((epoch.epoch, epoch.boundary_offsets) for epoch in same_topic))

    def _decoder(self, topic_id: str, placeholder: str, epochs: Epochs) -> Decoder:
        key = topic_id, placeholder
        if key not in self._decoders:
            self._decoders[key] = open_decoder(self._topic, self._schemas, placeholder, epochs, self._table)
        return self._decoders[key]


class AskedOnce:
    """A schema source that remembers what it does not have, too: thousands of letters may name one schema."""

    def __init__(self, schemas: SchemaSource) -> None:
        self._schemas = schemas
        self._unknown: dict[int, str] = {}
        self.refusal: ConfigurationError | None = None

    def schema(self, schema_id: int) -> str:
        """The Avro schema with this id.

        Raises:
            PoisonError: there is none.
            ConfigurationError: no record can be read; it is kept as `refusal`.
        """
        if schema_id in self._unknown:
            raise PoisonError(self._unknown[schema_id])
        try:
            return self._schemas.schema(schema_id)
        except PoisonError as error:
            self._unknown[schema_id] = str(error)
            raise
        except ConfigurationError as error:
            self.refusal = error
            raise


def _never(letter: Letter) -> str | None:
    """Why a letter holds no record that could be read anew."""
    if letter.topic_id is None:
        return f"it comes from history, so there is no record to replay: {AT_THE_SOURCE}"
    if letter.reason in VALUE_REASONS:
        return f"its value is dead by itself ({letter.detail}): {AT_THE_SOURCE}"
    return None


def _of_ended_epoch(epoch: int) -> str:
    which = f"of epoch {epoch}, which ended" if epoch else "older than all epochs"
    return (
        f"{which}: what changed later may be in no stream, and the cell could be set back."
        " `backfill verify --repair` heals it from the source; --ended-epochs replays it all the same"
    )


def _records(letter: Letter) -> Records:
    received_ms = int(letter.added_at.timestamp() * 1000)
    return Records(
        [letter.value],
        [letter.key],
        np.array([letter.partition], np.int32),
        np.array([letter.offset], np.int64),
        np.array([received_ms], np.int64),
    )


def _reasons(decoded: Decoded) -> str:
    return "; ".join(f"{cell.reason}: {cell.detail}" for cell in decoded.dead)
