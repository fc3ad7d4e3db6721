"""What a process needs of a GPU to run chains: its context, our kernels, and whether graphs can decide on it."""

from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Literal

import numpy as np
import pycuda.driver as driver
from cuda.core import Stream
from cuda.core.graph import GraphBuilder

from edge.cuda.context import PrimaryContext
from edge.cuda.graph import MODE, captured
from edge.cuda.kernels import ANSWER, SAID, Kernels
from edge.cuda.memory import NON_BLOCKING, PinnedMemory
from edge.errors import EngineError

OPENING = Lock()
Level = Literal["graph", "stepwise"]
"""`graph`: a launch and a wait for a frame. `stepwise`: the host looks at each exit's answer."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A GPU that is ready to run chains."""

    context: PrimaryContext
    kernels: Kernels
    level: Level
    graph_unsupported_reason: str
    """Nothing where the level is `graph`."""
    said: set[str] = field(default_factory=set)
    """What users were told of the level, so that they are told once."""


def runtime() -> Runtime:
    """Open this machine's first GPU, once, and find out what it can do.

    Raises:
        EngineError: there is none, or our kernels do not run on it.
    """
    with OPENING:
        return _opened()


@lru_cache(maxsize=1)
def _opened() -> Runtime:
    context = PrimaryContext()
    try:
        with context.activate("preparing the GPU"):
            kernels = Kernels(context.arch)
            problem = why_no_conditions(kernels)
    except EngineError:
        context.close()
        raise
    return Runtime(context, kernels, "stepwise" if problem else "graph", problem)


def why_no_conditions(kernels: Kernels) -> str:
    """Return what keeps graphs from deciding on the GPU here, tried out; nothing where they can."""
    try:
        for sure in (True, False):
            if _body_ran(kernels, sure=sure) == sure:
                return f"a condition set to {int(not sure)} was taken for {int(sure)}"
    except Exception as error:  # whatever driver and libraries raise where they are too old
        return f"{type(error).__name__}: {error}"
    return ""


def _body_ran(kernels: Kernels, *, sure: bool) -> bool:
    """Run a graph whose first exit is sure or not, and whose body notes exit 1; return whether the body did."""
    memory = PinnedMemory({"first": SAID.itemsize, "second": SAID.itemsize, "outputs": 16, "answer": ANSWER.itemsize})
    at, stream = memory.addresses["outputs"], driver.Stream(NON_BLOCKING)
    memory.view("outputs", np.int32)[3] = int(sure)
    for index, name in enumerate(("first", "second")):
        said = memory.view(name, SAID)
        said["label"], said["confidence"], said["logits"], said["classes"] = at, at + 4, at + 8, 1
        said["exits"], said["exit_index"] = 0 if index else at + 12, index

    def fill(builder: GraphBuilder) -> None:
        condition = builder.create_condition(default_value=0)
        kernels.answer_or_go_on(builder, condition, memory.addresses["first"], memory.addresses["answer"])
        body = builder.if_then(condition)
        body.begin_building(MODE)
        kernels.answer(body, memory.addresses["second"], memory.addresses["answer"])
        body.end_building()
        body.close()

    graph = captured(stream, fill)
    graph.launch(Stream.from_handle(stream.handle))
    stream.synchronize()
    graph.close()
    return bool(memory.view("answer", ANSWER)["exit_index"][0] == 1)
