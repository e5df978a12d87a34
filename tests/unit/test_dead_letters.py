"""Reasons of dead cells, and their bytes on a terminal."""

from __future__ import annotations

from datetime import UTC, datetime

from cdc_consumer.dead_letters import RECORD_REASONS, SHOWN_BYTES, VALUE_REASONS, Letter, letter_lines
from tests.unit.test_docs_facts import dead_reasons


def test_every_reason_there_is_can_be_asked_for() -> None:
    """`--reason` knows what decoders and the value rule name, and nothing else."""
    assert {*RECORD_REASONS, *VALUE_REASONS} == dead_reasons()


def test_a_large_value_is_shown_in_part() -> None:
    """A terminal is no place for megabytes; the line says where the rest is."""
    value = b"\x1b" * SHOWN_BYTES * 2
    now = datetime(2026, 1, 1, tzinfo=UTC)
    letter = Letter(1, now, "json", "x", "t", "id", 0, 1, None, None, None, {}, None, value)
    lines = list(letter_lines(letter))
    assert "key: none" in lines
    assert f"value: {2 * SHOWN_BYTES:,} bytes" in lines
    assert max(map(len, lines)) < SHOWN_BYTES * 5
    assert "dead-letters export" in lines[-1]
    assert "\x1b" not in "".join(lines)
