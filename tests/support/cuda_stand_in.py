"""pycuda's driver and cuda.core for machines without a GPU: they keep state, do work late, and refuse illegal use.

Memory is the host's, at its real addresses, so that our kernels' own source, compiled for the host, works on it.
What is enqueued runs when somebody waits for the stream, as late as it may on a GPU.
"""

import ctypes
import gc
import mmap
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from time import perf_counter_ns
from types import ModuleType, SimpleNamespace
from typing import Any

import cuda.bindings
import numpy as np
import torch
from cuda.bindings import driver as bindings
from numpy.typing import NDArray

ALIGNMENT = 256
ON_THE_GPU = ("edge.cuda.", "benchmarks.gpu.")
"""Modules that are imported anew on the stand-ins."""
OUR_KERNELS = ("preprocess", "answer", "answer_or_go_on", "survivors", "gather_bytes", "gather_words")
SOURCES = ("edge/cuda/kernels.cu", "benchmarks/gpu/segments.cu")


class IllegalUseError(AssertionError):
    """Something a GPU would not forgive."""


def legal(condition: object, why: str) -> None:
    if not condition:
        raise IllegalUseError(why)


class DriverError(Exception):
    """What pycuda raises of a failing status."""


class CoreError(Exception):
    """What cuda.core raises of one."""


@dataclass
class World:
    """One GPU and all that was asked of it."""

    host_kernels: ctypes.CDLL
    is_integrated: bool = False
    failing: dict[str, Exception] = field(default_factory=dict)
    """Calls that are to fail from now on, and how."""
    calls: Counter[str] = field(default_factory=Counter)
    ran: list[str] = field(default_factory=list)
    """Segments and kernels, as they ran."""
    bodies: bool | None = None
    """Whether the bodies of conditions run, whatever these are set to; None where they do as they are told."""
    tensors: dict[int, int] = field(default_factory=dict)
    """Where tensors begin that memory was shared out to, and their bytes."""
    memory: dict[int, mmap.mmap] = field(default_factory=dict)
    freed: set[int] = field(default_factory=set)
    pinned: dict[int, int] = field(default_factory=dict)
    streams: dict[int, "Stream"] = field(default_factory=dict)
    retained: int = 0
    left_over: int = 0
    stacks: Any = field(default_factory=threading.local)

    def call(self, name: str, *, needs_context: bool = True) -> None:
        """Count a call, and let it fail where it is to."""
        self.calls[name] += 1
        if needs_context:
            legal(self.depth(), f"{name} without a context")
        if name in self.failing:
            raise self.failing[name]

    def depth(self) -> int:
        return len(getattr(self.stacks, "stack", []))

    def array(self, address: int, dtype: Any, count: int = 1) -> NDArray[Any]:
        """Return memory, which must be one tensor's where its allocation is shared out."""
        found = self.block(address, dtype, count)
        start = max((at for at in self.tensors if at <= address), default=0)
        base = max(at for at in self.memory if at <= address)
        is_inside = address + found.nbytes <= start + self.tensors.get(start, 0)
        legal(start < base or is_inside, f"{found.nbytes} bytes at {address:#x} reach beyond their tensor")
        return found

    def block(self, address: int, dtype: Any, count: int = 1) -> NDArray[Any]:
        """Return memory, which must be one allocation's that was not freed."""
        size = np.dtype(dtype).itemsize * count
        for base, block in self.memory.items():
            if base <= address < base + len(block):
                legal(base not in self.freed, f"address {address:#x} was freed")
                legal(address + size <= base + len(block), f"{size} bytes at {address:#x} reach beyond their block")
                return np.frombuffer(block, np.uint8)[address - base : address - base + size].view(dtype)
        raise IllegalUseError(f"address {address:#x} is nobody's")

    def allocated(self, size: int) -> tuple[int, mmap.mmap]:
        block = mmap.mmap(-1, max(1, size))
        address = np.frombuffer(block, np.uint8).ctypes.data
        self.memory[address] = block
        return address, block

    def flush(self) -> None:
        for stream in list(self.streams.values()):
            stream.run_all()


class Stream:
    """Work in order, done when somebody waits."""

    def __init__(self, world: World) -> None:
        self.world, self.queue, self.capture = world, [], None  # type: ignore[var-annotated]
        self.is_context_known = False
        self.handle = 0x1000 + 16 * len(world.streams)
        world.streams[self.handle] = self

    def add(self, node: Any) -> None:
        if self.capture is not None:
            self.capture.nodes.append(node)
        else:
            self.queue.append(node)

    def run_all(self) -> None:
        legal(self.capture is None, "waiting for a stream that is being captured")
        while self.queue:
            self.queue.pop(0).run(self.world)


class Node:
    def __init__(self, name: str, work: Callable[[World], None]) -> None:
        self.name, self.work = name, work

    def run(self, world: World) -> None:
        world.ran.append(self.name)
        self.work(world)


class KernelNode(Node):
    kind = bindings.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL


class MemcpyNode(Node):
    kind = bindings.CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMCPY


class HostCallbackNode(Node):
    kind = bindings.CUgraphNodeType.CU_GRAPH_NODE_TYPE_HOST


class ConditionalNode(Node):
    kind = bindings.CUgraphNodeType.CU_GRAPH_NODE_TYPE_CONDITIONAL

    def __init__(self, condition: "Condition", body: "GraphBuilder") -> None:
        super().__init__("if", lambda world: None)
        self.condition, self.body = condition, body

    def run(self, world: World) -> None:
        if self.condition.cell.value if world.bodies is None else world.bodies:
            for node in self.body.nodes:
                node.run(world)


class Condition:
    """A condition of a graph, its value where our kernels, run on the host, set it."""

    def __init__(self, root: "GraphBuilder", default: int | None) -> None:
        self.root, self.default, self.node = root, default, None  # type: ignore[var-annotated]
        self.cell = ctypes.c_uint()

    def reset(self) -> None:
        legal(self.default is not None, "a condition without a default value")
        self.cell.value = self.default or 0


class GraphBuilder:
    """Captures from a stream; the bodies of conditions from streams of their own."""

    def __init__(self, stream: Stream, root: "GraphBuilder | None" = None) -> None:
        self.of, self.world, self.root = stream, stream.world, root or self
        self.nodes: list[Any] = []
        self.conditions: list[Condition] = []
        self.state, self.is_closed = "new", False
        self.world.calls["builders alive"] += 1

    @property
    def stream(self) -> Any:
        return CoreStream(self.of)

    def begin_building(self, mode: str = "relaxed") -> "GraphBuilder":
        self.world.call("begin_building")
        legal(mode == "relaxed", f"mode {mode}, in which what other threads do spoils a capture")
        legal(not gc.isenabled(), "a capture in which garbage may be collected")
        legal(self.root is not self or self.of.is_context_known, "capture from a stream not asked for its context")
        legal(self.state == "new" and not self.is_closed, f"building begun by a builder that is {self.state}")
        legal(self.of.capture is None, "capture inside capture")
        legal(not self.of.queue, "capture from a stream with work on it")
        self.state, self.of.capture = "building", self
        return self

    def end_building(self) -> "GraphBuilder":
        legal(self.state == "building", f"building ended by a builder that is {self.state}")
        legal(not gc.isenabled(), "a capture in which garbage may have been collected")
        self.state, self.of.capture = "built", None
        self.world.call("end_building")
        return self

    def create_condition(self, default_value: int | None = None) -> Condition:
        self.world.call("create_condition")
        legal(self.state == "building", "a condition outside capture")
        self.root.conditions.append(Condition(self.root, default_value))
        return self.root.conditions[-1]

    def if_then(self, condition: Condition) -> "GraphBuilder":
        self.world.call("if_then")
        legal(self.state == "building", "a body outside capture")
        legal(getattr(self.world.stacks, "is_set", False), "a body in a thread that did not set its device")
        legal(condition.root is self.root, "a condition of another graph")
        legal(condition.node is None, "a condition used twice")
        body = GraphBuilder(Stream(self.world), self.root)
        condition.node = ConditionalNode(condition, body)
        self.nodes.append(condition.node)
        return body

    def complete(self) -> "Graph":
        self.world.call("complete")
        is_ready = self.state == "built" and self.root is self and not self.is_closed
        legal(is_ready, f"completing a builder that is {self.state}")
        bodies = [node.body for node in _all_nodes(self.nodes) if isinstance(node, ConditionalNode)]
        legal(all(body.state == "built" for body in bodies), "a body that was not built")
        legal(all(c.node is not None for c in self.conditions), "a condition without a node")
        return Graph(self)

    def close(self) -> None:
        legal(self.state != "building", "closed while capturing")
        self.world.calls["builders alive"] -= not self.is_closed
        self.is_closed = True


def _all_nodes(nodes: Sequence[Any]) -> Iterator[Any]:
    for node in nodes:
        yield node
        if isinstance(node, ConditionalNode):
            yield from _all_nodes(node.body.nodes)


class Graph:
    def __init__(self, builder: GraphBuilder) -> None:
        self.nodes, self.conditions, self.world = list(builder.nodes), builder.conditions, builder.world
        self.is_closed = False
        self.world.calls["graphs alive"] += 1

    def upload(self, stream: "CoreStream") -> None:
        self.world.call("graph upload")
        legal(not self.is_closed, "upload of a closed graph")

    def launch(self, stream: "CoreStream") -> None:
        self.world.call("graph launch")
        legal(not self.is_closed, "launch of a closed graph")
        legal(stream.of.capture is None, "launch of a graph into a capture")
        stream.of.queue.append(SimpleNamespace(run=self._run))

    def _run(self, world: World) -> None:
        legal(not self.is_closed, "a graph closed before it ran")
        for condition in self.conditions:
            condition.reset()
        for node in self.nodes:
            node.run(world)

    def close(self) -> None:
        self.world.calls["graphs alive"] -= not self.is_closed
        self.is_closed = True


class Capture:
    """What the driver itself captures, without a builder."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []


def driver_bindings(world: World) -> ModuleType:
    """Return `cuda.bindings.driver` as far as we use it; its types are the real ones."""
    module: Any = ModuleType("cuda.bindings.driver")
    ok = bindings.CUresult.CUDA_SUCCESS

    def begin(handle: int, mode: Any) -> tuple[Any]:
        world.call("cuStreamBeginCapture")
        stream = world.streams[handle]
        legal(stream.capture is None, "capture inside capture")
        legal(not stream.queue, "capture from a stream with work on it")
        legal(mode == bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED, f"capture in mode {mode}")
        legal(not gc.isenabled(), "a capture in which garbage may be collected")
        stream.capture = Capture()
        return (ok,)

    def end(handle: int) -> tuple[Any, Any]:
        world.call("cuStreamEndCapture")
        stream = world.streams[handle]
        legal(isinstance(stream.capture, Capture), "the end of a capture that was not begun")
        legal(not gc.isenabled(), "a capture in which garbage may have been collected")
        found, stream.capture = stream.capture, None
        if "invalidated" in world.failing:
            return bindings.CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
        world.calls["captures alive"] += 1
        return ok, found

    def nodes(graph: Capture, count: int = 0) -> tuple[Any, list[Any], int]:
        return ok, graph.nodes[:count], len(graph.nodes)

    def destroy(graph: Capture) -> tuple[Any]:
        legal(isinstance(graph, Capture), "no graph")
        world.calls["captures alive"] -= 1
        return (ok,)

    def pop() -> tuple[Any, Any]:
        legal(world.left_over, "pop without a context")
        world.left_over -= 1
        return ok, None

    module.CUgraphNodeType, module.CUresult = bindings.CUgraphNodeType, bindings.CUresult
    module.CUstreamCaptureMode = bindings.CUstreamCaptureMode
    module.cuStreamBeginCapture, module.cuStreamEndCapture = begin, end
    module.cuGraphGetNodes, module.cuGraphNodeGetType = nodes, lambda node: (ok, node.kind)
    module.cuGraphDestroy, module.cuCtxPopCurrent = destroy, pop
    return module


class CoreStream:
    def __init__(self, of: Stream) -> None:
        self.of, self.handle = of, of.handle

    @property
    def context(self) -> None:
        legal(self.of.capture is None, "the context of a stream that is being captured")
        self.of.is_context_known = True

    def create_graph_builder(self) -> GraphBuilder:
        return GraphBuilder(self.of)


@cache
def parameters_of(kernel: str) -> list[type]:
    """Return what a kernel is to be given, as cuda.core hands things on: pointers and 64 bits as `int`."""
    sources = [(Path(__file__).parents[1] / source).read_text() for source in SOURCES]
    [found] = re.findall(rf'extern "C" __global__ void {kernel}\((.*?)\)', "\n".join(sources), re.DOTALL)
    kinds = {"int": np.int32, "long long": int, "cudaGraphConditionalHandle": Condition}
    parameters = [one.strip() for one in found.split(",")]
    return [int if "*" in one else kinds[one.rpartition(" ")[0]] for one in parameters]


def _kernel(world: World, name: str, config: Any, arguments: Sequence[Any]) -> KernelNode:
    """Return the work of a kernel: ours are run from their own source, after a look at the memory they will touch."""
    if name == "segment":
        return KernelNode(name, lambda _: _segment(world, *arguments))

    def run(_: World) -> None:
        _TOUCHES[name](world, config, *arguments)
        host_launch(world.host_kernels, name, config.grid, config.block, arguments)

    return KernelNode(name, run)


def host_launch(kernels: ctypes.CDLL, name: str, grid: Any, block: Any, arguments: Sequence[Any]) -> None:
    """Run one of our kernels on the host."""
    handles = [ctypes.addressof(one.cell) if isinstance(one, Condition) else int(one) for one in arguments]
    sizes = [(ctypes.c_uint * 3)(*size, *[1] * (3 - len(size))) for size in map(_dimensions, (grid, block))]
    kernels.launch_on_host(getattr(kernels, name), (ctypes.c_long * 6)(*handles), *sizes)


def _dimensions(size: Any) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


def _touches_preprocess(world: World, config: Any, order: int, out: int) -> None:
    from edge.cuda.kernels import ORDER, PLACE
    from edge.cuda.preprocess_params import NV12

    asked = world.array(order, ORDER)[0]
    height, width, channels = (int(value) for value in asked["shape"])
    rows, _, pitch, kind = (int(value) for value in asked["picture"])
    world.array(int(asked["pixels"]), np.uint8, rows * pitch)
    if kind == NV12:
        world.array(int(asked["chroma"]), np.uint8, rows // 2 * pitch)
    for name, count in (("rows", height), ("columns", width)):
        world.array(int(asked[name]), PLACE, count)
    world.array(int(asked["levels"]), np.float32, 256 * channels)
    world.array(out, np.float32, height * width * channels)


def _touches_said(world: World, said_at: int, rows: int) -> None:
    from edge.cuda.kernels import SAID

    said = world.array(said_at, SAID)[0]
    counts = {"label": (np.int32, 1), "confidence": (np.float32, 1), "exits": (np.uint8, 1)}
    for name, (kind, count) in {**counts, "logits": (np.float32, int(said["classes"]))}.items():
        if said[name]:
            world.array(int(said[name]), kind, rows * count)


def _touches_answer(world: World, config: Any, said: int, out: int) -> None:
    from edge.cuda.kernels import ANSWER

    _touches_said(world, said, 1)
    world.array(out, ANSWER)


def _touches_survivors(
    world: World, config: Any, said: int, rows: int, decided: int, images: int, going_on: int, count: int
) -> None:
    from edge.cuda.kernels import DECIDED

    _touches_said(world, said, int(rows))
    for image in world.array(images, np.int32, int(rows)):
        world.array(decided + int(image) * DECIDED.itemsize, DECIDED)
    world.array(going_on, np.int32, int(rows))
    world.array(count, np.int32)


def _touches_gather(world: World, config: Any, source: int, rows: int, units: int, out: int, unit: int) -> None:
    places = world.array(rows, np.int32, config.grid[1])
    legal(source % unit == 0 and out % unit == 0, "words that are not aligned")
    world.array(source, np.uint8, (int(places.max()) + 1) * units * unit)
    world.array(out, np.uint8, len(places) * units * unit)


_TOUCHES: dict[str, Callable[..., None]] = {
    "preprocess": _touches_preprocess,
    "answer": _touches_answer,
    "answer_or_go_on": lambda world, config, condition, said, out: _touches_answer(world, config, said, out),
    "survivors": _touches_survivors,
    "gather_bytes": partial(_touches_gather, unit=1),
    "gather_words": partial(_touches_gather, unit=16),
}


def _segment(world: World, duration_ns: int, index: int, image: int, threshold: int, cut: int, *answer: int) -> None:
    """Do what the kernel of `benchmarks.gpu.segments` does, but for the time it takes."""
    logits, confidence, label, exits, ran = answer
    sure = world.array(image, np.float32, int(index) + 1)[index]
    limit = world.array(threshold, np.float32)[0] if threshold else 0
    for at, dtype, value in (
        (cut, np.float32, sure), (logits, np.float32, sure), (logits + 4, np.float32, 0), (label, np.int32, index),
        (confidence, np.float32, sure), (exits, np.bool_, sure >= limit),
        (ran, np.uint32, world.array(ran, np.uint32)[0] + 1),
    ):  # fmt: skip
        if at:
            world.array(at, dtype)[0] = value


def driver_module(world: World) -> ModuleType:
    """Return `pycuda.driver` as far as we use it."""
    module: Any = ModuleType("pycuda.driver")

    class Context:
        def __init__(self) -> None:
            self.is_attached = True

        def push(self) -> None:
            world.call("push", needs_context=False)
            legal(self.is_attached, "a context pushed after it was detached")
            world.stacks.stack = [*getattr(world.stacks, "stack", []), self]

        @staticmethod
        def pop() -> None:
            legal(world.depth(), "pop without push")
            world.stacks.stack.pop()

        def detach(self) -> None:
            legal(self.is_attached, "a context detached twice")
            legal(world.depth() and world.stacks.stack[-1] is self, "a context detached that is not current")
            self.is_attached = False
            world.stacks.stack.pop()
            world.retained -= 1
            world.left_over += 1  # the driver leaves it this thread's

    class Device:
        def __init__(self, index: int) -> None:
            world.call("device", needs_context=False)
            legal(world.calls["init"], "a device before init")

        def retain_primary_context(self) -> Context:
            world.call("retain", needs_context=False)
            world.retained += 1
            return Context()

        def compute_capability(self) -> tuple[int, int]:
            return (8, 7)

        def get_attribute(self, attribute: str) -> int:
            return int(world.is_integrated) if attribute == "INTEGRATED" else 16

        def name(self) -> str:
            return "Orin"

        def total_memory(self) -> int:
            return 8 << 30

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            world.call("mem_alloc")
            self.address, _ = world.allocated(size)

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            world.call("free")
            legal(self.address not in world.freed, "memory freed twice")
            legal(not any(stream.queue for stream in world.streams.values()), "memory freed under work")
            world.freed.add(self.address)

    class HostAllocation:
        def __init__(self, size: int) -> None:
            self.address, _ = world.allocated(size)
            world.pinned[self.address] = size
            place = {"data": (self.address, False), "shape": (size,), "typestr": "|u1", "version": 3}
            self.__array_interface__ = place

        def get_device_pointer(self) -> int:
            return self.address

        def __del__(self) -> None:
            world.freed.add(self.address)
            world.calls["pinned freed"] += 1
            world.calls["freed without a context"] += not world.depth()

    def pagelocked_empty(size: int, dtype: Any, mem_flags: int = 0) -> NDArray[Any]:
        world.call("pagelocked_empty")
        legal(mem_flags == module.host_alloc_flags.DEVICEMAP, "memory that the GPU does not see")
        legal(dtype is np.uint8, "only bytes are counted here")
        return np.asarray(HostAllocation(size))

    def memcpy_htod(to: int, source: NDArray[Any]) -> None:
        world.call("memcpy_htod")
        world.flush()
        world.array(to, np.uint8, source.nbytes)[:] = source.view(np.uint8).ravel()

    def memcpy_dtoh(to: NDArray[Any], source: int) -> None:
        world.call("memcpy_dtoh")
        world.flush()
        to.reshape(-1).view(np.uint8)[:] = world.array(source, np.uint8, to.nbytes)

    def memcpy_htod_async(to: int, source: NDArray[Any], stream: "PyStream") -> None:
        world.call("memcpy_htod_async")
        at = source.ctypes.data
        legal(any(base <= at < base + size for base, size in world.pinned.items()), "a copy from memory that may move")
        world.calls["bytes sent"] += source.nbytes

        nbytes = source.nbytes  # the copy does not keep the memory alive

        def copy(_: World) -> None:
            world.block(to, np.uint8, nbytes)[:] = world.block(at, np.uint8, nbytes)

        stream.of.add(MemcpyNode("upload", copy))

    class PyStream:
        def __init__(self, flags: int = 0) -> None:
            world.call("stream")
            legal(flags == 1, "a stream that waits for the default stream")
            self.of = Stream(world)
            self.handle = self.of.handle

        def __del__(self) -> None:
            world.calls["streams freed"] += 1
            world.calls["freed without a context"] += not world.depth()

        def synchronize(self) -> None:
            world.call("synchronize")
            self.of.run_all()

    class Event:
        """A point in a stream's work, passed when the stream gets there; recorded again, it is a later point."""

        def __init__(self, flags: int = 0) -> None:
            world.call("event")
            legal(flags == 0, "an event that keeps no time, or is not this process's alone")
            self.records, self.passed, self.at_ns = 0, 0, 0

        def record(self, stream: PyStream | None = None) -> "Event":
            world.call("event record")
            legal(stream is not None, "an event in the default stream, which others use")
            legal(stream.of.capture is None, "an event in a graph")
            self.records += 1
            stream.of.queue.append(SimpleNamespace(run=partial(self._pass, self.records)))
            return self

        def _pass(self, record: int, _: World) -> None:
            self.passed, self.at_ns = record, perf_counter_ns()

        def time_since(self, start: "Event") -> float:
            world.call("event time")
            for event in (start, self):
                legal(event.records, "time of an event that was not recorded")
                legal(event.passed == event.records, "time of an event that is still to come")
            return (self.at_ns - start.at_ns) / 1e6

    def init() -> None:
        world.call("init", needs_context=False)

    module.Event = Event
    module.Error, module.Context, module.Device, module.Stream = DriverError, Context, Device, PyStream
    module.init, module.mem_alloc, module.pagelocked_empty = init, DeviceAllocation, pagelocked_empty
    module.memcpy_htod, module.memcpy_dtoh, module.memcpy_htod_async = memcpy_htod, memcpy_dtoh, memcpy_htod_async
    module.host_alloc_flags = SimpleNamespace(DEVICEMAP=2)
    module.device_attribute = SimpleNamespace(INTEGRATED="INTEGRATED", MULTIPROCESSOR_COUNT="MULTIPROCESSOR_COUNT")
    module.get_driver_version = lambda: 12060
    return module


def core_modules(world: World) -> tuple[ModuleType, ModuleType]:
    """Return `cuda.core` and `cuda.core.graph` as far as we use them."""
    core: Any = ModuleType("cuda.core")
    graph: Any = ModuleType("cuda.core.graph")

    class ObjectCode:
        def __init__(self, code: bytes) -> None:
            self.code = code

        @staticmethod
        def from_cubin(code: bytes) -> "ObjectCode":
            world.call("from_cubin")
            return ObjectCode(code)

        def get_kernel(self, name: str) -> str:
            legal(name in (*OUR_KERNELS, "segment"), f"no kernel {name}")
            return name

    class Program:
        def __init__(self, source: str, kind: str, options: Any) -> None:
            self.source, self.arch = source, options.arch

        def compile(self, target: str) -> ObjectCode:
            world.call("compile", needs_context=False)
            return ObjectCode(f"{target} for {self.arch} of {len(self.source)}".encode())

        def close(self) -> None:
            pass

    def launch(target: Any, config: Any, kernel: str, *arguments: Any) -> None:
        world.call("launch")
        given, wanted = [type(one) for one in arguments], parameters_of(kernel)
        legal(given == wanted, f"{kernel} of {wanted} is given {given}")
        node = _kernel(world, kernel, config, arguments)
        if isinstance(target, GraphBuilder):
            legal(target.state == "building", "a launch into a graph that is not being built")
            target.nodes.append(node)
        else:
            target.of.add(node)

    core.Kernel, core.LaunchConfig, core.ObjectCode = str, SimpleNamespace, ObjectCode
    core.Program, core.ProgramOptions, core.launch = Program, SimpleNamespace, launch

    def set_current() -> None:
        legal(world.depth(), "a device set without a context")
        world.stacks.is_set = True

    core.Stream = SimpleNamespace(from_handle=lambda handle: CoreStream(world.streams[handle]))
    core.Device = lambda index: SimpleNamespace(set_current=set_current)
    graph.Graph, graph.GraphBuilder = Graph, GraphBuilder
    core.graph = graph
    return core, graph


@contextmanager
def installed(world: World) -> Iterator[World]:
    """Let `edge.cuda` be imported on the stand-ins; afterwards all is as it was."""
    driver, (core, graph) = driver_module(world), core_modules(world)
    pycuda: Any = ModuleType("pycuda")
    pycuda.driver = driver
    new = {"pycuda": pycuda, "pycuda.driver": driver, "cuda.core": core, "cuda.core.graph": graph}
    cuda.bindings.driver, real = driver_bindings(world), cuda.bindings.driver
    before = {**_forgotten(), **{name: sys.modules.pop(name) for name in new if name in sys.modules}}
    sys.modules.update(new)
    _note_tensors(world)
    try:
        yield world
    finally:
        cuda.bindings.driver = real
        _forgotten()
        for name in new:
            sys.modules.pop(name, None)
        sys.modules.update(before)
        for name in (name for name in before if name.startswith(ON_THE_GPU)):
            package, _, module = name.rpartition(".")
            setattr(sys.modules[package], module, before[name])


def _forgotten() -> dict[str, ModuleType]:
    """Let our modules on the GPU be imported anew; return those that were."""
    found = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(ON_THE_GPU)}
    for package, _, module in (name.rpartition(".") for name in found):
        vars(sys.modules[package]).pop(module, None)
    return found


def _note_tensors(world: World) -> None:
    """Let the world know how memory is shared out: what reaches from one tensor into the next is illegal."""
    from edge.cuda.memory import DeviceMemory, PinnedMemory

    def noting(make: Callable[..., None]) -> Callable[..., None]:
        def made(memory: Any, sizes: Mapping[str, int]) -> None:
            make(memory, sizes)
            world.tensors |= {memory.addresses[name]: size for name, size in sizes.items()}

        return made

    for kind in (DeviceMemory, PinnedMemory):
        kind.__init__ = noting(kind.__init__)  # type: ignore[method-assign]


class SessionEngine:
    """A segment on the stand-in GPU: ONNX Runtime on its memory."""

    def __init__(self, world: World, session: Any, what: str) -> None:
        self.world, self.session, self.what = world, session, what
        self.node: type[Node] = KernelNode
        self.bound = 0

    def bind(self, addresses: dict[str, int]) -> Callable[[int], None]:
        run = self.bind_batch(addresses)
        return lambda stream: run(stream, 1)

    def bind_batch(self, addresses: dict[str, int]) -> Callable[[int, int], None]:
        self.bound += 1
        tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        for tensor in tensors:
            legal(tensor.name in addresses, f"no address for {tensor.name}")
            legal(addresses[tensor.name] % ALIGNMENT == 0, f"{tensor.name} is not aligned")

        def run(images: int) -> None:
            given = {
                tensor.name: self._tensor(addresses, tensor, images).copy() for tensor in self.session.get_inputs()
            }
            found = self.session.run(None, given)
            for tensor, value in zip(self.session.get_outputs(), found, strict=True):
                self._tensor(addresses, tensor, images)[:] = value

        def enqueue(stream: int, images: int) -> None:
            self.world.call(f"enqueue {self.what}")
            self.world.streams[stream].add(self.node(self.what, lambda _: run(images)))

        return enqueue

    def _tensor(self, addresses: dict[str, int], tensor: Any, images: int) -> NDArray[Any]:
        kinds = {"float": np.float32, "int8": np.int8, "int32": np.int32, "bool": np.bool_, "float16": np.float16}
        shape = [size if isinstance(size, int) else images for size in tensor.shape]
        dtype = kinds[tensor.type.removeprefix("tensor(").removesuffix(")")]
        return self.world.array(addresses[tensor.name], dtype, int(np.prod(shape))).reshape(shape)


class ModuleEngine:
    """A segment on the stand-in GPU: a torch module on its memory."""

    def __init__(self, world: World, module: Any, spec: Any) -> None:
        self.world, self.module, self.spec = world, module, spec

    def bind(self, addresses: dict[str, int]) -> Callable[[int], None]:
        def tensors(specs: Sequence[Any]) -> list[torch.Tensor]:
            arrays = [self.world.array(addresses[s.name], s.dtype, int(np.prod(s.shape))) for s in specs]
            return [torch.from_numpy(array.reshape(spec.shape)) for spec, array in zip(specs, arrays, strict=True)]

        def run(_: World) -> None:
            with torch.no_grad():
                for out, found in zip(tensors(self.spec.outputs), self.module(*tensors(self.spec.inputs)), strict=True):
                    legal((out.dtype, out.shape) == (found.dtype, found.shape), f"{found.dtype} {found.shape}")
                    out.copy_(found)

        return lambda stream: self.world.streams[stream].add(KernelNode("module", run))
