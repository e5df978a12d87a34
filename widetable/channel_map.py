"""The channel map: which channel lives in which table, under which column. Pure but for reading.

In: the channel lists, one file per system, one channel id per line. Out: channels with their table and
column, and prefix rules that place channels nobody has seen. Guarantee: within a table no two channels share
a column, and every name is one that PostgreSQL takes as it is, without truncation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType
from typing import Final

from widetable.errors import ConfigurationError

SYSTEMS: Final = {1: "auxiliary_systems", 2: "engine_generator", 3: "navigation_ship"}
"""Table number -> name of the system, and of its list `{name}.txt`."""
DEFAULT_TABLE_NO: Final = 2
"""Takes channels that no prefix rule places, unless configured otherwise."""

MAX_IDENTIFIER_BYTES: Final = 63
DIGEST_CHARACTERS: Final = 10
RESERVED: Final = frozenset({"", "created_time", "_x", "tableoid", "xmin", "xmax", "cmin", "cmax", "ctid"})


@dataclass(frozen=True, slots=True)
class ChannelList:
    """The channels of one system, in the order of their list."""

    table_no: int
    name: str
    channel_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PrefixRule:
    """Channels that start with `prefix` belong to `table_no`."""

    prefix: str
    table_no: int


def shipped_lists() -> Traversable:
    """The folder of lists that comes with the package."""
    return files("widetable") / "channels"


def read_channel_lists(folder: Traversable | None = None) -> tuple[ChannelList, ...]:
    """Read the list of every system.

    Args:
        folder: holds `{system}.txt` for each of `SYSTEMS`; the lists of the package if None.

    Raises:
        ConfigurationError: a list is missing, unreadable or empty, or a channel stands in two places; the
            message names file and line.
    """
    folder = shipped_lists() if folder is None else folder
    lists, seen = [], dict[str, str]()
    for table_no, name in SYSTEMS.items():
        channel_ids = []
        for where, channel_id in _lines(folder / f"{name}.txt"):
            if channel_id in seen:
                raise ConfigurationError(
                    f"{where}: channel {channel_id!r} stands in {seen[channel_id]} already: remove one."
                )
            seen[channel_id] = where
            channel_ids.append(channel_id)
        lists.append(ChannelList(table_no, name, tuple(channel_ids)))
    return tuple(lists)


def _lines(file: Traversable) -> Iterator[tuple[str, str]]:
    """(file:line, channel id) of every line that is not blank."""
    text = _read(file)
    if not text.strip():
        raise ConfigurationError(f"{file}:1: the channel list is empty: write one channel id per line.")
    for number, line in enumerate(text.split("\n"), start=1):
        channel_id = line.strip()
        if "\0" in channel_id:
            raise ConfigurationError(f"{file}:{number}: a NUL character; is this a list of channel ids?")
        if channel_id:
            yield f"{file}:{number}", channel_id


def _read(file: Traversable) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{file}: can't read the channel list ({error.strerror}): --channels names the folder that holds"
            f" {', '.join(f'{name}.txt' for name in SYSTEMS.values())}."
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{file}:{line}: not UTF-8 text: save the channel list as UTF-8.") from error


def column_name(channel_id: str) -> str:
    """The column of a channel: its id, unless PostgreSQL would truncate or refuse that as a column's name."""
    if channel_id not in RESERVED and len(channel_id.encode()) <= MAX_IDENTIFIER_BYTES:
        return channel_id
    digest = sha256(channel_id.encode()).hexdigest()[:DIGEST_CHARACTERS]
    # A character cut in two is dropped.
    stem = channel_id.encode()[: MAX_IDENTIFIER_BYTES - DIGEST_CHARACTERS - 1].decode(errors="ignore")
    return f"{stem}_{digest}"


def column_names(
    channel_ids: Iterable[str], given: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """The column of every channel of one table.

    Args:
        channel_ids: the table's channels.
        given: columns that are settled otherwise, by channel.

    Raises:
        ConfigurationError: two channels would share a column; the message names both.
    """
    owner: dict[str, str] = {}
    for channel_id in channel_ids:
        column = given.get(channel_id) or column_name(channel_id)
        other = owner.setdefault(column, channel_id)
        if other != channel_id:
            raise ConfigurationError(
                f"Channels {other!r} and {channel_id!r} would both be column {column!r}:"
                " rename one of them, or put them into different tables."
            )
    return {channel_id: column for column, channel_id in owner.items()}


def prefix_rules(lists: Iterable[ChannelList]) -> tuple[PrefixRule, ...]:
    """Rules that the lists imply, for equipment that is known, and for its kind with another number.

    `/plant/me01//temp` implies the prefix `/plant/me`, if all channels that start with it share a table; else
    `/plant/me01/`, if those do. Longer prefixes come first, so the closest one wins.
    """
    table_of = {channel_id: part.table_no for part in lists for channel_id in part.channel_ids}
    rules: dict[str, int] = {}
    for prefixes in dict.fromkeys(_candidates(channel_id) for channel_id in table_of):
        for prefix in prefixes:
            tables = {table_no for channel_id, table_no in table_of.items() if channel_id.startswith(prefix)}
            if len(tables) == 1:
                rules[prefix] = tables.pop()
                break
    return tuple(
        PrefixRule(prefix, rules[prefix]) for prefix in sorted(rules, key=lambda rule: (-len(rule), rule))
    )


def _candidates(channel_id: str) -> tuple[str, ...]:
    """Prefixes that may stand for the channel's kind of equipment, the most general first."""
    parts = channel_id.split("/")
    code = parts[2] if len(parts) > 3 and parts[0] == "" else ""  # noqa: PLR2004 - "", plant, equipment, rest
    if not code:
        return ()
    folder, kind = f"/{parts[1]}/", code.rstrip("0123456789")
    return (f"{folder}{kind}", f"{folder}{code}/") if kind else (f"{folder}{code}/",)


def place(channel_id: str, rules: Iterable[PrefixRule], default_table_no: int) -> int:
    """The table of a channel that no list names: that of the first rule it matches, else the default."""
    matching = (rule.table_no for rule in rules if channel_id.startswith(rule.prefix))
    return next(matching, default_table_no)
