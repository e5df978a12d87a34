"""The log file: whole lines of several processes, in pieces of a bounded size, and the command that reads it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cdc_consumer.cli import cli
from tests.interrupting import interruptible
from tests.waiting import wait_until
from widetable.log_file import PIECES, LogFile, piece, pieces

WRITER = """
import sys
from pathlib import Path
from widetable.log_file import LogFile
file = LogFile(Path(sys.argv[1]), piece_bytes=40_000)
for number in range(500):
    file.write(f"{sys.argv[2]} {number} " + "x" * 60)
"""

PROGRAM = "from cdc_consumer.logs_command import logs; logs()"


def test_processes_that_write_at_once_lose_no_line(tmp_path: Path) -> None:
    """Parent and workers share one file; what one of them rotates, the others write on."""
    path = tmp_path / "x.log"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, str(name)]) for name in range(4)]  # noqa: S603 - our own code
    assert [writer.wait(60) for writer in writers] == [0] * 4
    lines = [line.split() for file in pieces(path) for line in file.read_text().splitlines()]
    assert len(pieces(path)) >= 2  # a rotation that finds another at it is left out
    assert {len(line) for line in lines} == {3}
    for name in range(4):
        numbers = [int(number) for writer, number, _ in lines if writer == str(name)]
        assert sorted(numbers) == list(range(500))


def test_old_pieces_go(tmp_path: Path) -> None:
    """Five pieces, each about as big as it may be: logs never fill a disk."""
    file = LogFile(tmp_path / "x.log", piece_bytes=1000)
    for number in range(100):
        file.write(f"{number:099}")
    file.close()
    sizes = [found.stat().st_size for found in pieces(tmp_path / "x.log")]
    assert sizes == [1000] * PIECES
    assert (tmp_path / "x.log").read_text().endswith("99\n")
    assert len(list(tmp_path.iterdir())) == PIECES


def test_a_process_that_stands_still_while_it_rotates_holds_nobody_up(tmp_path: Path) -> None:
    """Its lock is not waited for: the piece grows beyond its size instead."""
    path = tmp_path / "x.log"
    file = LogFile(path, piece_bytes=10)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for _ in range(3):
            file.write("a line of some length")
        assert pieces(path) == [path]
    file.write("one more")
    assert len(pieces(path)) == 2


def test_a_full_disk_stops_no_program_and_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Logging is not what the program is for."""
    file = LogFile(Path("/dev/full"))
    file.write("x")
    file.write("y")
    assert capsys.readouterr().err == "the log file /dev/full can't be written: No space left on device\n"


# -- cdc-consumer logs --------------------------------------------------------------------------------------


def events(path: Path) -> None:
    """A log of two pieces."""
    older: list[tuple[str, str, dict[str, object]]] = [
        ("info", "worker_started", {"worker": 1}),
        ("warning", "outage", {"why": "Target away"}),
    ]
    newer: list[tuple[str, str, dict[str, object]]] = [
        ("error", "ended", {"exception": "Traceback\nKeyError"}),
        ("info", "worker_started", {}),
    ]
    for file, lines in ((piece(path, 1), older), (path, newer)):
        rows = [
            {"timestamp": f"2026-01-02T03:04:0{n}.5Z", "level": level, "event": event, **more}
            for n, (level, event, more) in enumerate(lines)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def ask(path: Path, *arguments: str) -> str:
    """What the command answers."""
    result = CliRunner().invoke(cli, ["logs", "--log-file", str(path), *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_logs_are_shown_across_pieces_and_by_what_is_asked_for(tmp_path: Path) -> None:
    """Oldest first; errors only; a text in any case; the last few; raw."""
    path = tmp_path / "x.log"
    events(path)
    assert ask(path).splitlines() == [
        "2026-01-02T03:04:00 info     worker_started worker=1",
        "2026-01-02T03:04:01 warning  outage why=Target away",
        "2026-01-02T03:04:00 error    ended",
        "Traceback",
        "KeyError",
        "2026-01-02T03:04:01 info     worker_started",
    ]
    assert ask(path, "-e").splitlines()[0] == "2026-01-02T03:04:00 error    ended"
    assert ask(path, "--search", "target").count("\n") == 1
    assert ask(path, "-n", "1") == "2026-01-02T03:04:01 info     worker_started\n"
    assert json.loads(ask(path, "--json", "--search", "away"))["why"] == "Target away"
    path.write_text("not JSON\n")
    assert ask(path, "-n", "1").strip() == "not JSON"


def test_the_logs_are_summed_up(tmp_path: Path) -> None:
    """What happened how often, the worst first."""
    path = tmp_path / "x.log"
    events(path)
    assert ask(path, "-s").splitlines() == [
        "4 lines, 2026-01-02T03:04:00 to 2026-01-02T03:04:01 (UTC)",
        "error 1, warning 1, info 2",
        "",
        "        1 error    ended",
        "        1 warning  outage",
        "        2 info     worker_started",
    ]
    assert ask(path, "-s", "--search", "nothing has this") == "nothing was logged\n"


def test_the_logs_are_cleared_under_a_program_that_writes(tmp_path: Path) -> None:
    """Asked for by name off a terminal; the writer goes on at the start of the file."""
    path = tmp_path / "x.log"
    events(path)
    writer = LogFile(path)
    refused = CliRunner().invoke(cli, ["logs", "-c", "--log-file", str(path)])
    assert refused.exit_code == 2
    assert "add --yes" in refused.output
    assert ask(path, "-c", "--yes") == "removed 0.0 MB of logs\n"
    writer.write("after")
    assert (path.read_text(), pieces(path)) == ("after\n", [path])
    both = CliRunner().invoke(cli, ["logs", "-c", "-f", "--log-file", str(path)])
    assert "exclude each other" in both.output


def test_the_logs_are_followed_through_a_rotation_and_a_clearing(tmp_path: Path) -> None:
    """Every line once, until Ctrl+C, which is no error."""
    path, shown = tmp_path / "x.log", tmp_path / "shown"
    file = LogFile(path, piece_bytes=300)
    file.write("before")
    command = [sys.executable, "-c", PROGRAM, "-f", "--json"]
    with (
        interruptible(),
        shown.open("w") as out,
        subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=out, env={**os.environ, "CDC_LOG__FILE": str(path)}
        ) as tail,
    ):
        try:
            wait_until(lambda: "before" in shown.read_text(), "what was there is shown")
            for number in range(40):
                file.write(f"line {number}")
            wait_until(lambda: "line 39" in shown.read_text(), "all lines are shown")
            os.truncate(path, 0)
            file.write("cleared")
            wait_until(lambda: "cleared" in shown.read_text(), "the cleared file is read on")
        finally:
            tail.send_signal(signal.SIGINT)
        assert tail.wait(30) == 0
    expected = ["before", *(f"line {number}" for number in range(40)), "cleared"]
    assert shown.read_text().splitlines() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "no log file is set", id="no setting"),
        pytest.param(
            ["--log-file", "/nowhere/x.log"], "there is no log file /nowhere/x.log yet", id="no file"
        ),
    ],
)
def test_logs_without_a_file_say_so(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where logs are instead."""
    monkeypatch.delenv("CDC_LOG__FILE", raising=False)
    with pytest.raises(Exception, match=message):
        CliRunner().invoke(cli, ["logs", *arguments], catch_exceptions=False)
