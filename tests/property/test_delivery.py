"""Source, stream, slices and two consumers in any interleaving, with crashes, zombies and replays: nothing is lost.

What must hold at rest is named I1 no loss, I2 no phantom, I3 nothing goes back, I4 each ledger is a chain,
I5 the counts add up, I6 it converges without a hand. The controls switch one safeguard off each, and the same
search must find what that one is good for.

`CDC_TEST_WIDER=20` searches twenty times as many histories, with new seeds each time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.property.model.cell import APPLY
from tests.property.model.database import Safeguards, Violation
from tests.property.model.delivery import MOMENTS, PARTITIONS, Delivery, outage
from tests.property.model.source_table import KEYS, Draft

WIDER = int(os.environ.get("CDC_TEST_WIDER") or 1)
SEARCH = settings(
    max_examples=60 * WIDER,
    stateful_step_count=40,
    deadline=None,
    derandomize=WIDER == 1,
    database=None,
    suppress_health_check=list(HealthCheck),
)
FIND = settings(
    SEARCH,
    derandomize=True,
    max_examples=1_000,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    print_blob=False,
)

KINDS = ["value", "value", "null", "delete", "delete", "move", "touch"]
DRAFT = st.builds(Draft, st.integers(0, len(KEYS) - 1), st.sampled_from(KINDS), st.integers(0, len(KEYS) - 1))
DRAFTS = st.lists(DRAFT, min_size=1, max_size=4)
MEMBER = st.integers(0, 1)
PARTITION = st.sampled_from(PARTITIONS)
AFTER_MS = st.sampled_from([0, 50, 210, 1_100])
POINT = st.sampled_from(
    ["before the ledger", "between ledger and data", "before the commit", "after the commit"]
)


class HistoryMachine(RuleBasedStateMachine):
    """Source, stream and slices; at its end everything comes to rest and is compared."""

    safeguards = Safeguards()

    def __init__(self) -> None:
        super().__init__()
        self.world = Delivery(self.safeguards)

    @initialize(full=st.booleans(), early=DRAFTS, late=DRAFTS, seen=st.booleans())
    def history_before_the_slot(self, full: bool, early: list[Draft], late: list[Draft], seen: bool) -> None:
        """The last commit before the slot may be in the WAL and not visible yet."""
        self.world.source.write([Draft(cell, "value") for cell in range(len(KEYS) * full)])
        self.world.source.write(early)
        self.world.source.write(late, seen=seen)
        self.world.source.make_slot()
        self.world.published = len(self.world.source.wal)

    @rule(drafts=DRAFTS, one_lsn=st.booleans(), seen=st.sampled_from([True, True, False]))
    def transaction(self, drafts: list[Draft], one_lsn: bool, seen: bool) -> None:
        """Inserts, updates, deletes, re-inserts and moves of samples."""
        self.world.source.write(drafts, one_lsn=one_lsn, seen=seen)

    @rule()
    def show(self) -> None:
        """A commit that waited for its standby becomes visible."""
        self.world.source.show()

    @rule(drafts=DRAFTS)
    def flow(self, drafts: list[Draft]) -> None:
        """A change goes all the way, where nothing is in its way."""
        self.world.source.write(drafts)
        self.world.publish(len(self.world.source.wal))
        for after_ms in (0, 0, 210, 210):
            for member in range(2):
                self.world.step(member, after_ms)

    @rule(moment=st.sampled_from(MOMENTS), begin=st.booleans())
    def read_slice(self, moment: int, begin: bool) -> None:
        """A worker reads, and its statement may begin at once, to wait for locks."""
        self.world.read_slice(moment)
        if begin:
            self.world.begin_slice(-1)

    @rule(job=st.integers(0, 3), killed=st.sampled_from([False, False, True]))
    def write_slice(self, job: int, killed: bool) -> None:
        """It writes, or dies."""
        self.world.write_slice(job, killed=killed)

    def teardown(self) -> None:
        """The source stops; what is under way ends."""
        if self.world.source.slot is not None:
            self.world.rest()
            self.world.check()


class DeliveryMachine(HistoryMachine):
    """With all that breaks off, comes twice, or is taken over."""

    @rule(count=st.integers(1, 8))
    def publish(self, count: int) -> None:
        """Debezium."""
        self.world.publish(count)

    @rule(transactions=st.integers(1, 4))
    def reconnect(self, transactions: int) -> None:
        """Debezium, again."""
        self.world.reconnect(transactions)

    @rule(partition=PARTITION)
    def poison(self, partition: int) -> None:
        """A record that is none."""
        self.world.poison(partition)

    @rule(member=MEMBER, times=st.lists(AFTER_MS, min_size=1, max_size=4))
    def consume(self, member: int, times: list[int]) -> None:
        """Some rounds of one consumer."""
        for after_ms in times:
            self.world.step(member, after_ms)

    @rule(partition=PARTITION, told=st.booleans())
    def rebalance(self, partition: int, told: bool) -> None:
        """A partition changes hands."""
        self.world.hand_over(partition, told=told)

    @rule()
    def tell(self) -> None:
        """Members hear what they have lost."""
        self.world.tell()

    @rule(member=MEMBER, point=POINT, kill=st.booleans())
    def fail(self, member: int, point: str, kill: bool) -> None:
        """The next batch breaks off."""
        self.world.members[member].target.fails[point] = outage(kill=kill)  # type: ignore[index]

    @rule(member=MEMBER)
    def kill(self, member: int) -> None:
        """Between two rounds."""
        self.world.restart(member)

    @rule(member=MEMBER, partition=PARTITION, rounds=st.lists(AFTER_MS, min_size=1, max_size=4))
    def stop(self, member: int, partition: int, rounds: list[int]) -> None:
        """A zombie: stopped before its batch, while another takes its partition over."""
        self.world.sleep(member, partition, rounds)


class CorrectedMachine(HistoryMachine):
    """Slices, a stream, and corrections."""

    @rule(cell=st.integers(0, len(KEYS) - 1), then=st.lists(DRAFT, max_size=2))
    def correct(self, cell: int, then: list[Draft]) -> None:
        """A person's value, whether the source has the sample or not; it may change or insert it soon after."""
        self.world.correct(KEYS[cell])
        self.world.source.write([draft._replace(cell=cell) for draft in then])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of crashes need no log."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


def test_whatever_breaks_off_the_target_ends_as_the_source() -> None:
    """And doing it all again changes nothing."""
    run_state_machine_as_test(DeliveryMachine, settings=SEARCH)


def test_corrections_stand_until_the_source_changes_or_inserts_the_sample() -> None:
    """In any interleaving with slices and the stream; a replay of all of it changes nothing."""
    run_state_machine_as_test(CorrectedMachine, settings=SEARCH)


CONTROLS = {
    "no fence": (Safeguards(chain="number"), "a stale process writes"),
    "the ledger by offset instead of batch number": (Safeguards(chain="offset"), "I4"),
    "the ledger passes what is held": (Safeguards(low_water=False), "I1|I2|I3"),
    "the ledger commits before the data": (Safeguards(one_transaction=False), "I1|I2|I3|I5"),
    "no barrier": (Safeguards(barrier=False), "I1|I2|I3"),
    "the version in a side table": (Safeguards(versions_in_row=False), "I2|I3"),
    "a delete records nothing": (Safeguards(replace(APPLY, tombstones=False)), "I2|I3"),
    "an update records nothing": (Safeguards(replace(APPLY, update_versions=False)), "I1|I2|I3"),
    "a create overwrites": (Safeguards(replace(APPLY, creates_only_fill=False)), "I2|I3"),
    "a slice overwrites": (Safeguards(replace(APPLY, reads_only_fill=False)), "I2|I3"),
    "a batch folds to the last event alone": (Safeguards(whole_fold=False), "I2|I3"),
    "a placeholder records a version": (Safeguards(placeholders_pass=False), "I1|I3"),
    "a create leaves a correction": (Safeguards(replace(APPLY, creates_replace_corrected=False)), "I1|I2|I3"),
}

BETWEEN_SLICES_AND_STREAM = {
    "the version in a side table",
    "a placeholder records a version",
    "an update records nothing",
}


@pytest.mark.timeout(900)  # a time limit that strikes within hypothesis reads as a flaky search
@pytest.mark.parametrize("name", CONTROLS)
def test_the_search_notices_that_a_safeguard_is_missing(name: str) -> None:
    """Each one off: a history that breaks the invariant it carries is found."""
    safeguards, invariants = CONTROLS[name]
    # Slices and a stream are enough for what lies between them, and there are fewer ways to search.
    base = HistoryMachine if name in BETWEEN_SLICES_AND_STREAM else DeliveryMachine
    base = CorrectedMachine if "correction" in name else base
    machine = type("DeliveryWithout", (base,), {"safeguards": safeguards})
    with pytest.raises(Violation, match=rf"^({invariants}): "):
        run_state_machine_as_test(machine, settings=FIND)
