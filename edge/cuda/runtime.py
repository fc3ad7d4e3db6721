"""The GPU runtime of this process: context, kernels and execution mode."""

from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Literal

import numpy as np
import pycuda.driver as driver
from cuda.core import Stream
from cuda.core.graph import GraphBuilder

from edge.cuda.context import PrimaryContext
from edge.cuda.graph import CAPTURE_MODE, capture_graph
from edge.cuda.kernel_params import EXIT_OUTPUTS, PREDICTION
from edge.cuda.kernels import Kernels
from edge.cuda.memory import NON_BLOCKING, PinnedMemory
from edge.errors import EngineError

OPEN_LOCK = Lock()
Mode = Literal["graph", "stepwise"]
"""`graph`: one launch and one wait per frame. `stepwise`: the host checks each exit."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """A GPU that is ready to run chains."""

    context: PrimaryContext
    kernels: Kernels
    mode: Mode
    graph_unsupported_reason: str
    """Empty where the mode is `graph`."""
    logged: set[str] = field(default_factory=set)
    """Warnings logged so far: each is logged once, not once for each slot."""


def open_runtime() -> Runtime:
    """Open this machine's first GPU, once, and test which mode it supports.

    Raises:
        EngineError: there is no GPU, or the kernels do not run on it.
    """
    with OPEN_LOCK:
        return _open_once()


@lru_cache(maxsize=1)
def _open_once() -> Runtime:
    context = PrimaryContext()
    try:
        with context.activate("preparing the GPU"):
            kernels = Kernels(context.arch)
            problem = conditional_unsupported_reason(kernels)
    except EngineError:
        context.close()
        raise
    return Runtime(context, kernels, "stepwise" if problem else "graph", problem)


def conditional_unsupported_reason(kernels: Kernels) -> str:
    """Run conditional nodes and return the reason why they do not work here; empty if they do."""
    try:
        for exits in (True, False):
            if _conditional_body_runs(kernels, exits=exits) == exits:
                return f"the GPU read a condition of {int(not exits)} as {int(exits)}"
    except Exception as error:  # of any type that outdated drivers and libraries raise
        return f"{type(error).__name__}: {error}"
    return ""


def _conditional_body_runs(kernels: Kernels, *, exits: bool) -> bool:
    """Run a graph of two exits, the second one in a conditional body; return whether the second exit answered."""
    sizes = {"first": EXIT_OUTPUTS.itemsize, "second": EXIT_OUTPUTS.itemsize}
    memory = PinnedMemory(sizes | {"values": 16, "prediction": PREDICTION.itemsize})
    first, second, values, prediction = memory.addresses.values()
    stream = driver.Stream(NON_BLOCKING)
    memory.view("values", np.int32)[3] = int(exits)
    for index, name in enumerate(sizes):
        outputs = memory.view(name, EXIT_OUTPUTS)
        outputs["label"], outputs["confidence"], outputs["logits"] = values, values + 4, values + 8
        outputs["classes"], outputs["exit_index"], outputs["exit_flag"] = 1, index, 0 if index else values + 12

    def fill(builder: GraphBuilder) -> None:
        condition = builder.create_condition(default_value=0)
        kernels.write_prediction_and_condition(builder, condition, first, prediction)
        body = builder.if_then(condition)
        body.begin_building(CAPTURE_MODE)
        kernels.write_prediction(body, second, prediction)
        body.end_building()
        body.close()

    graph = capture_graph(stream, fill)
    graph.launch(Stream.from_handle(stream.handle))
    stream.synchronize()
    graph.close()
    return bool(memory.view("prediction", PREDICTION)["exit_index"][0] == 1)
