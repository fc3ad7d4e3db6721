"""TensorRT for RTX: engines for RTX GPUs, which a machine without a GPU can build too."""

import re
from pathlib import Path

import tensorrt_rtx as trt

from edge.errors import EngineError
from edge.manifest import SegmentSpec
from edge.protocols import Engine

WORKSPACE_BYTES = 1 << 30
ANY_TARGET = "ampere and later"


class TensorRtRtx:
    """Builds segments for a compute capability; running them waits for the CUDA runtime."""

    name = "tensorrt-rtx"

    def __init__(self, target: str | None = None) -> None:
        """Choose the GPU to build for, such as `sm89`; None builds for all RTX GPUs from Ampere on.

        Raises:
            EngineError: this version does not build for that GPU.
        """
        self.target = target
        self._capability = _capability(target)

    def device_key(self) -> dict[str, str]:
        """Return what an engine depends on: the library's version and the GPUs it is for."""
        return {"version": str(trt.__version__), "target": self.target or ANY_TARGET}

    def build(self, segment: Path, batch: int | None) -> bytes:
        """Return the segment as a serialised engine."""
        log = _Log()
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(segment)):
            problems = "; ".join(_described(parser.get_error(index)) for index in range(parser.num_errors))
            raise EngineError(f"TensorRT-RTX {trt.__version__} cannot read {segment}: {problems}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
        config.add_optimization_profile(_profile(builder, network, batch))
        if self._capability is not None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(self._capability, 0)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise EngineError(
                f"TensorRT-RTX {trt.__version__} cannot build {segment} "
                f"for {self.target or ANY_TARGET}: {log.last_error}"
            )
        return bytes(engine)

    def load(self, engine: Path, spec: SegmentSpec) -> Engine:
        """Refuse: there is no CUDA runtime to run it with yet."""
        raise EngineError(
            f"{spec.file} is built for TensorRT-RTX, but running it needs an NVIDIA GPU and its runtime; "
            "run with --backend onnxruntime"
        )


class _Log(trt.ILogger):  # type: ignore[misc]  # the library has no types
    """Keeps the last error for our message, and the rest from the user."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.last_error = "it gave no reason"

    def log(self, severity: object, message: str) -> None:
        """Take what the library says."""
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.last_error = message


def _capability(target: str | None) -> object:
    if target is None:
        return None
    name = target.upper().replace("_", "")
    known = [name for name in trt.ComputeCapability.__members__ if re.fullmatch(r"SM\d+", name)]
    if name not in known:
        raise EngineError(
            f"TensorRT-RTX {trt.__version__} does not build for {target!r}; it builds for {', '.join(known).lower()}"
        )
    return getattr(trt.ComputeCapability, name)


def _profile(builder: trt.Builder, network: trt.INetworkDefinition, batch: int | None) -> trt.IOptimizationProfile:
    """Pin the batch, or let it range up to a few images."""
    smallest, usual, largest = (1, 8, 32) if batch is None else (batch,) * 3
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes = [tuple(size if known < 0 else known for known in tensor.shape) for size in (smallest, usual, largest)]
        profile.set_shape(tensor.name, *shapes)
    return profile


def _described(error: trt.ParserError) -> str:
    return f"node {error.node()} ({error.node_operator()}): {error.desc()}"
