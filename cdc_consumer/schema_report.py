"""What `schema plan` says: the planned tables with their sizes, and what a person should look at first.

In: a proposal. Out: one dictionary, printed as JSON or as lines of text; both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from cdc_consumer.schema_planning import Proposal
from widetable.channel_map import column_name, place
from widetable.planner import PAGE_BYTES, TYPICAL_TEXT_BYTES, doubts, misfits
from widetable.sampling import Sample
from widetable.schema_plan import (
    ASSUMED_TYPE,
    PlannedChannel,
    SchemaPlan,
    System,
    conflicting_formats,
    unlisted_channels,
)
from widetable.splitting import fit_problems
from widetable.wide_table import ship_problems, table_name

SHOWN: Final = 10
"""Entries of a long list that the text shows; --json has them all."""

Report = dict[str, Any]


def schema_report(proposal: Proposal) -> Report:
    """Everything there is to say, as plain data.

    `problems` are what `schema apply` would refuse, `warnings` what it would not.
    """
    plan, sample, present = proposal.placed, proposal.sample, proposal.present
    problems = fit_problems(plan, present.registry.channel_ids if present.registry else ())
    tables = [_table(plan, sample, system, problems) for system in plan.systems]
    suffixes = sorted({str(system.reader_no) for system in plan.systems} | {s.suffix for s in plan.systems})
    registered = present.registry.ships if present.registry else ()
    ships = ship_problems([ship for ship in plan.ships if ship not in registered], suffixes, registered)
    return {
        "column_type": plan.column_type,
        "page_bytes": PAGE_BYTES,
        "sampled_since": sample.since.isoformat() if sample.since else None,
        "sampled_until": sample.until.isoformat() if sample.until else None,
        "ships": list(plan.ships),
        "tables": tables,
        "unknown_channels": _unknown(proposal),
        "waiting_ships": list(present.waiting_ships),
        "waiting_channels": list(present.waiting_channels),
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
        "foreign_tables": _names(proposal),
        "problems": [
            *ships,
            *_foreign(proposal),
            *(f"table {table['table']}: {text}" for table in tables for text in table["problems"]),
        ],
        "warnings": [
            *(f"table {table['table']}: {text}" for table in tables for text in table["warnings"]),
            *_collisions(proposal),
        ],
        "notes": list(present.notes),
    }


def _foreign(proposal: Proposal) -> list[str]:
    """Tables that stand where ours would, unless the plan takes them over."""
    count = len(proposal.present.foreign) - len(proposal.adopted)
    text = f"{count} of the tables wanted are there but not ours, such as {{}}: --adopt takes them over"
    return [text.format(_names(proposal)[0])] if count else []


def _names(proposal: Proposal) -> list[str]:
    return [f"{table.schema}.{table.name}" for table in proposal.present.foreign]


def _table(plan: SchemaPlan, sample: Sample, system: System, problems: Mapping[int, list[str]]) -> Report:
    size = plan.sizes()[system.table_no]
    channels = [channel for channel in plan.channels if channel.table_no == system.table_no]
    return {
        "table": system.suffix,
        "table_no": system.reader_no,
        "part": system.part or None,
        "name": system.name,
        "takes_other_channels": system.is_default,
        "tables": [table_name(ship_id, system.suffix) for ship_id in plan.ships],
        "view": [table_name(ship_id, str(system.reader_no)) for ship_id in plan.ships if system.part],
        "channels": len(channels),
        "channels_seen": sum(channel.channel_id in sample.channels for channel in channels),
        "columns": size.column_count,
        "typical_bytes": size.typical_bytes,
        "high_bytes": size.high_bytes,
        "worst_bytes": size.worst_bytes,
        "problems": problems.get(system.table_no, []),
        "warnings": [*([] if system.table_no in problems else misfits(size)), *doubts(size)],
    }


def _unknown(proposal: Proposal) -> list[Report]:
    sample = proposal.sample
    return [
        {"channel_id": channel_id, "table_no": table_no, "formats": dict(sample.channels[channel_id].formats)}
        for channel_id, table_no in sorted(unlisted_channels(proposal.plan, sample).items())
    ]


def _collisions(proposal: Proposal) -> list[str]:
    """Channels in no list that could not get a column, because another has it."""
    owner = {(c.table_no, c.column_name): c.channel_id for c in proposal.plan.channels}
    return [
        f"channel {channel_id} (in no list) would share column {column_name(channel_id)!r} of table {table_no}"
        f" with channel {owner[table_no, column_name(channel_id)]}: it would stay in overflow"
        for channel_id, table_no in sorted(unlisted_channels(proposal.plan, proposal.sample).items())
        if (table_no, column_name(channel_id)) in owner
    ]


def map_rows(proposal: Proposal) -> Iterator[dict[str, object]]:
    """The rows of a channel map: every channel of the plan, and those that are in no list yet."""
    placed, sample = proposal.placed, proposal.sample
    systems = {system.table_no: system for system in placed.systems}
    for channel in placed.channels:
        note = "taken for a decimal" if channel.assumed else ""
        yield _map_row(systems[channel.table_no], channel, sample, note)
    for channel_id, table_no in sorted(_newcomers(proposal).items()):
        seen = sample.channels.get(channel_id)
        column_type = (seen.column_type if seen else None) or ASSUMED_TYPE
        channel = PlannedChannel(
            channel_id,
            table_no,
            column_name(channel_id),
            "text" if placed.column_type == "text" else column_type,
            seen.text_bytes if seen else TYPICAL_TEXT_BYTES,
        )
        yield _map_row(systems[table_no], channel, sample, "in no list")


def _newcomers(proposal: Proposal) -> dict[str, int]:
    """Channels that are seen, or wait in overflow, and are in no list."""
    plan = proposal.plan
    waiting = {
        channel_id: place(channel_id, plan.rules, plan.default_table_no)
        for channel_id in proposal.present.waiting_channels
    }
    found = {**waiting, **unlisted_channels(plan, proposal.sample)}
    listed = {channel.channel_id for channel in plan.channels}
    return {channel_id: number for channel_id, number in found.items() if channel_id not in listed}


def _map_row(system: System, channel: PlannedChannel, sample: Sample, note: str) -> dict[str, object]:
    seen = sample.channels.get(channel.channel_id)
    formats = seen.formats if seen else {}
    notes = [note, "two formats" if len(formats) > 1 else "", "" if seen else "never seen"]
    return {
        "channel_id": channel.channel_id,
        "table_no": system.reader_no,
        "system": system.name,
        "column_name": channel.column_name,
        "column_type": channel.column_type,
        "formats": "; ".join(f"{name} {count}" for name, count in formats.items()),
        "typical_bytes": round(channel.text_bytes, 1),
        "note": "; ".join(part for part in notes if part),
    }


# -- for a person ---------------------------------------------------------------------------------------------


def report_lines(report: Report) -> Iterator[str]:
    """The report for a person."""
    yield f"Sample   {_period(report)}"
    yield f"Ships    {', '.join(report['ships']) or 'none: tables appear with the first ship'}"
    yield f"Columns  {report['column_type']}; a page holds {report['page_bytes']:,} bytes of a row"
    yield ""
    counts, sizes = (
        f"{'channels':>9}{'seen':>6}{'columns':>9}",
        f"{'typical B':>11}{'99.9 % B':>10}{'worst B':>9}",
    )
    yield f"{'table':<26}{counts}{sizes}  per row"
    for table in report["tables"]:
        name = f"{table['table']} {table['name']}{' *' if table['takes_other_channels'] else ''}"
        counts = f"{table['channels']:>9,}{table['channels_seen']:>6,}{table['columns']:>9,}"
        sizes = f"{table['typical_bytes']:>11,}{table['high_bytes']:>10,}{table['worst_bytes']:>9,}"
        yield f"{name:<26}{counts}{sizes}"
    yield "* takes channels that no list and no prefix rule names"
    if any(table["part"] for table in report["tables"]):
        yield "2p1 is the first part of table 2: readers see its parts as one, a view with the table's name"
    unknown = [f"{entry['channel_id']} -> table {entry['table_no']}" for entry in report["unknown_channels"]]
    yield from _section("Unknown channels (in no list), and the table they would join", unknown)
    yield from _section("Ships that wait in overflow: `schema apply` adds them", report["waiting_ships"])
    yield from _section(
        "Channels that wait in overflow: --write puts them into a map, `schema apply --map` adds them",
        report["waiting_channels"],
    )
    yield from _section("Channels with two formats", [_conflict(entry) for entry in report["conflicts"]])
    renamed = [f"{entry['channel_id']} -> column {entry['column']}" for entry in report["renamed_columns"]]
    yield from _section("Columns that can't have their channel's name", renamed)
    yield from _section("Channels never seen, taken for decimals", report["assumed_types"])
    yield from _section("Tables that are there already", report["foreign_tables"])
    yield from _section("Notes", report["notes"])
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
