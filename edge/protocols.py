"""The seams: what a new engine, slot or frame source has to offer. Tests put their stand-ins here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.decision import Decisions
from edge.manifest import SegmentSpec

if TYPE_CHECKING:
    from edge.classifier import Classifier


class Prediction(NamedTuple):
    """What the classifier says of one frame."""

    label: int
    confidence: float
    """Softmax probability of the label at the exit that answered; NaN where the network gave no number."""
    exit_index: int
    probability: float
    """The same at the exit's temperature: how often such answers are right."""


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """One segment to make an engine of, and where what is built goes."""

    segment: Path
    batch: int | None
    """Images at once; None leaves it free."""
    engine: Path
    """File to write the engine to."""
    layers: Path
    """File for the library's own description of the engine, where it has one."""
    timing_cache: Path
    """File in which kernels' timings are kept from one build to the next, where the library times any."""


class Engine(Protocol):
    """A segment made runnable by one inference library on one device."""

    def bind(self, tensors: Mapping[str, NDArray[Any]]) -> Callable[[], None]:
        """Tie arrays to the segment's inputs and outputs by name, once.

        Calling what is returned computes the outputs from the inputs in place, and allocates nothing. The caller
        keeps the arrays alive. One engine may be bound many times; two bindings may run at the same time.
        """

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute fresh outputs from inputs of any batch size; for engines built without a pinned batch."""


class DeviceEngine(Protocol):
    """A segment made runnable on a GPU, its tensors in the GPU's memory."""

    def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
        """Tie addresses to the segment's inputs and outputs by name, once; there may be more of them.

        Calling what is returned with a stream's handle enqueues the segment there, waits for nothing and allocates
        nothing. Two bindings may run at the same time, one of them on one stream only.

        Raises:
            EngineError: the library refuses an address.
        """

    def bind_batch(self, addresses: Mapping[str, int]) -> Callable[[int, int], None]:
        """Do the same for engines built without a pinned batch.

        What is returned is called with a stream's handle and the number of images at the addresses.
        """


class Backend(Protocol):
    """An inference library: makes engines out of segments."""

    name: str

    def device_key(self) -> dict[str, str]:
        """Return everything but the segment and the batch that a built engine depends on."""

    def build(self, order: BuildOrder, tell: Callable[[str], None]) -> None:
        """Build a segment's engine into the order's files, telling how far it is.

        Raises:
            EngineError: the library refuses the segment; the message says why.
        """

    def load(self, engine: Path, spec: SegmentSpec) -> Any:
        """Make a built engine runnable: an `Engine` or a `DeviceEngine`, whichever its slots take.

        Raises:
            EngineError: it cannot run on this machine.
        """

    def make_slot(self, classifier: "Classifier") -> "Slot":
        """Return a slot for a chain of this backend's engines.

        Raises:
            EngineError: there is no room for one.
        """

    def make_batch(self, classifier: "Classifier") -> "Batch":
        """Return what classifies many images at once; the classifier's engines must be built without a pinned batch.

        Raises:
            EngineError: there is no room for it.
        """


class FrameSource(Protocol):
    """Where frames come from."""

    is_live: bool
    """Whether frames come whether or not anybody takes them, as from a camera."""
    frames: int | None
    """How many there are, where that is known."""

    def read(self, out: NDArray[Any] | None) -> NDArray[Any] | None:
        """Return the next frame, in `out` where that fits; None after the last one.

        Raises:
            SourceError: the source broke.
        """

    def close(self) -> None:
        """Let go of the device or file. May be called twice."""


class Slot(Protocol):
    """One frame's preallocated buffers and the chain of segments bound to them."""

    frame: NDArray[Any] | None
    """Where the source writes; None before the first frame."""

    @property
    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Every tensor of the chain by name, batch 1. Those of segments that did not run are stale."""

    def load(self) -> None:
        """Preprocess `frame` into the chain's input, and take over the thresholds in force."""

    def infer(self) -> Prediction:
        """Run segments until an exit answers."""

    def close(self) -> None:
        """Let go of the memory; may be called twice."""


class Batch(Protocol):
    """The chain for many images at once: after each exit only those go on that did not leave."""

    def classify(self, images: NDArray[np.float32]) -> Decisions:
        """Classify preprocessed images, float32 of shape (images, channels, height, width).

        Raises:
            SourceError: they are of another shape or type, or hold NaN or infinite numbers.
            EngineError: they cannot be run, as where engines take one image only; or this was closed.
        """

    def close(self) -> None:
        """Let go of the memory and of what runs the engines; may be called twice."""
