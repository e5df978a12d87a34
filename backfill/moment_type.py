"""A timestamp on the command line."""

from __future__ import annotations

import click

from widetable.moments import parse_moment


class Moment(click.ParamType[int]):
    """A timestamp without time zone."""

    name = "timestamp"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Microseconds since 1970."""
        try:
            return value if isinstance(value, int) else parse_moment(str(value))
        except ValueError as error:
            self.fail(f"{value!r} is not a timestamp like 2025-01-31T08:00:00: {error}", param, ctx)
