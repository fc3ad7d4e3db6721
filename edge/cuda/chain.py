"""One slot's work on the GPU: a frame to input, segment after segment, each exit's answer noted where the host sees it.

Nothing here waits. What is enqueued on a stream runs at once; on a stream that a graph is captured from it becomes part
of that graph.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pycuda.driver as driver
from numpy.typing import NDArray

from edge.bundle.chain import ChainSpec
from edge.cuda.base import DeviceEngine
from edge.cuda.kernels import ANSWER, SAID, Kernels
from edge.cuda.memory import Buffers
from edge.cuda.preprocess_params import order_sizes, write_order
from edge.frames.base import Frame
from edge.frames.preprocess import ArrayPreprocess


class On(NamedTuple):
    """Where to enqueue."""

    target: Any
    """cuda.core's stream, or its builder of a graph that is captured from one."""
    handle: int
    """Of the stream."""


class Chain:
    """Memory for frames of one kind, and the segments bound to it.

    Attributes:
        frame: Where a picture is to be written before it is sent; None where the network reads arrays.
        answer: What the last exit that ran said: the host reads it when the stream is done.
        exits: Number of exits.
    """

    def __init__(
        self,
        spec: ChainSpec,
        engines: Sequence[DeviceEngine],
        kernels: Kernels,
        frame: Frame,
        *,
        uploads: bool,
    ) -> None:
        """Allocate everything and bind the segments.

        Args:
            spec: The segments.
            engines: These segments on the GPU.
            kernels: What they are joined with.
            frame: One of those that are to come.
            uploads: Whether frames are copied to the GPU, which shares no memory with the host.
        """
        self.exits = len(engines)
        self._spec, self._kernels = spec.input, kernels
        self._tensors = {
            tensor.name: tensor for segment in spec.segments for tensor in (*segment.inputs, *segment.outputs)
        }
        is_picture = spec.input.kind == "image"
        frame_bytes = {"frame": frame.pixels.size} if is_picture else {"image": self._tensors["image"].nbytes_of_one}
        sent = {f"threshold_{k}": 4 for k in range(self.exits - 1)} | frame_bytes
        self._buffers = Buffers(
            sent=sent,
            constant=said_sizes(self.exits) | (order_sizes(spec.input) if is_picture else {}),
            stays={name: tensor.nbytes_of_one for name, tensor in self._tensors.items() if name not in sent},
            told={"answer": ANSWER.itemsize},
            uploads=uploads,
        )
        self._addresses = self._buffers.addresses
        self._thresholds = [self._buffers.view(f"threshold_{k}", np.float32) for k in range(self.exits - 1)]
        self.answer = self._buffers.view("answer", ANSWER)
        self.frame: Frame | None = None
        if is_picture:
            self.frame = Frame(self._buffers.view("frame", np.uint8, frame.pixels.shape), frame.format)
        self._image = None if is_picture else self._buffers.view("image", np.float32, spec.input.shape)
        self._to_numbers = ArrayPreprocess(spec.input)
        try:
            if is_picture:
                write_order(self._buffers, frame, spec.input)
            write_said(self._buffers, spec)
            self._enqueue = [engine.bind(self._addresses) for engine in engines]
        except BaseException:
            self.close()
            raise

    def write(self, frame: Frame, thresholds: NDArray[np.float32]) -> None:
        """Put a frame and the thresholds in force where they are sent from."""
        if self._image is not None:
            self._to_numbers(frame, self._image)
        elif self.frame is not None and frame.pixels is not self.frame.pixels:
            np.copyto(self.frame.pixels, frame.pixels)
        self.set_thresholds(thresholds)

    def set_thresholds(self, thresholds: NDArray[np.float32]) -> None:
        """Put thresholds where they are sent from."""
        for buffer, value in zip(self._thresholds, thresholds, strict=True):
            buffer[0] = value

    def enqueue_constants(self, stream: driver.Stream) -> None:
        """Send what is said once, before anything else."""
        self._buffers.send_constants(stream)

    def enqueue_step(self, on: On, stream: driver.Stream, index: int) -> None:
        """Run a segment and note what its exit says; before the first, send the input."""
        if index == 0:
            self.enqueue_input(on, stream)
        self.enqueue_exit(on, index)

    def enqueue_input(self, on: On, stream: driver.Stream) -> None:
        """Send what was written, and make it the network's input."""
        self._buffers.send(stream)
        if self.frame is not None:
            places = self._addresses["order"], self._addresses["image"]
            self._kernels.preprocess(on.target, *places, self._spec.shape)

    def enqueue_exit(self, on: On, index: int, condition: Any = None) -> None:
        """Run a segment and note what its exit says; where there is a condition, set it to whether to go on."""
        self.enqueue_segment(on, index)
        said, answer = self._addresses[f"said_{index}"], self._addresses["answer"]
        if condition is None:
            self._kernels.answer(on.target, said, answer)
        else:
            self._kernels.answer_or_go_on(on.target, condition, said, answer)

    def enqueue_segment(self, on: On, index: int) -> None:
        """Run a segment alone."""
        self._enqueue[index](on.handle)

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return a copy of every tensor of the chain, when the stream is done; of segments not run they are stale."""
        return {
            name: self._buffers.fetched(name, spec.shape_of_one, spec.dtype) for name, spec in self._tensors.items()
        }

    def close(self) -> None:
        """Let go of the memory, while the GPU's context is current; may be called twice."""
        self.frame = self._image = None
        self.answer, self._thresholds = np.zeros(1, dtype=ANSWER), []
        self._buffers.close()


def said_sizes(exits: int) -> dict[str, int]:
    """Return the bytes of what the kernels are told of exits."""
    return {f"said_{index}": SAID.itemsize for index in range(exits)}


def write_said(buffers: Buffers, precision: ChainSpec) -> None:
    """Tell the kernels where each exit says what it says; `exit_index` counts the segments that are there."""
    at = buffers.addresses
    for index, (segment, temperature) in enumerate(zip(precision.segments, precision.temperatures, strict=True)):
        said, k = buffers.view(f"said_{index}", SAID), segment.exit_index
        for kind in ("label", "confidence", "logits"):
            said[kind] = at[f"{kind}_{k}"]
        said["exits"] = at.get(f"exit_{k}", 0)
        said["classes"] = next(spec.shape[-1] for spec in segment.outputs if spec.name == f"logits_{k}")
        said["exit_index"], said["inverse_temperature"] = index, 1 / temperature
