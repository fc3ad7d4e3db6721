"""The stand-in for a GPU as the modules that `edge.cuda` imports: pycuda.driver, cuda.core and cuda.bindings.driver."""

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter_ns
from types import ModuleType, SimpleNamespace
from typing import Any

import cuda.bindings
import cuda.core.utils
import numpy as np
from cuda.bindings import driver as bindings
from numpy.typing import NDArray

from tests.support.cuda_kernels import KERNELS, TIMED_SEGMENT, kernel_node, parameter_types
from tests.support.cuda_stand_in import (
    Capture,
    CoreStream,
    DriverError,
    Graph,
    GraphDefinition,
    Stream,
    World,
    child_node,
    copy_node,
    require,
)

NOTHING: Mapping[str, int] = {}
REIMPORTED = ("edge.cuda.", "benchmarks.gpu.")
"""Modules that are imported anew on the stand-in."""


@contextmanager
def installed(world: World) -> Iterator[World]:
    """Let `edge.cuda` be imported on the stand-in; restore all modules at the end."""
    driver, (core, graph) = driver_module(world), core_modules(world)
    pycuda: Any = ModuleType("pycuda")
    pycuda.driver = driver
    new = {"pycuda": pycuda, "pycuda.driver": driver, "cuda.core": core, "cuda.core.graph": graph}
    cuda.bindings.driver, real = bindings_module(world), cuda.bindings.driver
    before = {**_remove_reimported(), **{name: sys.modules.pop(name) for name in new if name in sys.modules}}
    sys.modules.update(new)
    _record_tensors(world)
    try:
        yield world
    finally:
        cuda.bindings.driver = real
        _remove_reimported()
        for name in new:
            sys.modules.pop(name, None)
        sys.modules.update(before)
        for name in (name for name in before if name.startswith(REIMPORTED)):
            package, _, module = name.rpartition(".")
            setattr(sys.modules[package], module, before[name])


def _remove_reimported() -> dict[str, ModuleType]:
    """Remove and return the modules that are to be imported anew."""
    removed = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(REIMPORTED)}
    for package, _, module in (name.rpartition(".") for name in removed):
        vars(sys.modules[package]).pop(module, None)
    return removed


def _record_tensors(world: World) -> None:
    """Record how memory is divided into tensors: access that crosses from one tensor into the next is illegal."""
    from edge.cuda.memory import Memory

    allocate = Memory.__init__

    def allocate_and_record(memory: Any, pinned: Mapping[str, int], on_gpu: Mapping[str, int] = NOTHING) -> None:
        allocate(memory, pinned, on_gpu)
        world.tensors |= {memory.view(name, np.uint8).ctypes.data: size for name, size in pinned.items()}
        world.tensors |= {memory.addresses[name]: size for name, size in on_gpu.items()}

    Memory.__init__ = allocate_and_record  # type: ignore[method-assign]


def bindings_module(world: World) -> ModuleType:
    """Return `cuda.bindings.driver` as far as it is used; its types are the real ones."""
    module: Any = ModuleType("cuda.bindings.driver")
    ok = bindings.CUresult.CUDA_SUCCESS

    def begin(handle: int, mode: Any) -> tuple[Any]:
        world.call("cuStreamBeginCapture")
        stream = world.streams[handle]
        require(stream.capture is None, "capture inside capture")
        require(not stream.was_used, "capture from a stream that was used before")
        require(mode == bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED, f"capture in mode {mode}")
        require(not gc.isenabled(), "a capture in which garbage may be collected")
        with world.capturing:
            stream.capture = Capture(is_spoilt="invalidated" in world.failing)
        return (ok,)

    def end(handle: int) -> tuple[Any, Any]:
        world.call("cuStreamEndCapture")
        stream = world.streams[handle]
        require(isinstance(stream.capture, Capture), "the end of a capture that was not begun")
        require(not gc.isenabled(), "a capture in which garbage may have been collected")
        with world.capturing:
            capture, stream.capture = stream.capture, None
        if capture.is_spoilt:
            return bindings.CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
        world.calls["captures alive"] += 1
        return ok, capture

    def destroy(graph: Capture) -> tuple[Any]:
        require(isinstance(graph, Capture), "no graph")
        world.calls["captures alive"] -= 1
        return (ok,)

    def add_child(graph: GraphDefinition, dependencies: None, count: int, child: Capture) -> tuple[Any, Any]:
        require(dependencies is None and count == 0 and not graph.nodes, "an embedded graph beside other nodes")
        graph.nodes.append(child_node(child.nodes))
        return ok, graph.nodes[-1]

    module.CUresult = bindings.CUresult
    module.CUstreamCaptureMode = bindings.CUstreamCaptureMode
    module.cuStreamBeginCapture, module.cuStreamEndCapture = begin, end
    module.cuGraphDestroy, module.cuGraphAddChildGraphNode = destroy, add_child
    return module


def driver_module(world: World) -> ModuleType:
    """Return `pycuda.driver` as far as it is used."""
    module: Any = ModuleType("pycuda.driver")

    class Context:
        def push(self) -> None:
            world.call("push", needs_context=False)
            world.threads.stack = [*getattr(world.threads, "stack", []), self]

        @staticmethod
        def pop() -> None:
            require(world.depth(), "pop without push")
            world.threads.stack.pop()
            world.call("pop", needs_context=False)

        @staticmethod
        def synchronize() -> None:
            world.call("context synchronize")
            world.synchronize()

    class Device:
        def __init__(self, index: int) -> None:
            world.call("device", needs_context=False)
            require(world.calls["init"], "a device before init")

        def retain_primary_context(self) -> Context:
            world.call("retain", needs_context=False)
            return Context()

        def compute_capability(self) -> tuple[int, int]:
            return (8, 7)

        def get_attribute(self, attribute: str) -> int:
            return int(world.is_integrated) if attribute == "INTEGRATED" else world.multiprocessors

        def name(self) -> str:
            return "Orin"

        def total_memory(self) -> int:
            return world.memory_bytes

    def init() -> None:
        world.call("init", needs_context=False)

    module.Error, module.Context, module.Device, module.init = DriverError, Context, Device, init
    module.host_alloc_flags = SimpleNamespace(DEVICEMAP=2)
    module.device_attribute = SimpleNamespace(INTEGRATED="INTEGRATED", MULTIPROCESSOR_COUNT="MULTIPROCESSOR_COUNT")
    module.get_driver_version = lambda: world.driver_version
    _add_streams(module, world)
    _add_memory(module, world)
    return module


def _add_memory(module: Any, world: World) -> None:
    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            world.call("mem_alloc")
            self.address = world.allocate(size)

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            world.call("free")
            require(self.address not in world.freed, "memory freed twice")
            require(not any(stream.queue for stream in world.streams.values()), "memory freed under work")
            world.freed.add(self.address)

    class HostAllocation:
        def __init__(self, size: int) -> None:
            self.address = world.allocate(size)
            world.pinned[self.address] = size
            interface = {"data": (self.address, False), "shape": (size,), "typestr": "|u1", "version": 3}
            self.__array_interface__ = interface

        def get_device_pointer(self) -> int:
            return self.address

        def __del__(self) -> None:
            world.freed.add(self.address)
            world.calls["pinned freed"] += 1
            world.calls["freed without a context"] += not world.depth()

    def pagelocked_empty(size: int, dtype: Any, mem_flags: int = 0) -> NDArray[Any]:
        world.call("pagelocked_empty")
        require(mem_flags == module.host_alloc_flags.DEVICEMAP, "pinned memory that is not mapped")
        require(dtype is np.uint8, "the stand-in allocates bytes only")
        return np.asarray(HostAllocation(size))

    def memcpy_htod(to: int, source: NDArray[Any]) -> None:
        world.call("memcpy_htod")
        world.flush()
        world.array(to, np.uint8, source.nbytes)[:] = source.view(np.uint8).ravel()

    def memcpy_dtoh(to: NDArray[Any], source: int) -> None:
        world.call("memcpy_dtoh")
        world.flush()
        to.reshape(-1).view(np.uint8)[:] = world.array(source, np.uint8, to.nbytes)

    def memcpy_htod_async(to: int, source: NDArray[Any], stream: Any) -> None:
        world.call("memcpy_htod_async")
        stream.of.add(copy_node(world, to, source.ctypes.data, source.nbytes))

    module.mem_alloc, module.pagelocked_empty = DeviceAllocation, pagelocked_empty
    module.memcpy_htod, module.memcpy_dtoh, module.memcpy_htod_async = memcpy_htod, memcpy_dtoh, memcpy_htod_async


def _add_streams(module: Any, world: World) -> None:
    class PyStream:
        def __init__(self, flags: int = 0) -> None:
            world.call("stream")
            require(flags == 1, "a stream that waits for the default stream")
            self.of = Stream(world)
            self.handle = self.of.handle

        def __del__(self) -> None:
            if hasattr(self, "handle"):
                world.calls["streams freed"] += 1
                world.calls["freed without a context"] += not world.depth()

        def synchronize(self) -> None:
            world.call("drain")
            self.of.run_all()

    class Event:
        """A point in a stream's work, passed when the stream gets there; recorded again, it is a later point."""

        def __init__(self, flags: int = 0) -> None:
            world.call("event")
            self.keeps_time, self.blocks = not flags & 2, bool(flags & 1)
            self.records, self.passed, self.at_ns = 0, 0, 0
            self.stream: Any = None

        def record(self, stream: PyStream | None = None) -> "Event":
            world.call("event record" if self.keeps_time else "wait record")
            require(stream is not None, "an event in the default stream")
            require(stream.of.capture is None, "an event in a graph")
            self.records, self.stream = self.records + 1, stream.of
            stream.of.queue.append(SimpleNamespace(run=partial(self._pass, self.records)))
            return self

        def synchronize(self) -> None:
            world.call("synchronize")
            world.calls["blocking waits"] += self.blocks
            require(self.stream, "waiting for an event that was not recorded")
            self.stream.run_all()

        def _pass(self, record: int, _: World) -> None:
            self.passed, self.at_ns = record, perf_counter_ns()

        def time_since(self, start: "Event") -> float:
            world.call("event time")
            for event in (start, self):
                require(event.keeps_time, "time of an event that keeps none")
                require(event.records, "time of an event that was not recorded")
                require(event.passed == event.records, "time of an event that the stream has not passed")
            return (self.at_ns - start.at_ns) / 1e6

    module.Stream, module.Event = PyStream, Event
    module.event_flags = SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1, DISABLE_TIMING=2)


def core_modules(world: World) -> tuple[ModuleType, ModuleType]:
    """Return `cuda.core` and `cuda.core.graph` as far as they are used."""
    core: Any = ModuleType("cuda.core")
    graph: Any = ModuleType("cuda.core.graph")

    class NewGraph(GraphDefinition):
        def __init__(self) -> None:
            super().__init__(world)

    class ObjectCode:
        def get_kernel(self, name: str) -> str:
            world.call("get_kernel")
            require(name in (*KERNELS, TIMED_SEGMENT), f"no kernel {name}")
            return name

    class Program:
        def __init__(self, source: str, kind: str, options: Any) -> None:
            pass

        def compile(self, target: str, cache: Any = None) -> ObjectCode:
            world.call("compile", needs_context=False)
            return ObjectCode()

    def node(kernel: str, config: Any, arguments: Sequence[Any]) -> Any:
        actual, expected = [type(argument) for argument in arguments], parameter_types(kernel)
        require(actual == expected, f"{kernel} takes {expected}, got {actual}")
        return kernel_node(world, kernel, config, arguments)

    def launch(stream: CoreStream, config: Any, kernel: str, *arguments: Any) -> None:
        world.call("launch")
        stream.of.add(node(kernel, config, arguments))

    world.kernel_node = node
    core.Kernel, core.LaunchConfig, core.ObjectCode = str, SimpleNamespace, ObjectCode
    core.Program, core.ProgramOptions, core.launch = Program, SimpleNamespace, launch
    core.Stream = SimpleNamespace(from_handle=lambda handle: CoreStream(world.streams[handle]))
    graph.Graph = Graph
    graph.GraphDefinition = NewGraph
    core.graph = graph
    return core, graph
