"""One cell, exhaustively: every short history in every interleaving ends as the source, and each safeguard counts.

The figures are those of the model that the rule was designed with: a search that became weaker shows in them.
`test_rule_arrays` proves that the product's code and the rule searched here are one.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.property.model.cell import APPLY, IGNORE, Event, Rule
from tests.property.model.flows import (
    any_order,
    corrected,
    count,
    diverted,
    drained,
    folded,
    gap_backfilled,
    gap_resynced,
    placeholders,
    replayed_late,
)
from tests.property.model.histories import DELETE, PLACEHOLDER, histories
from tests.property.model.search import scenarios, search
from widetable.narrow import Op

ALL = list(histories(5))
SHORT = list(histories(4))
# The searches with more than one store are slow: five operations where somebody asks for it.
WIDER = ALL if os.environ.get("CDC_TEST_WIDER") else SHORT


@pytest.mark.parametrize("rule", [APPLY, IGNORE], ids=["deletes applied", "deletes ignored"])
def test_every_interleaving_of_stream_replays_and_slices_ends_as_the_source(rule: Rule) -> None:
    """Up to five operations, any slot start, two slices read at any time, two replays of any suffix."""
    found = search(scenarios(ALL), rule)
    assert (found.violating, found.scenarios) == (0, 8_648), found


@pytest.mark.parametrize(
    ("rule", "violating"),
    [
        pytest.param(replace(APPLY, tombstones=False), 87, id="a delete records no version"),
        pytest.param(replace(APPLY, update_versions=False), 171, id="an update records no version"),
        pytest.param(replace(APPLY, creates_only_fill=False), 592, id="a create overwrites"),
        pytest.param(replace(APPLY, reads_only_fill=False), 709, id="a slice overwrites"),
        pytest.param(replace(IGNORE, tombstones=False), 176, id="an ignored delete records no version"),
        pytest.param(replace(IGNORE, creates_replace_kept=False), 176, id="a create leaves what was kept"),
    ],
)
def test_no_safeguard_of_the_rule_can_be_left_out(rule: Rule, violating: int) -> None:
    """Each one off: the search finds histories that end wrong."""
    found = search(scenarios(SHORT), rule)
    assert (found.violating, found.scenarios) == (violating, 1_928), found


def test_a_slice_read_before_the_barrier_loses_a_row() -> None:
    """A commit just before the slot may be invisible to a snapshot that is taken too early."""
    found = search(scenarios(SHORT, barrier=False), APPLY)
    assert (found.violating, found.scenarios) == (88, 2_722), found


@pytest.mark.parametrize(("records", "violating"), [(False, 0), (True, 48)], ids=["no-op", "records"])
def test_a_placeholder_must_neither_change_nor_record(records: bool, violating: int) -> None:
    """A version without a value keeps the slice from filling the cell."""
    found = count(placeholders(histories(4, "cuUd" + PLACEHOLDER), record=records))
    assert (found.violating, found.scenarios) == (violating, 1_624), found


def last_versioned_and_create(events: list[Event]) -> list[Event]:
    """What a batch is folded to: its last update or delete, and the create after it."""
    last = max((i for i, event in enumerate(events) if event.op is not Op.CREATE), default=0)
    return events[last:]


def test_a_batch_folds_to_its_last_update_or_delete_and_the_create_after_it() -> None:
    """One batch anywhere in the history."""
    found = count(folded(ALL, last_versioned_and_create))
    assert found.violating == 0, found


def test_folding_to_the_last_event_alone_is_wrong() -> None:
    """A delete before a re-insert has to leave its version."""
    found = count(folded((history for history in SHORT if len(history) > 1), lambda events: events[-1:]))
    assert (found.violating, found.scenarios) == (10, 554), found


def test_the_order_of_a_cells_events_is_a_premise() -> None:
    """Any order goes wrong with re-inserts, and with them only."""
    found = count(any_order(SHORT))
    assert (found.violating, found.scenarios) == (54, 1_166), found
    once = [history for history in SHORT if sum(op in "cN" for op in history.ops) == 1]
    assert count(any_order(once)).violating == 0


def test_resync_heals_any_gap() -> None:
    """Read under the ledger lock, absence included, and then a suffix of the new epoch replayed."""
    found = count(gap_resynced(ALL))
    assert (found.violating, found.scenarios) == (0, 33_450), found


def test_resync_heals_any_gap_where_deletes_are_ignored() -> None:
    """Of cells that the source still has; of the others, a delete after the resync keeps the value."""
    found = count(gap_resynced((history for history in ALL if history.ops[-1] != DELETE), IGNORE))
    assert found.violating == 0, found
    assert found.scenarios > 20_000


def test_a_resync_that_reads_before_it_holds_the_ledger_loses_cells() -> None:
    """A row created in between has no version: the older absence wipes it out, and no replay brings it back."""
    found = count(gap_resynced(SHORT, locked=False))
    assert found.violating > 0, found
    assert found.scenarios > count(gap_resynced(SHORT)).scenarios


def test_what_the_source_does_after_a_correction_wins_and_nothing_else() -> None:
    """Also where the sample was missing and is inserted later; slices, older changes and replays leave it."""
    found = count(corrected(SHORT))
    assert (found.violating, found.scenarios) == (0, 2_994), found
    lasting = (history for history in SHORT if history.ops[-1] != DELETE)
    assert count(corrected(lasting, IGNORE)).violating == 0


def test_a_create_that_only_fills_leaves_the_correction_of_a_missing_sample() -> None:
    """The safeguard of the search above, off."""
    found = count(corrected(histories(2), replace(APPLY, creates_replace_corrected=False)))
    assert found.violating > 0, found


def test_backfill_does_not_heal_a_gap() -> None:
    """It fills holes; a lost update, delete or re-insert stays lost."""
    found = count(gap_backfilled(ALL))
    assert (found.violating, found.scenarios) == (547, 15_158), found


def test_a_pending_channel_is_drained_without_a_trace() -> None:
    """Overflow, early moves, the flip, a slice and a replay in every interleaving."""
    found = count(drained(WIDER))
    assert found.violating == 0, found
    assert found.scenarios >= 862


def test_versioned_cells_must_not_move_before_the_flip() -> None:
    """A delete that left overflow early makes a re-insert there look like an old copy."""
    assert count(drained(histories(3), versions_early=True)).violating > 0


def test_overflow_must_be_drained_before_its_column_takes_events() -> None:
    """What overflow took is older; applied after what the column got, it resurrects cells."""
    assert count(replayed_late(SHORT)).violating == 6


@pytest.mark.parametrize("rule", [APPLY, IGNORE], ids=["deletes applied", "deletes ignored"])
def test_values_that_do_not_fit_stand_in_overflow_and_nowhere_else(rule: Rule) -> None:
    """Every choice of misfits; column and overflow together always show the source's cell."""
    found = count(diverted(WIDER, rule))
    assert found.violating == 0, found
    assert found.scenarios >= 2_234


def test_a_misfit_update_must_void_its_column() -> None:
    """Else the column goes on showing the value before."""
    assert count(diverted(histories(3), voids=False)).violating > 0
