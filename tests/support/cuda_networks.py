"""Tiny networks on the stand-in for a GPU, and the same networks on the host."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import ArrayLike, NDArray

from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import InputSpec, SegmentSpec, TensorSpec
from edge.cuda import get_runtime
from edge.cuda.base import ACTIVATIONS, decision_tensors
from edge.decision import NEVER, Prediction
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.frames.base import Frame, PixelFormat
from edge.inference.base import Slot
from edge.inference.classifier import Classifier
from edge.inference.host import HostBatch, HostSlot
from tests.support.cuda_stand_in import KernelNode, Node, World, require
from tests.support.networks import INPUT, compiled, random_images, write_precision

if TYPE_CHECKING:
    from edge.cuda.batch import CudaBatch
    from edge.cuda.slot import CudaSlot

IMAGES = InputSpec("image", "rgb", 3, 12, 12, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
ALIGNMENT = 256
"""Bytes to which TensorRT wants addresses aligned."""


class Network:
    """One of `networks`, on the host and on the stand-in."""

    def __init__(
        self,
        name: str,
        world: World,
        folder: Path,
        spec: InputSpec = INPUT,
        precision: str = "fp32",
        *,
        is_whole: bool = False,
    ) -> None:
        """Compile the network, or with `is_whole` the network without early exits as the only segment."""
        self.path, self.world = folder / name, world
        written_spec = write_precision(self.path, compiled(name, precision), precision)
        segments = (written_spec.whole,) if is_whole else written_spec.segments
        self.exits = len(segments)
        temperatures = tuple(0.5 + k for k in range(self.exits))
        labels = tuple(f"class {k}" for k in range(4))
        self.chain = ChainSpec(spec, labels, segments, temperatures)
        self.thresholds = tuple(0.3 + 0.05 * k for k in range(self.exits - 1))
        self.engines = [
            SessionEngine(world, onnxruntime.InferenceSession(self.path / segment.file), segment, f"segment {k}")
            for k, segment in enumerate(segments)
        ]

    def slot(self, mode: Any = "graph") -> "CudaSlot":
        """Return a slot on the stand-in."""
        from edge.cuda.slot import CudaSlot

        return CudaSlot(self.chain, self.engines, get_runtime(), mode)

    def batch(self, max_batch: int = 7) -> "CudaBatch":
        """Return a batch on the stand-in."""
        from edge.cuda.batch import CudaBatch

        return CudaBatch(self.chain, self.engines, get_runtime(), max_batch)

    def classifier(self) -> Classifier:
        """Return a classifier on the stand-in."""
        return Classifier(
            self.chain, self.engines, self.thresholds, device="cuda", load_batch_engines=lambda: self.engines
        )

    def host_slot(self) -> HostSlot:
        """Return a slot on the host."""
        return HostSlot(self.chain, self.load_host_engines(batch=1))

    def host_batch(self) -> HostBatch:
        """Return a batch on the host."""
        return HostBatch(self.chain, self.load_host_engines(batch=None))

    def load_host_engines(self, batch: int | None) -> list[Any]:
        """Return engines of ONNX Runtime."""
        return load_engines(self.path, self.chain.segments, OnnxRuntime(), batch=batch)


Networks = Callable[..., Network]
"""A name, and keyword arguments of `Network`, to a network on the stand-in."""


class SessionEngine:
    """A segment on the stand-in: ONNX Runtime on its memory, without the decision, as in an engine for a GPU."""

    activation_bytes, sync = 100, None

    def __init__(self, world: World, session: Any, spec: SegmentSpec, name: str) -> None:
        self.world, self.session, self.name = world, session, name
        self.node: type[Node] = KernelNode
        self.decided = decision_tensors(spec.exit_index)
        self.change_logits: Callable[[NDArray[np.float32]], Any] = lambda logits: None
        self.inputs, self.outputs = (
            [tensor for tensor in tensors if tensor.name not in self.decided]
            for tensors in (session.get_inputs(), session.get_outputs())
        )
        self.names = [tensor.name for tensor in self.outputs]

    def bind(self, addresses: dict[str, int]) -> Callable[[int], None]:
        run = self.bind_batch(addresses)
        return lambda stream: run(stream, 1)

    def bind_batch(self, addresses: dict[str, int]) -> Callable[[int, int], None]:
        for name in [ACTIVATIONS, *(tensor.name for tensor in (*self.inputs, *self.outputs))]:
            require(name in addresses, f"no address for {name}")
            require(addresses[name] % ALIGNMENT == 0, f"{name} is not aligned")

        def run(samples: int) -> None:
            inputs = {tensor.name: self._tensor(addresses, tensor, samples).copy() for tensor in self.inputs}
            self.world.array(addresses[ACTIVATIONS], np.uint8, self.activation_bytes)[:] = 255
            for tensor, value in zip(self.outputs, self.compute(inputs), strict=True):
                self._tensor(addresses, tensor, samples)[:] = value

        def enqueue(stream: int, samples: int) -> None:
            self.world.call(f"enqueue {self.name}")
            self.world.streams[stream].add(self.node(self.name, lambda _: run(samples)))

        return enqueue

    def compute(self, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs that an engine has."""
        names = {tensor.name for tensor in self.session.get_inputs()}
        inputs |= {name: np.full(1, NEVER, np.float32) for name in names.intersection(self.decided)}
        outputs = dict(zip(self.names, self.session.run(self.names, inputs), strict=True))
        self.change_logits(next(value for name, value in outputs.items() if name.startswith("logits")))
        return list(outputs.values())

    def _tensor(self, addresses: dict[str, int], tensor: Any, samples: int) -> NDArray[Any]:
        types = {"float": np.float32, "int8": np.int8, "int32": np.int32, "bool": np.bool_, "float16": np.float16}
        shape = [size if isinstance(size, int) else samples for size in tensor.shape]
        dtype = types[tensor.type.removeprefix("tensor(").removesuffix(")")]
        return self.world.array(addresses[tensor.name], dtype, int(np.prod(shape))).reshape(shape)


class ModuleEngine:
    """A segment on the stand-in: a torch module on its memory."""

    activation_bytes, sync = 0, None

    def __init__(self, world: World, module: Any, spec: Any) -> None:
        self.world, self.module, self.spec = world, module, spec

    def bind(self, addresses: dict[str, int]) -> Callable[[int], None]:
        def tensors(specs: Sequence[TensorSpec]) -> list[torch.Tensor]:
            shapes = [spec.sample_shape for spec in specs]
            arrays = [
                self.world.array(addresses[spec.name], spec.dtype, int(np.prod(shape)))
                for spec, shape in zip(specs, shapes, strict=True)
            ]
            return [torch.from_numpy(array.reshape(shape)) for array, shape in zip(arrays, shapes, strict=True)]

        def run(_: World) -> None:
            with torch.no_grad():
                results = self.module(*tensors(self.spec.inputs))
                for out, result in zip(tensors(self.spec.outputs), results, strict=True):
                    require((out.dtype, out.shape) == (result.dtype, result.shape), f"{result.dtype} {result.shape}")
                    out.copy_(result)

        return lambda stream: self.world.streams[stream].add(KernelNode("module", run))


def array_frames(count: int) -> list[Frame]:
    """Return frames for networks that read arrays, of small and large values."""
    images = random_images(count)
    return [Frame(image * np.float32(10.0 ** (k % 3 - 1)), PixelFormat.ARRAY) for k, image in enumerate(images)]


def image_batch(count: int) -> NDArray[np.float32]:
    """Return the same as a batch."""
    return np.stack([frame.pixels for frame in array_frames(count)])


def predict(slot: Slot, frame: Frame, thresholds: ArrayLike) -> Prediction:
    """Classify one frame."""
    slot.start(frame, np.array(thresholds, dtype=np.float32))
    return slot.result()


def predict_all(slot: Slot, frames: Sequence[Frame], thresholds: ArrayLike) -> list[tuple[int, int, float, float]]:
    """Return label index, exit index, and the confidence and probability, which a GPU rounds differently."""
    results = [predict(slot, frame, thresholds) for frame in frames]
    return [(p.label_index, p.exit_index, round(p.confidence, 5), round(p.probability, 5)) for p in results]
