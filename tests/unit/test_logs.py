"""Logs: one line of JSON per event where a machine reads them, and nothing on stdout."""

import json

import pytest
import structlog

from widetable.logs import LogSettings, configure


def test_off_a_terminal_each_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Multi-line values must not break a log collector."""
    configure(LogSettings())
    structlog.get_logger().info("two\nlines", partition=3)
    shown = capsys.readouterr()
    assert shown.out == ""
    event = json.loads(shown.err)
    assert (event["event"], event["partition"], event["level"]) == ("two\nlines", 3, "info")
    assert shown.err.count("\n") == 1


def test_what_is_less_severe_than_asked_for_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """`CDC_LOG__LEVEL=warning` is quiet."""
    configure(LogSettings(level="warning", format="console"))
    structlog.get_logger().info("chatter")
    structlog.get_logger().warning("trouble", why="because")
    shown = capsys.readouterr().err
    assert "chatter" not in shown
    assert "trouble" in shown
    assert "why" in shown
