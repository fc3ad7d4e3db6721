"""Equivalence of the kernels and graphs on this GPU with the reference on the host; see `edge.doctor.gpu`.

`python -m edge.doctor.gpu_checks exit_decisions` runs one of `CHECKS`.

The CUDA modules are imported after `get_runtime`, which explains what is missing.
"""

import sys
from collections.abc import Callable, Iterable
from itertools import product
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import InputSpec
from edge.cuda import get_runtime
from edge.decision import scores_from_logits
from edge.doctor.gpu import NOT_AVAILABLE
from edge.errors import EngineError, UnavailableError
from edge.frames.base import Frame, PixelFormat
from edge.frames.preprocess import preprocess_for

ROWS, THRESHOLD, TEMPERATURE = 1000, 0.7, 1.7
IMAGE = InputSpec("image", "rgb", 3, 96, 128, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
SHAPES = {
    PixelFormat.BGR: (480, 640, 3),
    PixelFormat.BGRX: (480, 640, 4),
    PixelFormat.GRAY: (480, 640),
    PixelFormat.NV12: (720, 640),
}
"""Shape of a frame of 480x640 pixels in each format."""


def nested_conditional_nodes() -> str:
    """Run a chain of three exits as one graph.

    Raises:
        EngineError: graphs do not work here.
    """
    runtime = get_runtime()
    from edge.doctor.probe import chain_unsupported_reason

    reason = chain_unsupported_reason(runtime, "graph")
    _require(not reason, reason)
    return f"three exits in one graph work on {runtime.arch}"


def exit_decisions() -> str:
    """Compare the exit kernel with the exit rule, for random logits with ties and NaN among them.

    Raises:
        EngineError: they differ.
    """
    for classes in (2, 10, 1000):
        logits = np.random.default_rng(classes).normal(0, 3, (ROWS, classes)).astype(np.float32)
        logits[::5] = logits[::5].round()
        logits[3::7, classes // 2] = np.nan
        decisions, expected = _decide(logits), scores_from_logits(logits[None])
        _require(np.array_equal(decisions["label_index"], expected.label[0]), f"labels of {classes} classes differ")
        close = np.allclose(decisions["confidence"], expected.confidence[0], rtol=1e-5, equal_nan=True)
        _require(close, f"confidences of {classes} classes differ")
        reached = decisions["confidence"] >= np.float32(THRESHOLD)
        _require(np.array_equal(decisions["is_final"] == 1, reached), "exits differ from the exit rule")
    return f"{3 * ROWS} decisions equal the exit rule"


def preprocessing() -> str:
    """Compare the preprocess kernel with preprocessing on the host, for each pixel format.

    Raises:
        EngineError: they differ by more than a level of 255.
    """
    for pixel_format, shape in SHAPES.items():
        frame = Frame(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), pixel_format)
        expected = np.empty(IMAGE.shape, np.float32)
        preprocess_for(IMAGE)(frame, expected)
        levels = np.abs(_preprocess(frame) - expected) * np.array(IMAGE.std)[:, None, None] * 255
        _require(levels.max() <= 1.001, f"{pixel_format.name} differs by {levels.max():.2f} levels of 255")
    return f"{len(SHAPES)} pixel formats equal the host's"


def chain_as_graph_and_stepwise() -> str:
    """Run a chain in a slot, as a graph and stepwise, with every exit forced.

    Raises:
        EngineError: a frame takes another exit than forced, or a graph waits more than once.
    """
    runtime = get_runtime()
    from edge.cuda.slot import Mode
    from edge.doctor.probe import EXITS, chain_unsupported_reason

    for mode, repeat in product(get_args(Mode), range(3)):
        reason = chain_unsupported_reason(runtime, mode)
        _require(not reason, f"{mode}, slot {repeat}: {reason}")
    return f"{EXITS} exits forced in both modes, one wait per frame as a graph"


def _decide(logits: NDArray[np.float32]) -> NDArray[np.void]:
    runtime, (rows, classes) = get_runtime(), logits.shape
    from edge.cuda.kernels import PREDICTION
    from edge.cuda.memory import Memory
    from edge.cuda.stream import GpuStream

    with runtime.prepare("deciding"):
        memory = Memory({"logits": logits.nbytes, "threshold": 4, "out": rows * PREDICTION.itemsize})
        stream, addresses = GpuStream(), memory.addresses.values()
        memory.view("logits", np.float32)[:], memory.view("threshold", np.float32)[0] = logits.ravel(), THRESHOLD
        options = {"classes": classes, "exit_index": 0, "temperature": TEMPERATURE, "rows": rows}
        runtime.kernels.decide(*addresses, **options).on(stream)
        stream.synchronize()
        return memory.view("out", PREDICTION).copy()


def _preprocess(frame: Frame) -> NDArray[np.float32]:
    runtime = get_runtime()
    from edge.cuda.memory import Memory
    from edge.cuda.preprocess_params import preprocess_params
    from edge.cuda.stream import GpuStream

    with runtime.prepare("preprocessing"):
        params = preprocess_params(frame, IMAGE)
        out_bytes = 4 * IMAGE.channels * IMAGE.height * IMAGE.width
        memory, stream = Memory({"frame": frame.pixels.size, "params": params.nbytes, "out": out_bytes}), GpuStream()
        memory.view("frame", np.uint8)[:] = frame.pixels.ravel()
        memory.view("params", params.dtype)[:] = params
        runtime.kernels.preprocess(*memory.addresses.values(), shape=IMAGE.shape).on(stream)
        stream.synchronize()
        return memory.view("out", np.float32, IMAGE.shape).copy()


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise EngineError(f"{problem}; report this with the GPU and the driver")


CHECKS: dict[str, Callable[[], str]] = {
    check.__name__: check
    for check in (nested_conditional_nodes, exit_decisions, preprocessing, chain_as_graph_and_stepwise)
}


def run_checks(checks: Iterable[Callable[[], str]]) -> int:
    """Run checks as a process that prints their results; return its exit code.

    Raises:
        EngineError: a check fails.
    """
    try:
        get_runtime()
        for check in checks:
            sys.stdout.write(f"{check()}\n")
    except UnavailableError as error:
        sys.stderr.write(f"{error}\n")
        return NOT_AVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(run_checks(CHECKS[name] for name in sys.argv[1:]))
