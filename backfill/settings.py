"""Settings of `backfill`: the sections it shares with the consumer, and its own.

In: the environment (`CDC_` prefix) and the command line's flags. Out: one frozen `Settings`, parsed once at
the edge and passed down.
"""

from __future__ import annotations

from pydantic import Field

from widetable.environment import EnvironmentSettings
from widetable.logs import LogSettings
from widetable.settings import PipelineSettings, Section, SourceSettings, TargetSettings


class BackfillSettings(Section):
    """How history is cut, copied and braked."""

    workers: int = Field(2, ge=1, le=64, description="Processes that copy slices at the same time.")
    slice_rows: int = Field(100_000, ge=1, description="Narrow rows that a slice aims at.")
    slice_cells: int = Field(
        1_000_000,
        ge=1,
        description="Wide rows x channels that a slice aims at: bounds memory where moments are not aligned.",
    )
    attempts: int = Field(8, ge=1, description="Failed attempts after which a slice is given up as failed.")
    retry_wait_max_s: float = Field(
        30.0, gt=0, description="Longest wait between two attempts, and between two tries to connect."
    )
    lease_s: int = Field(
        900, ge=1, description="Seconds after which a slice in work is taken from a worker that is stuck."
    )
    shutdown_s: float = Field(
        20.0, ge=0, description="Seconds that workers have to finish their slice when asked to stop."
    )
    governor: bool = Field(
        True,
        description="Slow down while the source is busy or the slot's WAL grows; off, only --rate-limit and the"
        " pause at slot_lag_bytes are left.",
    )
    source_sessions: int = Field(
        16, ge=1, description="Sessions of others at work at the source, from which the governor slows down."
    )
    source_waits: int = Field(
        4,
        ge=1,
        description="Sessions waiting for locks or I/O at the source, from which the governor slows down.",
    )
    slot_lag_bytes: int | None = Field(
        None,
        ge=1,
        description="Pause while the replication slot retains more WAL than this; unset: half of"
        " max_slot_wal_keep_size, or 10 GB where that is unlimited.",
    )


class Settings(EnvironmentSettings):
    """Everything `backfill` can be told."""

    pipeline: PipelineSettings = PipelineSettings()
    source: SourceSettings
    target: TargetSettings
    backfill: BackfillSettings = BackfillSettings()
    log: LogSettings = LogSettings()
