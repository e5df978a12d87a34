"""One worker's session against real databases: fences, brakes, layout changes, hand-offs that come and go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe

import pytest

from backfill import ledger, plans, worker
from backfill.job import Job, Note
from backfill.ledger import SliceLostError
from backfill.pace import Pace, RateLimit
from backfill.planner import Bounds
from backfill.plans import Plan
from backfill.reader import Reader, Reading
from backfill.scope import Scope
from backfill.session import Session
from backfill.worker import open_session
from backfill.writing import target_errors
from tests.backfill_world import CHANNELS, SHIPS, World, wait_until
from widetable.errors import ConfigurationError, RetryableError, StoppedError
from widetable.hand_off import HandOff, end_epoch
from widetable.layout_lock import layout_change, raise_version

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres

MINUTE_US = 60_000_000
START_US = 1_735_689_600_000_000  # 2025-01-01
SLICES = [
    Bounds(None, START_US + MINUTE_US, 72),
    Bounds(START_US + MINUTE_US, START_US + 2 * MINUTE_US, 72),
    Bounds(START_US + 2 * MINUTE_US, None, 72),
]


class Desk:
    """A plan of three slices, and sessions that work on it in this process."""

    def __init__(self, world: World, stack: ExitStack, epoch: int | None) -> None:
        self.world = world
        self.plan: Plan = plans.add_plan(world.target, "narrow_to_wide", epoch, Scope(SHIPS), SLICES)
        self._stack = stack
        self._context = get_context("spawn")
        self.notes: Pipe
        self.pace: Pace
        self._numbers = iter(range(100))

    def job(self, rows_per_s: float | None = None, **section: object) -> Job:
        """A worker's job; its messages come out of `notes`."""
        self.notes, theirs = self._context.Pipe(duplex=False)
        rate = RateLimit(rows_per_s, self._context.Value("d", 0.0))
        name = f"run/{next(self._numbers)}"
        self.pace = Pace(self._context.Value("d", 1.0))
        settings, stop = self.world.settings(**section), self._context.Event()
        return Job(settings, self.plan, name, stop, rate, self.pace, theirs)

    def session(self, job: Job | None = None) -> Session:
        """A connected worker."""
        return self._stack.enter_context(open_session(job or self.job()))

    def said(self) -> list[str]:
        """What the last job's worker had to say."""
        said = []
        while self.notes.poll():
            message = self.notes.recv()
            assert isinstance(message, Note)
            said.append(message.text)
        return said


@pytest.fixture
def desk(world: World) -> Iterator[Desk]:
    """A plan behind a hand-off, of a source with three minutes of samples."""
    world.fill(12)
    world.hand_off()
    with ExitStack() as stack:
        yield Desk(world, stack, epoch=1)


def test_a_session_drains_its_plan(desk: Desk) -> None:
    """All slices are copied in order, each with one attempt; the plan can be closed."""
    assert desk.session().drain() is True
    assert desk.world.wide_cells() == desk.world.narrow_cells()
    totals = ledger.totals(desk.world.target, desk.plan.plan_id, "run/")
    assert (totals.done, totals.run_slices, totals.run_rows) == (3, 3, 12 * len(SHIPS) * len(CHANNELS))
    ledger.finish(desk.world.target, desk.plan.plan_id)
    assert desk.world.one("SELECT finished_at IS NOT NULL FROM plan") is True


def test_a_worker_taken_for_dead_writes_nothing(desk: Desk) -> None:
    """Between its read and its write another worker claimed the slice: the attempt is outdated."""
    slow, fast = desk.session(), desk.session()
    claim = ledger.claim_next(slow._target, desk.plan.plan_id, "slow", lease_s=900)
    assert claim is not None
    reading = slow._reader.read(claim.bounds, None)
    desk.world.target.execute("UPDATE slice SET started_at = now() - interval '1 hour'")
    again = ledger.claim_next(fast._target, desk.plan.plan_id, "fast", lease_s=900)
    assert again is not None
    assert (again.slice_no, again.attempt) == (claim.slice_no, claim.attempt + 1)
    with pytest.raises(SliceLostError):
        slow._write(claim, reading, slow._hand_off())
    assert desk.world.wide_cells() == {}
    fast._write(again, reading, fast._hand_off())
    assert len(desk.world.wide_cells()) == reading.batch.num_rows


def test_a_slice_being_written_is_claimed_by_nobody(desk: Desk) -> None:
    """Even past its lease: whoever holds the row is passed over, and its session is ended once it is stuck."""
    stuck, other = desk.session(), desk.session()
    claim = ledger.claim_next(stuck._target, desk.plan.plan_id, "stuck", lease_s=900)
    assert claim is not None
    desk.world.target.execute("UPDATE slice SET started_at = now() - interval '1 hour' WHERE slice_no = 1")
    with stuck._target.transaction(force_rollback=True):
        ledger.lock(stuck._target, claim)
        numbers = [ledger.claim_next(other._target, desk.plan.plan_id, "other", 900) for _ in range(3)]
        assert [found.slice_no if found else None for found in numbers] == [2, 3, None]
    ledger.free_stuck(other._target, desk.plan.plan_id, lease_s=900)
    with pytest.raises(RetryableError), target_errors("writing"):
        stuck._target.execute("SELECT 1")
    taken = ledger.claim_next(other._target, desk.plan.plan_id, "other", 900)
    assert taken is not None
    assert (taken.slice_no, taken.attempt, taken.failures) == (1, 2, 1)


def test_a_layout_change_between_read_and_write_is_followed(desk: Desk) -> None:
    """The session loads the layout again and writes; it costs no attempt."""
    session = desk.session()
    with layout_change(desk.world.target):
        raise_version(desk.world.target)
    assert session.drain() is True
    assert desk.world.one("SELECT max(attempt) FROM slice") == 1
    assert desk.world.wide_cells() == desk.world.narrow_cells()


def test_a_hand_off_made_meanwhile_stops_a_copy_without_one(world: World) -> None:
    """Slices read without the barrier must not be written beside a stream; the claim is given back."""
    world.fill(12)
    with ExitStack() as stack:
        desk = Desk(world, stack, epoch=None)
        session = desk.session()
        claim = ledger.claim_next(session._target, desk.plan.plan_id, "early", 900)
        assert claim is not None
        reading = session._reader.read(claim.bounds, None)
        world.hand_off()
        with pytest.raises(StoppedError, match="--no-handoff"):
            session._write(claim, reading, None)
        with pytest.raises(StoppedError, match="--no-handoff"):
            session.drain()
    assert world.wide_cells() == {}


def test_a_slice_read_in_one_epoch_is_read_again_in_the_next(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new epoch's barrier is another: what was read behind the old one may lack what no stream has."""
    session = desk.session()
    read, barriers = Reader.read, list[int]()

    def read_before_reinit(self: Reader, bounds: Bounds, hand_off: HandOff | None) -> Reading:
        assert hand_off is not None
        barriers.append(hand_off.epoch)
        reading = read(self, bounds, hand_off)
        if len(barriers) == 1:
            desk.world.hand_off(epoch=2)
        return reading

    monkeypatch.setattr(Reader, "read", read_before_reinit)
    with pytest.raises(RetryableError, match="a new epoch began between reading and writing"):
        session.drain()
    assert desk.world.wide_cells() == {}
    assert session.drain() is True
    assert barriers == [1, *[2] * len(SLICES)]
    assert desk.world.wide_cells() == desk.world.narrow_cells()


def test_a_pipeline_torn_down_meanwhile_stops_the_copy(desk: Desk) -> None:
    """Without a slot there is no barrier to be behind."""
    session = desk.session()
    end_epoch(desk.world.target, "narrow_to_wide", "a test")
    with pytest.raises(StoppedError, match="torn down"):
        session.drain()


def test_a_missing_right_stops_all_and_gives_the_slice_back(desk: Desk) -> None:
    """What no slice can get past is a configuration error, not many failed slices."""
    session = desk.session()
    table = desk.world.wide_table(SHIPS[0], 1).as_string()
    desk.world.target.execute(f"DROP TABLE {table}".encode())
    with pytest.raises(ConfigurationError):
        session.drain()
    assert desk.world.states() == {"waiting": 3}


def test_a_paused_worker_claims_nothing_until_it_may_go_on(desk: Desk) -> None:
    """The run's governor says so; at a part of the speed it rests between slices."""
    session = desk.session(desk.job())
    desk.pace.share.value = 0.0
    with ThreadPoolExecutor(1) as pool:
        drained = pool.submit(session.drain)
        with pytest.raises(TimeoutError):
            drained.result(0.3)
        assert desk.world.states() == {"waiting": 3}
        desk.pace.share.value = 0.5
        assert drained.result(30) is True


def test_the_rate_limit_is_kept(desk: Desk) -> None:
    """216 rows at 400 a second take the time of the first two slices: a third of a second and more."""
    start = time.monotonic()
    assert desk.session(desk.job(rows_per_s=400.0)).drain() is True
    assert time.monotonic() - start >= (72 + 72) / 400


def test_an_attempt_that_fails_is_recorded_with_its_reason(desk: Desk) -> None:
    """The error stands in the ledger, the slice waits, and its next attempt is a new one."""
    session = desk.session()
    desk.world.target.execute("ALTER TABLE dead_cell ADD CONSTRAINT never CHECK (reason <> 'infinity')")
    desk.world.add("infinity", 1.0)
    with pytest.raises(RetryableError, match="never"):
        session.drain()
    state = desk.world.target.execute(
        "SELECT state, failures, error FROM slice WHERE slice_no = 3"
    ).fetchone()
    assert state is not None
    assert state[:2] == ("waiting", 1)
    assert "never" in state[2]
    desk.world.target.execute("ALTER TABLE dead_cell DROP CONSTRAINT never")
    wait_until(desk.session().drain, "the retry is due")
    assert desk.world.states() == {"done": 3}


def test_work_connects_anew_after_a_failure(desk: Desk) -> None:
    """`work` says what went wrong and goes on until the plan is done."""
    desk.world.target.execute("ALTER TABLE dead_cell ADD CONSTRAINT never CHECK (reason <> 'infinity')")
    desk.world.add("infinity", 1.0)
    job = desk.job(attempts=2)
    worker.work(job)
    assert desk.world.states() == {"done": 2, "failed": 1}
    assert any("never" in text for text in desk.said())


def test_work_that_is_asked_to_stop_claims_nothing_more(desk: Desk) -> None:
    """A stop before the first slice leaves all of them waiting."""
    job = desk.job()
    job.stop.set()
    worker.work(job)
    assert desk.world.states() == {"waiting": 3}
