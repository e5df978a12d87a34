"""The soak: a random mix of the faults that must heal without a hand, under live load, for as long as asked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import psycopg
import pytest

from devstack.fleet import LiveLoad
from devstack.product import Process
from devstack.service import Service
from tests.faults.world import World, logged
from tests.waiting import wait_until

MINUTES: Final = float(os.environ.get("SOAK_MINUTES", "30"))
pytestmark = [pytest.mark.soak, pytest.mark.stack, pytest.mark.timeout(MINUTES * 60 + 900)]

HISTORY_ROWS: Final = 200_000
AWAY_S: Final = (2.0, 12.0)
PAUSE_S: Final = (3.0, 10.0)
NOT_AGAIN: Final = {3, 6}
"""Exit codes after which no supervisor starts a program again."""


@dataclass(slots=True)
class Soak:
    """A world with supervised programs and a load that survives the death of its database."""

    world: World
    source_cluster: Service
    programs: dict[str, Process] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def supervise(self) -> None:
        """Start again what has ended, as systemd or a container would."""
        for name, process in self.programs.items():
            if not process.running:
                assert process.child.returncode not in NOT_AGAIN, (self.log, logged(process))
                self.programs[name] = self.start(name)

    def start(self, name: str) -> Process:
        """One of the programs; a copy of history is asked for again and again."""
        if name == "backfill":
            return self.world.pipeline.product.start("backfill", "run", "--rate-limit", "4000")
        return self.world.consume()

    def wait(self, seconds: float) -> None:
        """Let things run, under supervision."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.supervise()
            time.sleep(0.2)

    def away(self) -> float:
        """How long something is away this time."""
        return self.world.random.uniform(*AWAY_S)

    # -- the faults ----------------------------------------------------------------------------------------

    def kill_program(self) -> None:
        """Kill -9 of a program."""
        self.programs[self.world.random.choice(sorted(self.programs))].kill()

    def stop_program(self) -> None:
        """SIGTERM of a program."""
        self.programs[self.world.random.choice(sorted(self.programs))].terminate()

    def sleep_program(self) -> None:
        """A program sleeps, possibly past its session."""
        process = self.programs[self.world.random.choice(sorted(self.programs))]
        self.world.stop(process)
        self.wait(self.away())
        self.world.resume(process)

    def kill_server(self) -> None:
        """Kill -9 of a server, which comes back."""
        stack = self.world.stack
        server = self.world.random.choice(
            [stack.connect, stack.kafka, stack.registry, stack.postgres, self.source_cluster]
        )
        self.log.append(server.name)
        server.kill()
        self.wait(self.away())
        server.start()

    def freeze_server(self) -> None:
        """A server answers nothing for a while."""
        stack = self.world.stack
        server = self.world.random.choice([stack.connect, stack.kafka, stack.postgres, self.source_cluster])
        self.log.append(server.name)
        server.pause()
        self.wait(self.away())
        server.resume()

    def end_sessions(self) -> None:
        """All sessions of our programs on the target end."""
        self.world.target(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    def lock_tables(self) -> None:
        """A long SELECT holds a wide table."""
        with psycopg.connect(self.world.pipeline.target) as conn:
            for schema, table in self.world.wide_tables()[:2]:
                conn.execute(f'SELECT count(*) FROM "{schema}"."{table}"'.encode())
            self.wait(self.away())

    def read_only(self) -> None:
        """The target takes no writes for a while."""
        name = self.world.pipeline.target.rsplit("/", 1)[1].split("?")[0]
        self.world.target(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        self.end_sessions()
        self.wait(self.away())
        with psycopg.connect(self.world.pipeline.target, autocommit=True) as conn:
            conn.execute("SET default_transaction_read_only = off")
            conn.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only'.encode())
        self.end_sessions()


def keep_loading(world: World, load: LiveLoad | None) -> LiveLoad | None:
    """A load that died with its database is followed by the next one; None while the database is away."""
    if load is not None and not load.wait(0):
        return load
    with suppress(Exception):  # the source is away: later
        return world.next_load(rows_per_second=600).start()
    return None


@pytest.mark.fault("F99", "soak")
def test_a_random_mix_of_faults_ends_without_a_difference(world: World, source_cluster: Service) -> None:
    """Whatever fails, everything goes on by itself."""
    world.history(HISTORY_ROWS)
    world.hand_off()
    soak = Soak(world, source_cluster)
    for name in ("first", "second", "backfill"):
        soak.programs[name] = soak.start(name)
    faults: list[Callable[[], None]] = [
        *(soak.kill_program, soak.stop_program, soak.sleep_program, soak.kill_server, soak.freeze_server),
        *(soak.end_sessions, soak.lock_tables, soak.read_only),
    ]
    load = keep_loading(world, None)
    until = time.monotonic() + MINUTES * 60
    while time.monotonic() < until:
        fault = world.random.choice(faults)
        soak.log.append(fault.__name__)
        with suppress(psycopg.OperationalError):  # the fault met a database that is away already
            fault()
        world.fire()
        soak.wait(world.random.uniform(*PAUSE_S))
        load = keep_loading(world, load)
        world.recovered(240.0)
    if load is not None:
        with suppress(Exception):  # its database died once more at the very end
            world.record.events += load.stop().events
    consumers = [soak.programs["first"], soak.programs["second"]]
    backfill = soak.programs["backfill"]
    wait_until(lambda: not backfill.running, "the copy ends", 300.0)
    world.pipeline.succeed("backfill", "run")
    for name, consumer in zip(("first", "second"), consumers, strict=True):
        if not consumer.running:
            soak.programs[name] = soak.start(name)
    print("faults:", soak.log)  # noqa: T201 - what happened, for whoever reads a failure
    world.prove(soak.programs["first"], soak.programs["second"])
