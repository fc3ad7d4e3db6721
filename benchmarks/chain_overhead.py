"""Overhead per frame: the chain against direct ONNX Runtime calls with bound inputs and outputs."""

from typing import cast

import numpy as np

from edge.bundle.bundle import Bundle
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime, OnnxRuntimeEngine
from edge.frames.base import Frame
from edge.inference.host import HostSlot, allocate_tensors
from edge.measure.bench import thresholds_for_exit
from edge.measure.interleave import interleave

ROUNDS = 3_000


def chain_overhead(bundle: Bundle, precision: str, frame: Frame) -> dict[str, float]:
    """Interleave the chain with direct calls of the same sessions; return both medians and their ratio."""
    chain = bundle.chain(precision)
    engines = [cast("OnnxRuntimeEngine", engine) for engine in load_engines(bundle.path, chain.segments, OnnxRuntime())]
    slot = HostSlot(chain, engines)
    slot.start(frame, np.array(thresholds_for_exit(chain.exits - 1, chain.exits), dtype=np.float32))
    bare_tensors = allocate_tensors(chain.segments)
    for name, tensor in slot.tensors().items():
        bare_tensors[name][...] = tensor
    bound = [(engine.session.run_with_iobinding, engine.io_binding(bare_tensors)) for engine in engines]

    def run_bare() -> None:
        for run, binding in bound:
            run(binding)

    chain_times, bare_times = interleave([lambda _: slot.result(), lambda _: run_bare()], range(ROUNDS))
    chain_us, bare_us = (float(np.median(timed.times_ms)) * 1e3 for timed in (chain_times, bare_times))
    return {
        "ratio_p50": chain_us / bare_us,
        "us_per_frame": chain_us - bare_us,
        "chain_p50_us": chain_us,
        "bare_p50_us": bare_us,
    }
