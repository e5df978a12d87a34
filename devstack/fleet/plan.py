"""Who sails and what they measure: ships, channels, formats.

In: a number of ships and the channel lists of the repository. Out: a `FleetPlan`. Guarantee: a channel's
format depends on its id alone, so any two runs, whatever their seeds, agree about every channel.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from widetable.errors import ConfigurationError

ValueFormat = Literal["Decimal", "Integer", "String", "Boolean"]
Order = Literal["moment", "channel"]
ORDERS: Final[tuple[Order, ...]] = get_args(Order)

STEP_S: Final = 15
MOMENTS_PER_BURST: Final = 4

CHANNEL_FOLDER: Final = Path(__file__).resolve().parents[2] / "channels"
DEFAULT_SHIPS: Final = (
    "IMO9976903",
    "IMO9976915",
    "IMO9976927",
    "IMO9976939",
    "IMO9986051",
    "IMO9986063",
    "IMO9986087",
    "IMO9986104",
)

# Strangers are in no list: the first two share a prefix with known channels, the last one with none.
UNKNOWN_CHANNELS: Final = (
    "/hs4sd_v1/ge09////kw/power",
    "/hs4sd_v1/vdr////ice/mode",
    "/hs5xx_v2/battery01////per/soc",
)

_FORMATS_BY_ENDING: Final[dict[str, tuple[ValueFormat, ...]]] = {
    "run": ("Boolean",),
    "status": ("Boolean",),
    "stat": ("Integer", "Boolean"),
    "mode": ("String", "Integer", "Boolean"),
    "code": ("String",),
    "hour": ("Integer",),
    "eta": ("Integer",),
    "point": ("Integer",),
}
_INTEGER_PERCENT: Final = 3  # of the other channels: counters and raw readings


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """A fleet whose samples follow from its seed.

    Attributes:
        ships: ship ids, as they stand in `ship_id`.
        channels: data channel ids.
        formats: the value format of each channel, parallel to `channels`.
        seed: same seed, same samples.
        order: how a collector writes a burst: moment by moment, or channel by channel with all its moments.
    """

    ships: tuple[str, ...]
    channels: tuple[str, ...]
    formats: tuple[ValueFormat, ...]
    seed: int
    order: Order

    @property
    def rows_per_second(self) -> float:
        """Samples a second in real time, before gaps."""
        return len(self.ships) * len(self.channels) / STEP_S

    def generator(self, ship: int, minute: int, purpose: str = "samples") -> np.random.Generator:
        """The generator of one ship's minute; it depends on the ship's id, not on the size of the fleet."""
        return np.random.default_rng([self.seed, stable_hash(self.ships[ship]), minute, stable_hash(purpose)])

    def with_strangers(self) -> FleetPlan:
        """This plan plus one ship and three channels nobody has seen; the indices of the others stay."""
        return dataclasses.replace(
            self,
            ships=(*self.ships, unknown_ship(self.ships)),
            channels=(*self.channels, *UNKNOWN_CHANNELS),
            formats=(*self.formats, *map(value_format, UNKNOWN_CHANNELS)),
        )


def plan_fleet(
    ships: int = len(DEFAULT_SHIPS),
    *,
    seed: int = 1,
    order: Order = "moment",
    channels: Sequence[str] | None = None,
    channel_folder: Path = CHANNEL_FOLDER,
) -> FleetPlan:
    """Plan a fleet of `ships` ships with the given channels, or with those of the lists in `channel_folder`.

    Raises:
        ConfigurationError: no ship, or no readable channel list.
    """
    if ships < 1:
        raise ConfigurationError(f"A fleet of {ships} ships can't sail; ask for at least one.")
    ids = tuple(channels) if channels is not None else read_channels(channel_folder)
    return FleetPlan(ship_ids(ships), ids, tuple(map(value_format, ids)), seed, order)


def read_channels(folder: Path) -> tuple[str, ...]:
    """Read the channel ids of all `*.txt` in `folder`, file by file, without doubles.

    Raises:
        ConfigurationError: the folder has no readable list with a channel in it.
    """
    try:
        lines = [
            line for file in sorted(folder.glob("*.txt")) for line in file.read_text("utf-8").splitlines()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"A channel list in {folder} can't be read ({error}); mend or remove it."
        ) from error
    ids = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not ids:
        raise ConfigurationError(f"No channel lists (*.txt, one id a line) in {folder}; name their folder.")
    return ids


def value_format(channel: str) -> ValueFormat:
    """The format of a channel: by its ending, and among several by a hash of its id."""
    digest = stable_hash(channel)
    by_ending = _FORMATS_BY_ENDING.get(channel.rpartition("/")[2])
    if by_ending is not None:
        return by_ending[digest % len(by_ending)]
    return "Integer" if digest % 100 < _INTEGER_PERCENT else "Decimal"


def ship_ids(count: int) -> tuple[str, ...]:
    """The well-known ships, then as many more with valid IMO numbers as are asked for."""
    return (*DEFAULT_SHIPS[:count], *(imo_number(900_000 + i) for i in range(count - len(DEFAULT_SHIPS))))


def unknown_ship(ships: Sequence[str]) -> str:
    """A ship id that is not among `ships`."""
    serial = 860_000
    while imo_number(serial) in ships:
        serial += 1
    return imo_number(serial)


def imo_number(serial: int) -> str:
    """`IMO`, six digits and the check digit that the IMO scheme puts behind them."""
    digits = f"{serial:06d}"
    check = sum(int(digit) * weight for digit, weight in zip(digits, range(7, 1, -1), strict=True)) % 10
    return f"IMO{digits}{check}"


def stable_hash(text: str) -> int:
    """A hash that, unlike Python's own, is the same in every process."""
    return zlib.crc32(text.encode())
