"""The channel map as a CSV file: what is written is read as it was, and every mistake is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from widetable.channel_map import ChannelList
from widetable.errors import ConfigurationError
from widetable.map_file import MapFile, read_map, write_map

HEADER = "channel_id,table_no,system,column_name,column_type\n"


def read(folder: Path, text: str | bytes) -> MapFile:
    """Read a file with this content."""
    path = folder / "map.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_map(path)


def mistakes(folder: Path, text: str | bytes) -> str:
    """What is said about a file with this content."""
    with pytest.raises(ConfigurationError) as caught:
        read(folder, text)
    return str(caught.value).replace(str(folder), "")


def test_what_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    """Also ids with quotes, commas and line ends; the columns for a person don't count."""
    ids = ('x"y', "a,b", "line\nend", "100% é", " spaces ")
    rows = [
        {"channel_id": name, "table_no": 2, "system": "engine", "column_name": f"c{i}", "column_type": "int8"}
        for i, name in enumerate(ids)
    ]
    write_map(tmp_path / "map.csv", [{**row, "formats": "Integer 3", "note": "in no list"} for row in rows])
    found = read_map(tmp_path / "map.csv")
    assert found.lists == (ChannelList(2, "engine", ids),)
    assert found.columns == {name: f"c{i}" for i, name in enumerate(ids)}
    assert set(found.types.values()) == {"int8"}
    assert [path.name for path in tmp_path.iterdir()] == ["map.csv"]


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    """It may be the one that a person has edited."""
    (tmp_path / "map.csv").write_text("mine")
    with pytest.raises(ConfigurationError, match="does not overwrite"):
        write_map(tmp_path / "map.csv", [])
    assert (tmp_path / "map.csv").read_text() == "mine"
    with pytest.raises(ConfigurationError, match="can't write the channel map"):
        write_map(tmp_path / "none" / "map.csv", [])


def test_only_channel_and_table_must_be_there(tmp_path: Path) -> None:
    """In any order; the rest is found as without a map."""
    found = read(tmp_path, "table_no,channel_id\n3,/b\n1,/a\n1,xmin\n44,/c\n")
    names = [(part.table_no, part.name) for part in found.lists]
    assert names == [(1, "auxiliary_systems"), (3, "navigation_ship"), (44, "table_44")]
    assert found.columns["/a"] == "/a"
    assert found.columns["xmin"].startswith("xmin_")
    assert found.types == {}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: b"\xef\xbb\xbf" + text.encode(), id="a byte order mark"),
        pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(lambda text: text.replace("\n", "\n,,,,\n\n").encode(), id="empty lines"),
        pytest.param(lambda text: text.rstrip("\n").encode(), id="no end of the last line"),
        pytest.param(
            lambda text: text.replace("float8", "double precision").encode(), id="PostgreSQL's names"
        ),
    ],
)
def test_what_editors_do_to_a_file_does_no_harm(tmp_path: Path, change: object) -> None:
    """The map is the same."""
    text = HEADER + "/a,1,aux,/a,float8\n/b,2,engine,,text\n"
    assert read(tmp_path, change(text)) == read(tmp_path, text)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        pytest.param("/b,1,aux", "3 fields, the first line names 5", id="too few fields"),
        pytest.param("/a,1,aux,,", "channel '/a' stands in line 2 already", id="twice"),
        pytest.param(",1,aux,x,", "no channel id", id="no channel"),
        pytest.param("/b,0,aux,,", "'0' is not a number from 1 to 999", id="table 0"),
        pytest.param("/b,1000,aux,,", "'1000' is not a number", id="a number of parts"),
        pytest.param("/b,two,aux,,", "'two' is not a number", id="no number"),
        pytest.param("/b,,aux,,", "'' is not a number", id="no table"),
        pytest.param("/b,1,aux,/a,", "'/a' and '/b' would share column '/a' of table 1", id="one column"),
        pytest.param(f"/b,1,aux,{'é' * 32},", "has 64 bytes", id="64 bytes"),
        pytest.param("/b,1,aux,_x,", "column_name '_x' is taken", id="our own column"),
        pytest.param("/b,1,aux,,integer", "'integer' is none of text, float8, int8, bool", id="unknown type"),
        pytest.param("/b,1,engine,,", "table 1 is called 'aux' above, and 'engine' here", id="two names"),
        pytest.param("/b,2,aux,,", "tables 1 and 2 can't both be called 'aux'", id="one name"),
        pytest.param("/b\0,1,aux,,", "a NUL character", id="NUL"),
        pytest.param('"/b"c,1,aux,,', "not CSV", id="a stray quote"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    """With its number, and what is wrong."""
    text = mistakes(tmp_path, f"{HEADER}/a,1,aux,/a,text\n{line}\n")
    (told,) = [part for part in text.splitlines() if "/map.csv:3: " in part]
    assert words in told
    assert text.endswith("Nothing was changed.")


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    """A long list is cut, and counted."""
    text = mistakes(tmp_path, HEADER + "".join(f"/{i},0,aux,,\n" for i in range(30)))
    assert text.count("/map.csv:") == 20
    assert "and 10 more" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("", "there is no column 'channel_id'", id="empty"),
        pytest.param(HEADER, "names no channel", id="no rows"),
        pytest.param("channel_id,table_no,colour\n", "unknown column 'colour'", id="unknown column"),
        pytest.param("channel_id;table_no\n/a;1\n", "unknown column 'channel_id;table_no'", id="semicolons"),
        pytest.param("channel_id,table_no,table_no\n", "'table_no' stands there twice", id="twice"),
        pytest.param("channel_id\n/a\n", "there is no column 'table_no'", id="no table"),
        pytest.param(HEADER.encode() + b"/\xe9,1,,,\n", ":2: not UTF-8 text", id="Latin 1"),
    ],
)
def test_a_file_that_is_no_map_is_refused(tmp_path: Path, content: str | bytes, words: str) -> None:
    """With what a map has."""
    assert words in mistakes(tmp_path, content)


def test_a_file_that_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(ConfigurationError, match="can't read the channel map \\(No such file"):
        read_map(tmp_path / "none.csv")
