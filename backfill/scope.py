"""What a backfill is asked to copy: some ships and a range of moments. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from widetable.errors import ConfigurationError
from widetable.moments import moment_text


@dataclass(frozen=True, slots=True)
class Scope:
    """Ships (sorted) and a half-open range of moments in microseconds since 1970; None is no bound."""

    ships: tuple[str, ...]
    from_us: int | None = None
    until_us: int | None = None

    def __post_init__(self) -> None:
        """Refuse a range that holds nothing.

        Raises:
            ConfigurationError: the range is empty.
        """
        if self.from_us is not None and self.until_us is not None and self.from_us >= self.until_us:
            raise ConfigurationError(
                f"The range from {moment_text(self.from_us)} to {moment_text(self.until_us)} is empty:"
                " --from must lie before --cutoff-time."
            )

    @property
    def range_text(self) -> str:
        """The range in words."""
        start = "the beginning" if self.from_us is None else moment_text(self.from_us)
        end = "the end" if self.until_us is None else moment_text(self.until_us)
        return f"{start} to {end}"

    def same_range(self, other: Scope) -> bool:
        """Whether both cover the same moments."""
        return (self.from_us, self.until_us) == (other.from_us, other.until_us)

    def covers_range_of(self, other: Scope) -> bool:
        """Whether every moment of `other` is one of this scope."""
        lower = self.from_us is None or (other.from_us is not None and self.from_us <= other.from_us)
        upper = self.until_us is None or (other.until_us is not None and other.until_us <= self.until_us)
        return lower and upper

    def overlaps(self, other: Scope) -> bool:
        """Whether some ship has a moment in both."""
        apart = (
            self.until_us is not None and other.from_us is not None and self.until_us <= other.from_us
        ) or (other.until_us is not None and self.from_us is not None and other.until_us <= self.from_us)
        return not apart and not set(self.ships).isdisjoint(other.ships)


def choose_ships(wanted: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """The ships to copy: those asked for, or all that have wide tables.

    Raises:
        ConfigurationError: a ship that is not known, or none is.
    """
    if not known:
        raise ConfigurationError("The target has no ships yet: run `cdc-consumer schema apply` first.")
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise ConfigurationError(
            f"No wide tables for ship {', '.join(unknown)}. Known ships: {', '.join(sorted(known))}."
            " Run `cdc-consumer schema apply --ship-id …` to add one."
        )
    return tuple(sorted(set(wanted) or set(known)))
