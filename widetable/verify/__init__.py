"""Verify: proof that source and target agree, to the cell, made by PostgreSQL on both sides.

In data-flow order: `scope` says what is compared and cuts it into windows; `cells_sql` makes both sides'
cells the same relation and hashes it; `source` and `target` run that; `compare` narrows differing buckets
down to cells, `judge` lets only what rests and differs count; `report` says so; `verified` publishes how far
it holds; `follow` does all that for ever, and `recheck` keeps what it must look at.

It is the oracle of every other part, and therefore shares no code with the path that writes wide rows; only
the value rule (`widetable.values.value_sql`) and the tables of the channel map are common.
"""

from widetable.verify.compare import Verifier
from widetable.verify.follow import Follower, Leisure, Memory
from widetable.verify.judge import Limits
from widetable.verify.recheck import Recheck
from widetable.verify.report import Difference, VerifyReport
from widetable.verify.scope import Scope
from widetable.verify.source import Source
from widetable.verify.target import Target
from widetable.verify.verified import record_verified, settle_due, verified_summary, verify_due

__all__ = [
    "Difference",
    "Follower",
    "Leisure",
    "Limits",
    "Memory",
    "Recheck",
    "Scope",
    "Source",
    "Target",
    "Verifier",
    "VerifyReport",
    "record_verified",
    "settle_due",
    "verified_summary",
    "verify_due",
]
