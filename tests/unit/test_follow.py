"""The pure parts of following: what is published, what is looked at together, pace, waits, lines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from random import Random
from threading import Event
from typing import Any

import pytest

from backfill.follow import EndedError, Healing, Pacer, Waits, line, print_json, print_text
from tests.narrow_batches import narrow_batch
from widetable.narrow import FIRST_MOMENT_US, LAST_MOMENT_US
from widetable.touched import STRETCH_US, Stretch, touched
from widetable.verify.follow import Memory, first_piece
from widetable.verify.recheck import Proof, grouped, published
from widetable.verify.report import Difference
from widetable.verify.scope import MINUTE_US, Cell, Span


def proof(through_us: int | None, lower_us: int = 100, *, agrees: bool = True) -> Proof:
    """What a look at moments from `lower_us` to 1000 found."""
    return Proof(Stretch("A", lower_us, 1000), agrees, through_us, 5)


@pytest.mark.parametrize(
    ("before", "found", "limit", "gapless", "after"),
    [
        pytest.param(100, proof(1000), None, False, 1000, id="the next piece moves it on"),
        pytest.param(90, proof(1000), None, False, 90, id="a gap before the piece proves nothing"),
        pytest.param(None, proof(1000), None, False, None, id="not even the first time"),
        pytest.param(None, proof(1000), None, True, 1000, id="after a lap there is no gap"),
        pytest.param(90, proof(1000), None, True, 1000, id="not for a ship that was silent, either"),
        pytest.param(90, proof(1000), 500, True, 500, id="what waits in the queue holds it back"),
        pytest.param(700, proof(1000), 500, True, 700, id="but takes nothing back"),
        pytest.param(700, proof(400), None, True, 700, id="nor does a piece of an older lap"),
        pytest.param(700, proof(400, agrees=False), None, True, 400, id="a difference takes it back"),
        pytest.param(300, proof(400, agrees=False), None, True, 400, id="or moves it on up to there"),
        pytest.param(90, proof(400, agrees=False), None, False, 90, id="unless there is a gap before it"),
        pytest.param(700, proof(None), None, True, 700, id="no cell proves nothing"),
    ],
)
def test_what_is_published_never_passes_what_is_not_proven(
    before: int | None, found: Proof, limit: int | None, gapless: bool, after: int | None
) -> None:
    """And only a difference takes it back."""
    assert published(before, found, limit, gapless=gapless) == after


def test_adjacent_stretches_are_looked_at_together() -> None:
    """Ships that were touched at the same moments, too; each stretch is in exactly one group."""
    stretches = [Stretch(ship, lower, lower + 10) for ship in "ABC" for lower in (0, 10, 30)]
    stretches += [Stretch("D", 30, 40), Stretch("A", 5, 35)]
    Random(3).shuffle(stretches)
    found = [(group.ships, group.span, sorted(taken)) for group, taken in grouped(stretches)]
    assert [(ships, span) for ships, span, _ in found] == [
        (("B", "C"), Span(0, 20)),
        (("A",), Span(0, 40)),
        (("B", "C", "D"), Span(30, 40)),
    ]
    assert sorted(stretch for *_, taken in found for stretch in taken) == sorted(stretches)
    assert grouped([]) == []


def test_the_stretches_of_a_batch_lie_in_the_range_of_moments() -> None:
    """Before and after 1970, at both ends of time; dead cells have none."""
    moments = {
        "B": [-1, 0, STRETCH_US - 1],
        "A": [FIRST_MOMENT_US, LAST_MOMENT_US],
        "C": [LAST_MOMENT_US + 1],
    }
    samples = [{"ship_id": ship, "created_time": us} for ship, found in moments.items() for us in found]
    found = touched(narrow_batch([*samples, {"ship_id": "nul\0", "created_time": 1}]))
    assert [one for one in found if one.ship_id != "A"] == [
        Stretch("B", -STRETCH_US, 0),
        Stretch("B", 0, STRETCH_US),
    ]
    early, late = (one for one in found if one.ship_id == "A")
    assert early.lower_us == FIRST_MOMENT_US
    assert late.upper_us == LAST_MOMENT_US + 1 < 2**63


def test_a_piece_of_a_lap_holds_about_what_it_should() -> None:
    """It is the begin of the rest, or all of it; never less than a minute."""
    hours = Span(0, 64 * 60 * MINUTE_US)
    assert first_piece(hours, lambda span: span.upper_us // MINUTE_US, 240) == Span(0, 240 * MINUTE_US)
    assert first_piece(hours, lambda _span: 5, 10) == hours
    assert first_piece(hours, lambda _span: 10**9, 10).upper_us <= MINUTE_US


def test_the_pace_is_kept_and_a_signal_ends_the_wait() -> None:
    """Cells are paid for with time."""
    stop = Event()
    began = time.monotonic()
    Pacer(1_000_000, stop).spend(50_000)
    assert time.monotonic() - began >= 0.05
    stop.set()
    with pytest.raises(EndedError):
        Pacer(1, stop).spend(10**9)


def test_waits_grow_with_each_outage_and_are_told_once() -> None:
    """Up to a limit, and from the start again after a good round."""
    waits = Waits()
    assert [waits.next_s() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    waits.over()
    assert waits.next_s() == 1
    told: list[dict[str, Any]] = []
    tell = waits.heard(told.append)
    for reason in ("a", "a", "b", "b"):
        tell({"event": "waiting", "for": reason})
        tell({"event": "outage", "what": "x"})
    assert [event["for"] for event in told if event["event"] == "waiting"] == ["a", "b"]
    assert len(told) == 6


def test_a_look_repairs_so_many_cells_and_no_more() -> None:
    """A range that was never copied is not for a resync."""
    healed: list[int] = []

    class Resync:
        """Counts."""

        def heal(self, cells: list[Any]) -> None:
            healed.append(len(cells))

    healing = Healing(Resync(), 5)  # type: ignore[arg-type]
    for _ in range(3):
        healing.heal([("A", us, "c") for us in range(3)])
    assert healed == [3, 2, 0]


def test_a_difference_is_told_once_and_doubts_end_with_proof() -> None:
    """However often it is looked at."""
    memory = Memory()
    one = Difference("missing", Cell("A", 1, "c"), "1", None)
    assert memory.new([one, one]) == [one, one]
    assert memory.new([one]) == []
    memory.note([Proof(Stretch("A", 10, 20), agrees=False, through_us=10, cells=1)])
    memory.note([Proof(Stretch("B", 0, 99), agrees=True, through_us=10, cells=1)])
    assert memory.doubts == {Stretch("A", 10, 20)}
    memory.note([Proof(Stretch("A", 0, 99), agrees=True, through_us=10, cells=1)])
    assert memory.doubts == set()


LOOKED = {
    "event": "looked",
    "at": "lap",
    "from": "2026-01-01T00:00:00",
    "until": None,
    "ships": 2,
    "cells_compared": 1234,
    **dict.fromkeys(("missing", "different", "phantom", "repaired", "remaining", "unsettled"), 0),
    "seconds": 1.0,
    "waiting": 0,
    "verified_through": None,
    "done": 0.5,
}
DIFFERENCE = Difference("missing", Cell("A", 0, "c"), "1", None)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (LOOKED, "lap (50% of the lap) 2026-01-01T00:00:00 to the end: 1,234 cells of 2 ships, 0 missing"),
        ({"event": "difference", **DIFFERENCE.as_dict()}, "missing  A  1970-01-01T00:00:00"),
        (
            {"event": "lap", "laps": 2, "seconds": 5.0, "agrees": True},
            "lap 2 is finished after 5 s: all agrees",
        ),
        ({"event": "waiting", "for": "history"}, "waiting: history"),
        ({"event": "outage", "what": "it is away"}, "trying again soon: it is away"),
        ({"event": "ended", "in_doubt": 3}, "ended; 3 stretches are in doubt"),
    ],
    ids=["looked", "difference", "lap", "waiting", "outage", "ended"],
)
def test_each_event_is_a_line_and_an_object(
    event: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the time."""
    assert line(event).startswith(words)
    shown: tuple[Callable[[dict[str, Any]], None], ...] = (print_text, print_json)
    for show in shown:
        show(event)
    text, data = capsys.readouterr().out.splitlines()
    assert text.endswith(line(event))
    assert json.loads(data).items() >= event.items()
