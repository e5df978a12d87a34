"""What `status` prints: facts as lines, once or again and again."""

from __future__ import annotations

import itertools
import os
import pty
from collections.abc import Callable

import pytest

from widetable import watching
from widetable.state import PlanState, history_facts
from widetable.state_text import duration, lines

FACTS = {
    "connections": {
        "source": {"state": "connected", "version": "18.1"},
        "kafka": {"error": "away"},
        "sessions": 3,
    },
    "hand_off": {"pipeline": "north", "state": "streaming", "epoch": 1, "barrier_xid": 123456},
    "slot": {"name": "north", "state": "active", "retained_bytes": 5 << 20, "budget_left_bytes": 3 << 30},
    "stream": {
        "lag": 1234,
        "partitions": [{"partition": 0, "next_offset": 1, "end_offset": 1235, "lag": 1234, "owner": None}],
    },
    "history": {"state": "running", "done": 3, "rows_per_s": 1500.0, "eta_s": 90061.0},
    "ships": {"ships": [{"ship_id": "IMO1", "newest": None, "age_s": None, "verified_through": None}]},
}


def test_each_part_is_a_line_and_partitions_and_ships_are_tables() -> None:
    """What an operator looks at first stands first."""
    assert list(lines(FACTS)) == [
        "connections source connected, 18.1, kafka away, sessions 3",
        "hand-off    north, streaming, epoch 1, barrier xid 123456",
        "slot        north, active, retains 5 MB, budget left 3,072 MB",
        "stream      lag 1,234",
        "history     running, done 3, 1,500 rows/s, about 1 day, 1:01:01 left",
        "",
        "partition    next offset     end offset        lag  owner",
        "        0              1          1,235      1,234  -",
        "",
        "ship             newest moment                          age  verified through",
        "IMO1             -                                        -  -",
    ]
    assert list(lines({"slot": {"budget_left_bytes": None}})) == ["slot        budget unlimited"]
    assert duration(-61) == "-0:01:01"  # a ship whose clock is ahead


@pytest.mark.parametrize(
    ("running", "finished", "speed", "state", "eta_s"),
    [
        pytest.param(1, False, 10.0, "running", 5.0, id="under way"),
        pytest.param(0, False, None, "stands still", None, id="nobody copies"),
        pytest.param(0, True, 10.0, "finished", None, id="finished just now"),
    ],
)
def test_history_has_a_time_left_only_while_it_moves(
    running: int, speed: float | None, state: str, eta_s: float | None, *, finished: bool
) -> None:
    """A time that nothing moves towards would be a lie."""
    left = 0 if finished else 50
    plan = PlanState(1, finished, 0, running, 3, 0, 100, left, speed)
    facts = history_facts([plan])
    assert (facts["state"], facts["eta_s"], facts["rows"]) == (state, eta_s, 100)
    assert history_facts([]) == {"state": "nothing was copied yet"}


def counting(looks: int) -> Callable[[], str]:
    """A look that is interrupted after so many."""
    counter = itertools.count(1)

    def look() -> str:
        number = next(counter)
        if number > looks:
            raise KeyboardInterrupt
        return f"look {number}"

    return look


def test_a_watch_off_a_terminal_is_block_after_block(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its time; for machines, each look is a line."""
    watching.show(counting(2), watch=True, interval=0.001)
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("look")] == ["look 1", "look 2"]
    assert shown.count("UTC") == 2
    watching.show(counting(2), watch=True, interval=0.001, plain=True)
    assert capsys.readouterr().out == "look 1\nlook 2\n"
    watching.show(counting(2), watch=False, interval=9)
    assert capsys.readouterr().out == "look 1\n"


def test_a_watch_on_a_terminal_is_drawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor goes up: the second look stands where the first did."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        monkeypatch.setenv("TERM", "xterm")
        watching.show(counting(2), watch=True, interval=0.001)
        terminal.flush()
        shown = ""
        while "look 2" not in shown:  # a read gives what was written so far
            shown += os.read(ours, 10_000).decode()
    os.close(ours)
    assert "look 1" in shown
    assert shown.index("\x1b[1A") < shown.index("look 2")
