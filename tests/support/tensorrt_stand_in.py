"""A stand-in for the module `tensorrt`: it parses, builds and enqueues, refuses illegal use, and injects faults.

Its models are JSON: `{"inputs": {"image": [-1, 3, 16, 16]}, "outputs": {"logits": [-1, 10]}, "kernels": ["conv"],
"dtypes": {"label": "INT32"}, "fault": "hang"}`. Outputs, dtypes (`FLOAT` by default) and the fault, one of `FAULTS`,
may be left out. A fault travels with the file: into the build's subprocess and into the engine. Wrong types are a
`TypeError`, as with pybind11. `IllegalUseError` is for calls that our code must not make and that the real library
answers with an error in its log.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

__version__ = "10.3.0"

DEVICE = "stand-in GPU"
"""The only GPU whose timing cache is accepted."""
NO_KERNEL = "Error Code 10: could not find any implementation for node conv"
MESSAGES = {
    "unbuildable": NO_KERNEL,
    "unreadable engine": "Error Code 1: the engine was built for another GPU",
    "no context": "Error Code 2: OutOfMemory (Requested size was 73400320 bytes.)",
    "refused shape": "Error Code 3: API Usage Error (no profile has this shape)",
    "refused address": "Error Code 3: API Usage Error (this memory is not on the GPU)",
    "no start": "Error Code 1: Cuda Runtime (an illegal memory access was encountered)",
}
"""The library's log message for a fault; a fault `NAME without a message` logs nothing."""
FAULTS = (
    *MESSAGES, *(f"{fault} without a message" for fault in MESSAGES), "unparsable", "unparsable without a message",
    "exception", "hang", "exit 0", "exit 3", "SIGKILL", "SIGSEGV",
)  # fmt: skip
WITHOUT_CUDA = "STAND_IN_WITHOUT_CUDA"
"""Environment variable; where it is set, no builder and no runtime can be created."""
ALIGNMENT = 256
"""Bytes that addresses are multiples of."""
ENQUEUED: "list[tuple[IExecutionContext, int, dict[str, int], dict[str, tuple[int, ...]]]]" = []
"""Enqueued runs in order: context, stream, and the context's addresses and input shapes at that time."""


class IllegalUseError(AssertionError):
    """A call that the library does not allow."""


def legal(condition: bool, why: str) -> None:
    if not condition:
        raise IllegalUseError(why)


def typed(value: Any, kind: type, argument: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"incompatible function arguments: {argument} is {value!r}")
    return value


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class BuilderFlag(IntEnum):
    TF32 = 6
    REQUIRE_USER_ALLOCATION = 17


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    USER_MANAGED = 2


class TensorFormat(IntEnum):
    LINEAR = 0
    CHW32 = 5


class ProfilingVerbosity(IntEnum):
    LAYER_NAMES_ONLY = 0
    DETAILED = 2


class LayerInformationFormat(IntEnum):
    ONELINE = 0
    JSON = 1


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    INT64 = 8


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class _Base:
    """A C++ class with Python subclasses: pybind11 requires that they call its __init__."""

    def __init__(self) -> None:
        self._is_constructed = True

    @classmethod
    def _derived(cls, value: Any) -> Any:
        if not hasattr(typed(value, cls, cls.__name__), "_is_constructed"):
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")
        return value


class ILogger(_Base):
    class Severity(IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    INTERNAL_ERROR, ERROR, WARNING = Severity


class IProgressMonitor(_Base):
    pass


class IHostMemory:
    __slots__ = ("_content",)

    def __init__(self, content: Any) -> None:
        self._content = json.dumps(content).encode()

    def __bytes__(self) -> bytes:
        return self._content


class ITensor:
    """A tensor; by default any format is allowed, and TensorRT chooses another than the linear."""

    def __init__(self, name: str, shape: Sequence[int]) -> None:
        self.name, self.shape = name, tuple(shape)
        self.allowed_formats = sum(1 << layout for layout in TensorFormat)


class INetworkDefinition:
    __slots__ = ("_builder", "_inputs", "_is_built", "_model", "_outputs")

    def __init__(self, builder: "Builder") -> None:
        self._builder, self._is_built = builder, False
        self._model: dict[str, Any] = {}
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]

    def unmark_output(self, tensor: ITensor) -> None:
        legal(tensor in self._outputs, f"{tensor.name} is not an output")
        self._outputs.remove(tensor)

    def _parse(self, model: dict[str, Any]) -> None:
        self._model = model
        self._inputs, self._outputs = (
            [ITensor(name, shape) for name, shape in model.get(kind, {}).items()] for kind in ("inputs", "outputs")
        )

    def _built_model(self) -> dict[str, Any]:
        """Return the model with the shapes and formats that were set; a fixed batch fixes the outputs' batch too."""
        tensors = (*self._inputs, *self._outputs)
        layouts = {t.name: next(f.name for f in reversed(TensorFormat) if t.allowed_formats >> f & 1) for t in tensors}
        shapes = [{tensor.name: list(tensor.shape) for tensor in kind} for kind in (self._inputs, self._outputs)]
        batch = max((t.shape[0] for t in self._inputs if -1 in self._model["inputs"][t.name]), default=1)
        if not any(-1 in shape for shape in shapes[0].values()):
            shapes[1] = {name: [batch if size < 0 else size for size in shape] for name, shape in shapes[1].items()}
        return self._model | {"inputs": shapes[0], "outputs": shapes[1], "formats": layouts}


class ParserError:
    def __init__(self, node: int, operator: str, description: str) -> None:
        self._node, self._operator, self._description = node, operator, description

    def desc(self) -> str:
        return self._description

    def line(self) -> int:
        return 73

    def node(self) -> int:
        return self._node

    def node_operator(self) -> str:
        return self._operator


class OnnxParser:
    __slots__ = ("_errors", "_network")

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = typed(network, INetworkDefinition, "network")
        ILogger._derived(logger)
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        legal(not self._network._is_built, "the network was built already")
        legal(not self._network._model and not self._errors, "a model was parsed already")
        try:
            content = json.loads(Path(typed(model, str, "model")).read_bytes())
        except (OSError, ValueError):
            self._errors = [ParserError(-1, "", "Failed to parse the ONNX model.")]
            return False
        fault = _fault_of(content)
        if fault == "unparsable":
            self._errors = [ParserError(7, "Magic", "no importer"), ParserError(9, "Wand", "no importer either")]
        self._network._parse({} if fault.startswith("unparsable") else content)
        return bool(self._network._model)


class IOptimizationProfile:
    __slots__ = ("_builder", "_shapes")

    def __init__(self, builder: "Builder") -> None:
        self._builder, self._shapes = builder, {}

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:  # noqa: A002
        for shape in (min, opt, max):
            [typed(size, int, f"{shape} of {typed(input, str, 'input')}") for size in shape]
        if not all(0 <= low <= usual <= high for low, usual, high in zip(min, opt, max, strict=True)):
            raise ValueError(f"shapes of {input} are inconsistent: {min}, {opt}, {max}")
        self._shapes[input] = [list(min), list(opt), list(max)]

    def _check(self, inputs: Sequence[ITensor]) -> None:
        """Refuse ranges for static dimensions."""
        for tensor in inputs:
            for shape in self._shapes.get(tensor.name, [list(tensor.shape)] * 3):
                pairs = zip(tensor.shape, shape, strict=True)
                legal(all(size >= 0 and known in (-1, size) for known, size in pairs), f"{shape} for {tensor.name}")


class ITimingCache:
    __slots__ = ("_device", "_kernels")

    def __init__(self, device: str, kernels: Sequence[str]) -> None:
        self._device, self._kernels = device, list(kernels)

    def serialize(self) -> IHostMemory:
        return IHostMemory({"device": self._device, "kernels": self._kernels})


class IBuilderConfig:
    __slots__ = ("_builder", "_is_used", "_monitor", "_profiles", "_settings", "_timings")

    def __init__(self, builder: "Builder") -> None:
        self._builder, self._is_used = builder, False
        self._settings: dict[str, int] = {"tf32": 1, "verbosity": ProfilingVerbosity.LAYER_NAMES_ONLY}
        self._profiles: list[IOptimizationProfile] = []
        self._monitor: Any = None
        self._timings: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._set(typed(pool, MemoryPoolType, "pool").name.lower(), typed(pool_size, int, "pool_size"))

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._set(typed(flag, BuilderFlag, "flag").name.lower(), 0)

    def set_flag(self, flag: BuilderFlag) -> None:
        self._set(typed(flag, BuilderFlag, "flag").name.lower(), 1)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        legal(
            typed(profile, IOptimizationProfile, "profile")._builder is self._builder,
            "the profile is another builder's",
        )
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        """Log an error for a damaged timing cache and return an empty one, as the real library does."""
        if not typed(serialized_timing_cache, bytes, "timings"):
            return ITimingCache(DEVICE, [])
        try:
            return ITimingCache(**json.loads(serialized_timing_cache))
        except (ValueError, TypeError):
            self._builder._log.log(ILogger.ERROR, "The timing cache will not be used!")
            return ITimingCache(DEVICE, [])

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        legal(not self._is_used and self._timings is None, "a timing cache is set already")
        if typed(cache, ITimingCache, "cache")._device == DEVICE or typed(ignore_mismatch, bool, "ignore_mismatch"):
            self._timings = cache
        return self._timings is cache

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timings

    def _set(self, name: str, value: int) -> None:
        legal(not self._is_used, "an engine was built with this config already")
        self._settings[name] = value

    def _set_monitor(self, monitor: IProgressMonitor) -> None:
        self._monitor = IProgressMonitor._derived(monitor)

    max_aux_streams = property(None, lambda self, count: self._set("aux_streams", typed(count, int, "count")))
    profiling_verbosity = property(
        None, lambda self, level: self._set("verbosity", typed(level, ProfilingVerbosity, "profiling_verbosity"))
    )
    progress_monitor = property(None, _set_monitor)


class Builder:
    __slots__ = ("_log",)

    def __init__(self, logger: ILogger) -> None:
        self._log = _with_cuda(logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        flag = 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        legal(typed(flags, int, "flags") == flag, "the network is not strongly typed")
        return INetworkDefinition(self)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile(self)

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        inputs = typed(network, INetworkDefinition, "network")._inputs
        legal(bool(network._model), "no model was parsed into this network")
        legal(network._builder is self, "the network is another builder's")
        legal(typed(config, IBuilderConfig, "config")._builder is self, "the config is another builder's")
        legal(not network._is_built and not config._is_used, "the network or config was used already")
        is_dynamic = any(-1 in tensor.shape for tensor in inputs)
        legal(len(config._profiles) == is_dynamic, f"there are {len(config._profiles)} profiles")
        for profile in config._profiles:
            profile._check(inputs)
        network._is_built = config._is_used = True
        return self._build(network._built_model(), config)

    def _build(self, model: dict[str, Any], config: IBuilderConfig) -> IHostMemory | None:
        kernels, timings = model["kernels"], config._timings
        timed = [kernel for kernel in kernels if timings is None or kernel not in timings._kernels]
        if _fails("unbuildable", model, self._log):
            return None
        config._monitor.phase_start("Building engine", None, len(kernels))
        for step in range(len(kernels)):
            config._monitor.phase_start("Timing", "Building engine", 1)
            config._monitor.step_complete("Timing", 0)
            config._monitor.phase_finish("Timing")
            if not _continues(config._monitor, step):
                self._log.log(ILogger.ERROR, "Error Code 7: BuildCanceled (Build canceled by user)")
                return None
            _inject(_fault_of(model))
        config._monitor.phase_finish("Building engine")
        if timings is not None:
            timings._kernels += timed
        [shapes] = [profile._shapes for profile in config._profiles] or [{}]
        return IHostMemory({"model": model, "shapes": shapes, "settings": config._settings, "timed": timed})


class EngineInspector:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan

    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: A002
        typed(format, LayerInformationFormat, "format")
        is_detailed = self._plan["settings"]["verbosity"] == ProfilingVerbosity.DETAILED
        return json.dumps({"Layers": [{"Name": k} if is_detailed else k for k in self._plan["model"]["kernels"]]})


class IExecutionContext:
    """A binding: addresses of all tensors and shapes of the inputs."""

    __slots__ = ("_addresses", "_engine", "_memory", "_shapes")

    def __init__(self, engine: "ICudaEngine") -> None:
        self._engine, self._memory = engine, 0
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        legal(self._engine.get_tensor_mode(name) == TensorIOMode.INPUT, f"{name} is not an input")
        sizes = tuple(typed(size, int, f"{shape} of {name}") for size in shape)
        low, _, high = self._engine._plan["shapes"].get(name, [self._engine.get_tensor_shape(name)] * 3)
        legal(len(sizes) == len(low), f"{shape} for {name}")
        if self._engine._fails("refused shape"):
            return False
        if not all(a <= size <= b for a, size, b in zip(low, sizes, high, strict=True)):
            self._engine._log.log(ILogger.ERROR, f"Error Code 3: {name} is {low} to {high}, not {list(sizes)}")
            return False
        self._shapes[name] = sizes
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._engine.get_tensor_mode(name)
        legal(typed(memory, int, "memory") != 0, f"{name} has a null address")
        legal(memory % ALIGNMENT == 0, f"{name} at {memory:#x} is not aligned")
        if self._engine._fails("refused address"):
            return False
        self._addresses[name] = memory
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        legal(typed(memory, int, "memory") != 0 and memory % ALIGNMENT == 0, f"intermediate tensors at {memory:#x}")
        legal(typed(size, int, "size") >= self._engine.device_memory_size_v2, f"{size} bytes for intermediate tensors")
        self._memory = memory

    def execute_async_v3(self, stream_handle: int) -> bool:
        legal(self._memory != 0, "no memory for intermediate tensors")
        legal(typed(stream_handle, int, "stream_handle") != 0, "the default stream synchronises with all others")
        for name, shape in self._engine._tensors.items():
            legal(name in self._addresses, f"{name} has no address")
            is_dynamic = self._engine.get_tensor_mode(name) == TensorIOMode.INPUT and -1 in shape
            legal(not is_dynamic or name in self._shapes, f"{name} has no shape")
        if self._engine._fails("no start"):
            return False
        ENQUEUED.append((self, stream_handle, dict(self._addresses), dict(self._shapes)))
        return True


class IRuntimeCache:
    __slots__ = ("_content",)

    def __init__(self) -> None:
        self._content = b""

    def deserialize(self, serialized_cache: bytes) -> bool:
        self._content = typed(serialized_cache, bytes, "serialized_cache")
        return True

    def serialize(self) -> bytes:
        return self._content


class IRuntimeConfig:
    """TensorRT-RTX's configuration of execution contexts."""

    __slots__ = ("_cache", "_strategy")

    def __init__(self) -> None:
        self._cache: IRuntimeCache | None = None
        self._strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._strategy = typed(strategy, ExecutionContextAllocationStrategy, "strategy")

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = typed(cache, IRuntimeCache, "cache")
        return True


class ICudaEngine:
    __slots__ = ("_log", "_plan", "_tensors")

    def __init__(self, plan: dict[str, Any], log: ILogger) -> None:
        self._plan, self._log = plan, log
        self._tensors: dict[str, list[int]] = {**plan["model"]["inputs"], **plan["model"].get("outputs", {})}

    @property
    def device_memory_size_v2(self) -> int:
        return 1000

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        legal(0 <= typed(index, int, "index") < len(self._tensors), f"there is no tensor {index}")
        return list(self._tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        legal(typed(name, str, "name") in self._tensors, f"there is no tensor {name}")
        return tuple(self._tensors[name])

    def get_tensor_dtype(self, name: str) -> DataType:
        legal(typed(name, str, "name") in self._tensors, f"there is no tensor {name}")
        return DataType[self._plan["model"].get("dtypes", {}).get(name, "FLOAT")]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        legal(typed(name, str, "name") in self._tensors, f"there is no tensor {name}")
        return TensorIOMode.INPUT if name in self._plan["model"]["inputs"] else TensorIOMode.OUTPUT

    def get_tensor_format(self, name: str) -> TensorFormat:
        legal(typed(name, str, "name") in self._tensors, f"there is no tensor {name}")
        return TensorFormat[self._plan["model"].get("formats", {}).get(name, "LINEAR")]

    def create_runtime_config(self) -> "IRuntimeConfig":
        return IRuntimeConfig()

    def create_execution_context(
        self, strategy: "ExecutionContextAllocationStrategy | IRuntimeConfig"
    ) -> IExecutionContext | None:
        managed = strategy._strategy if isinstance(strategy, IRuntimeConfig) else strategy
        legal(managed == ExecutionContextAllocationStrategy.USER_MANAGED, "memory of its own for intermediate tensors")
        if isinstance(strategy, IRuntimeConfig):
            legal(strategy._cache is not None, "kernels that are compiled at each start")
            strategy._cache._content = b"compiled kernels"
        return None if self._fails("no context") else IExecutionContext(self)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._plan)

    def _fails(self, fault: str) -> bool:
        return _fails(fault, self._plan["model"], self._log)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._log = _with_cuda(logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        try:
            plan = json.loads(typed(serialized_engine, bytes, "engine"))
        except ValueError:
            self._log.log(ILogger.ERROR, "Error Code 1: Serialization (magic tag does not match)")
            return None
        return None if _fails("unreadable engine", plan["model"], self._log) else ICudaEngine(plan, self._log)


def _with_cuda(logger: ILogger) -> ILogger:
    """Fail as the library does without a driver, where `WITHOUT_CUDA` is set."""
    log = ILogger._derived(logger)
    if os.environ.get(WITHOUT_CUDA):
        log.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")
    return log


def _fault_of(model: dict[str, Any]) -> str:
    fault = model.get("fault", "")
    legal(not fault or fault in FAULTS, f"there is no fault {fault!r}")
    return fault


def _fails(fault: str, model: dict[str, Any], log: ILogger) -> bool:
    """Check whether a model has a fault, and log its message unless the fault is without one."""
    injected = _fault_of(model)
    if injected == fault:
        log.log(ILogger.ERROR, MESSAGES[fault])
    return injected in (fault, f"{fault} without a message")


def _continues(monitor: IProgressMonitor, step: int) -> bool:
    """Ask the monitor; an exception in Python cancels the build, as in the real library."""
    try:
        return typed(monitor.step_complete("Building engine", step), bool, "the answer of step_complete")
    except BaseException as error:
        sys.stderr.write(f"[ERROR] Exception caught in step_complete(): {error!r}\n")
        return False


def _inject(fault: str) -> None:
    """Disturb a build as its model requests."""
    if fault == "hang":
        time.sleep(60)
    elif fault == "exception":
        raise RuntimeError("std::bad_alloc")
    elif fault.startswith("exit "):
        os._exit(int(fault.removeprefix("exit ")))
    elif fault.startswith("SIG"):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.Signals[fault])
