"""F3, F4: consumers that sleep past their session and wake up, and members that come and go."""

from __future__ import annotations

from random import Random
from typing import Final

import pytest

from devstack.product import Process
from tests.faults import chain_log
from tests.faults.chain_log import Owner
from tests.faults.world import World, logged
from tests.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400), pytest.mark.faults]

PATIENT = {"CDC_TARGET__LOCK_TIMEOUT_MS": "90000"}
"""For the one that is held at a gate while the group's session runs out."""
AT_FIRST: Final = 2
CHANGES: Final = {"join": 1, "leave": -1, "kill": -1, "sleep": 0}
"""And what each does to the number of members."""
MORE_CHANGES: Final = 0
TAKE_OVER_S: Final = 90.0


def sleep_before_the_ledger(world: World, *, fenced: bool = True) -> tuple[Process, Process]:
    """A consumer that sleeps with a batch in hand wakes up when another one has its partitions."""
    zombie = world.consume(environment=PATIENT)
    with world.load(rows_per_second=800):
        world.flows()
        with world.gate("before ledger", who=f"cdc-consumer-{worker_pid(zombie)}-%") as gate:
            gate.catch()
            world.stop(zombie)
            ends, holders = world.end_offsets(), chain_log.holders(world.pipeline.target)
            successor = world.consume()
            wait_until(lambda: overtaken(world, ends), "the successor is past the batch", 90.0)
            if not fenced:
                assert successor.terminate() == 0, logged(successor)  # it would claim again within a second
                chain_log.unfence(world.pipeline.target, holders)
            gate.open()
            world.resume(zombie)
            return zombie, successor


def overtaken(world: World, ends: dict[int, int]) -> bool:
    """Every partition with a ship of the fleet is past all that the sleeper can have in hand."""
    busy = [number for number, offset in ends.items() if offset > sum(ends.values()) / 10]
    now = world.positions()
    return all(now[number] > ends[number] for number in busy)


def worker_pid(consumer: Process) -> int:
    """The process that has the database session: it names itself by its pid there."""
    names = {"spawn_main", "multiprocessing.spawn"}
    workers = [m.pid for m in consumer.family()[1:] if any(name in " ".join(m.cmdline()) for name in names)]
    assert workers, consumer.family()
    return workers[0]


@pytest.mark.fault("F3", "asleep before the ledger UPDATE")
def test_a_zombie_before_the_ledger_update_writes_nothing(world: World) -> None:
    """Its batch is refused by the fence that its successor raised."""
    world.hand_off(ships_known=True)
    zombie, successor = sleep_before_the_ledger(world)
    wait_until(lambda: "fence_lost" in zombie.log.read_text(), "the zombie hears of its fence")
    world.fire()
    world.prove(zombie, successor)


@pytest.mark.fault("F3", "asleep before the ledger UPDATE, without fence", control=True)
def test_without_the_fence_a_zombie_moves_the_ledger_back(world: World) -> None:
    """The control: the zombie's batch is accepted, and the partition's chain is broken."""
    world.hand_off(ships_known=True)
    zombie, _ = sleep_before_the_ledger(world, fenced=False)
    wait_until(lambda: chain_log.went_back(world.pipeline.target), "the ledger goes back")
    world.fire()
    world.record.differences = chain_log.went_back(world.pipeline.target)
    assert zombie.running, logged(zombie)


@pytest.mark.fault("F3", "asleep in mid-COPY, holding its row lock")
def test_a_zombie_that_holds_locks_is_ended_by_its_successor(world: World) -> None:
    """No timeout of the server ends it; the new owner does, and goes on."""
    world.hand_off(ships_known=True)
    zombie = world.consume(environment=PATIENT)
    with world.load(rows_per_second=800):
        world.flows()
        with world.gate("in copy", who=f"cdc-consumer-{worker_pid(zombie)}-%") as gate:
            gate.catch()
            world.stop(zombie)
            gate.open()
            successor = world.consume()
            wait_until(
                lambda: "blocking_session_ended" in successor.log.read_text(), "the zombie is ended", 60.0
            )
            world.fire()
            world.recovered()
            world.resume(zombie)
        world.flows()
    world.prove(zombie, successor)


def storm(random: Random) -> list[str]:
    """Every change at least once and some more, in an order of the seed; each loss leaves somebody at work."""
    wanted = [*CHANGES, *random.choices([*CHANGES], k=MORE_CHANGES)]
    random.shuffle(wanted)
    changes: list[str] = []
    members = AT_FIRST
    for change in wanted:
        if change == "join" and "join" in changes:
            continue  # it takes longest, and one came already where too few were left
        if change != "join" and members == 1:
            changes.append("join")
            members += 1
        changes.append(change)
        members += CHANGES[change]
    assert set(changes) == set(CHANGES)
    return changes


def owned(world: World, member: Process) -> dict[int, Owner]:
    """The partitions that a member was the last to claim."""
    pids = {process.pid for process in member.family()}
    return {number: o for number, o in chain_log.owners(world.pipeline.target).items() if o.pid in pids}


def take_part(world: World, member: Process) -> None:
    """Wait until a member has claimed a partition."""
    wait_until(lambda: owned(world, member), "the member has a partition", TAKE_OVER_S)


def taken_over(world: World, before: dict[int, Owner]) -> bool:
    """Each of these partitions was claimed by somebody else since."""
    now = chain_log.owners(world.pipeline.target)
    return all(now[n].fence > owner.fence and now[n].pid != owner.pid for n, owner in before.items())


def join(world: World, members: list[Process]) -> None:
    """One more, which gets its share."""
    members.append(world.consume())
    take_part(world, members[-1])


def lose(world: World, members: list[Process], change: str) -> None:
    """A member that has partitions goes or falls asleep; the others have all of them before it may wake up."""
    victim = members.pop(world.random.randrange(len(members)))
    take_part(world, victim)
    before = owned(world, victim)
    {"leave": leave, "kill": Process.kill, "sleep": world.stop}[change](victim)
    wait_until(lambda: taken_over(world, before), "the others take over", TAKE_OVER_S)
    if change == "sleep":
        world.resume(victim)
        members.append(victim)


def leave(member: Process) -> None:
    """It goes in an orderly way."""
    assert member.terminate() == 0, logged(member)


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param(
            {}, id="classic", marks=pytest.mark.fault("F4", "members come and go, classic protocol")
        ),
        pytest.param(
            {"CDC_KAFKA__GROUP_PROTOCOL": "consumer", "CDC_KAFKA__EXTRA__SESSION_TIMEOUT_MS": ""},
            id="kip848",
            marks=pytest.mark.fault("F4", "members come and go, KIP-848 protocol"),
        ),
    ],
)
@pytest.mark.usefixtures("environment")
def test_a_storm_of_rebalances_applies_each_batch_once(world: World) -> None:
    """The ledger stays one chain, whoever owns what; a change counts once partitions have changed hands."""
    world.hand_off(ships_known=True)
    members = [world.consume() for _ in range(AT_FIRST)]
    with world.load(rows_per_second=800):
        world.flows()
        for change in storm(world.random):
            if change == "join":
                join(world, members)
            else:
                lose(world, members, change)
            world.fire()
            world.recovered()
            world.flows(500)
    world.prove(*members)
