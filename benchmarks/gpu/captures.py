"""Captures of a segment while another thread synchronises the whole GPU, which spoils a capture."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pycuda.driver as driver

from benchmarks.gpu.segments import frame_for, timed_engines, timed_workload
from edge.cuda import get_runtime
from edge.cuda.capture import capture
from edge.cuda.chain import Chain
from edge.cuda.executor import Executor
from edge.cuda.frame_input import FrameInput
from edge.cuda.runtime import Runtime
from edge.decision import NEVER
from edge.doctor.gpu_checks import run_checks

CAPTURES, EXITS = 200, 3


def captures_beside_synchronisation() -> str:
    """Capture a segment many times; a spoilt capture must be an error, and the chain must run afterwards.

    The first capture has no thread beside it, so that whatever spoils the others is the synchronisation.

    Raises:
        RuntimeError: the chain does not run afterwards.
        EngineError: the first capture fails, another with an error that names no capture, or the thread ended early.
    """
    runtime, is_over = get_runtime(), Event()
    engines, frame = timed_engines(runtime, (20.0,) * EXITS), frame_for(EXITS - 1, EXITS)
    spec = timed_workload(engines).chain
    with runtime.prepare("preparing for captures"):
        chain = Chain(spec, engines, runtime.kernels)
        executor = Executor(chain, FrameInput(frame, spec.input, chain, "copied"))
        capture(chain.segments[0].on)
    with ThreadPoolExecutor(1) as threads:
        synchronising = threads.submit(_synchronise, runtime, is_over)
        try:
            spoilt = sum(_is_spoilt(runtime, chain) for _ in range(CAPTURES))
        finally:
            is_over.set()
        refused = synchronising.result()
    with runtime.prepare("running the chain"):
        executor.write(frame, np.full(EXITS - 1, NEVER, dtype=np.float32))
        executor.start()
        executor.finish()
        finals = chain.predictions["is_final"].tolist()
        executor.close()
        chain.close()
    if finals != [0] * (EXITS - 1) + [1]:
        raise RuntimeError(f"afterwards, the exits' flags are {finals}; report this")
    spoilt_captures = f"{spoilt} of {CAPTURES} captures were spoilt, each with an error"
    return f"{spoilt_captures}; {refused} synchronisations were refused; the chain runs afterwards"


def _synchronise(runtime: Runtime, is_over: Event) -> int:
    """Synchronise until it is over; return the number of refusals: the driver refuses during a capture."""
    refused = 0
    with runtime.activate("synchronising"):
        while not is_over.is_set():
            try:
                driver.Context.synchronize()
            except driver.Error:
                refused += 1
    return refused


def _is_spoilt(runtime: Runtime, chain: Chain) -> bool:
    with runtime.prepare("capturing"):
        try:
            capture(chain.segments[0].on)
        except Exception as error:  # of the type that the spoilt library raises
            if "capture" not in str(error).lower():
                raise
            return True
    return False


if __name__ == "__main__":
    sys.exit(run_checks([captures_beside_synchronisation]))
