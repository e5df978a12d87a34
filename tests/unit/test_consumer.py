"""The loop: whatever breaks off, it pauses, goes on where the ledger stands, and tells nobody more than is true."""

from __future__ import annotations

import itertools
import random

import pytest

from cdc_consumer.consumer import BACKOFF_S, BELIEVED_JUMPS, CALM_S, IDLE_WAIT_S, RECLAIM_S, RIVAL_LOSSES
from tests.consumer_world import HOLD_MS, START_S, Topic, World, started
from widetable.errors import ConfigurationError, RetryableError, StoppedError, UnreachableError
from widetable.ledger import Claim

# -- the plain way ------------------------------------------------------------------------------------------


def test_an_assigned_partition_is_read_from_the_ledgers_offset() -> None:
    """Not from what Kafka may have stored, and not before the claim."""
    world = World()
    world.ledger.rows[3].next_offset = 2
    for _ in range(4):
        world.sample(3)
    world.assign(3)
    world.step()
    assert (world.source.started, world.decoder.seen) == ([], [])
    world.settle()
    assert world.source.started == [(3, 2)]
    assert world.ledger.applied(3) == [2, 3]


def test_a_row_is_written_once_it_is_quiet_and_then_committed() -> None:
    """The ledger moves with the data, Kafka hears of it afterwards (the fake checks that it is not before)."""
    world = started(0)
    world.sample()
    world.sample()
    world.step()
    assert (world.ledger.batches, world.source.committed) == ([], {})
    world.step(after_ms=HOLD_MS)
    assert world.ledger.batches == [(0, [0, 1], [])]
    assert world.ledger.rows[0].next_offset == 2
    assert world.source.committed == {0: 2}


def test_the_ledger_never_passes_what_is_held() -> None:
    """A row that is still arriving keeps the offset down, though later rows are written."""
    world = started(0)
    world.sample(moment=1)
    world.step()
    world.sample(moment=2)
    world.step(after_ms=100)
    world.sample(moment=1)
    world.step(after_ms=50)
    world.step(after_ms=150)
    assert (world.ledger.applied(0), world.ledger.rows[0].next_offset) == ([1], 0)
    world.settle()
    assert (world.ledger.applied(0), world.ledger.rows[0].next_offset) == ([1, 0, 2], 3)


def test_each_partition_has_its_own_transactions() -> None:
    """One ledger row, one chain; a batch never mixes partitions (the fake checks that)."""
    world = started(0, 1, 2)
    for partition in (0, 1, 2, 0):
        world.sample(partition)
    world.settle()
    assert [world.ledger.applied(partition) for partition in range(3)] == [[0, 1], [0], [0]]
    assert world.source.committed == {0: 2, 1: 1, 2: 1}


def test_filtered_records_move_the_ledger_alone() -> None:
    """A stretch of records that need no write is not read again and again."""
    world = started(0)
    for _ in range(3):
        world.topic.grow(0, "filtered")
    world.step()
    assert world.ledger.batches == [(0, [], [])]
    assert world.ledger.rows[0].next_offset == 3
    assert world.counts.filtered == {"placeholder": 3}


def test_nothing_new_means_no_transaction() -> None:
    """An idle topic costs the target nothing."""
    world = started(0)
    world.settle()
    assert world.ledger.batches == []


def test_offset_gaps_are_legal() -> None:
    """Control records and compaction leave holes."""
    world = started(0, topic=Topic(step=7))
    for _ in range(3):
        world.sample()
    world.settle()
    assert (world.ledger.applied(0), world.ledger.rows[0].next_offset) == ([0, 7, 14], 15)


def test_a_control_record_at_the_end_does_not_hold_rows_for_ever() -> None:
    """The end offset is never reached where a producer's transaction marker is the last record."""
    world = started(0, topic=Topic(markers=1))
    world.sample()
    world.sample()
    world.settle()
    assert world.ledger.applied(0) == []
    world.step(after_ms=5_000)
    assert world.ledger.applied(0) == [0, 1]


def test_the_wait_is_short_only_while_rows_are_held() -> None:
    """A quiet row is noticed soon; an idle consumer does not spin."""
    world = started(0)
    assert world.source.waits[-1] == 0.2
    world.sample()
    world.step()
    world.step()
    assert world.source.waits[-1] == IDLE_WAIT_S
    world.settle()
    assert world.source.waits[-1] == 0.2


def test_a_quiet_row_is_waited_for_no_longer_than_its_hold() -> None:
    """The last wait ends when the row may be quiet, not a whole wait later."""
    world = started(0)
    world.sample()
    world.step()
    world.step(after_ms=HOLD_MS - 5)
    assert world.source.waits[-1] == pytest.approx(0.005, abs=1e-6)


def test_a_row_that_waits_for_its_partition_to_be_read_does_not_spin() -> None:
    """Quiet by the wall, but its partition's end is not reached, and may never be: no round after the other."""
    world = started(0, topic=Topic(markers=1))
    world.sample()
    world.step()
    world.step(after_ms=HOLD_MS + 10)
    assert world.ledger.applied(0) == []
    assert world.source.waits[-1] == IDLE_WAIT_S


def test_the_time_to_decode_is_not_added_to_the_hold() -> None:
    """A row is quiet since its samples were read; what decoding them took has passed already."""
    world = started(0)
    world.sample()
    world.decoder.meanwhile = lambda: world.wait(HOLD_MS - 10)
    world.step()
    assert world.ledger.applied(0) == []
    world.decoder.meanwhile = lambda: None
    world.step(after_ms=10)
    assert world.ledger.applied(0) == [0]


def test_the_counts_tell_what_happened() -> None:
    """Records, samples, dead records, batches, and the time from Kafka to the committed row."""
    world = started(0)
    for value in ("dead", "filtered"):
        world.topic.grow(0, value)
    for _ in range(2):
        world.sample(record_ms=int(START_S * 1000), source_ms=int(START_S * 1000) - 5_000)
    world.settle()
    counts = world.counts
    assert (counts.polled, counts.decoded, counts.dead_records) == (4, 2, 1)
    assert (counts.applied.events, counts.batches, counts.rebalances, counts.outages) == (2, 2, 1, 0)
    assert counts.apply_ms.counts.sum() == counts.total_ms.counts.sum() == 2
    assert counts.apply_ms.quantile(1) == pytest.approx(2 * HOLD_MS, rel=0.3)
    assert counts.total_ms.quantile(1) == pytest.approx(5_000 + 2 * HOLD_MS, rel=0.2)


def test_lag_is_counted_from_the_ledger() -> None:
    """What is read but still held is not applied, so it is lag."""
    world = started(0, 1)
    world.sample()
    world.step()
    assert (world.consumer.lags(), world.consumer.tell().held_rows) == ({0: 1, 1: 0}, 1)
    world.settle()
    assert (world.consumer.lags(), world.consumer.tell().held_rows) == ({0: 0, 1: 0}, 0)


def test_only_what_waits_is_late() -> None:
    """Seconds since Kafka got the first record that is not applied; silence is not lateness."""
    world = started(0)
    world.step(after_ms=3_600_000)
    assert world.consumer.tell().late_s == {0: 0.0}
    world.sample()
    world.step()
    world.clock.now_s += 2
    assert world.consumer.tell().late_s == {0: 2.0}
    world.settle()
    assert world.consumer.tell().late_s == {0: 0.0}


def test_lateness_goes_on_in_an_outage() -> None:
    """The partition is given up and read again, and the record has waited all the while."""
    world = started(0)
    world.sample()
    world.step()
    with world.outage():
        world.settle()
        world.clock.now_s += 60
        told = world.consumer.tell()
        assert (told.lag, told.unclaimed) == ({0: 1}, 1)
        assert told.late_s[0] >= 60
    world.clock.now_s += 60
    world.settle()
    assert (world.consumer.tell().lag, world.consumer.tell().late_s) == ({0: 0}, {0: 0.0})


def test_a_partition_that_was_never_seen_is_not_up_to_date() -> None:
    """Assigned while the target is away: 0 records behind would be made up, so nothing is said of it."""
    world = World()
    world.sample()
    with world.outage():
        world.assign(0)
        world.settle()
        world.clock.now_s += 3_600
        told = world.consumer.tell()
        assert (told.lag, told.late_s, told.positions, told.unclaimed) == ({}, {}, {}, 1)
    world.clock.now_s += 60
    world.step()
    world.step()
    assert world.consumer.tell().lag == {0: 1}


def test_lag_is_unknown_until_the_broker_has_told_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claimed, and nothing heard of it: that is not 0 either. What was heard once outlives a silent broker."""
    world = World()
    monkeypatch.setattr(world.source, "end_offset", lambda _: None)
    world.assign(0)
    world.step()
    world.step()
    assert world.consumer.ready
    assert (world.consumer.tell().lag, world.consumer.tell().late_s) == ({}, {})
    monkeypatch.setattr(world.source, "end_offset", lambda _: 7)
    assert world.consumer.tell().lag == {0: 7}
    monkeypatch.setattr(world.source, "end_offset", lambda _: None)
    assert world.consumer.tell().lag == {0: 7}


def test_records_that_were_skipped_are_read_again() -> None:
    """A jump in the offsets is not believed at first sight: the partition is claimed and read once more."""
    world = started(0, 1)
    for partition in (0, 0, 0, 1):
        world.sample(partition)
    world.source.skips = 2
    world.settle(10)
    assert (world.ledger.applied(0), world.ledger.applied(1)) == ([0, 1, 2], [0])
    assert (world.counts.rereads, world.counts.outages) == (1, 0)


def test_a_jump_that_is_still_there_is_believed() -> None:
    """Holes are legal; each costs one more reading, and a topic that is full of them none in the end."""
    world = started(0, topic=Topic(step=2))
    for _ in range(BELIEVED_JUMPS * 2):
        world.sample()
        world.settle(2)
    world.settle(10)
    assert world.ledger.rows[0].next_offset == world.topic.end(0)
    assert set(world.ledger.applied(0)) == {offset for offset, _ in world.topic.records[0]}
    assert world.counts.rereads == BELIEVED_JUMPS


# -- assignment ---------------------------------------------------------------------------------------------


def test_an_idle_member_is_ready() -> None:
    """More members than partitions: the spare one is fine, and needs no session on the target."""
    world = World()
    world.settle()
    assert world.consumer.ready
    assert world.target.opened == 0


def test_a_member_is_ready_once_all_is_claimed() -> None:
    """Assigned but not claimed is not ready."""
    world = World()
    world.assign(0)
    world.step()
    assert not world.consumer.ready
    world.step()
    assert world.consumer.ready


def test_a_revoked_partition_drops_what_is_held() -> None:
    """Its new owner reads it again; writing it here would only race with them."""
    world = started(0, 1)
    world.sample(0)
    world.sample(1)
    world.step()
    world.revoke(0)
    world.settle()
    assert (world.ledger.applied(0), world.ledger.applied(1)) == ([], [0])
    assert world.consumer.lags().keys() == {1}


def test_a_partition_that_comes_back_is_claimed_anew() -> None:
    """Away and back within one read: the old claim and what was held are worth nothing."""
    world = started(0)
    world.sample()
    world.step()
    world.revoke(0)
    world.assign(0)
    world.step()
    assert not world.consumer.ready
    world.settle()
    assert world.ledger.rows[0].fence == 2
    assert world.ledger.applied(0) == [0]


def test_records_of_unclaimed_partitions_are_ignored() -> None:
    """What was fetched before a revocation belongs to the next owner: not decoded, held, counted or written."""
    world = started(0)
    world.topic.grow(7, "dead")
    world.sample(7)
    world.sample(0)
    world.source.leaks = [7]
    world.settle()
    assert world.ledger.applied(7) == world.ledger.dead(7) == []
    assert 7 not in {partition for partition, _ in world.decoder.seen}
    assert 7 not in world.ledger.rows
    assert world.counts.polled == 1
    assert world.ledger.applied(0) == [0]


def test_a_hand_over_between_two_members_loses_nothing() -> None:
    """The second starts where the ledger stands, and writes what the first one held."""
    first = started(0)
    first.sample(moment=1)
    first.sample(moment=1)
    first.settle()
    first.sample(moment=2)
    first.step()
    first.revoke(0)
    first.step()
    second = World(first.ledger, first.topic)
    second.assign(0)
    second.settle()
    assert second.source.started == [(0, 2)]
    assert first.ledger.applied(0) == [0, 1, 2]


def test_close_leaves_the_group_and_then_the_target() -> None:
    """What is held is not forced out: a successor reads it again."""
    world = started(0)
    world.sample()
    world.step()
    world.consumer.close()
    assert (world.source.closed, world.target.is_open) == (True, False)
    assert world.ledger.batches == []


# -- outages ------------------------------------------------------------------------------------------------


def test_an_outage_pauses_and_keeps_polling() -> None:
    """The group must not expel a member because its database is away."""
    world = started(0, 1)
    world.sample(0)
    world.step()
    with world.outage():
        for _ in range(20):
            reads = world.source.reads
            world.step(after_ms=HOLD_MS)
            assert world.source.reads == reads + 1 or not world.target.is_open
        assert world.source.reading == {}
        assert not world.consumer.ready
        assert world.consumer.tell().held_rows == 0
    assert world.counts.outages > 1


@pytest.mark.parametrize("error", [RetryableError("disk full"), UnreachableError("registry away")])
def test_after_an_outage_it_goes_on_where_the_ledger_stands(error: Exception) -> None:
    """Claimed again, sought to the ledger's offset, and nothing is lost or written twice."""
    world = started(0, 1)
    world.sample(0, moment=1)
    world.settle()
    world.sample(0, moment=2)
    world.sample(1)
    world.target.fails = [error]
    world.settle(12)
    assert world.counts.outages == 1
    assert world.source.started == [(0, 0), (1, 0), (0, 1), (1, 0)]
    assert (world.ledger.applied(0), world.ledger.applied(1)) == ([0, 1], [0])
    assert world.ledger.rows[0].fence == 2


def test_a_commit_that_did_happen_is_not_applied_again() -> None:
    """The connection broke while COMMIT was on its way: the claim returns the truth."""
    world = started(0)
    world.sample()
    world.target.fails_after = [RetryableError("connection lost during COMMIT")]
    world.settle()
    assert world.ledger.applied(0) == [0]
    assert world.source.started == [(0, 0), (0, 1)]


def test_one_partition_may_be_committed_when_the_next_breaks_off() -> None:
    """Each partition's batch is its own transaction; the outage forgets neither."""
    world = started(0, 1)
    world.sample(0)
    world.sample(1)
    world.step()
    world.target.fails_after = [RetryableError("lost")]
    world.settle(12)
    assert (world.ledger.applied(0), world.ledger.applied(1)) == ([0], [0])


def test_an_unreachable_registry_is_an_outage_not_dead_cells() -> None:
    """What can't be decoded now is read again."""
    world = started(0)
    world.sample()
    world.decoder.error = UnreachableError("the registry does not answer")
    world.step()
    assert world.counts.outages == 1
    world.decoder.error = None
    world.settle()
    assert (world.ledger.applied(0), world.ledger.dead(0)) == ([0], [])


def opened_at(world: World, seconds: float) -> list[float]:
    """When the target was opened in the next seconds, relative to now."""
    began, times = world.clock(), []
    while world.clock() - began < seconds:
        before = world.target.opened
        world.step(after_ms=50)
        times += [world.clock() - began] * (world.target.opened - before)
    return times


@pytest.mark.parametrize("where", ["connecting", "writing"])
def test_the_pauses_grow_while_the_outage_lasts(where: str) -> None:
    """Up to ten seconds; also where connecting and claiming work, and only writing fails (disk full)."""
    world = started(0)
    world.sample()
    failure = RetryableError("disk full")
    if where == "connecting":
        world.target.down = failure
    world.target.fails = [failure] * 100
    times = opened_at(world, 60)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) < 20
    assert pauses[-1] > BACKOFF_S[1] / 2
    assert max(pauses) <= BACKOFF_S[1] + 1


def pause_after(world: World, failures: int) -> float:
    """Seconds until the target is opened again after so many failures of the batch of one more record."""
    world.sample(moment=len(world.topic.records[0]))
    world.target.fails = [RetryableError("disk full")] * failures
    outages = world.counts.outages
    while world.counts.outages < outages + failures:
        world.step(after_ms=50)
    failed_s, opened = world.clock(), world.target.opened
    while world.target.opened == opened:
        world.step(after_ms=50)
    return world.clock() - failed_s


def test_the_first_pause_is_short() -> None:
    """A deadlock is over at once."""
    assert pause_after(started(0), failures=1) <= BACKOFF_S[0] + 0.05


def test_after_a_batch_the_pauses_start_short_again() -> None:
    """Yesterday's outage does not slow down today's recovery."""
    world = started(0)
    assert pause_after(world, failures=9) > 1
    world.settle()
    assert world.ledger.applied(0) == [0]
    assert pause_after(world, failures=1) <= BACKOFF_S[0] + 0.05


def test_after_a_calm_the_pauses_start_short_again() -> None:
    """Also where nothing came that could be written meanwhile."""
    world = started(0)
    world.decoder.error = UnreachableError("the registry does not answer")
    world.topic.grow(0, "filtered")
    opened_at(world, 30)
    world.topic.records[0].clear()
    world.settle()
    failures = world.consumer._failures
    world.decoder.error = None
    world.step(after_ms=CALM_S * 1000)
    assert (failures > 5, world.ledger.batches) == (True, [])
    assert pause_after(world, failures=1) <= BACKOFF_S[0] + 0.05


def test_a_wrong_configuration_is_not_an_outage() -> None:
    """A partition that the ledger does not know will not appear by waiting."""
    world = World()
    world.assign(0)

    def refuse(partition: int) -> Claim:
        raise ConfigurationError(f"Partition {partition} is not in the offset ledger")

    world.target.claim = refuse  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="not in the offset ledger"):
        world.settle()


# -- fences -------------------------------------------------------------------------------------------------


def test_a_lost_fence_gives_up_that_partition_only() -> None:
    """The other partition goes on without a pause, on the same session."""
    world = started(0, 1)
    world.ledger.claim(0)
    world.sample(0)
    world.sample(1)
    world.step()
    world.step(after_ms=HOLD_MS)
    assert (world.ledger.applied(0), world.ledger.applied(1)) == ([], [0])
    assert (set(world.source.reading), world.counts.fence_losses) == ({1}, 1)
    assert (world.target.opened, world.counts.outages) == (1, 0)


def test_a_lost_partition_is_claimed_again_if_kafka_still_assigns_it() -> None:
    """After a pause: Kafka may be about to say that it is not ours any more."""
    world = started(0)
    world.ledger.claim(0)
    world.sample()
    world.step()
    world.step(after_ms=HOLD_MS)
    readiness = []
    for after_ms in (RECLAIM_S * 1000 - 1, 1):
        world.step(after_ms)
        readiness.append(world.consumer.ready)
    assert readiness == [False, True]
    world.settle()
    assert world.ledger.applied(0) == [0]


def test_a_zombie_that_wakes_up_with_many_partitions_goes_on() -> None:
    """Twelve fences lost at once are one hand-over, not a rival; Kafka then says what is ours."""
    world = started(*range(12))
    for partition in range(12):
        world.ledger.claim(partition)
        world.sample(partition)
    world.step()
    world.step(after_ms=HOLD_MS)
    assert world.counts.fence_losses == 12
    world.revoke(*range(12))
    world.assign(5)
    world.settle()
    assert world.ledger.applied(5) == [0]


@pytest.mark.parametrize("partitions", [1, 12])
def test_a_rival_is_named_and_stops_the_consumer(partitions: int) -> None:
    """Two groups on one pipeline would take the partitions from each other for ever."""
    world = started(*range(partitions))

    def fight() -> None:
        for moment in range(200):
            partition = moment % partitions
            world.ledger.claim(partition)
            world.sample(partition, moment=moment)
            world.step(after_ms=HOLD_MS)

    with pytest.raises(StoppedError, match=r"belongs to somebody else.*stop one"):
        fight()
    assert world.counts.fence_losses >= RIVAL_LOSSES
    assert world.clock() - START_S < 60


def test_fences_lost_now_and_then_are_no_rival() -> None:
    """A hand-over every two minutes, for an hour."""
    world = started(0)
    for _ in range(30):
        world.ledger.claim(0)
        world.sample()
        world.settle(20)
        world.step(after_ms=120_000)
    assert world.counts.fence_losses == 30
    assert set(world.ledger.applied(0)) == set(range(30))


# -- dead cells and stops -------------------------------------------------------------------------------------


def test_dead_cells_travel_with_the_partitions_next_batch() -> None:
    """In the transaction that moves the ledger past them, or before it; each once."""
    world = started(0, 1)
    world.sample(0)
    dead = world.topic.grow(0, "dead")
    world.sample(1)
    world.settle()
    assert (world.ledger.dead(0), world.ledger.dead(1)) == ([dead], [])
    assert world.ledger.rows[0].next_offset == 2


def test_dead_cells_of_a_failed_batch_come_again() -> None:
    """The transaction rolled back, so they are read, and written, again."""
    world = started(0)
    world.topic.grow(0, "dead")
    world.target.fails = [RetryableError("disk full")]
    world.settle()
    assert world.ledger.dead(0) == [0]


def test_too_many_dead_records_stop_before_they_are_written() -> None:
    """A stream that is broken as a whole is not diverted as a whole; the ledger stands before it."""
    world = started(0, dead_in_a_row=5)
    world.sample()
    world.settle()
    for _ in range(5):
        world.topic.grow(0, "dead")
    with pytest.raises(StoppedError, match="5 records in a row"):
        world.settle()
    assert (world.ledger.dead(0), world.ledger.rows[0].next_offset) == ([], 1)


def test_what_stands_before_a_truncate_is_applied_and_the_ledger_stands_at_it() -> None:
    """Then passing the truncate passes nothing else. Other partitions are not cut."""
    world = started(0, 1)
    world.sample(0, moment=1)
    world.topic.grow(0, "dead")
    truncate = world.topic.grow(0, "truncate")
    world.sample(0, moment=2)
    world.sample(1)
    with pytest.raises(StoppedError, match="truncated"):
        world.settle()
    assert (world.ledger.applied(0), world.ledger.dead(0), world.ledger.applied(1)) == ([0], [1], [0])
    assert world.ledger.rows[0].next_offset == truncate


def test_rows_held_when_a_truncate_comes_are_applied_first() -> None:
    """Held samples came before it."""
    world = started(0)
    world.sample(0)
    world.step()
    truncate = world.topic.grow(0, "truncate")
    with pytest.raises(StoppedError, match="truncated"):
        world.step()
    assert (world.ledger.applied(0), world.ledger.rows[0].next_offset) == ([0], truncate)


def test_a_truncate_behind_a_gap_leaves_the_ledger_at_it() -> None:
    """Where offsets have holes, too, the ledger names the truncate itself."""
    world = started(0, topic=Topic(step=7))
    world.sample(0)
    truncate = world.topic.grow(0, "truncate")
    with pytest.raises(StoppedError, match="truncated"):
        world.settle()
    assert (truncate, world.ledger.rows[0].next_offset) == (7, 7)


def test_records_that_the_client_skipped_are_read_after_all() -> None:
    """A jump of offsets is believed only when the records before it are missing twice."""
    world = started(0)
    world.sample(0)
    world.settle()
    world.sample(0)
    world.sample(0)
    world.source.reading[0] = 2  # as if a late answer of the broker had moved the client on
    world.settle()
    assert (world.ledger.applied(0), world.ledger.rows[0].next_offset) == ([0, 1, 2], 3)
    assert world.counts.rereads == 1


def test_records_that_come_a_second_time_do_not_move_the_ledger_back() -> None:
    """A stale answer is read again from where the ledger stands."""
    world = started(0)
    for moment in range(3):
        world.sample(0, moment=moment)
    world.settle()
    world.source.reading[0] = 1
    world.settle()
    assert (world.ledger.applied(0), world.ledger.rows[0].next_offset) == ([0, 1, 2], 3)


def test_truncates_in_two_partitions_stop_at_the_first() -> None:
    """Nothing behind either of them is applied."""
    world = started(0, 1)
    for partition in (0, 1):
        world.sample(partition)
        world.topic.grow(partition, "truncate")
        world.sample(partition)
    with pytest.raises(StoppedError, match="partition 0"):
        world.settle()
    assert (world.ledger.applied(0), world.ledger.applied(1)) == ([0], [0])


# -- all of it together -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_whatever_breaks_off_every_record_is_applied_in_order(seed: int) -> None:
    """Outages, unknown outcomes, rivals' claims, revocations, leaks: repetition is allowed, gaps are not.

    The order premise of the rule: per partition, a repeated stretch is read again as a whole suffix.
    """
    chance = random.Random(seed)
    world = World()
    world.assign(0, 1)
    for _ in range(300):
        match chance.choice(
            ["sample"] * 8 + ["dead", "fail", "fail_after", "claim", "move", "leak", "clear"]
        ):
            case "sample":
                world.sample(chance.randrange(2), moment=chance.randrange(3))
            case "dead":
                world.topic.grow(chance.randrange(2), "dead")
            case "fail":
                world.target.fails = [RetryableError("deadlock")]
            case "fail_after":
                world.target.fails_after = [RetryableError("connection lost")]
            case "claim" if chance.random() < 0.2:
                world.ledger.claim(chance.randrange(2))
            case "move":
                partition = chance.randrange(2)
                world.revoke(partition)
                world.assign(partition)
            case "leak":
                world.source.leaks = [chance.randrange(2)] if not world.consumer.ready else []
            case _:
                world.source.leaks = []
        world.step(after_ms=chance.choice([0, 50, 250, 1_000]))
    world.source.leaks = []
    world.target.fails, world.target.fails_after = [], []
    world.settle(200)
    for partition in (0, 1):
        ends = {"samples": set(world.ledger.applied(partition)), "dead": set(world.ledger.dead(partition))}
        everything = {offset for offset, _ in world.topic.records[partition]}
        assert ends["samples"] | ends["dead"] == everything
        assert not ends["samples"] & ends["dead"]
        assert world.ledger.rows[partition].next_offset == world.topic.end(partition)
    assert world.counts.outages > 0
