"""Interfaces to implement for an inference library: a backend builds segments into engines and loads them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from edge.bundle.manifest import SegmentSpec

DeviceKind = Literal["cpu", "cuda"]
OnPhase = Callable[[str], None]
"""Receives a description of a build's current phase."""


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """A segment to build, and the files to write, in one folder, which is removed if the build is killed."""

    segment: Path
    batch: int | None
    """Samples per call; None for any number."""
    engine: Path
    layers: Path
    """File for the library's description of the engine's layers, if it has one."""
    timing_cache: Path
    """File with the kernel timings of earlier builds, if any, for those of this build."""


class Engine(Protocol):
    """A segment made runnable by one inference library on the CPU."""

    def bind(self, tensors: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """Bind arrays to the segment's inputs and outputs by name, once.

        Calling the result computes the outputs from the inputs in place, and allocates nothing. The caller keeps the
        arrays alive. One engine may be bound many times; bindings may run at the same time.
        """

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute fresh outputs from inputs of any batch size, for engines built without a pinned batch."""


class Backend(Protocol):
    """An inference library."""

    name: str
    device: DeviceKind
    """Memory of the engines' tensors: `cpu` loads an `Engine`, `cuda` an `edge.cuda.base.DeviceEngine`."""

    def device_key(self) -> dict[str, str]:
        """Return the properties, besides segment and batch, that a built engine depends on."""

    def build(self, order: BuildOrder, on_phase: OnPhase) -> None:
        """Build a segment's engine into the order's files.

        Raises:
            EngineError: the library refuses the segment; the message has the reason.
        """

    def load(self, engine: Path, spec: SegmentSpec) -> Any:
        """Load a built engine.

        Raises:
            EngineError: the engine cannot run on this machine.
        """
