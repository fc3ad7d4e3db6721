"""The meters of this machine."""

from pathlib import Path

from edge.errors import UnavailableError
from edge.measure.power.base import Meters, Unavailable
from edge.measure.power.ina import find_ina
from edge.measure.power.nvml import find_nvml
from edge.measure.power.rapl import find_rapl


def find_meters(root: Path = Path("/")) -> Meters:
    """Return the meters that can be read, and the reasons of the others.

    Args:
        root: Folder that holds `sys`, for sensors that are read from files.

    Raises:
        UnavailableError: no meter can be read.
    """
    tried = [find_ina(root), find_nvml(), find_rapl(root)]
    unavailable = [meter for meter in tried if isinstance(meter, Unavailable)]
    if len(unavailable) == len(tried):
        raise UnavailableError(f"no meter of power or energy can be read here: {'; '.join(map(str, unavailable))}")
    return Meters(tuple(meter for meter in tried if not isinstance(meter, Unavailable)), tuple(unavailable))
