"""One check of this machine."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem", "absent"]


@dataclass(frozen=True, slots=True)
class Check:
    """One capability."""

    name: str
    state: State
    """`warning`: usable, and the remedy improves it. `absent`: not there. `problem`: there, but unusable."""
    value: str
    remedy: str = ""
    """Command or advice for whatever is not `ok`."""

    @property
    def ok(self) -> bool:
        """True if nothing is to be done."""
        return self.state == "ok"

    @property
    def is_usable(self) -> bool:
        """True if the capability can be used as it is."""
        return self.state in ("ok", "warning")
