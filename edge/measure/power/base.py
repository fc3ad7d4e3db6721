"""Interface of meters, and their common implementation: rails that are read one after the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Literal, NamedTuple, Protocol

from edge.errors import DataError

Quantity = Literal["power_mw", "energy_mj"]
"""Mean power since the sensor's last update, or a counter of energy."""

ReadRail = Callable[[], float]
"""Reads a rail's value; raises OSError or ValueError where the sensor has none."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A meter or rail without a value, and the reason."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Total:
    """The rails whose sum is a meter's total."""

    rails: tuple[str, ...]
    scope: str
    """The part of the machine that they supply."""


class Sample(NamedTuple):
    """Values of a meter's rails, read at once."""

    time_s: float
    """Time of the monotonic clock, which does not follow changes of the date."""
    values: Mapping[str, float]
    errors: Mapping[str, str]
    """Reasons of the rails that have no value."""


class Meter(Protocol):
    """One sensor, or several that are read together."""

    @property
    def name(self) -> str:
        """Name that is unique on this machine."""

    @property
    def quantity(self) -> Quantity:
        """Quantity of every rail."""

    @property
    def rails(self) -> Sequence[str]:
        """Names of the rails, as the sensor has them."""

    @property
    def total(self) -> Total | Unavailable:
        """The rails that sum to the total, or the reason why none do."""

    def restart(self) -> None:
        """Begin a new series: a counter may have wrapped or been reset since the last reading."""

    def read(self) -> Sample:
        """Read all rails. Called from one thread."""


class Meters(NamedTuple):
    """The meters of a machine."""

    readable: tuple[Meter, ...]
    unavailable: tuple[Unavailable, ...] = ()
    """Meters that cannot be read."""


@dataclass(frozen=True)
class RailMeter:
    """A meter with a function for each rail."""

    name: str
    quantity: Quantity
    readers: Mapping[str, ReadRail]
    total: Total | Unavailable
    restart: Callable[[], None] = lambda: None
    """Begins a new series of readings."""

    def __post_init__(self) -> None:
        """Check the total.

        Raises:
            DataError: it names a rail that is not read.
        """
        unknown = set(self.total.rails) - set(self.readers) if isinstance(self.total, Total) else set()
        if unknown:
            raise DataError(
                f"the total of {self.name} has no rail {min(unknown)}; give some of {', '.join(self.readers)}"
            )

    @property
    def rails(self) -> Sequence[str]:
        """Names of the rails."""
        return tuple(self.readers)

    def read(self) -> Sample:
        """Read one rail after the other; the time is the middle of that."""
        values, errors = {}, {}
        started_s = monotonic()
        for rail, read in self.readers.items():
            try:
                values[rail] = read()
            except (OSError, ValueError) as error:
                errors[rail] = reason(error)
        return Sample((started_s + monotonic()) / 2, values, errors)


def readable(meter: Meter) -> Meter | Unavailable:
    """Return the meter if at least one of its rails has a value now, else the reason of the first."""
    sample = meter.read()
    return meter if sample.values else Unavailable(meter.name, next(iter(sample.errors.values())))


def reason(error: OSError | ValueError) -> str:
    """Return an error's text with the remedy where permission is missing."""
    if isinstance(error, PermissionError):
        return f"permission denied: {error.filename}; run as root, or let root make it readable for you"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return str(error)
