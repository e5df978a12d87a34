"""What `schema plan` says: the planned tables with their sizes, and what a person should look at first.

In: plan and sample. Out: one dictionary, printed as JSON or as lines of text; both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from widetable.planner import PAGE_BYTES, doubts, misfits
from widetable.sampling import Sample
from widetable.schema_plan import SchemaPlan, System, conflicting_formats, unlisted_channels
from widetable.wide_table import ship_problems, table_name

SHOWN: Final = 10
"""Entries of a long list that the text shows; --json has them all."""

Report = dict[str, Any]


def schema_report(plan: SchemaPlan, sample: Sample) -> Report:
    """Everything there is to say, as plain data.

    `problems` are what `schema apply` would refuse, `warnings` what it would not.
    """
    tables = [_table(plan, sample, system) for system in plan.systems]
    ships = ship_problems(plan.ships, [system.table_no for system in plan.systems])
    return {
        "column_type": plan.column_type,
        "page_bytes": PAGE_BYTES,
        "sampled_since": sample.since.isoformat() if sample.since else None,
        "sampled_until": sample.until.isoformat() if sample.until else None,
        "ships": list(plan.ships),
        "tables": tables,
        "unknown_channels": _unknown(plan, sample),
        "conflicts": [
            {"channel_id": channel_id, "formats": dict(formats)}
            for channel_id, formats in sorted(conflicting_formats(sample).items())
        ],
        "renamed_columns": [
            {"channel_id": channel.channel_id, "column": channel.column_name}
            for channel in plan.channels
            if channel.channel_id != channel.column_name
        ],
        "assumed_types": [channel.channel_id for channel in plan.channels if channel.assumed],
        "problems": [
            *ships,
            *(f"table {table['table_no']}: {text}" for table in tables for text in table["problems"]),
        ],
        "warnings": [f"table {table['table_no']}: {text}" for table in tables for text in table["warnings"]],
    }


def _table(plan: SchemaPlan, sample: Sample, system: System) -> Report:
    size = plan.sizes()[system.table_no]
    channels = [channel for channel in plan.channels if channel.table_no == system.table_no]
    return {
        "table_no": system.table_no,
        "name": system.name,
        "takes_other_channels": system.is_default,
        "tables": [table_name(ship_id, system.table_no) for ship_id in plan.ships],
        "channels": len(channels),
        "channels_seen": sum(channel.channel_id in sample.channels for channel in channels),
        "columns": size.column_count,
        "typical_bytes": size.typical_bytes,
        "worst_bytes": size.worst_bytes,
        "problems": misfits(size),
        "warnings": doubts(size),
    }


def _unknown(plan: SchemaPlan, sample: Sample) -> list[Report]:
    return [
        {"channel_id": channel_id, "table_no": table_no, "formats": dict(sample.channels[channel_id].formats)}
        for channel_id, table_no in sorted(unlisted_channels(plan, sample).items())
    ]


def report_lines(report: Report) -> Iterator[str]:
    """The report for a person."""
    yield f"Sample   {_period(report)}"
    yield f"Ships    {', '.join(report['ships']) or 'none: tables appear with the first ship'}"
    yield f"Columns  {report['column_type']}; a page holds {report['page_bytes']:,} bytes of a row"
    yield ""
    yield f"{'table':<26}{'channels':>9}{'seen':>6}{'columns':>9}{'typical B':>11}{'worst B':>9}  per row"
    for table in report["tables"]:
        name = f"{table['table_no']} {table['name']}{' *' if table['takes_other_channels'] else ''}"
        counts = f"{table['channels']:>9,}{table['channels_seen']:>6,}{table['columns']:>9,}"
        yield f"{name:<26}{counts}{table['typical_bytes']:>11,}{table['worst_bytes']:>9,}"
    yield "* takes channels that no list and no prefix rule names"
    unknown = [f"{entry['channel_id']} -> table {entry['table_no']}" for entry in report["unknown_channels"]]
    yield from _section("Unknown channels (in no list), and the table they would join", unknown)
    yield from _section("Channels with two formats", [_conflict(entry) for entry in report["conflicts"]])
    renamed = [f"{entry['channel_id']} -> column {entry['column']}" for entry in report["renamed_columns"]]
    yield from _section("Columns that can't have their channel's name", renamed)
    yield from _section("Channels never seen, taken for decimals", report["assumed_types"])
    yield from _section("Warnings", report["warnings"])
    yield from _section("Problems: `schema apply` would refuse this", report["problems"])


def _period(report: Report) -> str:
    if report["sampled_until"] is None:
        return "none: the source has no samples"
    return f"{report['sampled_since']} to {report['sampled_until']}"


def _conflict(entry: Report) -> str:
    counts = ", ".join(f"{name} {count:,}" for name, count in entry["formats"].items())
    return f"{entry['channel_id']}: {counts} samples"


def _section(title: str, entries: list[str]) -> Iterator[str]:
    if not entries:
        return
    yield ""
    yield f"{title}: {len(entries):,}"
    yield from (f"  {entry}" for entry in entries[:SHOWN])
    if len(entries) > SHOWN:
        yield f"  and {len(entries) - SHOWN:,} more (--json lists them)"
