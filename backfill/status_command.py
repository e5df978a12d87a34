"""`backfill status`: both databases, the hand-off, all plans with their slices, and what is proven.

In: settings. Out: text or JSON on stdout, once or again and again. Guarantee: a database that does not answer
shows its reason in place of its facts; nothing is changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from importlib.resources import files
from typing import Final

import click
from psycopg import sql

from backfill.app import read_proven, read_status
from backfill.failed_command import show_failed
from backfill.indexes import recorded, waiting_lines
from backfill.settings import Settings
from backfill.texts import status_json, status_text
from widetable import logs, state
from widetable.control import check_control
from widetable.environment import load
from widetable.hand_off import HandOff, read_hand_off
from widetable.part import Part, told
from widetable.postgres import Connection, connect_source, connect_target
from widetable.state import Facts
from widetable.state_text import lines
from widetable.statements import load_statements
from widetable.verify import verified_summary
from widetable.watching import show, watch_options

SLOT: Final = load_statements(files("backfill") / "sql" / "source.sql")["slot"]


@click.command()
@watch_options
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.option("--failed", is_flag=True, help="Only the slices that were given up.")
@click.option("--csv", "as_csv", is_flag=True, help="With --failed: as the file that `backfill retry` reads.")
def status(*, as_json: bool, failed: bool, as_csv: bool, watch: bool, interval: float) -> None:
    """Show all plans with their slices, why slices failed, and how far the ships are verified."""
    settings = load(Settings)
    logs.configure(settings.log)
    if failed or as_csv:
        show_failed(settings, failed=failed, as_csv=as_csv, as_json=as_json)
        return
    indent = None if watch else 2
    look = (lambda: json.dumps(as_data(settings), indent=indent)) if as_json else (lambda: as_text(settings))
    show(look, watch=watch, interval=interval, plain=as_json)


def as_data(settings: Settings) -> Facts:
    """Everything, for a machine."""
    return {
        **facts(settings),
        "plans": told(lambda: {"all": status_json(read_status(settings))}).get("all", []),
        "deferred_indexes": told(lambda: {"all": [index.name for index in recorded(settings)]}).get(
            "all", []
        ),
    }


def as_text(settings: Settings) -> str:
    """Everything, for a person: a line for each part, then the plans."""
    plans = told(lambda: {"text": "\n".join(["", *_plan_lines(settings)])})
    return "\n".join([*lines(facts(settings)), plans.get("text", "")])


def _plan_lines(settings: Settings) -> list[str]:
    return [status_text(read_status(settings)), *waiting_lines(settings), read_proven(settings)]


def facts(settings: Settings) -> Facts:
    """The databases, hand-off and slot, all history together, cells that are elsewhere, and what is proven."""
    name = settings.pipeline.name
    with ExitStack() as stack:
        source = Part("the source database", lambda: _open_source(settings, stack))
        target = Part("the target database", lambda: _open_target(settings, stack))
        looks: dict[str, Callable[[], Facts]] = {
            "source": lambda: state.server_facts(source()),
            "target": lambda: state.server_facts(target()) | {"sessions": state.session_count(target())},
            "hand_off": lambda: state.hand_off_facts(read_hand_off(target(), name), name),
            "slot": lambda: _slot(source(), read_hand_off(target(), name)),
            "history": lambda: state.history_facts(state.read_plans(target(), name)),
            "cells": lambda: state.cell_facts(target(), name),
            "verified": lambda: verified_summary(target(), name),
        }
        return {part: told(look) for part, look in looks.items()}


def _open_source(settings: Settings, stack: ExitStack) -> Connection:
    return stack.enter_context(connect_source(settings.source, "backfill status"))


def _open_target(settings: Settings, stack: ExitStack) -> Connection:
    target = stack.enter_context(connect_target(settings.target, "backfill status"))
    check_control(target, settings.target.control_schema)
    return target


def _slot(source: Connection, hand_off: HandOff | None) -> Facts:
    """The slot's WAL; the live side's `status` knows more of it."""
    if hand_off is None or hand_off.ended:
        return {"state": "no hand-off"}
    row = source.execute(sql.SQL(SLOT).format(slot=hand_off.slot)).fetchone()
    if row is None:
        return {"name": hand_off.slot, "state": "missing, or the source is a standby"}
    retained, budget = row
    return state.slot_facts(hand_off.slot, "there", retained or 0, budget)
