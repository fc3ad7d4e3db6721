"""The benchmarks of the CUDA runtime on the stand-in for a GPU: every way runs and answers, a GPU gives the numbers."""

import gc
import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import benchmarks.gpu
import edge.cuda
from benchmarks.__main__ import main
from edge.decision import Scores, decide
from edge.errors import EngineError
from tests.support.commands import call, complaint
from tests.support.cuda_stand_in import DriverError, ModuleEngine, Node, World
from tests.support.networks import NETWORKS, random_images, settled

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
LEVELS = ("graph", "stepwise")
REPORTS = ("cuda-chain", "cuda-pipeline")


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


def test_events_are_recorded_around_each_launch_and_the_host_clock_runs_without_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import chain, events
    from benchmarks.gpu.recorded import recorded_ways
    from benchmarks.gpu.segments import frame_for, timed_classifier, timed_engines
    from edge.cuda.executors import GraphRun, StepwiseRun

    class Noted(events.driver.Event):
        def record(self, stream: Any) -> Any:
            stream.of.add(Node("event", lambda world: None))
            return super().record(stream)

    monkeypatch.setattr(events.driver, "Event", Noted)
    runtime = edge.cuda.get_runtime()
    classifier = timed_classifier(runtime, timed_engines(runtime, (20.0,) * 3), "graph")
    watch = events.Stopwatch(runtime)
    watched = partial(events.WatchedGraph, watch=watch), partial(events.WatchedSteps, watch=watch)
    expected = {"graph": "event segment segment event", "stepwise": "event segment event segment event"}
    for runs, has_events in (((GraphRun, StepwiseRun), False), (watched, True)):
        for name, order in expected.items():
            with ExitStack() as stack:
                way = {name: recorded_ways(3, *runs)[name]}
                [answer] = chain.slots_for(classifier, runtime, way, stack).values()
                answer(frame_for(2, 3))
                world.ran.clear()
                assert answer(frame_for(1, 3)).exit_index == 1
            ran = [one for one in world.ran if one in ("event", "segment")]
            assert ran == (order if has_events else "segment segment").split()
    assert watch.us() > 0
    monkeypatch.setattr(Noted, "time_since", lambda self, start: 0.25)
    assert watch.us() == 250


def test_a_row_is_timed_by_the_host_without_events_and_by_the_gpu_with_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import chain

    few_frames(chain, monkeypatch)
    records, interleaved = [], chain.interleaved

    def noted(*arguments: Any) -> Any:
        before = world.calls["event record"]
        found = interleaved(*arguments)
        records.append(world.calls["event record"] - before)
        return found

    monkeypatch.setattr(chain, "interleaved", noted)
    chain.measured(edge.cuda.get_runtime(), 20)
    by_host, by_gpu = records
    assert by_host == 0
    assert by_gpu > 42 * 5  # frames and ways


@pytest.mark.parametrize("last", range(3))
def test_a_bare_way_runs_each_segment_once_and_answers_the_frame_that_was_sent(last: int, world: World) -> None:
    from benchmarks.gpu.recorded import RecordedSlot, bare, recorded_ways
    from benchmarks.gpu.segments import timed_classifier, timed_engines
    from edge.cuda.executors import GraphRun, StepwiseRun

    runtime = edge.cuda.get_runtime()
    engines = timed_engines(runtime, (20.0,) * 3)
    way = recorded_ways(3, GraphRun, StepwiseRun)[bare(last)]
    slot = RecordedSlot(timed_classifier(runtime, engines, "graph"), runtime, way)
    for sure in (0.25, 0.75):  # every exit is as sure of the second frame
        before = [engine.runs() for engine in engines]
        slot.frame = np.full((3, 1, 1), sure, np.float32)
        slot.load()
        found = slot.infer()
        assert (found.exit_index, found.confidence) == (last, sure)
    assert [engine.runs() - start for engine, start in zip(engines, before, strict=True)] == [
        int(k <= last) for k in range(3)
    ]
    slot.close()


TIMES_US = {
    "graph": [10, 12, 30, 48],
    "stepwise": [20, 26, 64, 100],
    "bare 0..0": [8, 8, 8, 12],
    "bare 0..1": [20, 20, 20, 20],
    "bare 0..2": [40, 44, 44, 52],
}
TAKEN = [0, 0, 1, 2]


def said_in(us: Any, exit_index: Any = TAKEN, label: Any = (0, 0, 0, 0)) -> Any:
    from benchmarks.gpu.ways import Answers

    return Answers(np.array(us, float), np.array(exit_index), np.array(label))


def test_what_times_come_to_is_computed_from_means_and_medians(world: World) -> None:
    from benchmarks.gpu.chain import compared
    from benchmarks.gpu.ways import summed_up

    found = compared({name: said_in(us) for name, us in TIMES_US.items()}, np.array(TAKEN))
    assert found.pop("latency_us") == {name: summed_up(np.array(us, float)) for name, us in TIMES_US.items()}
    ideal = 0.5 * 9 + 0.25 * 20 + 0.25 * 45
    assert found == pytest.approx(
        {
            "stepwise_over_graph_p50": 45 / 21,
            "ideal_mean_us": ideal,
            "ideal_over_measured": ideal / 25,
            "realised_saving": (45 - 25) / (45 - ideal),
            "untaken_condition_us": 11 - 8,
        }
    )


def test_times_are_summed_up_in_microseconds() -> None:
    from benchmarks.gpu.ways import summed_up

    found = summed_up(np.array([1.0, 2.0, 6.0]))
    assert (found["mean"], found["p50"]) == pytest.approx((3, 2))
    assert found["p95"] == pytest.approx(5.6)
    assert found["p99"] == pytest.approx(5.92)


def test_what_is_promised_is_the_worst_of_all_durations_and_the_ratio_of_the_shortest(world: World) -> None:
    from benchmarks.gpu.chain import worst_of

    keys = ("realised_saving", "stepwise_over_graph_p50", "untaken_condition_us")
    rows = ((0.9, 1.7, 1.0), (0.7, 2.5, 3.0), (0.8, 1.1, 2.0))
    best = dict.fromkeys(keys, np.nan)
    found = worst_of([{"host_clock": dict(zip(keys, row, strict=True)), "cuda_events": best} for row in rows])
    assert found == {"realised_saving": 0.7, "stepwise_over_graph_p50": 1.7, "untaken_condition_us": 3.0}


def test_rows_are_kept_whatever_happens_to_the_networks_in_torch(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import chain

    def broken(runtime: Any) -> None:
        raise EngineError("torch is at fault")

    few_frames(chain, monkeypatch)
    monkeypatch.setattr(chain, "beside_users", broken)
    with pytest.raises(EngineError, match="torch is at fault"):
        chain.run_chain(tmp_path / "chain.json")
    found = json.loads((tmp_path / "chain.json").read_text())
    assert [row["segment_us"] for row in found["rows"]] == [20, 50]
    assert "users" not in found


def test_the_picture_shows_each_clocks_own_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    from benchmarks.gpu.plot import write_saving

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: drawn.append(figure))
    ratios = {"host_clock": [1.9, 1.5], "cuda_events": [1.4, 1.2]}
    rows = [
        {"segment_us": us, **{clock: {"stepwise_over_graph_p50": both[k]} for clock, both in ratios.items()}}
        for k, us in enumerate((20, 50))
    ]
    write_saving(tmp_path / "saving.png", rows, "what ran")
    [axes] = drawn[0].axes
    curves = {str(line.get_label()): [list(values) for values in line.get_data()] for line in axes.lines}
    assert {clock: curves[clock.replace("_", " ")] for clock in ratios} == {
        clock: [[20, 50], both] for clock, both in ratios.items()
    }


@pytest.mark.parametrize("wrong", ["graph", "stepwise"])
def test_a_chain_that_takes_other_exits_than_were_drawn_is_no_result(wrong: str, world: World) -> None:
    from benchmarks.gpu.chain import compared

    found = {name: said_in(us, [0, 1, 1, 2] if name == wrong else TAKEN) for name, us in TIMES_US.items()}
    with pytest.raises(EngineError, match=f"^{wrong}: other exits answered than were drawn"):
        compared(found, np.array(TAKEN))


def test_the_chain_benchmark_compares_with_what_a_user_would_write(
    world: World, torch_on_the_stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import chain

    few_frames(chain, monkeypatch)
    monkeypatch.setattr(chain, "why_no_torch", lambda: "")
    monkeypatch.setattr(chain, "FRAMES", 200)
    users = chain.beside_users(edge.cuda.get_runtime())
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
    gc.collect()
    assert world.calls["mem_alloc"] == world.calls["free"]


def test_ways_are_compared_with_the_graph_in_time_and_with_the_loop_in_answers(world: World) -> None:
    from benchmarks.gpu.users import LOOP, WHOLE, compared

    found = compared(
        {
            LOOP: said_in([30, 50, 40, 40], [0, 1, 2, 2], [3, 4, 5, 6]),
            WHOLE: said_in([40, 40, 40, 80], [2, 2, 2, 2], [3, 4, 5, 7]),
            "graph": said_in([10, 30, 20, 20], [0, 0, 2, 2], [3, 4, 5, 6]),
        }
    )
    assert [way["mean_over_graph"] for way in found.values()] == pytest.approx([2, 2.5, 1])
    assert [way["exit_shares"] for way in found.values()] == [[0.25, 0.25, 0.5], [0, 0, 1], [0.5, 0, 0.5]]
    assert [way["same_exit_as_loop"] for way in found.values()] == [1, 0.5, 0.75]
    assert [way["same_label_there"] for way in found.values()] == [1, 0.5, 1]


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
    found = pipeline.on_a_torch_network(edge.cuda.get_runtime())
    assert found["what"].startswith("cnn-small 16x16: random weights, kernels of torch ")
    assert (found["same_exits"], found["waits_a_frame"]) == (1, 1)
    gc.collect()
    assert world.calls["mem_alloc"] == world.calls["free"]


def pipeline_after(exits: list[int], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    """Return the pipeline's benchmark with made-up runs, in which one slot answers these exits, and what others got."""
    from benchmarks.gpu import pipeline

    given = []

    def piped(classifier: Any, frames: list[str], every_s: float) -> dict[str, Any]:
        given.append((frames, every_s))
        latency_ms = {"p50": 2.0, "p99": 3.0}
        return {"frames_per_s": 2000.0, "latency_ms": latency_ms, "exits": [1, 0] + [2] * 98}

    alone = {"frames_per_s": 500.0, "exits": exits, "waits_a_frame": 1.0}
    monkeypatch.setattr(pipeline, "piped", piped)
    monkeypatch.setattr(pipeline, "one_at_a_time", lambda classifier, frames: alone)
    return pipeline, given


def test_latency_is_measured_on_one_exits_frames_at_a_share_of_the_throughput(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, given = pipeline_after([1, 0] + [2] * 97 + [1], monkeypatch)
    frames = ["one", "zero"] + ["two"] * 98
    assert pipeline.measured(None, frames) == {
        "waits_a_frame": 1,
        "one_slot_frames_per_s": 500,
        "frames_per_s": 2000,
        "speed_up": 4,
        "same_exits": 0.99,
        "latency_ms": {"p50": 2.0, "p99": 3.0},
        "p99_over_p50": 1.5,
    }
    assert given == [(frames, 0), (["zero"] * 100, pytest.approx(1 / (0.6 * 2000)))]


def test_a_pipeline_that_answers_otherwise_than_one_slot_is_no_result(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, _ = pipeline_after([1, 0] + [2] * 96 + [1, 1], monkeypatch)
    with pytest.raises(EngineError, match=r"only 98\.0% of the pipeline's answers are those of one slot"):
        pipeline.measured(None, ["any"] * 100)


def test_frames_come_at_their_pace(world: World) -> None:
    from benchmarks.gpu.pipeline import Repeated

    started, source = perf_counter(), Repeated(list("abc"), 0.01)
    for index, frame in enumerate("abc"):
        assert source.read(None) == frame
        assert perf_counter() - started >= 0.01 * (index + 1)


def no_longer_written(recorded: Any, written: Any, at: str = "") -> list[str]:
    """Return the keys of a recorded result, wherever they lie, that the benchmark does not write."""
    if isinstance(recorded, list) and isinstance(written, list):
        return [key for one in recorded for key in no_longer_written(one, written[0], f"{at}[]")]
    if not isinstance(recorded, dict) or not isinstance(written, dict):  # a value, or why there is none
        return []
    return [
        key
        for name, value in recorded.items()
        for key in (no_longer_written(value, written[name], f"{at}.{name}") if name in written else [f"{at}.{name}"])
    ]


def test_recorded_results_have_the_keys_that_the_benchmarks_write(
    world: World, torch_on_the_stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import chain, pipeline

    few_frames(chain, monkeypatch)
    monkeypatch.setattr(pipeline, "FRAMES", 60)
    for name, module, run in (
        ("cuda_chain", chain, chain.run_chain),
        ("cuda_pipeline", pipeline, pipeline.run_pipeline),
    ):
        monkeypatch.setattr(module, "why_no_torch", lambda: "")
        run(tmp_path / f"{name}.json")
        written, recorded = (json.loads((folder / f"{name}.json").read_text()) for folder in (tmp_path, RESULTS))
        assert set(recorded) == set(written)
        del recorded["conditions"]  # which name what a machine has
        assert no_longer_written(recorded, written) == []


def test_the_benchmarks_end_in_one_line_where_there_is_no_gpu(world: World, tmp_path: Path) -> None:
    world.failing["device"] = DriverError("no CUDA-capable device is detected")
    for report in REPORTS:
        said = complaint(call(main, report, "--output", tmp_path / "result.json"))
        assert said.startswith("no NVIDIA GPU can be used here: no CUDA-capable device is detected; ")
    assert not list(tmp_path.glob("result*"))


def test_the_benchmarks_end_in_one_line_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "edge.cuda.runtime", raising=False)
    for report in REPORTS:
        said = complaint(call(main, report, "--output", tmp_path / "result.json"))
        assert "install the NVIDIA driver, then pip install 'early-exit[cuda13]'" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arch", ["sm_87", "sm_90", "sm_110", "sm_121"])
def test_timed_segments_compile_for_each_gpu(arch: str) -> None:
    from cuda.core import Program, ProgramOptions

    source = Path(benchmarks.gpu.__file__).with_name("segments.cu")
    program = Program(source.read_text(), "c++", ProgramOptions(std="c++17", arch=arch))
    code = bytes(program.compile("cubin").code)
    program.close()
    assert code.startswith(b"\x7fELF")
    assert b"segment\0" in code


def test_segments_that_take_a_set_time_count_their_runs(world: World) -> None:
    from benchmarks.gpu.segments import frame_for, timed_classifier, timed_engines

    runtime = edge.cuda.get_runtime()
    engines = timed_engines(runtime, [20.0, 20.0, 20.0])
    gpu = timed_classifier(runtime, engines, "graph")
    gpu.classify(frame_for(0, 3))
    with runtime.context.activate("counting"):
        before = [engine.runs() for engine in engines]
        for exit_index in (0, 1, 1, 2, 0):
            assert gpu.classify(frame_for(exit_index, 3)).exit_index == exit_index
        assert [engine.runs() - start for engine, start in zip(engines, before, strict=True)] == [5, 3, 1]
