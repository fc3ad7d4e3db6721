"""The CUDA runtime on a real GPU. Skipped where there is none; the other tests of this folder use a stand-in."""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edge.cuda
from benchmarks.gpu import torch_unavailable_reason
from edge.bundle.manifest import InputSpec
from edge.decision import decide, scores_from_logits
from edge.errors import EngineError
from edge.frames.base import Frame, PixelFormat
from edge.inference.host import calibrated_probability
from edge.inference.pipeline import Pipeline
from edge.inference.slot_pool import MIN_SLOTS, SlotGroup, SlotPool

if TYPE_CHECKING:
    from benchmarks.gpu.segments import Workload
    from edge.cuda.runtime import Runtime


def gpu_unavailable_reason() -> str:
    try:
        edge.cuda.get_runtime()
    except EngineError as error:
        return str(error)
    return ""


with_torch = pytest.mark.skipif(bool(torch_unavailable_reason()), reason=torch_unavailable_reason())
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(gpu_unavailable_reason()), reason=f"no GPU: {gpu_unavailable_reason()}"),
]

EXITS = 3
SHARES = (0.6, 0.25, 0.15)


@pytest.fixture(scope="module")
def runtime() -> "Runtime":
    return edge.cuda.get_runtime()


def array_frame(values: NDArray[np.float32]) -> Frame:
    return Frame(values, PixelFormat.ARRAY)


def random_logits(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return the logit of every exit as inputs of timed segments; some become NaN."""
    generator = np.random.default_rng(seed)
    values = 2 * generator.random((count, EXITS, 1, 1), dtype=np.float32)
    values[generator.random(values.shape) < 0.1] = -1
    return values


def reference_exits(values: NDArray[np.float32]) -> NDArray[np.intp]:
    logits = np.zeros((EXITS, len(values), EXITS), np.float32)
    for k in range(EXITS):
        logits[k, :, k] = np.where(values < 0, np.nan, values)[:, k, 0, 0]
    return decide(scores_from_logits(logits), np.full(EXITS - 1, 0.5, np.float32)).exit_index


@pytest.mark.parametrize("mode", ["graph", "stepwise"])
def test_thousands_of_frames_take_the_reference_exits_and_run_no_other_segment(mode: Any, runtime: "Runtime") -> None:
    from benchmarks.gpu.segments import timed_engines, timed_workload

    engines = timed_engines(runtime, (0.0,) * EXITS)
    workload = timed_workload(engines)
    slot = workload.slot(runtime, mode)
    classify = workload.predictor(slot)
    values = random_logits(5000)
    classify(array_frame(values[0]))
    syncs = slot.syncs
    with runtime.activate("counting"):
        before = [engine.runs() for engine in engines]
    exits = np.array([classify(array_frame(value)).exit_index for value in values])
    np.testing.assert_array_equal(exits, reference_exits(values))
    with runtime.activate("counting"):
        runs = [engine.runs() - start for engine, start in zip(engines, before, strict=True)]
    assert runs == [int((exits >= k).sum()) for k in range(EXITS)]
    assert slot.syncs - syncs == (5000 if mode == "graph" else int((exits + 1).sum()))
    slot.close()


def test_a_hundred_thousand_frames_take_no_more_memory_than_a_thousand(runtime: "Runtime") -> None:
    import psutil
    import pycuda.driver as driver

    from benchmarks.gpu.segments import timed_engines, timed_workload

    workload = timed_workload(timed_engines(runtime, (0.0,) * EXITS))
    slot = workload.slot(runtime, "graph")
    classify = workload.predictor(slot)
    frames = [array_frame(value) for value in random_logits(1000)]

    def memory() -> tuple[int, int]:
        with runtime.activate("reading free memory"):
            return driver.mem_get_info()[0], psutil.Process().memory_info().rss

    for frame in frames:
        classify(frame)
    free, resident = memory()
    for _ in range(100):
        for frame in frames:
            classify(frame)
    assert free - memory()[0] < 16 << 20  # on a Jetson, other processes use this memory, too
    assert memory()[1] - resident < 4 << 20
    slot.close()


def test_two_pipelines_in_two_threads_do_not_mix_their_frames(runtime: "Runtime") -> None:
    from benchmarks.gpu.pipeline import PacedSource
    from benchmarks.gpu.segments import timed_engines, timed_workload

    exits: dict[int, list[int]] = {}
    slots = {}
    thresholds = np.full(EXITS - 1, 0.5, np.float32)
    for seed in (1, 2):
        workload = timed_workload(timed_engines(runtime, (5.0,) * EXITS))
        slots[seed] = [workload.slot(runtime, "graph") for _ in range(MIN_SLOTS)]

    def work(seed: int) -> None:
        source = PacedSource([array_frame(value) for value in random_logits(2000, seed)])
        exits[seed] = [
            result.exit_index
            for result in Pipeline(source, SlotPool(SlotGroup(slots[seed], lambda: thresholds)), "all")
        ]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {seed: reference_exits(random_logits(2000, seed)).tolist() for seed in (1, 2)} == exits
    for slot in (*slots[1], *slots[2]):
        slot.close()


LATCH = """
extern "C" __global__ void wait_for(volatile int *armed, volatile int *latch, volatile int *missed) {
    unsigned long long started, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(started));
    while (*armed && !*latch && !*missed) {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
        if (now - started > 2000000000ull) *missed = 1;
    }
}
extern "C" __global__ void open_latch(volatile int *armed, volatile int *latch, volatile int *missed) {
    if (*armed) *latch = 1;
}
"""


def test_a_frame_is_processed_while_the_previous_one_is_still_in_flight(runtime: "Runtime") -> None:
    """The first slot's segment waits for a latch that only the second slot opens, after its preprocessing."""
    from cuda.core import LaunchConfig, Program, ProgramOptions, Stream, launch

    from benchmarks.gpu.segments import TimedEngine, timed_engines, timed_workload
    from edge.cuda.memory import Memory

    with runtime.activate("making a latch"):
        code = Program(LATCH, "c++", ProgramOptions(std="c++17", arch=runtime.arch)).compile("cubin")
        memory = Memory({"armed": 4, "latch": 4, "missed": 4})
        kernels = {name: code.get_kernel(name) for name in ("wait_for", "open_latch")}

    class LatchedEngine:
        def __init__(self, engine: TimedEngine, name: str) -> None:
            self.engine, self.kernel, self.bind_batch = engine, kernels[name], engine.bind_batch
            self.activation_bytes, self.sync = engine.activation_bytes, engine.sync

        def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
            run = self.engine.bind(addresses)

            def enqueue(stream: int) -> None:
                config = LaunchConfig(grid=1, block=1)
                launch(Stream.from_handle(stream), config, self.kernel, *memory.addresses.values())
                run(stream)

            return enqueue

    spec = InputSpec("image", "rgb", EXITS, 1, 1, (0.0,) * EXITS, (1.0,) * EXITS)
    frame = Frame(np.full((1080, 1920, 3), 200, np.uint8), PixelFormat.BGR)
    thresholds = np.full(EXITS - 1, 0.5, np.float32)
    slots = []
    for name in kernels:
        first, *rest = timed_engines(runtime, (0.0,) * EXITS)
        workload = timed_workload([LatchedEngine(first, name), *rest])
        workload = replace(workload, chain=replace(workload.chain, input=spec))
        slots.append(workload.slot(runtime, "graph"))
        workload.predictor(slots[-1])(frame)
    memory.view("armed", np.int32)[0] = 1
    for slot in slots:
        slot.start(frame, thresholds)
    assert [slot.result().exit_index for slot in slots] == [0, 0]
    assert (memory.view("latch", np.int32)[0], memory.view("missed", np.int32)[0]) == (1, 0)
    for slot in slots:
        slot.close()


ILLEGAL_ADDRESS = """
import edge.cuda
from benchmarks.gpu.segments import frame_for, timed_engines, timed_workload
from edge.errors import EngineError

runtime = edge.cuda.get_runtime()
workload = timed_workload(timed_engines(runtime, (0.0,) * 3))
slot = workload.slot(runtime, "graph")
assert workload.predictor(slot)(frame_for(1, 3)).exit_index == 1
broken = timed_engines(runtime, (0.0,) * 3)
broken[0].bind = lambda addresses, bind=broken[0].bind: bind({**addresses, "image": 16})
try:
    workload = timed_workload(broken)
    workload.predictor(workload.slot(runtime, "graph"))(frame_for(1, 3))
except EngineError as error:
    print(error)
"""


def test_an_illegal_address_is_a_clear_error_and_the_process_ends(runtime: "Runtime") -> None:
    process = subprocess.run(
        [sys.executable, "-c", ILLEGAL_ADDRESS], capture_output=True, text=True, timeout=120, check=False
    )
    assert "failed:" in process.stdout, process.stderr
    assert "restart the process, and run `edge doctor`" in process.stdout
    assert process.returncode == 0, process.stderr


@with_torch
@pytest.mark.parametrize("way", ["graph", "stepwise", "batch"])
def test_torch_modules_in_the_chain_predict_as_the_whole_network(
    way: Any, runtime: "Runtime", monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from benchmarks.gpu.networks import Example, torch_workload
    from tests.support.networks import INPUT, NETWORKS, random_images, seeded_network

    network, images = seeded_network(NETWORKS["tiny cnn"]), random_images(2000)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # its rounding changes labels of random weights
    with torch.no_grad():
        logits = np.stack([out.logits.cpu().numpy() for out in network.cuda()(torch.from_numpy(images).cuda())])
    scores = scores_from_logits(logits)
    thresholds = tuple(float(np.quantile(scores.confidence[k], 0.6)) for k in (0, 1))
    expected = decide(scores, np.array(thresholds, np.float32))
    workload = torch_workload(Example(network, INPUT, thresholds, []))
    classify_all = classify_batch if way == "batch" else classify_single
    exit_index, label, probability = classify_all(workload, runtime, way, images)
    same = exit_index == expected.exit_index
    assert same.mean() > 0.99  # a batch is rounded differently than single images
    assert (label == expected.label)[same].mean() > 0.99
    assert set(exit_index.tolist()) == {0, 1, 2}
    taken = logits[expected.exit_index, np.arange(len(images))]
    np.testing.assert_allclose(probability[same], calibrated_probability(taken[same], 1.0), atol=1e-3)


def classify_single(workload: "Workload", runtime: "Runtime", mode: Any, images: NDArray[Any]) -> tuple[Any, ...]:
    slot = workload.slot(runtime, mode)
    classify = workload.predictor(slot)
    results: list[Any] = [classify(array_frame(image)) for image in images]
    slot.close()
    return tuple(np.array([getattr(p, name) for p in results]) for name in ("exit_index", "label_index", "probability"))


def classify_batch(workload: "Workload", runtime: "Runtime", _: Any, images: NDArray[Any]) -> tuple[Any, ...]:
    from edge.cuda.batch import CudaBatch

    batch = CudaBatch(workload.chain, workload.engines, runtime, 48)
    predictions = batch.classify(images, np.array(workload.thresholds, np.float32))
    batch.close()
    return predictions.exit_index, predictions.label_index, predictions.probability


@pytest.mark.parametrize("rows", [1, 32, 33, 100])
def test_decide_compact_and_gather_match_numpy(rows: int, runtime: "Runtime") -> None:
    from edge.cuda.kernels import PREDICTION
    from edge.cuda.memory import Memory
    from edge.cuda.stream import GpuStream

    generator, classes, temperature, threshold = np.random.default_rng(rows), 9, 1.7, 0.7
    logits = generator.normal(0, 3, (rows, classes)).astype(np.float32)
    logits[::5] = logits[::5].round(0)
    logits[3::7, 2] = np.nan
    expected = scores_from_logits(logits[None])
    sizes = {"logits": logits.nbytes, "threshold": 4, "active_count": 4}
    sizes |= dict.fromkeys(("decisions", "predictions"), rows * PREDICTION.itemsize)
    sizes |= dict.fromkeys(("samples", "active_rows"), 4 * rows) | dict.fromkeys(("from", "to"), 80 * rows)
    with runtime.activate("deciding"):
        memory, stream, kernels = Memory(sizes), GpuStream(), runtime.kernels
        addresses = memory.addresses
        memory.view("threshold", np.float32)[0] = threshold
        memory.view("logits", np.float32)[:], memory.view("samples", np.int32)[:] = logits.ravel(), np.arange(rows)
        rule = (addresses["logits"], addresses["threshold"], addresses["decisions"])
        kernels.decide(*rule, classes=classes, exit_index=0, temperature=temperature, rows=rows).on(stream)
        names = ("predictions", "samples", "active_rows", "active_count")
        kernels.compact(addresses["decisions"], rows, *(addresses[name] for name in names)).on(stream)
        stream.synchronize()
        decisions = memory.view("decisions", PREDICTION)
        np.testing.assert_array_equal(decisions["label_index"], expected.label[0])
        np.testing.assert_allclose(decisions["confidence"], expected.confidence[0], rtol=1e-5)
        np.testing.assert_allclose(decisions["probability"], calibrated_probability(logits, temperature), rtol=1e-5)
        np.testing.assert_array_equal(decisions["is_final"] == 1, decisions["confidence"] >= np.float32(threshold))
        active = np.flatnonzero(decisions["is_final"] == 0)
        assert memory.view("active_count", np.int32)[0] == len(active)
        for name in ("samples", "active_rows"):
            np.testing.assert_array_equal(memory.view(name, np.int32)[: len(active)], active)
        for row_bytes in (75, 80) if len(active) else ():
            source, out = (
                memory.view(name, np.uint8)[: row_bytes * rows].reshape(rows, row_bytes) for name in ("from", "to")
            )
            source[:] = generator.integers(0, 256, source.shape)
            gather = (addresses["from"], addresses["active_rows"], len(active), row_bytes, addresses["to"])
            kernels.gather(*gather).on(stream)
            stream.synchronize()
            np.testing.assert_array_equal(out[: len(active)], source[active])


@with_torch
def test_torch_modules_in_overlapping_slots_predict_as_in_one(runtime: "Runtime") -> None:
    from benchmarks.gpu.networks import example, torch_workload
    from benchmarks.gpu.pipeline import run_pipelined, run_single

    network = example("cnn-small", 32, SHARES)
    workload, frames = torch_workload(network), network.frames(5000)
    single = run_single(runtime, workload, frames)
    assert run_pipelined(runtime, workload, frames)["exits"] == single["exits"]
    assert single["waits_a_frame"] == 1


@with_torch
def test_user_code_predicts_as_the_chain(runtime: "Runtime", monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import networks

    monkeypatch.setattr(networks, "NETWORKS", {"cnn-small": 32})
    [figures] = networks.compare_with_user_code(runtime, SHARES, 500, 20).values()
    for predictor in figures["ways"].values():
        assert predictor["same_label_there"] > 0.99
    assert all(figures["ways"][mode]["same_exit_as_loop"] > 0.99 for mode in ("graph", "stepwise"))
