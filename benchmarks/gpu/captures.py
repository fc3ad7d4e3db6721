"""Captures of a segment while another thread synchronises the whole GPU, which spoils a capture."""

import threading

import pycuda.driver as driver

from benchmarks.gpu.segments import frame_for, timed_engines, timed_workload
from edge.cuda import get_runtime
from edge.cuda.chain import Chain
from edge.cuda.graph import capture
from edge.cuda.runtime import Runtime

CAPTURES, EXITS = 200, 3


def captures_beside_synchronisation() -> str:
    """Capture a segment many times; a spoilt capture must be an error, and the chain must run afterwards.

    Raises:
        RuntimeError: the chain does not run afterwards.
    """
    runtime, is_over = get_runtime(), threading.Event()
    workload, frame = timed_workload(timed_engines(runtime, (20.0,) * EXITS)), frame_for(EXITS - 1, EXITS)
    with runtime.context.prepare("preparing for captures"):
        chain = Chain(workload.chain, workload.engines, runtime.kernels, frame, uploads=True)
        chain.bind(frame)
    thread = threading.Thread(target=_synchronise, args=(runtime, is_over))
    thread.start()
    try:
        spoilt = sum(_is_spoilt(runtime, chain) for _ in range(CAPTURES))
    finally:
        is_over.set()
        thread.join()
    with runtime.context.prepare("running the chain"):
        chain.predictions[:] = 0
        for index in range(EXITS):
            chain.enqueue(index)
        chain.stream.synchronize()
        finals = chain.predictions["is_final"].tolist()
        chain.close()
    if finals != [0] * (EXITS - 1) + [1]:
        raise RuntimeError(f"afterwards, the exits' flags are {finals}; report this")
    return f"{spoilt} of {CAPTURES} captures were spoilt, each with an error; the chain runs afterwards"


def _synchronise(runtime: Runtime, is_over: threading.Event) -> None:
    with runtime.context.activate("synchronising"):
        while not is_over.is_set():
            driver.Context.synchronize()


def _is_spoilt(runtime: Runtime, chain: Chain) -> bool:
    with runtime.context.prepare("capturing"):
        try:
            capture(chain.segments[0])
        except RuntimeError:
            return True
    return False
