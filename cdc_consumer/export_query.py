"""What a browser asks for when it asks for an export. Pure.

In: the query of an address, which anybody may have written. Out: a request, and the file's name, which is safe in a
header and in a folder.
"""

from __future__ import annotations

import re
from typing import Final, cast
from urllib.parse import parse_qsl

from widetable.errors import RequestError
from widetable.export import ExportRequest, Format, listed_channels
from widetable.moments import moment_text, parse_moment

FIELDS: Final = ("ship", "from", "to", "channels", "format")
FORMATS: Final = ("csv", "parquet")
KIND: Final[dict[Format, str]] = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
SHOWN: Final = 60
"""Characters of what was asked for that a sentence, or a file's name, repeats."""


def export_request(query: str) -> ExportRequest:
    """The request in a query such as `ship=IMO9976903&from=2025-01-01&to=2025-01-02&channels=a,b&format=csv`.

    Raises:
        RequestError: it is none; the message says what is missing or wrong.
    """
    given = _fields(query)
    file_format = given.get("format") or "csv"
    if file_format not in FORMATS:
        raise RequestError(f"{file_format[:SHOWN]!r} is no format of an export: choose csv or parquet.")
    return ExportRequest(
        _needed(given, "ship"),
        _moment(_needed(given, "from")),
        _moment(_needed(given, "to")),
        listed_channels([given.get("channels", "")]),
        cast("Format", file_format),
    )


def file_name(request: ExportRequest) -> str:
    """Ship and period in letters and digits: `IMO9976903_20250101T000000_20250102T000000.csv`."""
    ship = re.sub(r"[^A-Za-z0-9_-]", "_", request.ship_id)[:SHOWN]
    period = [re.sub(r"[^0-9T.]", "", moment_text(us)) for us in (request.from_us, request.until_us)]
    return f"{'_'.join([ship, *period])}.{request.format}"


def _fields(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=len(FIELDS), errors="strict")
    except ValueError as error:
        raise RequestError("What an export is asked by must be readable, and said once.") from error
    given = dict(pairs)
    if len(given) < len(pairs) or not given.keys() <= set(FIELDS):
        raise RequestError(f"An export is asked by {', '.join(FIELDS)}, each once, and by nothing else.")
    return given


def _needed(given: dict[str, str], name: str) -> str:
    if text := given.get(name, "").strip():
        return text
    raise RequestError(
        f"An export needs {name!r}: choose a ship, the first moment, and the one to stop before."
    )


def _moment(text: str) -> int:
    try:
        return parse_moment(text)
    except ValueError as error:
        raise RequestError(
            f"{text[:SHOWN]!r} is no moment such as 2025-01-31T08:00:00, without a time zone."
        ) from error
