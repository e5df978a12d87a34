"""A timestamp on the command line."""

from __future__ import annotations

import click

from widetable.moments import parse_moment


class MomentType(click.ParamType[int]):
    """A created_time as a person types it: ISO 8601, without a time zone."""

    name = "timestamp"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Microseconds since 1970."""
        try:
            return value if isinstance(value, int) else parse_moment(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
