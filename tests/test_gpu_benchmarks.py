"""The benchmarks of the CUDA runtime on the stand-in for a GPU: every way runs and answers, a GPU gives the numbers."""

import gc
import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from cuda_stand_in import ModuleEngine, World
from networks import NETWORKS, random_images, settled

import edge.cuda
from edge.decision import Scores, decide
from edge.errors import EngineError

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
LEVELS = ("graph", "stepwise")


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
    assert found["realised_saving"] == min(row["host_clock"]["realised_saving"] for row in found["rows"])
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


@pytest.mark.parametrize("thresholds", [(0.296, 0.2665), (0.0, 2.0), (2.0, 2.0)])
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
