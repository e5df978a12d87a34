"""Broken bytes in a batch of good ones: never a crash, never a wrong cell, always a dead cell with coordinates.

The oracle for a broken message is the reference decoder: the fast one makes the same of it, or a dead cell.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Any

import pytest

from cdc_consumer.decoder import Decoder, TruncateError
from tests.debezium_events import (
    MOMENT_US,
    PLACEHOLDER,
    VALUE_ID,
    change,
    changed_schema,
    create,
    decoder,
    framed,
    key,
    records,
    sample,
)
from tests.unit.test_decoder_strays import STRAY_SCHEMAS, STRAYS
from widetable.narrow import DeadCell

ROUNDS = 40
BATCH = 60
ADDED = 9
ADDED_SCHEMA = changed_schema(added=["null", "string"])
SCHEMAS = {ADDED: ADDED_SCHEMA, **STRAY_SCHEMAS}


def good_message(rng: random.Random) -> bytes:
    """Any change of any sample, by the old schema or by one with another column."""
    after = sample(
        data_channel_id=rng.choice(["/a", "/b/é"]),
        created_time=MOMENT_US + rng.randrange(10),
        value_format=rng.choice(["Decimal", "String", None]),
        double_v=rng.choice([None, rng.uniform(-1e9, 1e9)]),
        long_v=rng.choice([None, None, rng.getrandbits(62)]),
        str_v=rng.choice([None, None, "text", PLACEHOLDER]),
        bool_v=rng.choice([None, None, True]),
    )
    before = rng.choice([None, sample(), after])
    event = rng.choice([create(), change("c", after), change("u", after, before), change("d", before=after)])
    if rng.random() < 0.3:
        return framed(event, ADDED_SCHEMA, ADDED)
    return framed(event)


def mutated(message: bytes, rng: random.Random) -> bytes:
    """The message with a few bytes or bits changed, cut, doubled or moved."""
    broken = bytearray(message)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(len(broken) or 1)
        match rng.randrange(6):
            case 0:
                broken[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                broken[place : place + 1] = (
                    bytes([broken[place] ^ (1 << rng.randrange(8))]) if broken else b""
                )
            case 2:
                del broken[place:]
            case 3:
                del broken[place : place + rng.randrange(1, 4)]
            case 4:
                broken[place:place] = rng.randbytes(rng.randrange(1, 12))
            case _:
                broken[place:place] = b"\xff" * rng.randrange(1, 12)
    return bytes(broken)


def outcomes(decode: Decoder, values: Sequence[bytes | None]) -> dict[int, Any]:
    """By place in the batch: the rows, or the dead cell, or None for a filtered message."""
    result = decode.decode(records(values))
    found: dict[int, Any] = {}
    for row in result.batch.to_pylist():
        found.setdefault(row["offset"] - 40, []).append(row)
    for cell in result.dead:
        found[cell.offset - 40] = cell
    counted = len(found) + sum(result.filtered.values())
    assert counted == len(values), "a record ended as nothing, or twice"
    return found


def one(decode: Decoder, value: bytes | None, place: int) -> Any:
    """What the decoder makes of one message at that place, all others being good."""
    good: list[bytes | None] = [framed(create())] * place
    try:
        return outcomes(decode, [*good, value]).get(place)
    except TruncateError:
        return TruncateError


def check_batch(good: list[bytes], broken: dict[int, bytes | None]) -> None:
    """Put broken messages at their places among good ones and check both."""
    fast, reference = decoder(schemas=SCHEMAS), decoder("fastavro", SCHEMAS)
    wanted = outcomes(reference, good)
    broken = {
        place: value for place, value in broken.items() if one(reference, value, place) is not TruncateError
    }
    values = [broken.get(place, value) for place, value in enumerate(good)]
    for _ in range(2):  # the second time with a schema that is known already
        found = outcomes(fast, values)
        for place in range(len(good)):
            outcome = found.get(place)
            if place not in broken:
                assert outcome == wanted.get(place), "a good message was harmed"
            elif isinstance(outcome, DeadCell):
                assert (outcome.partition, outcome.offset) == (2, 40 + place)
                assert (outcome.raw_value, outcome.raw_key) == (broken[place], key())
                assert outcome.reason
                assert outcome.detail
            else:
                assert outcome == one(reference, broken[place], place), "a wrong cell"


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_mutated_messages_are_dead_or_what_the_reference_makes_of_them(seed: int) -> None:
    """A few broken messages in a batch, so that halving has to find them."""
    rng = random.Random(seed)
    good = [good_message(rng) for _ in range(BATCH)]
    places = rng.sample(range(BATCH), rng.choice([1, 2, 5]))
    check_batch(good, {place: mutated(good[place], rng) for place in places})


@pytest.mark.parametrize("seed", range(ROUNDS // 4))
def test_mutated_strays_harm_no_message(seed: int) -> None:
    """Flattened events, transaction markers, JSON, other tables, tombstones, as they are and broken."""
    rng = random.Random(2_000 + seed)
    good = [good_message(rng) for _ in range(BATCH)]
    strays = [value for value, _ in STRAYS.values()]
    chosen = dict(zip(rng.sample(range(BATCH), 5), rng.sample(strays, 5), strict=True))
    check_batch(
        good,
        {
            place: mutated(value, rng) if value and rng.random() < 0.7 else value
            for place, value in chosen.items()
        },
    )


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_random_bytes_are_dead_cells(seed: int) -> None:
    """Without a frame, with one of ours, and with the id of some other schema."""
    rng = random.Random(1_000 + seed)
    good = [good_message(rng) for _ in range(BATCH)]
    frames = [b"", struct.pack(">bI", 0, VALUE_ID), struct.pack(">bI", 0, ADDED), b"\0" + rng.randbytes(4)]
    places = rng.sample(range(BATCH), 4)
    garbage = [frame + rng.randbytes(rng.randrange(300)) for frame in frames]
    check_batch(good, dict(zip(places, garbage, strict=True)))


def test_a_message_cut_anywhere_is_dead_or_whole() -> None:
    """Whole from where the last field that is needed ends: what follows is not read."""
    message = framed(create())
    good = [framed(create(double_v=2.5))] * 3
    found = [outcomes(decoder(), [*good, message[:end]])[3] for end in range(len(message) + 1)]
    whole = [not isinstance(outcome, DeadCell) for outcome in found]
    assert whole == sorted(whole)
    assert all(outcome == found[-1] for outcome in found[whole.index(True) :])
    assert whole.index(True) > len(message) - 40


def test_every_byte_of_a_message_can_be_any_other() -> None:
    """One byte at a time; what still decodes is what the reference decodes."""
    message = framed(change("u", sample(str_v="text", bool_v=True), sample()))
    rng = random.Random(7)
    for place in range(len(message)):
        changed = bytearray(message)
        changed[place] ^= rng.randrange(1, 256)
        check_batch([message] * 3, {1: bytes(changed)})


@pytest.mark.parametrize("schema_id", [1, 5, 7, ADDED + 1, 2**31 - 1, 2**32 - 1])
def test_a_message_under_another_schemas_id_is_a_dead_cell(schema_id: int) -> None:
    """Unknown ids, and that of the key's schema."""
    check_batch([framed(create())] * 4, {2: framed(create(), schema_id=schema_id)})
    found = outcomes(decoder(), [framed(create()), framed(create(), schema_id=schema_id)])
    assert isinstance(found[1], DeadCell)
