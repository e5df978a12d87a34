"""`settled_lsn`: the consumer's word on how far the target holds what the source committed.

In: Connect's stored position, the topic's end offsets, the ledger. Out: a row in `settled`. Why it is true, step
by step:

1. Connect stores Debezium's position only after Kafka acknowledged every record before it. Its `lsn_commit` is
   the end of the last commit whose changes were all sent before (`lsn` and `lsn_proc` may lie inside a
   transaction). Call it H: all changes of commits up to H are in the topic.
2. The end offsets are read after that: all changes of commits up to H lie below them.
3. Once every ledger row has reached them, all changes of commits up to H are in the target: H is settled.

A step doesn't wait: Connect and Kafka are asked by a thread of its own, the ledger in one short query.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, Self

from cdc_consumer.connect import Connect
from cdc_consumer.settings import Settings
from cdc_consumer.topic import Topics
from widetable.control import check_control
from widetable.hand_off import HandOff, read_ledger, require_hand_off
from widetable.postgres import Connection, connect_target
from widetable.settled import Settled, write_settled

INTERVAL_S: Final = 1.0
"""Connect stores positions every offset.flush.interval.ms; asking more often than this gains nothing."""
RETRY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Mark:
    """A commit H, and the offsets that the ledger must reach before H is settled."""

    lsn: int
    end_offsets: dict[int, int]


class Settler:
    """Moves `settled_lsn` forward; `step` is called from time to time.

    Args:
        hand_off: the epoch that streams.
        read_mark: asks Connect and Kafka; may take its time, for it runs in a thread.
        open_target: opens a session on the target, in autocommit, with the control schema in use.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        hand_off: HandOff,
        read_mark: Callable[[HandOff], Mark | None],
        open_target: Callable[[], Connection],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hand_off = hand_off
        self._read_mark = read_mark
        self._open_target = open_target
        self._clock = clock
        self._target: Connection | None = None
        self._answers: SimpleQueue[Mark | Exception | None] = SimpleQueue()
        self._asking = False
        self._ask_at = clock()
        self._mark: Mark | None = None
        self._settled_lsn = 0

    @classmethod
    @contextmanager
    def connect(cls, settings: Settings) -> Iterator[Self]:
        """A settler for the pipeline's present epoch; its clients are closed at the end.

        Raises:
            ConfigurationError: the pipeline has no hand-off.
        """

        def open_target() -> Connection:
            conn = connect_target(settings.target, "cdc-consumer settle")
            check_control(conn, settings.target.control_schema)
            return conn

        with open_target() as conn:
            hand_off = require_hand_off(conn, settings.pipeline.name)
        topics = Topics(settings.kafka)
        with Connect(settings.connect) as connect:
            settler = cls(
                hand_off, lambda current: read_mark(connect, settings.connector, topics, current), open_target
            )
            try:
                yield settler
            finally:
                settler.close()

    def step(self) -> Settled | None:
        """Do what can be done now without waiting; returns what was settled by this step, if anything.

        Raises:
            WideTableError: Connect, Kafka or the target do not answer; a later step tries again.
        """
        if self._mark is None:
            self._listen()
        if self._mark is None or self._mark.lsn <= self._settled_lsn:
            self._mark = None
            return None
        if not self._current():
            self._mark = None  # it speaks of another slot, or of fewer partitions
            return None
        if not self._reached(self._mark):
            return None
        settled = Settled(self._hand_off.epoch, self._mark.lsn)
        write_settled(self._session(), self._hand_off.pipeline, settled)
        self._settled_lsn, self._mark = settled.lsn, None
        return settled

    def close(self) -> None:
        """Close the session on the target; an unanswered question is forgotten."""
        if self._target is not None:
            self._target.close()

    def _listen(self) -> None:
        """Take the thread's answer, or send it to ask when it is time."""
        if not self._asking:
            if self._clock() >= self._ask_at:
                self._asking = True
                # A daemon: a shutdown does not wait for Connect.
                threading.Thread(target=self._ask, name="settle", daemon=True).start()
            return
        try:
            answer = self._answers.get_nowait()
        except Empty:
            return
        self._asking = False
        self._ask_at = self._clock() + (RETRY_S if isinstance(answer, Exception) else INTERVAL_S)
        if isinstance(answer, Exception):
            raise answer
        self._mark = answer

    def _ask(self) -> None:
        """Steps 1 and 2, in the thread."""
        try:
            self._answers.put(self._read_mark(self._hand_off))
        except Exception as error:  # noqa: BLE001 - `step` raises it in the caller's thread
            self._answers.put(error)

    def _current(self) -> bool:
        """Whether epoch and partitions are still those that the mark was read for; takes note if they are not."""
        latest = require_hand_off(self._session(), self._hand_off.pipeline)
        before, self._hand_off = self._hand_off, latest
        changed = (latest.epoch, latest.boundary_offsets) != (before.epoch, before.boundary_offsets)
        if changed:
            self._settled_lsn = 0  # another timeline may count from further back
        return not changed

    def _reached(self, mark: Mark) -> bool:
        """Step 3."""
        rows = read_ledger(self._session(), self._hand_off.pipeline, self._hand_off.topic_id)
        reached = {row.partition: row.next_offset for row in rows}
        return all(reached.get(partition, -1) >= end for partition, end in mark.end_offsets.items())

    def _session(self) -> Connection:
        """The session on the target, opened again after it was lost."""
        if self._target is None or self._target.closed:
            self._target = self._open_target()
        return self._target


def read_mark(connect: Connect, connector: str, topics: Topics, hand_off: HandOff) -> Mark | None:
    """Steps 1 and 2: a commit that Connect has stored, then the topic's ends; None before the first commit."""
    stored = connect.stored_offset(connector)
    if stored is None or stored.lsn_commit is None:
        return None
    return Mark(stored.lsn_commit, topics.end_offsets(hand_off.topic, hand_off.boundary_offsets))
