"""Positions in the WAL: 64-bit integers inside the programs, `16/B374D848` where a person reads them."""

from __future__ import annotations


def parse_lsn(text: str) -> int:
    """The integer behind PostgreSQL's text form of a pg_lsn."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def format_lsn(lsn: int) -> str:
    """PostgreSQL's text form of a pg_lsn."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
