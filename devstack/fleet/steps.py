"""Steps in, changes of the narrow table out: staged by COPY, applied set by set, counted by PostgreSQL.

Guarantee: the tally holds what the statements of one transaction changed, row for row; the caller adds it to
its report only after the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, LiteralString

import numpy as np
import pyarrow as pa

from devstack.fleet.copytext import copy_text
from devstack.fleet.database import Connection
from devstack.fleet.report import Count, Tally
from devstack.fleet.values import Cells, Ints

STAGE_SQL: Final = """
CREATE TEMPORARY TABLE fleet_stage (
    set_no integer, n integer, ship_id text, data_channel_id text, created_time timestamp,
    bool_v boolean, str_v text, long_v bigint, double_v float8, value_format text
) ON COMMIT DELETE ROWS
"""

# ORDER BY n keeps the collector's order in the table, and so in the WAL.
INSERT_SQL: Final = """
INSERT INTO tenant.tbl_data_timeseries
    (ship_id, data_channel_id, created_time, bool_v, str_v, long_v, double_v, value_format,
     server_created_time)
SELECT ship_id, data_channel_id, created_time, bool_v, str_v, long_v, double_v, value_format, now()
FROM fleet_stage WHERE set_no = %(set_no)s ORDER BY n
ON CONFLICT DO NOTHING
"""
UPDATE_SQL: Final = """
UPDATE tenant.tbl_data_timeseries AS t
SET bool_v = s.bool_v, str_v = s.str_v, long_v = s.long_v, double_v = s.double_v,
    value_format = s.value_format
FROM fleet_stage AS s
WHERE s.set_no = %(set_no)s AND t.ship_id = s.ship_id
  AND t.data_channel_id = s.data_channel_id AND t.created_time = s.created_time
"""
DELETE_SQL: Final = """
DELETE FROM tenant.tbl_data_timeseries AS t
USING fleet_stage AS s
WHERE s.set_no = %(set_no)s AND t.ship_id = s.ship_id
  AND t.data_channel_id = s.data_channel_id AND t.created_time = s.created_time
RETURNING s.n
"""
MOVE_SQL: Final = """
UPDATE tenant.tbl_data_timeseries AS t
SET ship_id = new.ship_id, data_channel_id = new.data_channel_id, created_time = new.created_time
FROM fleet_stage AS s JOIN fleet_stage AS new ON new.n = s.n AND new.set_no = %(set_no)s + 1
WHERE s.set_no = %(set_no)s AND t.ship_id = s.ship_id
  AND t.data_channel_id = s.data_channel_id AND t.created_time = s.created_time
  AND NOT EXISTS (
    SELECT FROM tenant.tbl_data_timeseries AS taken
    WHERE taken.ship_id = new.ship_id AND taken.data_channel_id = new.data_channel_id
      AND taken.created_time = new.created_time)
"""


class Verb(Enum):
    """What a step does with its rows; the value is the statement."""

    INSERT = INSERT_SQL
    UPDATE = UPDATE_SQL
    DELETE = DELETE_SQL
    MOVE = MOVE_SQL


@dataclass(frozen=True, slots=True)
class Step:
    """One statement over a set of cells.

    Attributes:
        verb: the statement; INSERT skips keys that exist, MOVE those whose new key exists.
        counts_as: the kind that its rows are counted under.
        cells: the cells it touches, each once.
        samples: rows of `SAMPLES`, parallel to `cells`: what is written, or whose key is looked for.
        moved_to: for MOVE: rows of `SAMPLES` with the new keys, all different, parallel to `cells`.
        events_per_row: changes that Debezium reports for one changed row.
    """

    verb: Verb
    counts_as: Count
    cells: Cells
    samples: pa.RecordBatch
    moved_to: pa.RecordBatch | None = None
    events_per_row: int = 1


def run_steps(conn: Connection, steps: Sequence[Step]) -> tuple[Tally, Cells]:
    """Apply the steps in order within the open transaction; the session has the stage of `STAGE_SQL`.

    Returns:
        what changed, and the cells that a DELETE really took away.
    """
    _stage(conn, steps)
    total, deleted = Tally(), []
    for index, step in enumerate(steps):
        query: LiteralString = step.verb.value
        cursor = conn.execute(query, {"set_no": 2 * index}, prepare=False)
        total += _tally(step, cursor.rowcount)
        if step.verb is Verb.DELETE:
            deleted.append(step.cells[np.array([n for (n,) in cursor], np.int64)])
    return total, Cells.concat(deleted)


def _tally(step: Step, changed: int) -> Tally:
    swallowed = len(step.cells) - changed if step.verb is Verb.INSERT else 0
    return Tally({step.counts_as: changed}, swallowed, changed * step.events_per_row)


def _stage(conn: Connection, steps: Sequence[Step]) -> None:
    """Copy all rows of all steps at once: step i is set 2i, its new keys are set 2i + 1."""
    with conn.cursor().copy("COPY fleet_stage FROM STDIN") as copy:
        for index, step in enumerate(steps):
            copy.write(memoryview(_stage_text(2 * index, step.samples)))
            if step.moved_to is not None:
                copy.write(memoryview(_stage_text(2 * index + 1, step.moved_to)))


def _stage_text(set_no: int, samples: pa.RecordBatch) -> pa.Buffer:
    numbers: Ints = np.arange(len(samples))
    return copy_text([pa.array(np.full(len(samples), set_no)), pa.array(numbers), *samples.columns])
