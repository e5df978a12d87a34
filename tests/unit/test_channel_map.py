"""The channel map: every channel has one table and one column, mistakes in the lists name file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from widetable import channel_map
from widetable.channel_map import (
    MAX_IDENTIFIER_BYTES,
    RESERVED,
    SYSTEMS,
    ChannelList,
    PrefixRule,
    column_name,
    column_names,
    place,
    prefix_rules,
    read_channel_lists,
)
from widetable.errors import ConfigurationError


def write_lists(folder: Path, **changed: bytes) -> Path:
    """A folder with one channel per list, but for what is changed."""
    for name in SYSTEMS.values():
        (folder / f"{name}.txt").write_bytes(changed.get(name, f"/v1/{name}//x\n".encode()))
    return folder


def test_the_lists_of_the_package_are_the_three_systems() -> None:
    """An installed program needs no folder: the lists come with it, in table order."""
    lists = read_channel_lists()
    assert [(part.table_no, part.name, len(part.channel_ids)) for part in lists] == [
        (1, "auxiliary_systems", 347),
        (2, "engine_generator", 655),
        (3, "navigation_ship", 50),
    ]


def test_every_listed_channel_keeps_its_name_as_column() -> None:
    """Readers find a channel under its id."""
    for part in read_channel_lists():
        assert column_names(part.channel_ids) == {channel: channel for channel in part.channel_ids}


def test_blank_lines_a_bom_and_windows_line_ends_are_no_channels(tmp_path: Path) -> None:
    """A list that went through a spreadsheet reads the same."""
    content = "\ufeff/v1/b//x\r\n\r\n  /v1/a//x  \r\n".encode()
    lists = read_channel_lists(write_lists(tmp_path, navigation_ship=content))
    assert lists[2].channel_ids == ("/v1/b//x", "/v1/a//x")


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        pytest.param(b"", 1, "empty", id="empty"),
        pytest.param(b"\n \n", 1, "empty", id="blank"),
        pytest.param(b"/v1/a\n/v1/b\n/v1/a\n", 3, "stands in", id="twice in one list"),
        pytest.param(b"/v1/a\n/v1/auxiliary_systems//x\n", 2, "auxiliary_systems.txt:1", id="in two lists"),
        pytest.param(b"/v1/a\n/v1/\xff\n", 2, "UTF-8", id="not text"),
        pytest.param(b"/v1/a\n/v1/b\0c\n", 2, "NUL", id="binary"),
    ],
)
def test_a_bad_list_is_named_with_its_line(tmp_path: Path, content: bytes, line: int, word: str) -> None:
    """A person finds the mistake without searching."""
    with pytest.raises(ConfigurationError) as caught:
        read_channel_lists(write_lists(tmp_path, engine_generator=content))
    assert f"engine_generator.txt:{line}:" in str(caught.value)
    assert word in str(caught.value)


@pytest.mark.parametrize("name", SYSTEMS.values())
def test_a_missing_list_is_an_error_that_names_the_option(tmp_path: Path, name: str) -> None:
    """Nothing is planned from two lists of three."""
    write_lists(tmp_path)
    (tmp_path / f"{name}.txt").unlink()
    with pytest.raises(ConfigurationError, match=rf"{name}\.txt.*--channels"):
        read_channel_lists(tmp_path)


def test_a_folder_in_the_place_of_a_list_is_an_error(tmp_path: Path) -> None:
    """Whatever can't be read is said to be unreadable."""
    write_lists(tmp_path)
    (tmp_path / "navigation_ship.txt").unlink()
    (tmp_path / "navigation_ship.txt").mkdir()
    with pytest.raises(ConfigurationError, match="can't read"):
        read_channel_lists(tmp_path)


@pytest.mark.parametrize("channel_id", [*sorted(RESERVED), "a" * 64, "é" * 32, "x" + "é" * 40, "船" * 30])
def test_a_name_that_postgresql_would_refuse_or_cut_is_mapped(channel_id: str) -> None:
    """The mapped name fits, is no reserved one, and is whole UTF-8."""
    name = column_name(channel_id)
    assert name != channel_id
    assert name not in RESERVED
    assert len(name.encode()) <= MAX_IDENTIFIER_BYTES
    assert name.encode().decode() == name


@pytest.mark.parametrize("channel_id", ["a" * 63, "é" * 31, "oid", "Xmin", 'a"b;--', "100%s", " "])
def test_a_name_that_postgresql_takes_is_kept(channel_id: str) -> None:
    """Nothing is renamed without need."""
    assert column_name(channel_id) == channel_id


def test_long_names_that_start_alike_get_different_columns() -> None:
    """PostgreSQL would cut both to the same 63 bytes, with a NOTICE only."""
    names = column_names(["a" * 64, "a" * 65])
    assert len(set(names.values())) == 2


def test_two_channels_that_collapse_to_one_column_are_named() -> None:
    """A channel may be called like the short form of another."""
    long = "a" * 80
    with pytest.raises(ConfigurationError) as caught:
        column_names([long, column_name(long)])
    assert repr(long) in str(caught.value)
    assert repr(column_name(long)) in str(caught.value)


def test_prefix_rules_send_every_listed_channel_to_its_own_table() -> None:
    """The rules agree with the lists that they are made of."""
    lists = read_channel_lists()
    rules = prefix_rules(lists)
    for part in lists:
        assert {place(channel, rules, 99) for channel in part.channel_ids} == {part.table_no}


@pytest.mark.parametrize(
    ("channel_id", "table_no"),
    [
        pytest.param("/hs4sd_v1/me01/new//thing", 2, id="known equipment"),
        pytest.param("/hs4sd_v1/ge09////run", 2, id="known kind, another number"),
        pytest.param("/hs4sd_v1/ct17/wtr//in_c/temp", 1, id="auxiliary"),
        pytest.param("/hs4sd_v1/vdr/new", 3, id="navigation"),
        pytest.param("/hs4sd_v1/zz01////run", 7, id="unknown kind"),
        pytest.param("no slashes", 7, id="not a path"),
        pytest.param("", 7, id="empty"),
    ],
)
def test_a_channel_nobody_has_seen_joins_its_equipment(channel_id: str, table_no: int) -> None:
    """By prefix, else the default table."""
    assert place(channel_id, prefix_rules(read_channel_lists()), 7) == table_no


def test_a_kind_in_two_tables_is_told_apart_by_number() -> None:
    """The rule is as general as the lists allow, and the closest one wins."""
    lists = [ChannelList(1, "a", ("/v1/p01/x", "/v1/p02/x")), ChannelList(2, "b", ("/v1/p03/x", "/v1/q/x"))]
    rules = prefix_rules(lists)
    assert rules == (
        PrefixRule("/v1/p01/", 1),
        PrefixRule("/v1/p02/", 1),
        PrefixRule("/v1/p03/", 2),
        PrefixRule("/v1/q", 2),
    )


def test_equipment_in_two_tables_gives_no_rule() -> None:
    """Where the lists disagree, the default table decides."""
    lists = [ChannelList(1, "a", ("/v1/p01/x",)), ChannelList(2, "b", ("/v1/p01/y", "/v1/007/x"))]
    assert prefix_rules(lists) == (PrefixRule("/v1/007/", 2),)


def test_the_repository_has_one_copy_of_the_lists() -> None:
    """The package's folder is the repository's `channels/`, not a second copy that could differ."""
    package = Path(str(channel_map.shipped_lists()))
    assert package.resolve() == (Path(__file__).parents[2] / "channels").resolve()
