"""Small channel lists with hostile names, and plans of them."""

from __future__ import annotations

from typing import Any

from widetable.channel_map import ChannelList
from widetable.sampling import Sample
from widetable.schema_plan import SchemaPlan, plan_schema

HOSTILE = ('x"y;--', "100%s %b", "é" * 40, "xmin", "created_time", "_x", "", "a'b", "t\tab", "UPPER")
LISTS = (
    ChannelList(1, "auxiliary_systems", ("/v1/ab01//x", "/v1/ab01//y")),
    ChannelList(2, "engine_generator", ("/v1/me01//x", "/v1/me01//run")),
    ChannelList(3, "navigation_ship", HOSTILE),
)


def plan_of(*ships: str, **choices: Any) -> SchemaPlan:
    """A plan of the small lists for these ships."""
    return plan_schema(LISTS, Sample(ships), **choices)
