"""`settled_lsn`: never before the target holds it all, and soon after."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cdc_consumer.settle import Mark, Settler, read_mark
from cdc_consumer.topic import Topics
from tests.pipeline_world import Pipeline, wait_for
from widetable.control import check_control, migrate
from widetable.errors import UnreachableError
from widetable.hand_off import HandOff, write_hand_off
from widetable.postgres import Connection, connect_target
from widetable.settings import TargetSettings
from widetable.settled import Settled, beat, read_settled, wait_settled, write_settled

pytest_plugins = ["tests.pipeline_fixture"]

TOPIC_ID = "a-topic"


@pytest.fixture
def target_settings(target_dsn: str) -> TargetSettings:
    """A target with a control schema and one hand-off of two partitions."""
    settings = TargetSettings(dsn=target_dsn)
    with connect_target(settings, "test") as target:
        migrate(target, settings.control_schema)
        write_hand_off(target, hand_off())
    return settings


def hand_off(epoch: int = 1) -> HandOff:
    """A hand-off that only the target knows."""
    return HandOff(
        pipeline="p",
        epoch=epoch,
        system_identifier="1",
        timeline=1,
        slot="s",
        publication="p",
        consistent_point=100,
        barrier_xid=5,
        topic="t",
        topic_id=TOPIC_ID,
        boundary_offsets={0: 0, 1: 0},
        placeholder="x",
    )


@contextmanager
def session(settings: TargetSettings) -> Iterator[Connection]:
    """A session on the control schema."""
    with connect_target(settings, "test") as target:
        check_control(target, settings.control_schema)
        yield target


def open_session(settings: TargetSettings) -> Connection:
    """What the settler opens for itself."""
    target = connect_target(settings, "settler")
    check_control(target, settings.control_schema)
    return target


def apply_up_to(target: Connection, partition: int, offset: int) -> None:
    """Move a partition's ledger row, as a batch would."""
    target.execute("UPDATE offset_ledger SET next_offset = %s WHERE partition = %s", [offset, partition])


@pytest.mark.postgres
def test_a_commit_is_settled_only_when_every_partition_is_past_it(target_settings: TargetSettings) -> None:
    """One ship that lags holds it up: its changes may belong to that very commit."""
    settler = Settler(hand_off(), lambda _: Mark(500, {0: 10, 1: 20}), lambda: open_session(target_settings))
    with session(target_settings) as target:
        apply_up_to(target, 0, 10)
        apply_up_to(target, 1, 19)
        for _ in range(20):
            assert settler.step() is None
            time.sleep(0.01)
        assert read_settled(target, "p") is None
        apply_up_to(target, 1, 20)
        assert settler.step() == Settled(1, 500)
        assert read_settled(target, "p") == Settled(1, 500)
    settler.close()


@pytest.mark.postgres
def test_the_settled_position_never_goes_back(target_settings: TargetSettings) -> None:
    """Two consumers may write it; a new epoch outranks every position of the one before."""
    with session(target_settings) as target:
        for epoch, lsn in ((1, 500), (1, 400), (2, 300), (1, 900)):
            write_settled(target, "p", Settled(epoch, lsn))
        assert read_settled(target, "p") == Settled(2, 300)


@pytest.mark.postgres
def test_a_position_of_an_earlier_epoch_settles_nothing(target_settings: TargetSettings) -> None:
    """The source may be another cluster since, whose positions are lower."""
    with session(target_settings) as target:
        write_settled(target, "p", Settled(1, 500))
        target.execute("UPDATE hand_off SET ended_at = now()")
        write_hand_off(target, hand_off(epoch=2))
        assert read_settled(target, "p") is None
        with pytest.raises(UnreachableError, match="not settled at all yet in this epoch"):
            wait_settled(target, "p", 10, timeout_s=0.2)
        write_settled(target, "p", Settled(2, 10))
        assert wait_settled(target, "p", 10, timeout_s=0.2) == Settled(2, 10)


@pytest.mark.postgres
def test_an_outage_of_connect_is_told_and_tried_again(target_settings: TargetSettings) -> None:
    """The settled position stands still meanwhile; nothing else is affected."""
    answers: list[Mark | Exception] = [UnreachableError("Connect is away"), Mark(700, {0: 0, 1: 0})]
    now = 0.0

    def ask(_: HandOff) -> Mark:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def settled() -> bool:
        nonlocal now
        now += 1.0
        return settler.step() == Settled(1, 700)

    settler = Settler(hand_off(), ask, lambda: open_session(target_settings), clock=lambda: now)
    with pytest.raises(UnreachableError, match="Connect is away"):
        wait_for(settled, "the outage was not told")
    wait_for(settled, "it was not settled after the outage")
    settler.close()


@pytest.mark.postgres
def test_a_lost_session_is_opened_again(target_settings: TargetSettings) -> None:
    """The target may be restarted under it."""
    opened: list[Connection] = []

    def open_target() -> Connection:
        opened.append(open_session(target_settings))
        return opened[-1]

    marks = iter([Mark(500, {}), Mark(600, {})])
    now = 0.0

    def settled_at(lsn: int) -> bool:
        nonlocal now
        now += 1.0
        return settler.step() == Settled(1, lsn)

    settler = Settler(hand_off(), lambda _: next(marks, None), open_target, clock=lambda: now)
    wait_for(lambda: settled_at(500), "it was not settled")
    opened[0].close()
    wait_for(lambda: settled_at(600), "it was not settled in a new session")
    assert len(opened) == 2
    settler.close()


@pytest.mark.postgres
def test_waiting_for_what_does_not_settle_ends_with_a_reason(target_settings: TargetSettings) -> None:
    """Verify must not hang when no consumer runs."""
    with session(target_settings) as target:
        with pytest.raises(UnreachableError, match=r"has not settled at all yet.*cdc-consumer run"):
            wait_settled(target, "p", 10, timeout_s=0.2)
        write_settled(target, "p", Settled(1, 9))
        with pytest.raises(UnreachableError, match="is settled at 0/9, not at 0/A"):
            wait_settled(target, "p", 10, timeout_s=0.2)
        assert wait_settled(target, "p", 9, timeout_s=0.2) == Settled(1, 9)


@pytest.mark.stack
def test_a_heartbeat_settles_what_came_before_it(streaming: Pipeline) -> None:
    """The whole way: commit, heartbeat, Connect's position, topic, ledger, settled."""
    current = streaming.hand_off()
    assert current is not None
    streaming.insert(1, 40)
    wanted = beat(streaming.source, streaming.settings.source.heartbeat_table)
    topics = Topics(streaming.settings.kafka)
    with streaming.connect() as connect:

        def past_the_beat() -> bool:
            mark = read_mark(connect, streaming.name, topics, current)
            return mark is not None and mark.lsn >= wanted

        wait_for(past_the_beat, "Connect did not store the heartbeat's position")
        assert streaming.events() == 40
    with Settler.connect(streaming.settings) as settler:
        for _ in range(20):
            assert settler.step() is None  # nobody has applied the 40 events
            time.sleep(0.02)
        ends = topics.end_offsets(current.topic, range(12))
        for partition, end in ends.items():
            apply_up_to(streaming.target, partition, end)
        wait_for(lambda: settler.step() is not None, "it was not settled")
    assert wait_settled(streaming.target, streaming.name, wanted, timeout_s=5).lsn >= wanted
