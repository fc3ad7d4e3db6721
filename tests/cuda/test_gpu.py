"""The CUDA runtime on a real GPU. Skipped where there is none; `test_cuda*.py` run it on a stand-in everywhere."""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import edge.cuda
from benchmarks.gpu import why_no_torch
from edge.bundle.manifest import InputSpec
from edge.decision import Scores, decide, scores_from_logits
from edge.errors import EngineError
from edge.inference.pipeline import FEWEST_SLOTS, Pipeline

if TYPE_CHECKING:
    from edge.cuda.runtime import Runtime


def why_no_gpu() -> str:
    try:
        edge.cuda.get_runtime()
    except EngineError as error:
        return str(error)
    return ""


with_torch = pytest.mark.skipif(bool(why_no_torch()), reason=why_no_torch())
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(why_no_gpu()), reason=f"no GPU: {why_no_gpu()}")]

EXITS = 3


@pytest.fixture(scope="module")
def runtime() -> "Runtime":
    return edge.cuda.get_runtime()


def some_frames(count: int, seed: int = 0) -> np.ndarray:
    """Confidences of every exit: numbers, the threshold itself, and what the kernel makes NaN of."""
    generator = np.random.default_rng(seed)
    frames = generator.random((count, EXITS, 1, 1), dtype=np.float32)
    frames[generator.random(frames.shape) < 0.2] = 0.5
    frames[generator.random(frames.shape) < 0.1] = -1
    return frames


def decided(frames: np.ndarray) -> np.ndarray:
    """Return the exits the reference takes."""
    confidence = np.where(frames < 0, np.nan, frames)[:, :, 0, 0].T.astype(np.float32)
    scores = Scores(confidence, np.zeros(confidence.shape, np.int32))
    return decide(scores, np.full(EXITS - 1, 0.5, np.float32)).exit_index


@pytest.mark.parametrize("level", ["graph", "stepwise"])
def test_thousands_of_frames_take_the_exits_of_the_reference_and_no_other_segment_runs(
    level: Any, runtime: "Runtime"
) -> None:
    from benchmarks.gpu.segments import timed_classifier, timed_engines

    engines = timed_engines(runtime, (0.0,) * EXITS)
    classifier = timed_classifier(runtime, engines, level)
    frames = some_frames(5000)
    classifier.classify(frames[0])
    with runtime.context.activate("counting"):
        before = [engine.runs() for engine in engines]
    found = np.array([classifier.classify(frame).exit_index for frame in frames])
    np.testing.assert_array_equal(found, decided(frames))
    with runtime.context.activate("counting"):
        ran = [engine.runs() - start for engine, start in zip(engines, before, strict=True)]
    assert ran == [int((found >= k).sum()) for k in range(EXITS)]
    slot: Any = classifier.new_slot()
    for frame in frames[:500]:
        slot.frame = frame
        slot.load()
        slot.infer()
    assert slot.syncs == (500 if level == "graph" else int((found[:500] + 1).sum()))


def test_a_hundred_thousand_frames_take_no_more_memory_than_a_thousand(runtime: "Runtime") -> None:
    import psutil
    import pycuda.driver as driver

    from benchmarks.gpu.segments import timed_classifier, timed_engines

    classifier = timed_classifier(runtime, timed_engines(runtime, (0.0,) * EXITS), runtime.level)
    frames = some_frames(1000)

    def used() -> tuple[int, int]:
        with runtime.context.activate("asking for free memory"):
            return driver.mem_get_info()[0], psutil.Process().memory_info().rss

    for frame in frames:
        classifier.classify(frame)
    free, resident = used()
    for _ in range(100):
        for frame in frames:
            classifier.classify(frame)
    assert free - used()[0] < 16 << 20  # on a Jetson this is everybody's memory
    assert used()[1] - resident < 4 << 20


def test_two_pipelines_in_two_threads_keep_their_frames_apart(runtime: "Runtime") -> None:
    from benchmarks.gpu.pipeline import Repeated
    from benchmarks.gpu.segments import timed_classifier, timed_engines

    found: dict[int, list[int]] = {}
    slots = {}
    for seed in (1, 2):
        classifier = timed_classifier(runtime, timed_engines(runtime, (5.0,) * EXITS), runtime.level)
        slots[seed] = [classifier.new_slot() for _ in range(FEWEST_SLOTS)]

    def work(seed: int) -> None:
        pipeline = Pipeline(Repeated(list(some_frames(2000, seed))), slots[seed], "all")
        found[seed] = [result.prediction.exit_index for result in pipeline]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {seed: decided(some_frames(2000, seed)).tolist() for seed in (1, 2)} == found
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


def test_a_frame_is_preprocessed_and_inferred_while_the_one_before_is_not_done(runtime: "Runtime") -> None:
    """The first slot's segment waits for a latch that only the second slot's opens, after its preprocessing."""
    from cuda.core import LaunchConfig, Program, ProgramOptions, Stream, launch

    from benchmarks.gpu.segments import TimedEngine, timed_classifier, timed_engines
    from edge.cuda.memory import PinnedMemory

    with runtime.context.activate("making a latch"):
        code = Program(LATCH, "c++", ProgramOptions(std="c++17", arch=runtime.context.arch)).compile("cubin")
        memory = PinnedMemory({"armed": 4, "latch": 4, "missed": 4})
        kernels = {name: code.get_kernel(name) for name in ("wait_for", "open_latch")}

    class Latched:
        def __init__(self, engine: TimedEngine, name: str) -> None:
            self.engine, self.kernel = engine, kernels[name]

        def bind(self, addresses: Mapping[str, int]) -> Callable[[int], None]:
            run = self.engine.bind(addresses)

            def enqueue(stream: int) -> None:
                on = LaunchConfig(grid=1, block=1)
                launch(Stream.from_handle(stream), on, self.kernel, *memory.addresses.values())
                run(stream)

            return enqueue

    slots = []
    for name in kernels:
        first, *rest = timed_engines(runtime, (0.0,) * EXITS)
        classifier = timed_classifier(runtime, [Latched(first, name), *rest], runtime.level)  # type: ignore[list-item]
        classifier.input_spec = InputSpec("image", "rgb", EXITS, 1, 1, (0.0,) * EXITS, (1.0,) * EXITS)
        slots.append(classifier.new_slot())
        slots[-1].frame = np.full((1080, 1920, 3), 200, np.uint8)
        slots[-1].load()
        slots[-1].infer()
    memory.view("armed", np.int32)[0] = 1
    for slot in slots:
        slot.load()
    assert [slot.infer().exit_index for slot in slots] == [0, 0]
    assert (memory.view("latch", np.int32)[0], memory.view("missed", np.int32)[0]) == (1, 0)


BROKEN = """
import numpy as np
import edge.cuda
from benchmarks.gpu.segments import frame_for, timed_classifier, timed_engines
from edge.errors import EngineError

runtime = edge.cuda.opened()
engines = timed_engines(runtime, (0.0,) * 3)
classifier = timed_classifier(runtime, engines, runtime.level)
assert classifier.classify(frame_for(1, 3)).exit_index == 1
broken = timed_engines(runtime, (0.0,) * 3)
broken[0].bind = lambda addresses, bind=broken[0].bind: bind({**addresses, "image": 16})
try:
    timed_classifier(runtime, broken, runtime.level).classify(frame_for(1, 3))
except EngineError as error:
    print(error)
"""


def test_an_illegal_address_is_a_clear_error_and_the_process_ends(runtime: "Runtime") -> None:
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=120, check=False)
    assert "failed:" in done.stdout, done.stderr
    assert "start again, and see `edge doctor`" in done.stdout
    assert done.returncode == 0, done.stderr


@with_torch
@pytest.mark.parametrize("way", ["graph", "stepwise", "batch"])
def test_torch_modules_in_the_chain_answer_as_the_whole_network_does(
    way: Any, runtime: "Runtime", monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from benchmarks.gpu.torch_segments import torch_classifier
    from tests.support.networks import INPUT, NETWORKS, random_images, settled

    network, images = settled(NETWORKS["tiny cnn"]), random_images(2000)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # it rounds so that labels of random weights change
    with torch.no_grad():
        logits = np.stack([out.logits.cpu().numpy() for out in network.cuda()(torch.from_numpy(images).cuda())])
    scores = scores_from_logits(logits)
    thresholds = tuple(float(np.quantile(scores.confidence[k], 0.6)) for k in (0, 1))
    expected = decide(scores, np.array(thresholds, np.float32))
    level = runtime.level if way == "batch" else way
    classifier = torch_classifier(replace(runtime, level=level), network, INPUT, thresholds)
    exit_index, label = batched(classifier, runtime, images) if way == "batch" else fixed_sequence(classifier, images)
    same = exit_index == expected.exit_index
    assert same.mean() > 0.99  # a batch rounds otherwise than single images
    assert (label == expected.label)[same].mean() > 0.99
    assert set(exit_index.tolist()) == {0, 1, 2}
    classifier.close()


def fixed_sequence(classifier: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = [classifier.classify(image) for image in images]
    return np.array([one.exit_index for one in found]), np.array([one.label for one in found])


def batched(classifier: Any, runtime: "Runtime", images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from edge.cuda.batch import CudaBatch

    batch = CudaBatch(classifier, runtime, 48)
    found = batch.classify(images)
    batch.close()
    return found.exit_index, found.label


@pytest.mark.parametrize("rows", [1, 32, 33, 100])
def test_survivors_and_their_rows_are_those_that_numpy_finds(rows: int, runtime: "Runtime") -> None:
    import pycuda.driver as driver
    from cuda.core import Stream

    from edge.cuda.kernels import DECIDED, SAID
    from edge.cuda.memory import NON_BLOCKING, PinnedMemory

    generator = np.random.default_rng(rows)
    leaves, label = generator.random(rows) < 0.5, generator.integers(0, 9, rows, dtype=np.int32)
    sizes = {"said": SAID.itemsize, "decided": rows * DECIDED.itemsize, "count": 4, "exits": rows}
    sizes |= dict.fromkeys(("images", "going_on", "label", "confidence"), 4 * rows)
    with runtime.context.activate("finding survivors"):
        memory = PinnedMemory({**sizes, "from": 80 * rows, "to": 80 * rows})
        stream, at = driver.Stream(NON_BLOCKING), memory.addresses
        on, said = Stream.from_handle(stream.handle), memory.view("said", SAID)
        said["label"], said["confidence"], said["exits"] = at["label"], at["confidence"], at["exits"]
        memory.view("exits", np.bool_)[:], memory.view("label", np.int32)[:] = leaves, label
        memory.view("images", np.int32)[:] = np.arange(rows)
        places = {name: at[name] for name in ("decided", "images", "going_on", "count")}
        runtime.kernels.survivors(on, at["said"], rows, **places)
        stream.synchronize()
        stay = np.flatnonzero(~leaves)
        assert memory.view("count", np.int32)[0] == len(stay)
        for name in ("images", "going_on"):
            np.testing.assert_array_equal(memory.view(name, np.int32)[: len(stay)], stay)
        np.testing.assert_array_equal(memory.view("decided", DECIDED)["label"][leaves], label[leaves])
        for nbytes in (75, 80) if len(stay) else ():
            source, out = (
                memory.view(name, np.uint8)[: nbytes * rows].reshape(rows, nbytes) for name in ("from", "to")
            )
            source[:] = generator.integers(0, 256, source.shape)
            runtime.kernels.gather(on, at["from"], at["going_on"], len(stay), nbytes, at["to"])
            stream.synchronize()
            np.testing.assert_array_equal(out[: len(stay)], source[stay])


@with_torch
def test_torch_modules_in_overlapping_slots_answer_as_in_one(runtime: "Runtime") -> None:
    from benchmarks.gpu.examples import example
    from benchmarks.gpu.pipeline import one_at_a_time, piped
    from benchmarks.gpu.torch_segments import torch_classifier

    one = example("cnn-small", 32, (0.6, 0.25, 0.15), "cuda")
    classifier = torch_classifier(runtime, one.network, one.spec, one.thresholds)
    frames = one.frames(5000)
    alone = one_at_a_time(classifier, frames)
    assert piped(classifier, frames, 0.0)["exits"] == alone["exits"]
    assert runtime.level == "stepwise" or alone["waits_a_frame"] == 1


@with_torch
def test_what_a_user_would_write_answers_as_the_chain_does(runtime: "Runtime", monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import users

    monkeypatch.setattr(users, "NETWORKS", {"cnn-small": 32})
    [found] = users.against_users(runtime, (0.6, 0.25, 0.15), 500, 20)["networks"].values()
    for way in found["ways"].values():
        assert way["same_label_there"] > 0.99
    assert all(found["ways"][level]["same_exit_as_loop"] > 0.99 for level in ("graph", "stepwise"))


def test_a_gpu_that_was_let_go_of_says_so(runtime: "Runtime") -> None:
    from edge.cuda.context import PrimaryContext

    context = PrimaryContext()
    context.close()
    context.close()
    with pytest.raises(EngineError, match="the GPU was let go of"):
        context.activate("anything")
