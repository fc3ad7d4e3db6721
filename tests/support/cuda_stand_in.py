"""A GPU for machines without one: it keeps state, runs work as late as a GPU may, and refuses illegal use.

Memory is host memory at its real addresses, so that the kernels' own source, compiled for the host, works on it.
Enqueued work runs when somebody waits for the stream. `cuda_modules` offers this GPU as pycuda and cuda.core.
"""

import ctypes
import gc
import mmap
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from cuda.bindings import driver as bindings
from numpy.typing import NDArray


class IllegalUseError(AssertionError):
    """A use of CUDA that fails, or is undefined, on a GPU."""


def require(condition: object, problem: str) -> None:
    if not condition:
        raise IllegalUseError(problem)


class DriverError(Exception):
    """The error that pycuda raises for a failing status."""


class CoreError(Exception):
    """The error that cuda.core raises for a failing status."""


@dataclass
class World:
    """One GPU, and every call made to it."""

    host_kernels: ctypes.CDLL
    is_integrated: bool = False
    failing: dict[str, Exception] = field(default_factory=dict)
    """Calls that fail from now on, and their errors."""
    calls: Counter[str] = field(default_factory=Counter)
    ran: list[str] = field(default_factory=list)
    """Segments and kernels in the order they ran."""
    run_bodies: bool | None = None
    """Run all conditional bodies, or none, whatever their conditions; None obeys the conditions."""
    tensors: dict[int, int] = field(default_factory=dict)
    """Bytes of each tensor by its address, in allocations that are divided into tensors."""
    memory: dict[int, mmap.mmap] = field(default_factory=dict)
    freed: set[int] = field(default_factory=set)
    pinned: dict[int, int] = field(default_factory=dict)
    streams: dict[int, "Stream"] = field(default_factory=dict)
    retained: int = 0
    detached: int = 0
    """Contexts that were detached and are still current in a thread."""
    threads: Any = field(default_factory=threading.local)

    def call(self, name: str, *, needs_context: bool = True) -> None:
        """Count a call, and raise its error where it is failing."""
        self.calls[name] += 1
        if needs_context:
            require(self.depth(), f"{name} without a context")
        if name in self.failing:
            raise self.failing[name]

    def depth(self) -> int:
        """Return the number of contexts on this thread's stack."""
        return len(getattr(self.threads, "stack", []))

    def array(self, address: int, dtype: Any, count: int = 1) -> NDArray[Any]:
        """Return memory; in an allocation that is divided into tensors, it must lie within one tensor."""
        array = self.block(address, dtype, count)
        start = max((at for at in self.tensors if at <= address), default=0)
        base = max(at for at in self.memory if at <= address)
        is_inside = address + array.nbytes <= start + self.tensors.get(start, 0)
        require(start < base or is_inside, f"{array.nbytes} bytes at {address:#x} reach beyond their tensor")
        return array

    def block(self, address: int, dtype: Any, count: int = 1) -> NDArray[Any]:
        """Return memory, which must lie within one allocation that was not freed."""
        size = np.dtype(dtype).itemsize * count
        for base, block in self.memory.items():
            if base <= address < base + len(block):
                require(base not in self.freed, f"address {address:#x} was freed")
                require(address + size <= base + len(block), f"{size} bytes at {address:#x} reach beyond their block")
                return np.frombuffer(block, np.uint8)[address - base : address - base + size].view(dtype)
        raise IllegalUseError(f"address {address:#x} was never allocated")

    def allocate(self, size: int) -> int:
        """Return the address of new memory."""
        block = mmap.mmap(-1, max(1, size))
        address = np.frombuffer(block, np.uint8).ctypes.data
        self.memory[address] = block
        return address

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
        require(self.capture is None, "waiting for a stream that is being captured")
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
        if self.condition.cell.value if world.run_bodies is None else world.run_bodies:
            for node in self.body.nodes:
                node.run(world)


class Condition:
    """A graph's condition; its value is in the cell that the kernels, run on the host, set."""

    def __init__(self, root: "GraphBuilder", default: int | None) -> None:
        self.root, self.default, self.node = root, default, None  # type: ignore[var-annotated]
        self.cell = ctypes.c_uint()

    def reset(self) -> None:
        require(self.default is not None, "a condition without a default value")
        self.cell.value = self.default or 0


class CoreStream:
    """cuda.core's view of a stream."""

    def __init__(self, of: Stream) -> None:
        self.of, self.handle = of, of.handle

    @property
    def context(self) -> None:
        require(self.of.capture is None, "the context of a stream that is being captured")
        self.of.is_context_known = True

    def create_graph_builder(self) -> "GraphBuilder":
        return GraphBuilder(self.of)


class GraphBuilder:
    """cuda.core's graph builder: captures from a stream; conditional bodies from streams of their own."""

    def __init__(self, stream: Stream, root: "GraphBuilder | None" = None) -> None:
        self.of, self.world, self.root = stream, stream.world, root or self
        self.nodes: list[Any] = []
        self.conditions: list[Condition] = []
        self.state, self.is_closed = "new", False
        self.world.calls["builders alive"] += 1

    @property
    def stream(self) -> CoreStream:
        return CoreStream(self.of)

    def begin_building(self, mode: str = "relaxed") -> "GraphBuilder":
        self.world.call("begin_building")
        require(mode == "relaxed", f"capture mode {mode}, which other threads' calls invalidate")
        require(not gc.isenabled(), "a capture in which garbage may be collected")
        require(self.root is not self or self.of.is_context_known, "capture from a stream of unknown context")
        require(self.state == "new" and not self.is_closed, f"building begun by a builder that is {self.state}")
        require(self.of.capture is None, "capture inside capture")
        require(not self.of.queue, "capture from a stream with work on it")
        self.state, self.of.capture = "building", self
        return self

    def end_building(self) -> "GraphBuilder":
        require(self.state == "building", f"building ended by a builder that is {self.state}")
        require(not gc.isenabled(), "a capture in which garbage may have been collected")
        self.state, self.of.capture = "built", None
        self.world.call("end_building")
        return self

    def create_condition(self, default_value: int | None = None) -> Condition:
        self.world.call("create_condition")
        require(self.state == "building", "a condition outside capture")
        self.root.conditions.append(Condition(self.root, default_value))
        return self.root.conditions[-1]

    def if_then(self, condition: Condition) -> "GraphBuilder":
        self.world.call("if_then")
        require(self.state == "building", "a body outside capture")
        require(getattr(self.world.threads, "is_device_set", False), "a body in a thread that did not set its device")
        require(condition.root is self.root, "a condition of another graph")
        require(condition.node is None, "a condition used twice")
        body = GraphBuilder(Stream(self.world), self.root)
        condition.node = ConditionalNode(condition, body)
        self.nodes.append(condition.node)
        return body

    def complete(self) -> "Graph":
        self.world.call("complete")
        is_ready = self.state == "built" and self.root is self and not self.is_closed
        require(is_ready, f"completing a builder that is {self.state}")
        bodies = [node.body for node in _all_nodes(self.nodes) if isinstance(node, ConditionalNode)]
        require(all(body.state == "built" for body in bodies), "a body that was not built")
        require(all(c.node is not None for c in self.conditions), "a condition without a node")
        return Graph(self)

    def close(self) -> None:
        require(self.state != "building", "closed while capturing")
        self.world.calls["builders alive"] -= not self.is_closed
        self.is_closed = True


def _all_nodes(nodes: Sequence[Any]) -> Iterator[Any]:
    for node in nodes:
        yield node
        if isinstance(node, ConditionalNode):
            yield from _all_nodes(node.body.nodes)


class Graph:
    """cuda.core's graph."""

    def __init__(self, builder: GraphBuilder) -> None:
        self.nodes, self.conditions, self.world = list(builder.nodes), builder.conditions, builder.world
        self.is_closed = False
        self.world.calls["graphs alive"] += 1

    def upload(self, stream: CoreStream) -> None:
        self.world.call("graph upload")
        require(not self.is_closed, "upload of a closed graph")

    def launch(self, stream: CoreStream) -> None:
        self.world.call("graph launch")
        require(not self.is_closed, "launch of a closed graph")
        require(stream.of.capture is None, "launch of a graph into a capture")
        stream.of.queue.append(SimpleNamespace(run=self._run))

    def _run(self, world: World) -> None:
        require(not self.is_closed, "a graph closed before it ran")
        for condition in self.conditions:
            condition.reset()
        for node in self.nodes:
            node.run(world)

    def close(self) -> None:
        self.world.calls["graphs alive"] -= not self.is_closed
        self.is_closed = True


class Capture:
    """A graph that the driver itself captures, without a builder."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
