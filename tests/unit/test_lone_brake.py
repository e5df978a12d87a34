"""What slows `backfill retry` and `backfill import` down, which copy alone, part after part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from backfill import brake
from backfill.brake import LoneBrake
from backfill.pace import Load
from backfill.settings import BackfillSettings, Settings
from backfill.source_watch import SourceWatch
from backfill.writing import PatientWriter
from widetable.errors import PartialError, UnreachableError
from widetable.settings import SourceSettings, TargetSettings

SETTINGS = Settings(
    source=SourceSettings.model_validate({"dsn": ""}),
    target=TargetSettings.model_validate({"dsn": ""}),
    backfill=BackfillSettings(slot_lag_bytes=1_000),
)
FULL, BUSY, CALM = Load(retained=2_000), Load(active=99), Load()


@dataclass
class Scene:
    """A clock that moves by naps only, and a source with one load after the other, the last one for ever."""

    loads: Sequence[Load | None]
    now_s: float = 0.0
    naps: list[float] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    stop_at_s: float = float("inf")

    def nap(self, seconds: float) -> None:
        """Wait."""
        self.naps.append(seconds)
        self.now_s += seconds

    def look(self, slot: str | None) -> Load | None:
        """As the source would answer."""
        assert slot == "slot"
        load, *rest = self.loads
        self.loads = rest or [load]
        return load

    def brake(self, monkeypatch: pytest.MonkeyPatch, rows_per_s: float | None = None) -> LoneBrake:
        """A brake in this scene, that looks each time."""
        monkeypatch.setattr(brake, "SOURCE_LOOK_S", 0.0)
        monkeypatch.setattr(SourceWatch, "look", lambda _self, slot: self.look(slot))
        monkeypatch.setattr("backfill.brake.time.monotonic", lambda: self.now_s)
        stopping = lambda: self.now_s >= self.stop_at_s  # noqa: E731 - used once, right here
        return LoneBrake(SETTINGS, "slot", rows_per_s, self.told.append, nap=self.nap, stopping=stopping)


def test_it_waits_while_the_slot_retains_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says so once, goes on when there is room again, and also while the source can't be asked."""
    scene = Scene([FULL, FULL, None, FULL, CALM, None])
    lone = scene.brake(monkeypatch)
    lone.wait()
    assert scene.naps == [0.5] * 4
    limit = "the slot retains 2,000 bytes of WAL, over the limit of 1,000"
    assert scene.told == [f"paused: {limit}", f"slowed to 6%: {limit}"]
    lone.wait()
    assert len(scene.naps) == 4


def test_a_signal_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part is left, to be tried another time."""
    scene = Scene([FULL], stop_at_s=1.0)
    with pytest.raises(PartialError, match="stopped while it was paused: the slot retains"):
        scene.brake(monkeypatch).wait()
    assert scene.now_s == 1.0


def test_it_rests_in_proportion_while_the_source_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the time, then three quarters, and less again when the source has less to do."""
    scene = Scene([None])
    lone = scene.brake(monkeypatch)
    rests = []
    for load in (BUSY, BUSY, CALM, CALM, CALM):
        scene.loads = [load, None]
        lone.wait()
        began_s = scene.now_s
        lone.rest(rows=10**9, worked_s=3.0)
        rests.append(scene.now_s - began_s)
    assert rests == pytest.approx([3.0, 9.0, 5.0, 7 / 3, 5 / 9])
    assert max(scene.naps) <= 0.5
    assert [text.partition(":")[0] for text in scene.told] == [
        "slowed to 50%",
        "slowed to 25%",
        "slowed to 38%",
        "slowed to 56%",
        "slowed to 84%",
    ]


def test_a_limit_of_rows_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the work took counts; a part that took longer than its rows may is followed at once."""
    scene = Scene([CALM])
    lone = scene.brake(monkeypatch, rows_per_s=1_000)
    lone.wait()
    lone.rest(rows=5_000, worked_s=2.0)
    lone.wait()
    lone.rest(rows=500, worked_s=2.0)
    assert sum(scene.naps) == 3.0


def test_a_rest_ends_soon_after_the_source_is_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was a rest of five minutes when it began is none once the source has nothing else to do; it is told."""
    scene = Scene([BUSY] * 6 + [CALM])
    lone = scene.brake(monkeypatch)
    for _ in range(5):
        lone.wait()
    lone.rest(rows=1, worked_s=20.0)
    assert scene.now_s < 10.0
    assert scene.told[-1].startswith("slowed to 7")


def test_a_signal_ends_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is in work then."""
    scene = Scene([BUSY], stop_at_s=2.0)
    lone = scene.brake(monkeypatch)
    lone.wait()
    lone.rest(rows=1, worked_s=60.0)
    assert scene.now_s == 2.0


def test_a_target_that_was_away_is_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither attempts that fail nor the waits between them make the rest longer."""
    scene = Scene([CALM])
    monkeypatch.setattr("backfill.writing.time.monotonic", lambda: scene.now_s)
    monkeypatch.setattr(PatientWriter, "_session", lambda _self: (None, None))
    tries: list[int] = []

    def work(*_session: object) -> str:
        tries.append(len(tries))
        scene.now_s += 3.0
        if len(tries) < 4:
            raise UnreachableError("away")
        return "done"

    writer = PatientWriter(SETTINGS, "retry", scene.nap)
    assert writer.run(work) == "done"
    assert (writer.worked_s, scene.now_s) == (3.0, 19.0)
