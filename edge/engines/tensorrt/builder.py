"""Segment to TensorRT or TensorRT-RTX engine, built in the calling process.

The same code supports TensorRT 10.3 to 11 and TensorRT-RTX 1. The ONNX file defines the precision, which strongly typed
networks keep.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edge.bundle import tensors
from edge.cuda.base import MAX_BATCH, decision_tensors
from edge.engines.base import BuildOrder, OnPhase
from edge.engines.tensorrt.logger import error_logger
from edge.errors import EngineError

WORKSPACE_BYTES = 1 << 30
DYNAMIC_BATCH = (1, 8, MAX_BATCH)
"""Minimum, optimum and maximum batch of the optimization profile for any batch."""
OPTIONS = {
    "workspace_bytes": str(WORKSPACE_BYTES),
    "free_batch": str(DYNAMIC_BATCH),
    "outputs": "cuts and logits",
    "formats": "linear",
    "revision": "2",
}
"""Part of an engine's cache key. Raise the revision when the network or the config is prepared differently."""
MAX_EXITS = 64
"""Exits whose tensors are looked up by name."""


@dataclass(frozen=True, slots=True)
class TensorRtBuild:
    """A build order with the library and the GPU to build for. Picklable, for the build process."""

    library: str
    """The module: `tensorrt` or `tensorrt_rtx`."""
    target: str | None
    """Compute capability, such as `SM89`; None builds for the library's default."""
    order: BuildOrder

    @property
    def description(self) -> str:
        """The segment and the target, for messages."""
        target = f" for {self.target.lower()}" if self.target else ""
        return f"{self.order.segment}{target}"

    def run(self, on_phase: OnPhase) -> None:
        """Build the engine in this process; see `edge.engines.subprocess_build.Build`."""
        build_engine(self, on_phase)

    def failure(self, reason: str) -> EngineError:
        """Return the error for an exception of the library."""
        return build_error(self, f"cannot build {self.description}", reason)


def build_engine(build: TensorRtBuild, on_phase: OnPhase) -> None:
    """Build a segment's engine into the order's files.

    Raises:
        EngineError: the library refuses the segment.
    """
    trt = importlib.import_module(build.library)
    log = error_logger(trt)
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # pybind11 raises it if the library returns no builder
        raise build_error(build, "cannot create a builder", log.last_error) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, log, build)
    prepare_network(trt, network, build.order.batch)
    config = create_config(trt, builder, network, log, build)
    config.progress_monitor = _progress_monitor(trt, on_phase)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise build_error(build, f"cannot build {build.description}", log.last_error)
    build.order.engine.write_bytes(bytes(engine))
    _save_timing_cache(config, build)
    _write_layers(trt, log, build)


def prepare_network(trt: ModuleType, network: Any, batch: int | None) -> None:
    """Reduce a parsed segment to the tensors that a chain on a GPU exchanges, in linear layout and with a fixed batch.

    A kernel of ours takes the exit decision from the logits, so TensorRT removes the layers of the decision and of the
    attention map, about ten per exit. By default a parsed tensor may have any of TensorRT's formats, some of which are
    larger than the buffers. Static shapes need no optimization profile, and their kernels are compiled at once.
    """
    _remove_decision(network)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for tensor in (*inputs, *(network.get_output(index) for index in range(network.num_outputs))):
        tensor.allowed_formats = 1 << int(trt.TensorFormat.LINEAR)
    if batch is not None:
        for tensor in inputs:
            tensor.shape = tuple(batch if size < 0 else size for size in tensor.shape)


def create_config(trt: ModuleType, builder: Any, network: Any, log: Any, build: TensorRtBuild) -> Any:
    """Return the options of a build.

    Raises:
        EngineError: the library refuses the batch or the target.
    """
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.max_aux_streams = 0  # the chain has its own stream, from which CUDA graphs are captured
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 in the ONNX file means float32
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # TensorRT-RTX: without it, no stream can be captured
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if build.order.batch is None and config.add_optimization_profile(_create_profile(builder, network)) < 0:
        raise build_error(build, "does not accept any batch", log.last_error)
    if build.target is not None:
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(getattr(trt.ComputeCapability, build.target), 0):
            raise build_error(build, f"does not build for {build.target}", log.last_error)
    _load_timing_cache(config, build)
    return config


def build_error(build: TensorRtBuild, failure: str, reason: str) -> EngineError:
    """Return the error for a failed step of a build."""
    version = importlib.import_module(build.library).__version__
    return EngineError(
        f"{build.library} {version} {failure}: {reason} (segment {build.order.segment}); compile the bundle with the "
        "tool versions of constraints.txt, use another precision, or run with --backend onnxruntime"
    )


def _parse(trt: ModuleType, network: Any, log: Any, build: TensorRtBuild) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(build.order.segment)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = "; ".join(
        f"node {error.node()} ({error.node_operator()}), line {error.line()}: {error.desc()}" for error in errors
    )
    raise build_error(build, f"cannot read {build.order.segment}", reasons or log.last_error)


def _remove_decision(network: Any) -> None:
    """Remove the outputs of the decision and the attention map.

    The threshold stays an input that no layer reads: TensorRT removes no inputs.
    """
    outputs = {tensor.name: tensor for tensor in map(network.get_output, range(network.num_outputs))}
    k = next((k for k in range(MAX_EXITS) if tensors.logits(k) in outputs), None)
    if k is None:
        return
    for name in outputs.keys() & decision_tensors(k):
        network.unmark_output(outputs[name])


def _create_profile(builder: Any, network: Any) -> Any:
    """Return an optimization profile for `DYNAMIC_BATCH`."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes = [tuple(size if n < 0 else n for n in tensor.shape) for size in DYNAMIC_BATCH]
        profile.set_shape(tensor.name, *shapes)
    return profile


def _load_timing_cache(config: Any, build: TensorRtBuild) -> None:
    """Set the timing cache of earlier builds, or an empty one if it is damaged or of another version."""
    path = build.order.timing_cache
    for content in (path.read_bytes() if path.exists() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return


def _save_timing_cache(config: Any, build: TensorRtBuild) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        build.order.timing_cache.write_bytes(bytes(cache.serialize()))


def _write_layers(trt: ModuleType, log: Any, build: TensorRtBuild) -> None:
    """Write the engine's layers as JSON. TensorRT-RTX may be unable to read an engine that is for another GPU."""
    try:
        engine = trt.Runtime(log).deserialize_cuda_engine(build.order.engine.read_bytes())
    except TypeError:  # pybind11 raises it if the library returns no runtime, as without a driver
        engine = None
    if engine is not None:
        inspector = engine.create_engine_inspector()
        layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        build.order.layers.write_text(str(layers))
    elif build.library == "tensorrt":
        raise build_error(build, f"cannot read back its engine of {build.description}", log.last_error)


def _progress_monitor(trt: ModuleType, on_phase: OnPhase) -> Any:
    class ProgressMonitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Reports the outermost phase and its step."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                on_phase(f"{phase_name} {step + 1}/{self._steps[phase_name]}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return ProgressMonitor()
