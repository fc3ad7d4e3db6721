"""What TensorRT and TensorRT for RTX share: a segment parsed and built, in the process that calls this.

One path for TensorRT 10.3 to 11 and TensorRT-RTX 1: what a version lacks is found by looking for it, not by comparing
version numbers. Precision is in the ONNX file; networks are strongly typed, which keeps it.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edge.cuda.base import MAX_BATCH
from edge.engines.base import BuildOrder, OnPhase
from edge.engines.tensorrt.logger import logger_of
from edge.errors import EngineError
from edge.storage import write_file

WORKSPACE_BYTES = 1 << 30
FREE_BATCH = (1, 8, MAX_BATCH)
"""Smallest, usual and largest number of images where the batch is not pinned."""
OPTIONS = {"workspace_bytes": str(WORKSPACE_BYTES), "free_batch": str(FREE_BATCH), "revision": "1"}
"""What engines depend on besides library, device and segment; a change to `_configured` is another revision."""


@dataclass(frozen=True, slots=True)
class TensorRtOrder:
    """A build for a library of the TensorRT family."""

    library: str
    """Its module: `tensorrt` or `tensorrt_rtx`."""
    target: str | None
    """Compute capability to build for, such as `SM89`, where the library can choose."""
    build: BuildOrder

    @property
    def what(self) -> str:
        """Return what is built, for messages."""
        return f"{self.build.segment}" + (f" for {self.target.lower()}" if self.target else "")


def build_engine(order: TensorRtOrder, on_phase: OnPhase) -> None:
    """Build a segment's engine into the order's files, telling how far it is.

    Raises:
        EngineError: the library refuses the segment.
    """
    trt = importlib.import_module(order.library)
    log = logger_of(trt)
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # what pybind11 makes of a builder the library does not hand out
        raise refused(order, "builds nothing here", log.last_error) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, log, order)
    config = _configured(trt, builder, network, log, order)
    config.progress_monitor = _monitor(trt, on_phase)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise refused(order, f"cannot build {order.what}", log.last_error)
    write_file(order.build.engine, bytes(plan))
    _keep_timings(config, order)
    _describe(trt, log, order)


def refused(order: TensorRtOrder, what: str, why: str) -> EngineError:
    """Return the error of a library that does not do what it was asked."""
    version = importlib.import_module(order.library).__version__
    return EngineError(
        f"{order.library} {version} {what}: {why} (segment {order.build.segment}); compile the bundle with the tool "
        "versions of constraints.txt, leave this precision out, or run with --backend onnxruntime"
    )


def _parse(trt: ModuleType, network: Any, log: Any, order: TensorRtOrder) -> None:
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(order.build.segment)):
        problems = [parser.get_error(index) for index in range(parser.num_errors)]
        said = "; ".join(
            f"node {problem.node()} ({problem.node_operator()}), line {problem.line()}: {problem.desc()}"
            for problem in problems
        )
        raise refused(order, f"cannot read {order.build.segment}", said or log.last_error)


def _configured(trt: ModuleType, builder: Any, network: Any, log: Any, order: TensorRtOrder) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.max_aux_streams = 0  # the chain has a stream of its own, and graphs are captured from it
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is what the file says
    if config.add_optimization_profile(_profile(builder, network, order.build.batch)) < 0:
        raise refused(order, f"does not take batch {order.build.batch}", log.last_error)
    if order.target is not None:
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(getattr(trt.ComputeCapability, order.target), 0):
            raise refused(order, f"does not build for {order.target}", log.last_error)
    kept = order.build.timing_cache
    for timings in (kept.read_bytes() if kept.exists() else b"", b""):
        cache = config.create_timing_cache(timings)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            break  # else they are damaged, or another version's
    return config


def _keep_timings(config: Any, order: TensorRtOrder) -> None:
    timings = config.get_timing_cache()
    if timings is not None:
        write_file(order.build.timing_cache, bytes(timings.serialize()))


def _describe(trt: ModuleType, log: Any, order: TensorRtOrder) -> None:
    """Keep what the library says of the engine's layers; one that builds for other GPUs may not read it here."""
    try:
        engine = trt.Runtime(log).deserialize_cuda_engine(order.build.engine.read_bytes())
    except TypeError:  # no runtime is handed out without a driver
        engine = None
    if engine is not None:
        inspector = engine.create_engine_inspector()
        layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        write_file(order.build.layers, str(layers))
    elif order.library == "tensorrt":
        raise refused(order, f"cannot read back its engine of {order.what}", log.last_error)


def _profile(builder: Any, network: Any, batch: int | None) -> Any:
    """Pin the batch, or let it range up to a few images."""
    sizes = FREE_BATCH if batch is None else (batch,) * 3
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        profile.set_shape(tensor.name, *(tuple(size if n < 0 else n for n in tensor.shape) for size in sizes))
    return profile


def _monitor(trt: ModuleType, on_phase: OnPhase) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """Tells the outermost phase and how far it is."""

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

    return Monitor()
