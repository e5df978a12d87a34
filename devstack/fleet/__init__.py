"""The fleet simulator: writes what ships send into the narrow table, as history and live.

`plan_fleet` says who sails, `write_history` copies the past, `LiveLoad` writes the present and changes both.
"""

from devstack.fleet.history import write_history
from devstack.fleet.live import LiveLoad
from devstack.fleet.plan import FleetPlan, Order, ValueFormat, plan_fleet
from devstack.fleet.report import HistoryReport, LiveReport
from devstack.fleet.script import CALM, Mix

__all__ = [
    "CALM",
    "FleetPlan",
    "HistoryReport",
    "LiveLoad",
    "LiveReport",
    "Mix",
    "Order",
    "ValueFormat",
    "plan_fleet",
    "write_history",
]
