"""The CUDA runtime on a stand-in that refuses illegal use: the same answers as the host's chain, one wait a frame."""

import ctypes
import gc
import importlib.util
import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from cuda_stand_in import (
    CoreError,
    DriverError,
    HostCallbackNode,
    IllegalUseError,
    ModuleEngine,
    SessionEngine,
    World,
    driver_module,
    installed,
)
from networks import INPUT, NETWORKS, compiled, random_images, settled, written

import edge.cuda
from edge.classifier import Classifier
from edge.decision import Scores, decide
from edge.doctor import exits_on_the_gpu
from edge.engines.cache import load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import EngineError, SourceError
from edge.manifest import InputSpec, PrecisionSpec, Thresholds
from edge.preprocess import crop_of, preprocess_for

KERNELS = Path(edge.cuda.__file__).with_name("kernels.cu")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
LEVELS = ("graph", "stepwise")


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels' source as this machine's compiler takes it."""
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    command = ["c++", "-x", "c++", "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-include", "cmath"]
    subprocess.run([*command, KERNELS, "-o", library], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture
def world(host_kernels: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A GPU; in the end nobody's context is left on any stack."""
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    with installed(World(host_kernels)) as made:
        yield made
    assert made.depth() == 0


class Network:
    """One of `networks`, on the host and on the stand-in."""

    def __init__(self, name: str, world: World, folder: Path, spec: InputSpec = INPUT) -> None:
        one = compiled(name, "fp32")
        self.precision: PrecisionSpec = written(folder / name, one, "fp32")
        exits = len(one.segments)
        temperatures = tuple(0.5 + k for k in range(exits))
        values = tuple(0.3 + 0.05 * k for k in range(exits - 1))
        thresholds = Thresholds(values, "accuracy_gap", 0.0, "none", None, samples=1, split="")
        self.precision = replace(self.precision, temperatures=temperatures, thresholds=thresholds)
        self.spec, self.world, self.exits = spec, world, exits
        self.engines = [
            SessionEngine(world, onnxruntime.InferenceSession(folder / name / segment.file), f"segment {k}")
            for k, segment in enumerate(self.precision.segments)
        ]
        self.host = self._classifier(load_engines(folder / name, self.precision.segments, OnnxRuntime()), None)

    def on_gpu(self, level: str) -> Classifier:
        from edge.cuda import opened
        from edge.cuda.slot import CudaSlot

        runtime = replace(opened(), level=level)
        return self._classifier(self.engines, lambda one: CudaSlot(one, runtime))

    def _classifier(self, engines: Sequence[Any], make_slot: Callable[[Classifier], Any] | None) -> Classifier:
        return Classifier(input_spec=self.spec, precision=self.precision, engines=engines, make_slot=make_slot)


@pytest.fixture
def network(world: World, tmp_path: Path) -> Callable[[str], Network]:
    return lambda name: Network(name, world, tmp_path)


def frames(count: int) -> list[np.ndarray]:
    """Arrays for networks that read arrays, quiet and loud."""
    return [image * np.float32(10.0 ** (index % 3 - 1)) for index, image in enumerate(random_images(count))]


def answers(classifier: Classifier, given: Sequence[np.ndarray]) -> list[tuple[int, int, float, float]]:
    found = [classifier.classify(frame) for frame in given]
    return [(one.label, one.exit_index, one.confidence, round(one.probability, 5)) for one in found]


EXITS = {2: "two exits", 3: "tiny cnn", 5: "five exits"}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("exits", EXITS)
def test_the_gpu_answers_as_the_host_does_whichever_exit_is_taken(
    exits: int, level: str, network: Callable[[str], Network]
) -> None:
    one = network(EXITS[exits])
    assert one.exits == exits
    gpu = one.on_gpu(level)
    taken = set()
    for values in ([0.0] * (exits - 1), [2.0] * (exits - 1), one.precision.thresholds.values):
        one.host.set_thresholds(values)
        gpu.set_thresholds(values)
        expected = answers(one.host, frames(12))
        assert answers(gpu, frames(12)) == expected
        taken |= {exit_index for _, exit_index, _, _ in expected}
    assert {0, exits - 1} <= taken


@pytest.mark.parametrize("level", LEVELS)
def test_a_confidence_at_the_threshold_exits_and_nan_never_does(level: str, network: Callable[[str], Network]) -> None:
    one = network("tiny cnn")
    [frame] = frames(1)
    one.host.set_thresholds([0, 0])
    exact = one.host.classify(frame).confidence
    above = float(np.nextafter(np.float32(exact), np.float32(2)))
    gpu = one.on_gpu(level)
    for threshold, exit_index in ((exact, 0), (above, 1)):
        gpu.set_thresholds([threshold, 0])
        assert gpu.classify(frame).exit_index == exit_index
    gpu.set_thresholds([0, 0])
    engine = one.engines[0]
    run = engine.session.run
    spoilt = SimpleNamespace(
        get_inputs=engine.session.get_inputs,
        get_outputs=engine.session.get_outputs,
        run=lambda names, given: [
            np.full_like(value, np.nan) if tensor.name in ("logits_0", "confidence_0") else
            np.zeros_like(value) if tensor.name == "exit_0" else value
            for tensor, value in zip(engine.session.get_outputs(), run(names, given), strict=True)
        ],
    )  # fmt: skip
    engine.session = spoilt
    assert gpu.classify(frame).exit_index == 1


def test_a_frame_costs_one_launch_and_one_wait_and_untaken_segments_never_run(
    network: Callable[[str], Network], world: World
) -> None:
    one = network("five exits")
    gpu = one.on_gpu("graph")
    gpu.classify(frames(1)[0])
    for exit_index in range(5):
        gpu.set_thresholds([2.0] * exit_index + [0.0] * (4 - exit_index))
        world.calls.clear()
        world.ran.clear()
        gpu.classify(frames(1)[0])
        ours = {name: count for name, count in world.calls.items() if name != "push"}
        assert ours == {"graph launch": 1, "synchronize": 1}
        assert [name for name in world.ran if name.startswith("segment")] == [
            f"segment {k}" for k in range(exit_index + 1)
        ]


def test_stepwise_waits_once_for_each_exit_and_replays_a_graph_for_each_segment(
    network: Callable[[str], Network], world: World
) -> None:
    gpu = network("tiny cnn").on_gpu("stepwise")
    gpu.classify(frames(1)[0])
    for exit_index in range(3):
        gpu.set_thresholds([2.0] * exit_index + [0.0] * (2 - exit_index))
        world.calls.clear()
        gpu.classify(frames(1)[0])
        assert (world.calls["graph launch"], world.calls["synchronize"]) == (exit_index + 1, exit_index + 1)


def test_frames_of_memory_that_is_shared_are_not_copied(network: Callable[[str], Network], world: World) -> None:
    world.is_integrated = True
    one = network("tiny cnn")
    gpu = one.on_gpu("graph")
    assert answers(gpu, frames(6)) == answers(one.host, frames(6))
    assert world.calls["memcpy_htod_async"] == 0


PICTURES = InputSpec("image", "rgb", 3, 12, 12, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@pytest.mark.parametrize("shape", [(12, 12, 3), (40, 60, 3), (9, 7, 3), (33, 21)])
@pytest.mark.parametrize("level", LEVELS)
def test_pictures_are_preprocessed_as_the_host_does_it_up_to_a_level(
    level: str, shape: tuple[int, ...], world: World, tmp_path: Path
) -> None:
    one = Network("tiny cnn", world, tmp_path, PICTURES)
    slot = one.on_gpu(level).new_slot()
    expected = np.empty(PICTURES.shape, np.float32)
    for seed in range(3):
        frame = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        slot.frame = frame
        slot.load()
        slot.infer()
        preprocess_for(PICTURES)(frame, expected)
        levels = np.abs(slot.tensors["image"][0] - expected) * np.array(PICTURES.std)[:, None, None] * 255
        assert levels.max() <= 1.001
        assert (levels < 0.001).mean() > 0.9


def test_a_source_may_write_into_the_slots_own_memory(world: World, tmp_path: Path) -> None:
    slot = Network("tiny cnn", world, tmp_path, PICTURES).on_gpu("graph").new_slot()
    first, second = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    slot.frame = first
    slot.load()
    slot.infer()
    assert slot.frame is not first
    np.testing.assert_array_equal(slot.frame, first)
    before = slot.tensors["image"].copy()
    slot.frame[:] = second
    slot.load()
    slot.infer()
    assert not np.array_equal(slot.tensors["image"], before)


def test_frames_of_another_size_take_new_memory_and_give_back_the_old(world: World, tmp_path: Path) -> None:
    one = Network("tiny cnn", world, tmp_path, PICTURES)
    slot = one.on_gpu("graph").new_slot()
    for height in (20, 30, 20, 30):
        slot.frame = np.full((height, 30, 3), height, np.uint8)
        slot.load()
        slot.infer()
        assert world.calls["mem_alloc"] - world.calls["free"] == 1
        assert world.calls["graphs alive"] == 1
    slot.close()
    slot.close()
    assert world.calls["mem_alloc"] == world.calls["free"]
    assert world.calls["graphs alive"] == 0


@pytest.mark.parametrize("frame", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_picture_is_refused_before_the_gpu_sees_it(frame: np.ndarray, world: World, tmp_path: Path) -> None:
    slot = Network("tiny cnn", world, tmp_path, PICTURES).on_gpu("graph").new_slot()
    slot.frame = frame
    before = world.calls.copy()
    with pytest.raises(SourceError, match="this network reads 8-bit images"):
        slot.load()
    assert world.calls == before


def test_a_frame_of_other_numbers_is_refused_after_pictures_of_its_size_too(world: World, tmp_path: Path) -> None:
    gpu = Network("tiny cnn", world, tmp_path, PICTURES).on_gpu("graph")
    gpu.classify(np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(SourceError, match="type float32; this network reads 8-bit images"):
        gpu.classify(np.zeros((20, 30, 3), np.float32))
    assert gpu.classify(np.zeros((20, 30, 3), np.uint8)).exit_index >= 0


def test_frames_in_flight_keep_the_thresholds_they_were_loaded_with(network: Callable[[str], Network]) -> None:
    gpu = network("tiny cnn").on_gpu("graph")
    early, late = gpu.new_slot(), gpu.new_slot()
    for slot, values in ((early, [0, 0]), (late, [2, 2])):
        gpu.set_thresholds(values)
        slot.frame = frames(1)[0]
        slot.load()
    gpu.set_thresholds([2, 0])
    assert (late.infer().exit_index, early.infer().exit_index) == (2, 0)


def test_two_threads_have_the_context_each_for_itself(network: Callable[[str], Network], world: World) -> None:
    one = network("tiny cnn")
    gpu, expected = one.on_gpu("graph"), answers(one.host, frames(8))
    found: dict[int, list[Any]] = {}

    def work(index: int) -> None:
        found[index] = answers(gpu.with_thresholds(gpu.thresholds), frames(8))
        assert world.depth() == 0

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert found == {0: expected, 1: expected}


# Kernels


@pytest.mark.parametrize("arch", ["sm_87", "sm_90", "sm_110", "sm_121"])
def test_every_kernel_compiles_once_for_each_gpu(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge.cuda import kernels

    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    code = kernels.compiled(arch)
    assert code.startswith(b"\x7fELF")
    assert all(name.encode() + b"\0" in code for name in ("preprocess", "answer", "answer_or_go_on"))
    monkeypatch.setattr(kernels, "Program", None)  # not asked again
    assert kernels.compiled(arch) == code
    assert len(list(tmp_path.glob("kernels-*.cubin"))) == 1


def order_of(pixels: np.ndarray, shape: tuple[int, int], pitch: int, kind: int, spec: InputSpec) -> np.ndarray:
    from edge.cuda.kernels import ORDER

    order = np.zeros(1, dtype=ORDER)
    order["pixels"] = pixels.ctypes.data
    order["chroma"] = pixels.ctypes.data + pitch * shape[0]
    order["picture"] = (*shape, pitch, kind)
    order["input"] = (spec.height, spec.width, spec.channels, *crop_of(shape, spec))
    order["mean"][0, : spec.channels], order["std"][0, : spec.channels] = spec.mean, spec.std
    return order


def smooth(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, channels), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)


GRAY = InputSpec("image", "gray", 1, 20, 28, (0.4,), (0.2,))
COLOUR = InputSpec("image", "rgb", 3, 20, 28, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@pytest.mark.parametrize("spec", [GRAY, COLOUR], ids=["gray", "colour"])
@pytest.mark.parametrize("kind", ["gray", "bgr", "bgrx", "nv12"])
@pytest.mark.parametrize("shape", [(20, 28), (40, 56), (480, 640), (1080, 1920), (18, 22), (2, 2)])
@pytest.mark.parametrize("padding", [0, 12])
def test_the_preprocess_kernel_is_edge_preprocess(
    shape: tuple[int, int], kind: str, spec: InputSpec, padding: int, host_kernels: ctypes.CDLL
) -> None:
    """Its source compiled for the host: within one of 255 levels, nearly everywhere bit for bit."""
    height, width = shape
    if kind == "nv12":
        stored = smooth(height * 3 // 2, width, 1)[:, :, 0]
        frame = cv2.cvtColor(stored, cv2.COLOR_YUV2BGR_NV12)
    else:
        channels = {"gray": 1, "bgr": 3, "bgrx": 4}[kind]
        stored = smooth(height, width, channels)
        frame = stored[:, :, 0] if channels == 1 else np.ascontiguousarray(stored[:, :, :3])
    rows = stored.reshape(stored.shape[0], -1)
    padded = np.ascontiguousarray(np.pad(rows, ((0, 0), (0, padding)), constant_values=77))
    kinds = {"gray": 0, "bgr": 1, "bgrx": 2, "nv12": 3}
    order = order_of(padded, shape, padded.shape[1], kinds[kind], spec)
    found, expected = np.empty(spec.shape, np.float32), np.empty(spec.shape, np.float32)
    host_kernels.preprocess_on_host(ctypes.c_void_p(order.ctypes.data), ctypes.c_void_p(found.ctypes.data))
    preprocess_for(spec)(frame, expected)
    levels = np.abs(found - expected) * np.array(spec.std)[:, None, None] * 255
    assert levels.max() <= 1.001
    assert (levels < 0.001).mean() > (0.98 if height >= spec.height else 0.85)  # OpenCV enlarges by other code


# Benchmarks, which a GPU gives their numbers


@pytest.fixture
def no_torch_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep torch's own GPU, where there is one, away from the stand-in."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture
def torch_on_the_stand_in(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run torch's modules on the stand-in, and what a user would write on the host."""
    from benchmarks.gpu import examples, torch_segments, users

    def whole(network: Any, shape: Any) -> Any:
        last = len(network.heads) - 1
        return users.eager_loop(network, [2.0] * last, "cpu")

    monkeypatch.setattr(torch_segments, "TorchEngine", partial(ModuleEngine, world))
    monkeypatch.setattr(users, "DEVICE", "cpu")
    monkeypatch.setattr(users, "NETWORKS", {"cnn-small": 16})
    monkeypatch.setattr(users, "whole_as_graph", whole)
    monkeypatch.setattr(examples, "IMAGES", 100)


def few_frames(chain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "DURATIONS_US", (20, 50))
    monkeypatch.setattr(chain, "FRAMES", 40)
    monkeypatch.setattr(chain, "WARM_UP", 2)


def test_the_chain_benchmark_times_every_way_by_both_clocks_and_draws_the_saving(
    world: World, no_torch_cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import chain

    few_frames(chain, monkeypatch)
    chain.run_chain(tmp_path / "chain.json")
    found = json.loads((tmp_path / "chain.json").read_text())
    assert [row["segment_us"] for row in found["rows"]] == [20, 50]
    for one in (row[clock] for row in found["rows"] for clock in ("host_clock", "cuda_events")):
        assert set(one["latency_us"]) == {"graph", "stepwise", "bare 0..0", "bare 0..1", "bare 0..2"}
        assert all(way["p50"] > 0 for way in one["latency_us"].values())
        assert np.isfinite([one["realised_saving"], one["stepwise_over_graph_p50"], one["untaken_condition_us"]]).all()
    assert found["conditions"]["gpu"]["gpu"] == "Orin"
    assert found["users"].startswith("not run: torch ")
    assert cv2.imread(str(tmp_path / "chain.png")) is not None
    gc.collect()
    assert world.calls["mem_alloc"] == world.calls["free"]


def test_events_are_recorded_around_each_launch_and_the_host_clock_runs_without_them(world: World) -> None:
    from benchmarks.gpu import chain
    from benchmarks.gpu.events import Stopwatch, WatchedGraph, WatchedSteps
    from benchmarks.gpu.recorded import recorded_ways
    from benchmarks.gpu.segments import frame_for, timed_classifier, timed_engines
    from edge.cuda.runs import GraphRun, StepwiseRun

    runtime = edge.cuda.opened()
    classifier = timed_classifier(runtime, timed_engines(runtime, (20.0,) * 3), "graph")
    watch = Stopwatch(runtime)
    watched = recorded_ways(3, partial(WatchedGraph, watch=watch), partial(WatchedSteps, watch=watch))
    for ways, records in ((recorded_ways(3, GraphRun, StepwiseRun), (0, 0)), (watched, (2, 3))):
        for name, expected in zip(("graph", "stepwise"), records, strict=True):
            with ExitStack() as stack:
                [answer] = chain.slots_for(classifier, runtime, {name: ways[name]}, stack).values()
                before = world.calls["event record"]
                assert answer(frame_for(1, 3)).exit_index == 1
            assert world.calls["event record"] - before == expected
    assert watch.us() > 0


def test_a_chain_that_takes_other_exits_than_were_drawn_is_no_result(world: World) -> None:
    from benchmarks.gpu.chain import compared
    from benchmarks.gpu.ways import Answers

    said = Answers(np.ones(3), np.array([0, 1, 2]), np.zeros(3, int))
    with pytest.raises(EngineError, match="graph: other exits answered than were drawn"):
        compared({"graph": said}, np.array([0, 1, 1]))


def test_the_chain_benchmark_compares_with_what_a_user_would_write(
    world: World, torch_on_the_stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import chain

    few_frames(chain, monkeypatch)
    monkeypatch.setattr(chain, "why_no_torch", lambda: "")
    monkeypatch.setattr(chain, "FRAMES", 200)
    users = chain.beside_users(edge.cuda.opened())
    json.dumps(users)
    [(name, found)] = users["networks"].items()
    assert name == "cnn-small 16x16"
    assert users["what"].endswith("on Orin, no TensorRT")
    ways = found["ways"]
    assert list(ways) == ["torch loop", "torch whole graph", "graph", "stepwise"]
    for level in LEVELS:
        assert (ways[level]["same_exit_as_loop"], ways[level]["same_label_there"]) == (1, 1)
        np.testing.assert_allclose(ways[level]["exit_shares"], chain.SHARES, atol=0.12)
    assert ways["torch whole graph"]["exit_shares"] == [0, 0, 1]
    assert ways["torch whole graph"]["same_label_there"] == 1
    assert found["waits_a_frame"]["graph"] == 1
    assert found["waits_a_frame"]["stepwise"] > 1.2


@pytest.mark.parametrize("thresholds", [(0.35, 0.4), (0.0, 2.0), (2.0, 2.0)])
def test_the_loop_a_user_would_write_takes_the_exits_of_the_reference(thresholds: tuple[float, float]) -> None:
    from benchmarks.gpu.user_code import eager_loop

    network, images = settled(NETWORKS["tiny cnn"]), random_images(60)
    with torch.no_grad():
        by_exit = [network(torch.from_numpy(image)[None]) for image in images]
    logits = np.stack([[out.logits[0].numpy() for out in outs] for outs in by_exit], axis=1)
    confidence = torch.from_numpy(logits).softmax(dim=-1).amax(dim=-1).numpy()
    expected = decide(Scores(confidence, logits.argmax(axis=-1).astype(np.int32)), np.array(thresholds, np.float32))
    answer = eager_loop(network, thresholds, "cpu")
    found = [answer(image) for image in images]
    assert [one.exit_index for one in found] == expected.exit_index.tolist()
    assert [one.label for one in found] == expected.label.tolist()


def test_an_example_leaves_at_its_exits_in_the_shares_that_were_asked_for() -> None:
    from benchmarks.gpu.examples import example, thresholds_for

    one, again = (example("cnn-small", 16, (0.6, 0.25, 0.15), "cpu") for _ in range(2))
    assert one.thresholds == again.thresholds
    np.testing.assert_array_equal(one.frames(9), again.frames(9))
    confidence = np.array([[0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.1, 0.1], [1, 1, 1, 1]], np.float32)
    exits = decide(
        Scores(confidence, np.zeros((3, 4), np.int32)),
        np.array(thresholds_for(confidence, (0.5, 0.25, 0.25)), np.float32),
    ).exit_index
    assert exits.tolist() == [1, 2, 0, 0]


def test_the_pipeline_benchmark_keeps_the_order_of_frames(
    world: World, no_torch_cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import pipeline

    monkeypatch.setattr(pipeline, "FRAMES", 60)
    pipeline.run_pipeline(tmp_path / "pipeline.json")
    found = json.loads((tmp_path / "pipeline.json").read_text())
    assert found["level"] == "graph"
    timed = found["timed_kernels"]
    assert timed["speed_up"] == pytest.approx(timed["frames_per_s"] / timed["one_slot_frames_per_s"])
    assert (timed["same_exits"], timed["waits_a_frame"]) == (1, 1)
    assert found["torch_network"].startswith("not run: torch ")


def test_the_pipeline_benchmark_runs_a_network_too(
    world: World, torch_on_the_stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import pipeline

    monkeypatch.setattr(pipeline, "why_no_torch", lambda: "")
    monkeypatch.setattr(pipeline, "FRAMES", 60)
    found = pipeline.on_a_torch_network(edge.cuda.opened())
    assert found["what"].startswith("cnn-small 16x16: random weights, kernels of torch ")
    assert (found["same_exits"], found["waits_a_frame"]) == (1, 1)
    gc.collect()
    assert world.calls["mem_alloc"] == world.calls["free"]


def test_recorded_results_have_the_keys_that_the_benchmarks_write(
    world: World, no_torch_cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import chain, pipeline

    few_frames(chain, monkeypatch)
    monkeypatch.setattr(pipeline, "FRAMES", 60)
    for name, run in (("cuda_chain", chain.run_chain), ("cuda_pipeline", pipeline.run_pipeline)):
        run(tmp_path / f"{name}.json")
        written, recorded = (json.loads((folder / f"{name}.json").read_text()) for folder in (tmp_path, RESULTS))
        assert set(recorded) == set(written)


def test_segments_that_take_a_set_time_count_their_runs(world: World) -> None:
    from benchmarks.gpu.segments import frame_for, timed_classifier, timed_engines

    runtime = edge.cuda.opened()
    engines = timed_engines(runtime, [20.0, 20.0, 20.0])
    gpu = timed_classifier(runtime, engines, "graph")
    gpu.classify(frame_for(0, 3))
    with runtime.context.calling("counting"):
        before = [engine.runs() for engine in engines]
        for exit_index in (0, 1, 1, 2, 0):
            assert gpu.classify(frame_for(exit_index, 3)).exit_index == exit_index
        assert [engine.runs() - start for engine, start in zip(engines, before, strict=True)] == [5, 3, 1]


# What is missing, and what fails


def test_without_conditions_the_level_is_stepwise_and_says_why(world: World) -> None:
    world.failing["if_then"] = CoreError("CUDA_ERROR_NOT_SUPPORTED")
    runtime = edge.cuda.opened()
    assert runtime.level == "stepwise"
    assert runtime.why_not_graph == "CoreError: CUDA_ERROR_NOT_SUPPORTED"


def test_doctor_says_who_decides_and_why_not_the_gpu(world: World) -> None:
    assert exits_on_the_gpu().found == "decided on the GPU: one graph, one wait a frame"
    world.failing["if_then"] = CoreError("CUDA_ERROR_NOT_SUPPORTED")
    from edge.cuda.runtime import _opened

    _opened.cache_clear()
    found = exits_on_the_gpu()
    assert found.found == "decided by the host, exit by exit: CoreError: CUDA_ERROR_NOT_SUPPORTED"
    assert not found.is_well
    world.failing["init"] = DriverError("CUDA_ERROR_NO_DEVICE")
    _opened.cache_clear()
    assert "not run here: no NVIDIA GPU can be used here: CUDA_ERROR_NO_DEVICE" in exits_on_the_gpu().found


@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="pycuda is there")
def test_without_pycuda_doctor_says_what_to_install() -> None:
    found = exits_on_the_gpu()
    assert "frames cannot be run on a GPU here" in found.found
    assert "pip install 'early-exit[cuda13]'" in found.remedy


def test_with_conditions_the_level_is_graph(world: World) -> None:
    assert (edge.cuda.opened().level, edge.cuda.opened().why_not_graph) == ("graph", "")


def test_a_segment_that_may_not_be_in_a_body_is_run_step_by_step_and_that_is_said(
    network: Callable[[str], Network], capsys: pytest.CaptureFixture[str]
) -> None:
    one = network("tiny cnn")
    one.engines[1].node = HostCallbackNode
    assert answers(one.on_gpu("graph"), frames(4)) == answers(one.host, frames(4))
    said = " ".join(capsys.readouterr().err.split())
    assert "segment 1 cannot be part of a graph" in said
    assert "it puts CU_GRAPH_NODE_TYPE_HOST into its graph" in said


def test_a_segment_that_cannot_be_captured_is_enqueued_for_each_frame(
    network: Callable[[str], Network], world: World
) -> None:
    one = network("tiny cnn")
    gpu = one.on_gpu("graph")
    enqueue = one.engines[1].bind

    def uncapturable(addresses: dict[str, int]) -> Callable[[int], None]:
        run = enqueue(addresses)

        def checked(stream: int) -> None:
            if world.streams[stream].capture is not None:
                raise CoreError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
            run(stream)

        return checked

    one.engines[1].bind = uncapturable  # type: ignore[method-assign]
    assert answers(gpu, frames(4)) == answers(one.host, frames(4))
    assert all(stream.capture is None for stream in world.streams.values())


FAILING = {
    "init": "no NVIDIA GPU can be used here",
    "device": "no NVIDIA GPU can be used here",
    "retain": "no NVIDIA GPU can be used here",
    "from_cubin": "preparing the GPU failed",
    "mem_alloc": "preparing for frames failed",
    "pagelocked_empty": "preparing for frames failed",
    "stream": "preparing",
    "graph launch": "sending a frame failed",
    "synchronize": "waiting for an answer failed",
}


@pytest.mark.parametrize("call", FAILING)
def test_every_failing_status_is_an_error_that_says_what_was_being_done(
    call: str, network: Callable[[str], Network], world: World
) -> None:
    one = network("tiny cnn")
    error = (CoreError if call in ("graph launch", "from_cubin") else DriverError)(f"{call}: CUDA_ERROR_UNKNOWN")
    if call in ("init", "device", "retain", "from_cubin", "stream"):
        world.failing[call] = error
        with pytest.raises(EngineError, match=f"{FAILING[call]}.*{call}: CUDA_ERROR_UNKNOWN"):
            one.on_gpu("graph").new_slot()
        assert world.left_over == 0
        return
    slot = one.on_gpu("graph").new_slot()
    slot.frame = frames(1)[0]
    if call in ("graph launch", "synchronize"):
        slot.load()
        slot.infer()
    world.failing[call] = error
    with pytest.raises(EngineError, match=f"{FAILING[call]}.*{call}: CUDA_ERROR_UNKNOWN"):
        (slot.load(), slot.infer())
    assert world.depth() == 0
    del world.failing[call]
    slot.load()
    assert slot.infer().exit_index >= 0
    slot.close()
    gc.collect()
    assert world.calls["mem_alloc"] - world.calls["free"] == (call == "mem_alloc")


# The stand-in refuses


def test_the_stand_in_refuses_what_a_gpu_would_not_forgive(world: World) -> None:
    driver = driver_module(world)
    with pytest.raises(IllegalUseError, match="mem_alloc without a context"):
        driver.mem_alloc(8)
    driver.init()
    context = driver.Device(0).retain_primary_context()
    context.push()
    allocation = driver.mem_alloc(8)
    allocation.free()
    with pytest.raises(IllegalUseError, match="freed twice"):
        allocation.free()
    with pytest.raises(IllegalUseError, match="was freed"):
        world.array(int(allocation), np.uint8)
    from cuda.core import Device, Stream

    with pytest.raises(IllegalUseError, match="waits for the default stream"):
        driver.Stream()
    stream = driver.Stream(1)
    builder, other = (Stream.from_handle(stream.handle).create_graph_builder() for _ in range(2))
    builder.begin_building()
    with pytest.raises(IllegalUseError, match="capture inside capture"):
        other.begin_building()
    condition = builder.create_condition()
    with pytest.raises(IllegalUseError, match="did not set its device"):
        builder.if_then(condition)
    Device(0).set_current()
    builder.if_then(condition)
    with pytest.raises(IllegalUseError, match="used twice"):
        builder.if_then(condition)
    builder.end_building()
    with pytest.raises(IllegalUseError, match="a body that was not built"):
        builder.complete()
    before, after = driver.Event(), driver.Event()
    with pytest.raises(IllegalUseError, match="an event in the default stream"):
        before.record()
    with pytest.raises(IllegalUseError, match="an event that was not recorded"):
        after.time_since(before)
    (before.record(stream), after.record(stream))
    with pytest.raises(IllegalUseError, match="an event that is still to come"):
        after.time_since(before)
    stream.synchronize()
    assert after.time_since(before) > 0
    after.record(stream)
    with pytest.raises(IllegalUseError, match="an event that is still to come"):
        after.time_since(before)
    engine = SessionEngine(
        world, SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name="image")], get_outputs=list), ""
    )
    with pytest.raises(IllegalUseError, match="no address for image"):
        engine.bind({})
    context.pop()
    with pytest.raises(IllegalUseError, match="event record without a context"):
        before.record(stream)
