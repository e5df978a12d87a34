"""Every metric that there is: one entry each, and no name anywhere that is not one of them.

`docs/metrics.md` is made of this list, and rules and dashboards are tested against it. No metric has a label
per ship or channel: a fleet has thousands of them, and a time series for each would cost more than the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric. `name` is what Prometheus shows; `unit` is what is counted or measured."""

    name: str
    kind: Kind
    unit: str
    help: str
    label: str | None = None


_ENTRIES: Final = (
    # -- how late the stream is
    Definition(
        "cdc_lag_messages",
        "gauge",
        "records",
        "Records in the topic that are not applied; absent until the partition is claimed and its end known.",
        "partition",
    ),
    Definition(
        "cdc_lag_seconds",
        "gauge",
        "seconds",
        "How long the first record that is not applied has been in Kafka; 0 while there is none.",
        "partition",
    ),
    Definition(
        "cdc_ledger_offset", "gauge", "offset", "Next offset in the ledger of the target.", "partition"
    ),
    Definition(
        "cdc_capture_seconds",
        "histogram",
        "seconds",
        "From the source's commit to the record in Kafka: Debezium's part.",
    ),
    Definition(
        "cdc_transport_seconds",
        "histogram",
        "seconds",
        "From the record in Kafka until a consumer has read it.",
    ),
    Definition(
        "cdc_apply_seconds",
        "histogram",
        "seconds",
        "From the record in Kafka to the committed row: transport, hold and write.",
    ),
    Definition(
        "cdc_total_seconds",
        "histogram",
        "seconds",
        "End to end: from the source's commit to the committed row, which is capture and apply.",
    ),
    Definition("cdc_settled_age_seconds", "gauge", "seconds", "Since the settled position last moved."),
    # -- what becomes of events
    Definition("cdc_records_total", "counter", "records", "Records read from Kafka."),
    Definition("cdc_dead_records_total", "counter", "records", "Records that could not be decoded."),
    Definition(
        "cdc_samples_total",
        "counter",
        "samples",
        "Samples in committed batches, by what happened to them.",
        "op",
    ),
    Definition(
        "cdc_events_total",
        "counter",
        "samples",
        "Samples by their end: applied, superseded, overflow, dead, filtered_….",
        "result",
    ),
    Definition(
        "cdc_format_mismatches_total",
        "counter",
        "samples",
        "Samples whose value stood in another column than value_format names.",
    ),
    Definition("cdc_rows_written_total", "counter", "rows", "Wide rows written, new or merged.", "how"),
    Definition(
        "cdc_cells_written_total",
        "counter",
        "cells",
        "Cells sent to the rows that were written; some of a merged row may have been there.",
    ),
    Definition("cdc_overflow_cells", "gauge", "cells", "Cells that wait without a place in a wide table."),
    Definition("cdc_dead_cells", "gauge", "cells", "Cells and records that could not be stored.", "reason"),
    Definition("cdc_pending_channels", "gauge", "channels", "Channels that have no column yet."),
    Definition("cdc_pending_ships", "gauge", "ships", "Ships that have no tables yet."),
    # -- the loop
    Definition("cdc_batches_total", "counter", "transactions", "Transactions committed."),
    Definition("cdc_batch_samples", "histogram", "samples", "Samples in a transaction."),
    Definition(
        "cdc_stage_seconds_total",
        "counter",
        "seconds",
        "Time spent in a stage: consume, decode, hold, apply (rule, pivot and write), commit.",
        "stage",
    ),
    Definition("cdc_busy_seconds_total", "counter", "seconds", "Time spent with records in hand."),
    Definition("cdc_held_rows", "gauge", "rows", "Rows still arriving."),
    Definition("cdc_held_samples", "gauge", "samples", "Samples held for rows still arriving."),
    Definition("cdc_held_bytes", "gauge", "bytes", "Memory of the samples held."),
    Definition(
        "cdc_schemas", "gauge", "schemas", "Writer schemas in the decoders' caches, of all processes."
    ),
    Definition("cdc_outages_total", "counter", "times", "Times that the loop paused and went on."),
    Definition("cdc_rereads_total", "counter", "partitions", "Partitions read again because offsets jumped."),
    Definition(
        "cdc_chore_failures_total",
        "counter",
        "times",
        "Times that a chore of the parent failed: settle, govern, watch.",
        "chore",
    ),
    # -- the group
    Definition(
        "cdc_ready",
        "gauge",
        "0 or 1",
        "Whether all processes run, report, and have claimed their partitions.",
    ),
    Definition(
        "cdc_worker_silent_seconds",
        "gauge",
        "seconds",
        "Since the consumer process that is silent for longest last reported; from 30 on it is not ready.",
    ),
    Definition(
        "cdc_unclaimed_partitions", "gauge", "partitions", "Partitions assigned and not claimed (yet)."
    ),
    Definition("cdc_rebalances_total", "counter", "times", "Assignments received."),
    Definition("cdc_fence_losses_total", "counter", "batches", "Batches that the ledger refused."),
    # -- the source and Debezium
    Definition("cdc_slot_active", "gauge", "0 or 1", "Whether somebody reads the replication slot."),
    Definition("cdc_slot_retained_bytes", "gauge", "bytes", "WAL that the slot keeps at the source."),
    Definition(
        "cdc_slot_wal_budget_bytes",
        "gauge",
        "bytes",
        "WAL that may still pile up before the slot is lost; absent where max_slot_wal_keep_size is unlimited.",
    ),
    Definition("cdc_connector_running", "gauge", "0 or 1", "Whether connector and task are RUNNING."),
    Definition("cdc_connector_state", "gauge", "1", "State of connector and task in one word.", "state"),
    Definition(
        "cdc_connector_restarts_total", "counter", "times", "Times that a failed connector was started again."
    ),
    Definition("cdc_heartbeat_age_seconds", "gauge", "seconds", "Age of the heartbeat at the source."),
    # -- history and proof
    Definition(
        "cdc_backfill_slices", "gauge", "slices", "Slices of history by state, of all plans.", "state"
    ),
    Definition("cdc_backfill_rows", "gauge", "rows", "Narrow rows of slices that are done."),
    Definition(
        "cdc_backfill_rows_left", "gauge", "rows", "Narrow rows of slices that are not done; an estimate."
    ),
    Definition(
        "cdc_backfill_rows_per_second", "gauge", "rows/s", "Pace of the last minute; 0 while none runs."
    ),
    Definition(
        "cdc_backfill_eta_seconds",
        "gauge",
        "seconds",
        "Time left at that pace; absent while nothing moves and something is left.",
    ),
    Definition("cdc_ships", "gauge", "ships", "Ships that have wide tables."),
    Definition("cdc_verified_ships", "gauge", "ships", "Ships of which something is proven equal."),
    Definition(
        "cdc_verified_age_seconds",
        "gauge",
        "seconds",
        "Age of `verified_through` of the ship that is behind most; absent before the first verify.",
    ),
    Definition(
        "cdc_verify_required", "gauge", "0 or 1", "Whether a gap or a truncate demands a full verify."
    ),
)

CATALOGUE: Final = {entry.name: entry for entry in _ENTRIES}

STAGES: Final = ("consume", "decode", "hold", "apply", "commit")
RESULTS: Final = ("applied", "superseded", "overflow", "dead")
SLICE_STATES: Final = ("waiting", "running", "done", "failed")
