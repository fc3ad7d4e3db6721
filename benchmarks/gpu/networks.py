"""`python -m benchmarks cuda-torch`: networks in torch with random weights, as a chain and as plain torch code."""

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.gpu import pipeline
from benchmarks.gpu.chain import FRAMES, SHARES, WARM_UP
from benchmarks.gpu.segments import MODES, Outcome, Predictor, Series, Workload, latency_us, run_interleaved
from benchmarks.results import command_line, write_result
from compile.torch_tensorrt import torch_segments
from edge.bundle import tensors
from edge.bundle.chain import ChainSpec
from edge.bundle.manifest import InputSpec, SegmentSpec, TensorSpec
from edge.console import log
from edge.cuda import get_runtime
from edge.cuda.runtime import Runtime
from edge.decision import scores_from_logits
from edge.frames.base import Frame, PixelFormat
from edge.system import conditions
from edge.training.backbones import build_network
from edge.training.network import MultiExitNetwork

NETWORKS = {"cnn-small": 32, "resnet18": 224}
"""Backbones, and the height and width of their images."""
LOOP, WHOLE = "torch loop", "torch whole graph"
DEVICE = "cuda"
CHANNELS, CLASSES, IMAGES, PATCHES = 3, 10, 200, 4
LOGIT_STD = 2.0
"""Standard deviation of each logit over images: networks with random weights predict the same for all."""


@dataclass(frozen=True, slots=True)
class Example:
    """A network with images, given shares of which take each exit."""

    module: MultiExitNetwork
    spec: InputSpec
    thresholds: tuple[float, ...]
    images: list[Frame]

    def frames(self, count: int) -> list[Frame]:
        """Return `count` images, drawn with replacement."""
        return [self.images[k] for k in np.random.default_rng(0).integers(0, len(self.images), count)]


def example(backbone: str, size: int, shares: Sequence[float]) -> Example:
    """Return a reproducible example with images of `size` x `size` pixels."""
    generator = np.random.default_rng(0)
    patches = generator.normal(size=(IMAGES, CHANNELS, PATCHES, PATCHES))
    noise = generator.normal(scale=0.5, size=(IMAGES, CHANNELS, size, size))
    images = (np.kron(patches, np.ones((size // PATCHES,) * 2)) + noise).astype(np.float32)
    network = random_network(backbone, images[:32])
    confidence = scores_from_logits(_logits(network, images)).confidence
    spec = InputSpec("array", None, CHANNELS, size, size, (0.0,) * CHANNELS, (1.0,) * CHANNELS)
    frames = [Frame(image, PixelFormat.ARRAY) for image in images]
    return Example(network, spec, thresholds_for(confidence, shares), frames)


def random_network(backbone: str, images: NDArray[np.float32]) -> MultiExitNetwork:
    """Return a network with random weights, whose batch statistics and logits are standardised on the images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(backbone, CHANNELS, CLASSES).to(DEVICE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # cumulative average, here of a single batch
    with torch.no_grad():
        network.train()(torch.from_numpy(images).to(DEVICE))
        for head, logits in zip(network.heads, _logits(network.eval(), images), strict=True):
            classify: Any = head.classify
            mean, std = (torch.from_numpy(array).to(DEVICE) for array in (logits.mean(axis=0), logits.std(axis=0)))
            classify.bias.sub_(mean).mul_(LOGIT_STD / std)
            classify.weight.mul_((LOGIT_STD / std)[:, None])
    return network


def thresholds_for(confidence: NDArray[np.float32], shares: Sequence[float]) -> tuple[float, ...]:
    """Return thresholds with which these shares of samples take each exit; `confidence` is (exits, samples)."""
    active, thresholds = np.ones(confidence.shape[1], dtype=bool), []
    for k, share in enumerate(shares[:-1]):
        thresholds.append(float(np.quantile(confidence[k, active], 1 - share / sum(shares[k:]))))
        active &= confidence[k] < thresholds[-1]
    return tuple(thresholds)


@torch.no_grad()
def _logits(network: MultiExitNetwork, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits of shape (exits, samples, classes)."""
    batches = [network(batch.to(DEVICE)) for batch in torch.split(torch.from_numpy(images), 50)]
    return np.stack([torch.cat([out.logits for out in outs]).cpu().numpy() for outs in zip(*batches, strict=True)])


class TorchEngine:
    """A torch module as a `DeviceEngine`."""

    activation_bytes, sync = 0, None

    def __init__(self, module: nn.Module, spec: SegmentSpec) -> None:
        """Move a module to the GPU; its tensors are in the order of its specification."""
        self._module, self._spec = module.cuda().eval(), spec

    def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
        """Bind addresses to the module."""
        run, (inputs, outputs) = self._runner(), self._tensors(addresses, 1)
        return lambda stream: run(stream, inputs, outputs)

    def bind_batch(self, addresses: Mapping[str, int]) -> Callable[[int, int], None]:
        """Bind addresses to the module for any number of samples."""
        run = self._runner()
        return lambda stream, samples: run(stream, *self._tensors(addresses, samples))

    def _tensors(self, addresses: Mapping[str, int], samples: int) -> list[list[Tensor]]:
        groups, threshold = (self._spec.inputs, self._spec.outputs), tensors.threshold(self._spec.exit_index)
        return [
            [_tensor_at(addresses[spec.name], spec, 1 if spec.name == threshold else samples) for spec in specs]
            for specs in groups
        ]

    def _runner(self) -> Callable[[int, list[Tensor], list[Tensor]], None]:
        """Return the function that enqueues the module, with a memory pool of its own.

        torch reuses memory per stream handle, and the driver gives the handle of a closed stream to the next stream.
        """
        pool = torch.cuda.MemPool()

        def enqueue(stream: int, inputs: list[Tensor], outputs: list[Tensor]) -> None:
            torch._C._cuda_clearCublasWorkspaces()  # they are kept per stream handle, too
            external = torch.cuda.ExternalStream(stream)  # type: ignore[no-untyped-call]  # of torch
            with torch.no_grad(), torch.cuda.use_mem_pool(pool), torch.cuda.stream(external):
                for out, result in zip(outputs, self._module(*inputs), strict=True):
                    out.copy_(result)

        return enqueue


def _tensor_at(address: int, spec: TensorSpec, samples: int) -> Tensor:
    """Return memory of the GPU as a tensor of `samples` rows."""
    interface = {
        "data": (address, False),
        "shape": (samples, *spec.shape[1:]),
        "typestr": np.dtype(spec.dtype).str,
        "version": 3,
    }
    return torch.as_tensor(type("Memory", (), {"__cuda_array_interface__": interface})(), device="cuda")


def torch_workload(network: Example) -> Workload:
    """Return a network's own modules as a chain."""
    segments = list(torch_segments(network.module, network.spec))
    engines = [TorchEngine(segment.module, segment.spec) for segment in segments]
    labels = tuple(str(label) for label in range(CLASSES))
    chain = ChainSpec(network.spec, labels, tuple(segment.spec for segment in segments), (1.0,) * len(segments))
    return Workload(chain, engines, network.thresholds)


def eager_loop(network: MultiExitNetwork, thresholds: Sequence[float]) -> Predictor:
    """Return an eager loop over the exits that checks each confidence on the host."""
    stages: Any = network.backbone.stages
    limits = np.array(thresholds, dtype=np.float32).tolist()

    @torch.inference_mode()
    def predict(frame: Frame) -> Outcome:
        features = torch.from_numpy(frame.pixels)[None].to(DEVICE)
        for k, (stage, head) in enumerate(zip(stages, network.heads, strict=True)):
            features = stage(features)
            logits, _ = head(features)
            confidence, label = logits.softmax(dim=-1).max(dim=-1)
            if k == len(limits) or confidence.item() >= limits[k]:
                break
        return Outcome(k, int(label.item()))

    return predict


@torch.no_grad()
def whole_as_graph(network: MultiExitNetwork, shape: tuple[int, int, int]) -> Predictor:
    """Return the network without early exits as a CUDA graph of torch."""
    last = len(network.heads) - 1
    whole, image = network.truncated(last).eval(), torch.zeros(1, *shape, device="cuda")
    graph, warm_up = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]  # of torch
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):  # libraries initialise in the first calls, which a graph must not contain
        for _ in range(3):
            whole(image)
    torch.cuda.current_stream().wait_stream(warm_up)
    gc.collect()  # memory freed during a capture invalidates it
    with torch.cuda.graph(graph):
        label = whole(image)[0].logits.argmax(dim=-1)

    def predict(frame: Frame) -> Outcome:
        image.copy_(torch.from_numpy(frame.pixels)[None])
        graph.replay()
        return Outcome(last, int(label.item()))

    return predict


def run_torch(output: Path) -> None:
    """Write `cuda_torch.json`.

    Raises:
        EngineError: there is no GPU, or the chain fails.
    """
    runtime = get_runtime()
    result: dict[str, Any] = {
        "command": command_line(),
        "conditions": conditions() | {"gpu": runtime.facts},
        "what": f"random weights, kernels of torch {torch.__version__} on {runtime.facts['gpu']}, no TensorRT",
        "shares": SHARES,
        "frames": FRAMES,
        "pipeline": measure_pipeline(runtime),
    }
    write_result(output, result)  # kept if a larger network fails
    write_result(output, result | {"networks": compare_with_user_code(runtime, SHARES, FRAMES, WARM_UP)})
    log(f"wrote {output}")


def measure_pipeline(runtime: Runtime) -> dict[str, Any]:
    """Measure overlapping frames of the smallest network."""
    backbone, size = next(iter(NETWORKS.items()))
    network = example(backbone, size, SHARES)
    return pipeline.measure(runtime, torch_workload(network), network.frames(pipeline.FRAMES))


def compare_with_user_code(runtime: Runtime, shares: Sequence[float], frames: int, warm_up: int) -> dict[str, Any]:
    """Time the chain of each network beside user code for the same modules and frames."""
    results = {}
    for backbone, size in NETWORKS.items():
        log(f"{backbone} {size}x{size} in torch")
        network = example(backbone, size, shares)
        results[f"{backbone} {size}x{size}"] = _measure(runtime, network, network.frames(warm_up + frames), warm_up)
    return results


def _measure(runtime: Runtime, network: Example, frames: Sequence[Frame], warm_up: int) -> dict[str, Any]:
    workload = torch_workload(network)
    slots = {mode: workload.slot(runtime, mode) for mode in MODES}
    predictors: dict[str, Predictor] = {
        LOOP: eager_loop(network.module, network.thresholds),
        WHOLE: whole_as_graph(network.module, network.spec.shape),
        **{mode: workload.predictor(slot) for mode, slot in slots.items()},
    }
    with ExitStack() as stack:
        for slot in slots.values():
            stack.callback(slot.close)
        series = run_interleaved(predictors, frames, warm_up)
    waits = {mode: slot.syncs / len(frames) for mode, slot in slots.items()}
    return {"thresholds": network.thresholds, "waits_a_frame": waits, "ways": compare_predictors(series)}


def compare_predictors(series: Mapping[str, Series]) -> dict[str, Any]:
    """Return each predictor's times and exit shares, and its agreement with the loop."""
    loop, graph = series[LOOP], series["graph"]
    exits = range(int(series[WHOLE].exit_index[0]) + 1)
    result = {}
    for name, run in series.items():
        same = run.exit_index == loop.exit_index
        result[name] = {
            "latency_us": latency_us(run.us),
            "mean_over_graph": float(run.us.mean() / graph.us.mean()),
            "exit_shares": [float((run.exit_index == k).mean()) for k in exits],
            "same_exit_as_loop": float(same.mean()),
            "same_label_there": float((run.label_index == loop.label_index)[same].mean()) if same.any() else None,
        }
    return result
