"""Faults that the predecessor had, as far as history goes: each must not come back.

Failed chunks marked done: `test_failed_chunks_are_not_done_until_their_data_is_there` in test_backfill_retry.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backfill_world import SHIPS, START, World
from widetable.errors import ExitCode

pytest_plugins = ["tests.backfill_fixture"]
pytestmark = pytest.mark.postgres


def test_the_failed_insert_of_one_table_leaves_its_slice_undone_in_all(
    emptied: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The predecessor called such a chunk completed. Here all tables of a slice are there, or none is."""
    monkeypatch.setenv("CDC_BACKFILL__ATTEMPTS", "1")
    emptied.fill(4)
    emptied.hand_off(barrier_xid=3)
    table = emptied.wide_table(SHIPS[0], 2).as_string()
    emptied.target.execute(
        f"ALTER TABLE {table} ADD CONSTRAINT refused CHECK (created_time <> '{START}')".encode()
    )
    try:
        assert emptied.backfill("run") == ExitCode.PARTIAL
        assert "slices failed" in capsys.readouterr().err
        assert emptied.states()["failed"] == 1
        assert not [key for key in emptied.wide_cells() if key[1] == START]
    finally:
        emptied.target.execute(f"ALTER TABLE {table} DROP CONSTRAINT refused".encode())
    assert emptied.backfill("retry") == ExitCode.DONE
    assert emptied.wide_cells() == emptied.narrow_cells()


def test_progress_is_kept_in_the_target_and_in_no_file(
    emptied: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The predecessor wrote text files, not atomically. Another machine goes on with what the ledger says."""
    emptied.fill(8)
    emptied.hand_off(barrier_xid=3)
    for machine in ("first", "second"):
        (tmp_path / machine).mkdir()
        monkeypatch.chdir(tmp_path / machine)
        assert emptied.backfill("run") == ExitCode.DONE
        assert [path for path in Path.cwd().iterdir() if not path.name.startswith(".coverage")] == []
    assert "nothing to do" in capsys.readouterr().err
    assert set(emptied.states()) == {"done"}
