"""The offset ledger on a real PostgreSQL: one chain per partition, whoever owns it and whatever breaks."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.tcp_proxy import TcpProxy
from tests.waiting import wait_until
from widetable import ledger as ledger_module
from widetable.control import migrate, use_control
from widetable.errors import ConfigurationError, FenceLostError, RetryableError, UnreachableError
from widetable.ledger import Claim, OffsetLedger
from widetable.postgres import Connection, connect_target, fetch_one, retryable_errors
from widetable.settings import TargetSettings

pytestmark = pytest.mark.postgres

PIPELINE, TOPIC_ID = "test", "topic-1"


class Database:
    """The target database: opens owners of the ledger's rows, and looks at the rows."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.conn = self.connect("observer")
        migrate(self.conn, "cdc")
        for partition in range(3):
            self.conn.execute(
                "INSERT INTO offset_ledger (pipeline, topic_id, partition, next_offset) VALUES (%s, %s, %s, 100)",
                [PIPELINE, TOPIC_ID, partition],
            )

    def connect(self, name: str, dsn: str | None = None, **settings: Any) -> Connection:
        """A session as the product opens it."""
        conn = connect_target(TargetSettings.model_validate({"dsn": dsn or self.dsn, **settings}), name)
        use_control(conn, "cdc")
        return conn

    @contextmanager
    def owner(self, name: str, dsn: str | None = None, **settings: Any) -> Iterator[Owner]:
        """An owner on a session of its own."""
        lock_timeout_s = settings.get("lock_timeout_ms", math.inf) / 1000
        with closing(self.connect(name, dsn, **settings)) as conn:
            yield Owner(conn, name, lambda: self.connect(f"{name} free"), lock_timeout_s)

    def row(self, partition: int = 0) -> tuple[Any, ...]:
        """fence, batch_no, next_offset, owner."""
        return fetch_one(
            self.conn,
            "SELECT fence, batch_no, next_offset, owner FROM offset_ledger WHERE partition = %s",
            partition,
        )

    def blocked(self) -> int:
        """How many sessions wait for a lock."""
        count: int = fetch_one(
            self.conn,
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )[0]
        return count


class Owner:
    """A session that claims partitions and sends batches."""

    def __init__(
        self, conn: Connection, name: str, connect: Callable[[], Connection], lock_timeout_s: float
    ) -> None:
        self.conn = conn
        self.ledger = OffsetLedger(conn, PIPELINE, TOPIC_ID, name, connect, lock_timeout_s)

    def claim(self, partition: int = 0) -> Claim:
        """Claim as the product does: outages are retryable."""
        with retryable_errors("claiming"):
            return self.ledger.claim(partition)

    def batch(self, claim: Claim, to: int) -> Claim:
        """One transaction that does nothing but move the chain on."""
        with retryable_errors("applying"), self.conn.transaction():
            return self.ledger.advance(claim, to)

    @property
    def alive(self) -> bool:
        """Whether the session still answers."""
        try:
            self.conn.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture
def database(target_dsn: str) -> Iterator[Database]:
    """A target database with three ledger rows at offset 100."""
    database = Database(target_dsn)
    with closing(database.conn):
        yield database


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for calls that wait."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new owner that frees the row after a fifth of a second."""
    monkeypatch.setattr(ledger_module, "PATIENCE_S", 0.2)


# -- the chain ----------------------------------------------------------------------------------------------


def test_batches_of_an_owner_form_a_chain(database: Database) -> None:
    """Each moves the number on by one, and the offset to where it says, which may be where it was."""
    with database.owner("first") as owner:
        claim = owner.claim()
        assert claim == Claim(partition=0, fence=1, batch_no=0, next_offset=100)
        for to in (150, 150, 151):
            claim = owner.batch(claim, to)
        assert claim == Claim(partition=0, fence=1, batch_no=3, next_offset=151)
    assert database.row() == (1, 3, 151, "first")
    assert database.row(1) == (0, 0, 100, None), "other partitions are not touched"


def test_a_batch_that_rolls_back_leaves_the_chain_where_it_was(database: Database) -> None:
    """The ledger is part of the data's transaction: the same batch can be sent again."""
    with database.owner("first") as owner:
        claim = owner.claim()

        def failing_batch() -> None:
            with owner.conn.transaction():
                owner.ledger.advance(claim, 150)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            failing_batch()
        assert database.row() == (1, 0, 100, "first")
        owner.batch(claim, 150)
    assert database.row() == (1, 1, 150, "first")


def test_the_same_batch_is_not_applied_twice(database: Database) -> None:
    """A second try of a batch that did commit is refused, though nobody else owns the partition."""
    with database.owner("first") as owner:
        claim = owner.claim()
        owner.batch(claim, 150)
        with pytest.raises(FenceLostError):
            owner.batch(claim, 150)
    assert database.row() == (1, 1, 150, "first")


def test_a_zombies_batch_is_refused_and_names_the_new_owner(database: Database) -> None:
    """It slept, another took over; its transaction rolls back as a whole."""
    with database.owner("zombie") as zombie, database.owner("successor") as successor:
        old = zombie.claim()
        zombie.conn.execute("CREATE TEMP TABLE written (x int)")
        new = successor.claim()
        assert (new.fence, new.next_offset) == (2, 100)

        def write_and_advance() -> None:
            with zombie.conn.transaction():
                zombie.conn.execute("INSERT INTO written VALUES (1)")
                zombie.ledger.advance(old, 150)

        with pytest.raises(FenceLostError, match="belongs to successor"):
            write_and_advance()
        assert fetch_one(zombie.conn, "SELECT count(*) FROM written") == (0,)
        successor.batch(new, 120)
    assert database.row() == (2, 1, 120, "successor")


def test_owners_of_different_partitions_do_not_meet(database: Database) -> None:
    """A claim takes one row only."""
    with database.owner("first") as first, database.owner("second") as second:
        zero, one = first.claim(0), second.claim(1)
        with first.conn.transaction(), second.conn.transaction():
            first.ledger.advance(zero, 110)
            second.ledger.advance(one, 120)
    assert [database.row(partition)[2] for partition in range(3)] == [110, 120, 100]


@pytest.mark.parametrize(
    ("pipeline", "topic_id", "partition"),
    [
        pytest.param(PIPELINE, TOPIC_ID, 3, id="one partition more than init knew"),
        pytest.param(PIPELINE, "topic-2", 0, id="topic made anew"),
        pytest.param("other", TOPIC_ID, 0, id="another pipeline"),
    ],
)
def test_a_partition_that_the_ledger_does_not_know_is_refused(
    database: Database, pipeline: str, topic_id: str, partition: int
) -> None:
    """Its order is not known, so nobody may start to read it somewhere."""
    with closing(database.connect("first")) as conn:
        ledger = OffsetLedger(conn, pipeline, topic_id, "first", lambda: database.connect("free"))
        with pytest.raises(ConfigurationError, match=rf"Partition {partition} .*not in the offset ledger"):
            ledger.claim(partition)


@pytest.mark.parametrize("seed", range(3))
def test_many_owners_still_make_one_chain(database: Database, pool: ThreadPoolExecutor, seed: int) -> None:
    """Four owners claim and write at random: each committed batch has its own number, and none is missing."""
    committed: list[tuple[int, int, int]] = []

    def own(name: str, chance: random.Random) -> None:
        with database.owner(name) as owner:
            claim = owner.claim()
            for _ in range(40):
                try:
                    with owner.conn.transaction():
                        moved = owner.ledger.advance(claim, claim.next_offset + chance.randrange(3))
                        if chance.random() < 0.2:
                            raise psycopg.Rollback
                        committed.append((moved.batch_no, claim.next_offset, moved.next_offset))
                        claim = moved
                except FenceLostError:
                    claim = owner.claim()

    owners = [pool.submit(own, f"owner-{i}", random.Random(seed * 10 + i)) for i in range(4)]
    for owner in owners:
        owner.result(60)
    committed.sort()
    assert [batch_no for batch_no, _, _ in committed] == list(range(1, len(committed) + 1))
    ends = [100, *(to for _, _, to in committed)]
    assert [start for _, start, _ in committed] == ends[:-1], "each batch starts where the one before ended"
    assert database.row()[1:3] == (len(committed), ends[-1])


# -- claims that meet a batch under way -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commits", "next_offset", "batch_no"), [(True, 150, 1), (False, 100, 0)], ids=["commit", "rollback"]
)
def test_a_claim_waits_for_a_batch_under_way_and_returns_the_truth(
    database: Database, pool: ThreadPoolExecutor, commits: bool, next_offset: int, batch_no: int
) -> None:
    """The row lock makes the successor wait; what it then reads is what the batch left."""
    with database.owner("first") as first, database.owner("second") as second:
        old = first.claim()
        with first.conn.transaction() as batch:
            first.ledger.advance(old, 150)
            claiming = pool.submit(second.claim)
            wait_until(database.blocked, "the claim waits for the row")
            if not commits:
                raise psycopg.Rollback(batch)
        assert claiming.result(10) == Claim(0, 2, batch_no, next_offset)
        assert first.alive, "a batch that ends in time is not interrupted"


@pytest.fixture
def proxy(database: Database) -> Iterator[TcpProxy]:
    """A network to the database that can be cut."""
    info = database.conn.info
    with TcpProxy(info.host, info.port) as proxy:
        yield proxy


def through(proxy: TcpProxy, dsn: str) -> str:
    """The DSN with the proxy's address."""
    return make_conninfo(dsn, host="127.0.0.1", port=proxy.port)


@pytest.mark.parametrize(
    ("when", "batch_no", "next_offset"), [("before", 0, 100), ("after", 1, 150)], ids=["not done", "done"]
)
def test_an_unknown_commit_is_resolved_by_claiming_again(
    database: Database, proxy: TcpProxy, when: str, batch_no: int, next_offset: int
) -> None:
    """The connection is cut during COMMIT: the owner can't know, the ledger does; the batch counts once."""

    def is_commit(data: bytes) -> bool:
        return b"COMMIT" in data

    with database.owner("first", through(proxy, database.dsn)) as owner:
        claim = owner.claim()
        setattr(proxy, f"cut_{when}", is_commit)
        with pytest.raises(RetryableError):
            owner.batch(claim, 150)
        wait_until(lambda: proxy.cuts == 1, "the connection was cut")
    with database.owner("first") as again:
        claim = again.claim()
        assert (claim.batch_no, claim.next_offset) == (batch_no, next_offset)
        again.batch(claim, 150)
    assert database.row() == (2, batch_no + 1, 150, "first")


def test_a_batch_whose_backend_is_terminated_is_retryable_and_not_there(database: Database) -> None:
    """`pg_terminate_backend`, or a server that goes down fast."""
    with database.owner("first") as owner:
        claim = owner.claim()

        def terminated_batch() -> None:
            with retryable_errors("applying"), owner.conn.transaction():
                owner.ledger.advance(claim, 150)
                database.conn.execute("SELECT pg_terminate_backend(%s)", [owner.conn.info.backend_pid])

        with pytest.raises(RetryableError):
            terminated_batch()
    assert database.row() == (1, 0, 100, "first")


# -- previous owners that are stuck ---------------------------------------------------------------------------


def stuck(how: str, owner: Owner, claim: Claim, until: threading.Event, holding: threading.Event) -> None:
    """Hold the row lock as a process does that was stopped in the middle of a batch."""
    with owner.conn.transaction():
        owner.ledger.advance(claim, 150)
        if how == "in mid-COPY":
            owner.conn.execute("CREATE TEMP TABLE written (x int)")
            with owner.conn.cursor() as cursor, cursor.copy("COPY written FROM STDIN") as copy:
                copy.write("1\n")
                holding.set()
                until.wait(30)
        else:
            holding.set()
            until.wait(30)


@contextmanager
def stuck_owner(database: Database, pool: ThreadPoolExecutor, how: str) -> Iterator[Future[None]]:
    """A first owner in the middle of a batch, for as long as the block lasts."""
    until, holding = threading.Event(), threading.Event()
    with database.owner("stuck") as owner:
        batch = pool.submit(stuck, how, owner, owner.claim(), until, holding)
        assert holding.wait(10)
        try:
            yield batch
        finally:
            until.set()
            wait([batch], 10)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("how", ["idle in transaction", "in mid-COPY"])
def test_a_stuck_previous_owner_is_ended(database: Database, pool: ThreadPoolExecutor, how: str) -> None:
    """It would hold the row through every timeout; its batch is rolled back, and it learns of it."""
    with database.owner("successor") as successor, stuck_owner(database, pool, how) as batch:
        assert successor.claim() == Claim(0, 2, 0, 100)
    with pytest.raises(psycopg.OperationalError):
        batch.result(10)
    assert database.row() == (2, 0, 100, "successor")


def test_a_short_lock_timeout_does_not_save_a_stuck_owner(
    database: Database, pool: ThreadPoolExecutor
) -> None:
    """The owner is ended before the wait for its row is given up: else each claim would end in vain, for ever."""
    with database.owner("successor", lock_timeout_ms=1_000) as successor:
        with stuck_owner(database, pool, "in mid-COPY") as batch:
            assert successor.claim() == Claim(0, 2, 0, 100)
        with pytest.raises(psycopg.OperationalError):
            batch.result(10)


@pytest.mark.usefixtures("_impatient")
def test_waiting_claims_of_two_successors_both_end(database: Database, pool: ThreadPoolExecutor) -> None:
    """The second one waits for the first, not for the stuck owner; both get their turn."""
    with (
        database.owner("second") as second,
        database.owner("third") as third,
        stuck_owner(database, pool, "idle in transaction"),
    ):
        claims = [pool.submit(successor.claim) for successor in (second, third)]
        assert sorted(claim.result(20).fence for claim in claims) == [2, 3]


@pytest.mark.usefixtures("_impatient")
def test_only_the_owner_that_blocks_is_ended(database: Database) -> None:
    """A person's SELECT FOR UPDATE, or a resync, blocks: neither it nor the idle owner is ended.

    The claim times out as an outage and is tried again.
    """
    with (
        database.owner("first") as first,
        database.owner("second", lock_timeout_ms=1_000) as second,
        closing(database.connect("a person")) as person,
        person.transaction(),
    ):
        first.claim()
        person.execute("SELECT 1 FROM offset_ledger WHERE partition = 0 FOR UPDATE")
        with pytest.raises(RetryableError, match="lock timeout"):
            second.claim()
        assert fetch_one(person, "SELECT 1") == (1,)
        assert first.alive
    assert database.row()[0] == 1


@pytest.mark.usefixtures("_impatient")
def test_a_reused_process_id_is_not_mistaken_for_the_owner(database: Database) -> None:
    """The recorded pid belongs to somebody else now, who started later."""
    with (
        database.owner("first", lock_timeout_ms=1_000) as first,
        closing(database.connect("a person")) as person,
        person.transaction(),
    ):
        person.execute(
            "UPDATE offset_ledger SET backend_pid = pg_backend_pid(), backend_start = now() - interval '1 day'"
            " WHERE partition = 0"
        )
        person.execute("COMMIT AND CHAIN")
        person.execute("SELECT 1 FROM offset_ledger WHERE partition = 0 FOR UPDATE")
        with pytest.raises(RetryableError, match="lock timeout"):
            first.claim()
        assert fetch_one(person, "SELECT 1") == (1,)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_claim_still_waits_where_the_second_session_fails(
    database: Database, pool: ThreadPoolExecutor
) -> None:
    """No connection left to end the stuck owner with: the claim gets its row as soon as the owner lets go."""
    refused = threading.Event()

    def refuse() -> Connection:
        refused.set()
        raise UnreachableError("too many connections")

    with database.owner("successor") as successor:
        successor.ledger = OffsetLedger(successor.conn, PIPELINE, TOPIC_ID, "successor", refuse)
        with stuck_owner(database, pool, "idle in transaction") as batch:
            claiming = pool.submit(successor.claim)
            assert refused.wait(10)
        assert claiming.result(10).batch_no == 1
        batch.result(10)
