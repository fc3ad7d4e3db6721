"""What our code adds to the engines: the stepwise chain against bare, pre-bound ONNX Runtime calls."""

from collections.abc import Callable
from time import perf_counter_ns
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge.bench import forced
from edge.bundle import Bundle
from edge.classifier import Classifier, buffers_for
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime, OnnxRuntimeEngine
from edge.preprocess import Frame

ROUNDS = 3_000


def chain_overhead(bundle: Bundle, precision: str, frame: Frame) -> dict[str, float]:
    """Run all segments by our chain and by bare calls, in turns on the same sessions; return p50s and their ratio."""
    spec = bundle.precision(precision)
    engines = [cast("OnnxRuntimeEngine", engine) for engine in load_engines(bundle.path, spec.segments, OnnxRuntime())]
    last = len(engines) - 1
    classifier = Classifier(
        input_spec=bundle.manifest.input, precision=spec, engines=engines, thresholds=forced(last, len(engines))
    )
    slot = classifier.new_slot()
    slot.frame = frame
    slot.load()
    bare_tensors = buffers_for(spec.segments)
    for name, tensor in slot.tensors.items():
        bare_tensors[name][...] = tensor
    bound = [(engine.session.run_with_iobinding, engine.io_binding(bare_tensors)) for engine in engines]

    def bare() -> None:
        for run, binding in bound:
            run(binding)

    chain_us, bare_us = interleaved(slot.infer, bare)
    return {
        "ratio_p50": float(np.median(chain_us) / np.median(bare_us)),
        "us_per_frame": float(np.median(chain_us) - np.median(bare_us)),
        "chain_p50_us": float(np.median(chain_us)),
        "bare_p50_us": float(np.median(bare_us)),
    }


def interleaved(
    first: Callable[[], object], second: Callable[[], object]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Time two functions in turns, changing which goes first; return microseconds of each."""
    times: tuple[list[int], list[int]] = ([], [])
    pair = ((first, times[0]), (second, times[1]))
    for turn in range(ROUNDS):
        for function, taken in pair if turn % 2 else pair[::-1]:
            started = perf_counter_ns()
            function()
            taken.append(perf_counter_ns() - started)
    return np.array(times[0]) / 1e3, np.array(times[1]) / 1e3
