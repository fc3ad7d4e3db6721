"""A GPU for machines without one: it keeps state, runs work as late as a GPU may, and refuses illegal use.

Memory is host memory at its real addresses, so that the kernels' own source, compiled for the host, works on it.
Enqueued work runs when somebody waits for the stream. `cuda_modules` offers this GPU as pycuda and cuda.core.
"""

import ctypes
import mmap
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
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
    multiprocessors: int = 16
    memory_bytes: int = 64 << 30
    driver_version: int = 12060
    threads: Any = field(default_factory=threading.local)
    capturing: Any = field(default_factory=threading.Lock)
    """Held while captures begin and end, and while a thread waits for the whole GPU."""
    running: Any = field(default_factory=threading.RLock)
    """Held while a stream's work runs: several threads may wait for it."""
    kernel_node: Any = None
    """Returns the work of a kernel with its configuration and arguments; set by `cuda_modules`."""

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

    def synchronize(self) -> None:
        """Wait for the whole GPU; during a capture, spoil it and refuse."""
        with self.capturing:
            captures = [stream.capture for stream in list(self.streams.values()) if stream.capture is not None]
            for capture in captures:
                capture.is_spoilt = True
            if captures:
                raise DriverError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
            self.flush()


class Stream:
    """Work in order, done when somebody waits."""

    def __init__(self, world: World) -> None:
        self.world, self.queue, self.capture = world, [], None  # type: ignore[var-annotated]
        self.was_used = False
        self.handle = 0x1000 + 16 * len(world.streams)
        world.streams[self.handle] = self

    def add(self, node: Any) -> None:
        self.was_used = True
        if self.capture is not None:
            if self.capture.is_spoilt:
                raise CoreError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
            self.capture.nodes.append(node)
        else:
            self.queue.append(node)

    def run_all(self) -> None:
        require(self.capture is None, "waiting for a stream that is being captured")
        with self.world.running:
            while self.queue:
                self.queue.pop(0).run(self.world)


class Node:
    def __init__(self, name: str, work: Callable[[World], None]) -> None:
        self.name, self.work = name, work

    def run(self, world: World) -> None:
        world.ran.append(self.name)
        self.work(world)


class KernelNode(Node):
    """The launch of a kernel, or of a library's work."""


class MemcpyNode(Node):
    """A copy."""


class HostCallbackNode(Node):
    """A call of a host function."""


class ChildGraphNode(Node):
    def __init__(self, nodes: list[Any]) -> None:
        super().__init__("child graph", lambda world: None)
        self.nodes = list(nodes)

    def run(self, world: World) -> None:
        for node in self.nodes:
            node.run(world)


class ConditionalNode(Node):
    def __init__(self, condition: "Condition", body: "GraphDefinition") -> None:
        super().__init__("if", lambda world: None)
        self.condition, self.body = condition, body

    @property
    def nodes(self) -> list[Any]:
        return self.body.nodes

    def run(self, world: World) -> None:
        if self.condition.cell.value if world.run_bodies is None else world.run_bodies:
            for node in self.nodes:
                node.run(world)


BODY_NODES = (KernelNode, MemcpyNode, ChildGraphNode, ConditionalNode)
"""Nodes that a conditional body may hold, directly and in embedded graphs."""


class Condition:
    """A graph's condition; its value is in the cell that the kernels, run on the host, set."""

    def __init__(self, root: "GraphDefinition", default: int | None) -> None:
        self.root, self.default, self.node = root, default, None  # type: ignore[var-annotated]
        self.cell = ctypes.c_uint()

    def reset(self) -> None:
        require(self.default is not None, "a condition without a default value")
        self.cell.value = self.default or 0


class CoreStream:
    """cuda.core's view of a stream."""

    def __init__(self, of: Stream) -> None:
        self.of, self.handle = of, of.handle


class GraphNode:
    """The last node of a graph definition, or its entry; nodes added to it depend on it and on all before."""

    def __init__(self, graph: "GraphDefinition") -> None:
        self.graph, self.length = graph, len(graph.nodes)

    def memcpy(self, dst: int, src: int, size: int) -> "GraphNode":
        return self._add(copy_node(self.graph.world, dst, src, size))

    def launch(self, config: Any, kernel: str, *args: Any) -> "GraphNode":
        for condition in (value for value in args if isinstance(value, Condition)):
            require(condition.root is self.graph.root, "a condition of another graph")
        return self._add(self.graph.world.kernel_node(kernel, config, args))

    def embed(self, child: "GraphDefinition") -> "GraphNode":
        return self._add(child_node(child.nodes))

    def if_then(self, condition: Condition) -> "IfNode":
        self.graph.world.call("if_then")
        require(condition.root is self.graph.root, "a condition of another graph")
        require(condition.node is None, "a condition used twice")
        condition.node = ConditionalNode(condition, GraphDefinition(self.graph.world, self.graph.root))
        self._add(condition.node)
        return IfNode(condition.node.body)

    def _add(self, node: Any) -> "GraphNode":
        self.graph.world.call("add node")
        require(len(self.graph.nodes) == self.length, "a node that runs beside another")
        self.graph.nodes.append(node)
        return GraphNode(self.graph)


class IfNode:
    def __init__(self, then: "GraphDefinition") -> None:
        self.then = then


class GraphDefinition:
    """cuda.core's graph definition: nodes in sequence; a body shares the root's conditions."""

    def __init__(self, world: World, root: "GraphDefinition | None" = None) -> None:
        world.call("graph definition")
        self.world, self.root = world, root or self
        self.nodes: list[Any] = []
        self.conditions: list[Condition] = []

    @property
    def handle(self) -> "GraphDefinition":
        return self

    def memcpy(self, dst: int, src: int, size: int) -> GraphNode:
        return GraphNode(self).memcpy(dst, src, size)

    def launch(self, config: Any, kernel: str, *args: Any) -> GraphNode:
        return GraphNode(self).launch(config, kernel, *args)

    def embed(self, child: "GraphDefinition") -> GraphNode:
        return GraphNode(self).embed(child)

    def create_condition(self, default_value: int | None = None) -> Condition:
        self.world.call("create_condition")
        require(self.root is self, "a condition of a body")
        self.conditions.append(Condition(self, default_value))
        return self.conditions[-1]

    def instantiate(self) -> "Graph":
        self.world.call("instantiate")
        require(self.root is self, "a body as a graph")
        require(all(condition.node for condition in self.conditions), "a condition without a node")
        conditional = [node for node in all_nodes(self.nodes) if isinstance(node, ConditionalNode)]
        if not all(isinstance(node, BODY_NODES) for body in conditional for node in all_nodes(body.nodes)):
            raise CoreError("CUDA_ERROR_NOT_SUPPORTED")
        return Graph(self)


def child_node(nodes: list[Any]) -> ChildGraphNode:
    """Return a copy of a graph as a node; memory and conditional nodes cannot be embedded."""
    require(not any(isinstance(node, ConditionalNode) for node in all_nodes(nodes)), "a condition in an embedded graph")
    return ChildGraphNode(nodes)


def copy_node(world: World, to: int, source: int, nbytes: int) -> MemcpyNode:
    """Return the copy of pinned memory to the GPU; it does not keep the memory alive."""
    is_pinned = any(base <= source < base + size for base, size in world.pinned.items())
    require(is_pinned, "an asynchronous copy from memory that is not pinned")

    def copy(_: World) -> None:
        world.block(to, np.uint8, nbytes)[:] = world.block(source, np.uint8, nbytes)
        world.calls["bytes uploaded"] += nbytes

    return MemcpyNode("upload", copy)


def all_nodes(nodes: list[Any]) -> Iterator[Any]:
    for node in nodes:
        yield node
        yield from all_nodes(getattr(node, "nodes", []))


class Graph:
    """cuda.core's graph."""

    def __init__(self, definition: GraphDefinition) -> None:
        self.nodes, self.conditions, self.world = list(definition.nodes), definition.conditions, definition.world
        self.is_closed = False
        self.world.calls["graphs alive"] += 1

    def upload(self, stream: CoreStream) -> None:
        self.world.call("graph upload")
        require(not self.is_closed, "upload of a closed graph")

    def launch(self, stream: CoreStream) -> None:
        self.world.call("graph launch")
        require(not self.is_closed, "launch of a closed graph")
        require(stream.of.capture is None, "launch of a graph into a capture")
        stream.of.add(SimpleNamespace(run=self._run))

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
    """A graph that the driver captures from a stream."""

    def __init__(self, *, is_spoilt: bool = False) -> None:
        self.nodes: list[Any] = []
        self.is_spoilt = is_spoilt
