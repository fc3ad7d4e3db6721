"""Reports on the CUDA runtime on a stand-in for a GPU: every executor runs and predicts; a GPU gives the numbers."""

import gc
import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch

import benchmarks
import edge.cuda
from benchmarks.__main__ import main
from edge.console import UNAVAILABLE
from edge.decision import Scores, decide
from edge.errors import EngineError
from edge.frames.base import Frame, PixelFormat
from edge.system import pip_install
from tests.support.commands import call, error_line
from tests.support.cuda_networks import ModuleEngine, predict
from tests.support.cuda_stand_in import DriverError, Node, World
from tests.support.networks import NETWORKS, random_images, seeded_network

PACKAGE = Path(benchmarks.__file__).parent
MODES = ("graph", "stepwise")
REPORTS = ("cuda-chain", "cuda-pipeline", "cuda-torch")


@pytest.fixture
def torch_on_the_stand_in(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run torch's modules on the stand-in, and user code on the host."""
    from benchmarks.gpu import networks

    def whole(network: Any, shape: Any) -> Any:
        return networks.eager_loop(network, [2.0] * (len(network.heads) - 1))

    monkeypatch.setattr(networks, "TorchEngine", partial(ModuleEngine, world))
    monkeypatch.setattr(networks, "DEVICE", "cpu")
    monkeypatch.setattr(networks, "NETWORKS", {"cnn-small": 16})
    monkeypatch.setattr(networks, "whole_as_graph", whole)
    monkeypatch.setattr(networks, "IMAGES", 100)


def few_frames(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DURATIONS_US": (20, 50), "FRAMES": 40, "WARM_UP": 2}.items():
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)


# cuda-chain


def test_cuda_chain_times_every_executor_by_both_clocks(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import chain

    few_frames(chain, monkeypatch)
    chain.run_chain(tmp_path / "chain.json")
    result = json.loads((tmp_path / "chain.json").read_text())
    assert [row["segment_us"] for row in result["rows"]] == [20, 50]
    for figures in (row[clock] for row in result["rows"] for clock in ("host_clock", "cuda_events")):
        assert set(figures["latency_us"]) == {"graph", "stepwise", "bare 0..0", "bare 0..1", "bare 0..2"}
        assert all(latency["p50"] > 0 for latency in figures["latency_us"].values())
        ratios = [figures[name] for name in ("realised_saving", "stepwise_over_graph_p50", "untaken_condition_us")]
        assert np.isfinite(ratios).all()
    assert result["realised_saving"] == min(row["host_clock"]["realised_saving"] for row in result["rows"])
    assert result["conditions"]["gpu"]["gpu"] == "Orin"
    gc.collect()
    assert world.calls["mem_alloc"] == world.calls["free"]


def test_events_are_recorded_around_each_launch_and_not_for_the_host_clock(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import chain, segments

    class LoggedEvent(segments.driver.Event):
        def record(self, stream: Any) -> Any:
            if self.keeps_time:
                stream.of.add(Node("event", lambda world: None))
            return super().record(stream)

    monkeypatch.setattr(segments.driver, "Event", LoggedEvent)
    runtime = edge.cuda.get_runtime()
    workload = segments.timed_workload(segments.timed_engines(runtime, (20.0,) * 3))
    clock = segments.EventClock(runtime)
    expected = {"graph": "event segment segment event", "stepwise": "event segment event segment event"}
    for given in (None, clock):
        for name, order in expected.items():
            with ExitStack() as stack:
                slot = chain.ExecutionSlot(workload, runtime, chain.executions(3)[name], given)
                stack.callback(slot.close)
                run = workload.predictor(slot)
                run(segments.frame_for(2, 3))
                world.ran.clear()
                assert run(segments.frame_for(1, 3)).exit_index == 1
            ran = [name.removeprefix("timed_") for name in world.ran if name in ("event", "timed_segment")]
            assert ran == ("segment segment" if given is None else order).split()
    assert clock.us() > 0
    monkeypatch.setattr(LoggedEvent, "time_since", lambda self, start: 0.25)
    assert clock.us() == 250


def test_a_row_is_timed_without_events_first_and_then_with_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import chain

    few_frames(chain, monkeypatch)
    records, run_interleaved = [], chain.run_interleaved

    def counted(*arguments: Any) -> Any:
        before = world.calls["event record"]
        series = run_interleaved(*arguments)
        records.append(world.calls["event record"] - before)
        return series

    monkeypatch.setattr(chain, "run_interleaved", counted)
    chain.measure_row(edge.cuda.get_runtime(), 20)
    by_host, by_events = records
    assert by_host == 0
    assert by_events > 42 * 5  # frames and executors


def test_series_hold_every_frame_after_the_warm_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu.segments import Outcome, frame_for, run_interleaved

    frames = [frame_for(k % 3, 3) for k in range(5)]
    predictors = {
        name: lambda frame, label=label: Outcome(int(frame.pixels.argmax()), label)
        for name, label in (("first", 1), ("second", 2))
    }
    by_host = run_interleaved(predictors, frames, 2)
    clock: Any = type("Clock", (), {"us": staticmethod(lambda: 7.0)})()
    by_events = run_interleaved(predictors, frames, 2, clock)
    for series in (by_host, by_events):
        assert [run.exit_index.tolist() for run in series.values()] == [[2, 0, 1]] * 2
        assert [run.label_index.tolist() for run in series.values()] == [[1, 1, 1], [2, 2, 2]]
    assert by_host["first"].us.shape == (3,)
    assert by_events["first"].us.tolist() == [7, 7, 7]


@pytest.mark.parametrize("last", range(3))
def test_bare_segments_run_once_each_and_predict_the_current_frame(last: int, world: World) -> None:
    from benchmarks.gpu.chain import ExecutionSlot, bare, executions, thresholds_of
    from benchmarks.gpu.segments import timed_engines, timed_workload

    runtime = edge.cuda.get_runtime()
    engines = timed_engines(runtime, (20.0,) * 3)
    workload = timed_workload(engines)
    slot = ExecutionSlot(workload, runtime, executions(3)[bare(last)])
    for logit in (0.0, 2.0):  # of every exit; the second one is above the thresholds
        before = [engine.runs() for engine in engines]
        frame = Frame(np.full((3, 1, 1), logit, np.float32), PixelFormat.ARRAY)
        prediction = predict(slot, frame, thresholds_of(bare(last), workload).thresholds)
        assert prediction.exit_index == last
        assert prediction.confidence == pytest.approx(np.exp(logit) / (np.exp(logit) + 2), rel=1e-5)
    runs = [engine.runs() - start for engine, start in zip(engines, before, strict=True)]
    assert runs == [int(k <= last) for k in range(3)]
    slot.close()


TIMES_US = {
    "graph": [10, 12, 30, 48],
    "stepwise": [20, 26, 64, 100],
    "bare 0..0": [8, 8, 8, 12],
    "bare 0..1": [20, 20, 20, 20],
    "bare 0..2": [40, 44, 44, 52],
}
TAKEN = [0, 0, 1, 2]


def series_of(us: Any, exit_index: Any = TAKEN, label_index: Any = (0, 0, 0, 0)) -> Any:
    from benchmarks.gpu.segments import Series

    return Series(np.array(us, float), np.array(exit_index), np.array(label_index))


def test_figures_are_computed_from_means_and_medians(world: World) -> None:
    from benchmarks.gpu.chain import compare_executors
    from benchmarks.gpu.segments import latency_us

    figures = compare_executors({name: series_of(us) for name, us in TIMES_US.items()}, np.array(TAKEN))
    assert figures.pop("latency_us") == {name: latency_us(np.array(us, float)) for name, us in TIMES_US.items()}
    ideal = 0.5 * 9 + 0.25 * 20 + 0.25 * 45
    assert figures == pytest.approx(
        {
            "stepwise_over_graph_p50": 45 / 21,
            "ideal_mean_us": ideal,
            "ideal_over_measured": ideal / 25,
            "realised_saving": (45 - 25) / (45 - ideal),
            "untaken_condition_us": 11 - 8,
        }
    )


def test_latency_is_in_microseconds(world: World) -> None:
    from benchmarks.gpu.segments import latency_us

    latency = latency_us(np.array([1.0, 2.0, 6.0]))
    assert [latency[name] for name in ("mean", "p50", "p95", "p99")] == pytest.approx([3, 2, 5.6, 5.92])


def test_the_worst_figures_are_of_all_durations_and_the_ratio_of_the_shortest(world: World) -> None:
    from benchmarks.gpu.chain import worst_figures

    keys = ("realised_saving", "stepwise_over_graph_p50", "untaken_condition_us")
    rows = ((0.9, 1.7, 1.0), (0.7, 2.5, 3.0), (0.8, 1.1, 2.0))
    unused = dict.fromkeys(keys, np.nan)
    worst = worst_figures([{"host_clock": dict(zip(keys, row, strict=True)), "cuda_events": unused} for row in rows])
    assert worst == {"realised_saving": 0.7, "stepwise_over_graph_p50": 1.7, "untaken_condition_us": 3.0}


@pytest.mark.parametrize("wrong", MODES)
def test_a_chain_that_takes_other_exits_than_drawn_is_an_error(wrong: str, world: World) -> None:
    from benchmarks.gpu.chain import compare_executors

    series = {name: series_of(us, [0, 1, 1, 2] if name == wrong else TAKEN) for name, us in TIMES_US.items()}
    with pytest.raises(EngineError, match=f"^in {wrong} mode, frames took other exits than they must"):
        compare_executors(series, np.array(TAKEN))


# Networks in torch


def test_networks_in_torch_are_compared_with_user_code(world: World, torch_on_the_stand_in: None) -> None:
    from benchmarks.gpu.chain import SHARES
    from benchmarks.gpu.networks import compare_with_user_code

    result = compare_with_user_code(edge.cuda.get_runtime(), SHARES, 200, 2)
    json.dumps(result)
    [(name, figures)] = result.items()
    assert name == "cnn-small 16x16"
    predictors = figures["ways"]
    assert list(predictors) == ["torch loop", "torch whole graph", "graph", "stepwise"]
    for mode in MODES:
        assert (predictors[mode]["same_exit_as_loop"], predictors[mode]["same_label_there"]) == (1, 1)
        np.testing.assert_allclose(predictors[mode]["exit_shares"], SHARES, atol=0.12)
    assert predictors["torch whole graph"]["exit_shares"] == [0, 0, 1]
    assert predictors["torch whole graph"]["same_label_there"] == 1
    assert figures["waits_a_frame"]["graph"] == 1
    assert figures["waits_a_frame"]["stepwise"] > 1.2
    gc.collect()
    assert world.calls["mem_alloc"] == world.calls["free"]


def test_the_pipeline_of_a_network_is_kept_if_the_comparison_fails(
    world: World, torch_on_the_stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import networks, pipeline

    def fail(*arguments: Any) -> None:
        raise EngineError("torch is at fault")

    monkeypatch.setattr(pipeline, "FRAMES", 60)
    monkeypatch.setattr(networks, "compare_with_user_code", fail)
    with pytest.raises(EngineError, match="torch is at fault"):
        networks.run_torch(tmp_path / "torch.json")
    result = json.loads((tmp_path / "torch.json").read_text())
    assert result["what"].startswith("random weights, kernels of torch ")
    assert result["what"].endswith("on Orin, no TensorRT")
    assert (result["pipeline"]["same_exits"], result["pipeline"]["waits_a_frame"]) == (1, 1)
    gc.collect()
    assert world.calls["mem_alloc"] == world.calls["free"]


def test_without_a_torch_for_the_gpu_the_comparison_is_not_run(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = error_line(call(main, "cuda-torch", "--output", tmp_path / "result.json"), UNAVAILABLE)
    assert message.startswith("torch cannot use this GPU: torch ")
    assert not list(tmp_path.glob("result*"))


def test_predictors_are_compared_with_the_graphs_times_and_the_loops_predictions(world: World) -> None:
    from benchmarks.gpu.networks import LOOP, WHOLE, compare_predictors

    predictors = compare_predictors(
        {
            LOOP: series_of([30, 50, 40, 40], [0, 1, 2, 2], [3, 4, 5, 6]),
            WHOLE: series_of([40, 40, 40, 80], [2, 2, 2, 2], [3, 4, 5, 7]),
            "graph": series_of([10, 30, 20, 20], [0, 0, 2, 2], [3, 4, 5, 6]),
        }
    )
    assert [predictor["mean_over_graph"] for predictor in predictors.values()] == pytest.approx([2, 2.5, 1])
    assert [predictor["exit_shares"] for predictor in predictors.values()] == [
        [0.25, 0.25, 0.5],
        [0, 0, 1],
        [0.5, 0, 0.5],
    ]
    assert [predictor["same_exit_as_loop"] for predictor in predictors.values()] == [1, 0.5, 0.75]
    assert [predictor["same_label_there"] for predictor in predictors.values()] == [1, 0.5, 1]


@pytest.mark.parametrize("thresholds", [(0.296, 0.2665), (0.0, 2.0), (2.0, 2.0)])
def test_the_eager_loop_takes_the_exits_of_the_reference(
    thresholds: tuple[float, float], world: World, torch_on_the_stand_in: None
) -> None:
    from benchmarks.gpu.networks import eager_loop

    network, images = seeded_network(NETWORKS["tiny cnn"]), random_images(60)
    with torch.no_grad():
        by_image = [network(torch.from_numpy(image)[None]) for image in images]
    logits = np.stack([[out.logits[0].numpy() for out in outs] for outs in by_image], axis=1)
    confidence = torch.from_numpy(logits).softmax(dim=-1).amax(dim=-1).numpy()
    expected = decide(Scores(confidence, logits.argmax(axis=-1).astype(np.int32)), np.array(thresholds, np.float32))
    loop = eager_loop(network, thresholds)
    outcomes = [loop(Frame(image, PixelFormat.ARRAY)) for image in images]
    assert [outcome.exit_index for outcome in outcomes] == expected.exit_index.tolist()
    assert [outcome.label_index for outcome in outcomes] == expected.label.tolist()


def test_an_example_takes_its_exits_in_the_given_shares(world: World, torch_on_the_stand_in: None) -> None:
    from benchmarks.gpu.networks import example, thresholds_for

    first, second = (example("cnn-small", 16, (0.6, 0.25, 0.15)) for _ in range(2))
    assert first.thresholds == second.thresholds
    for frame, same in zip(first.frames(9), second.frames(9), strict=True):
        np.testing.assert_array_equal(frame.pixels, same.pixels)
    confidence = np.array([[0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.1, 0.1], [1, 1, 1, 1]], np.float32)
    exits = decide(
        Scores(confidence, np.zeros((3, 4), np.int32)),
        np.array(thresholds_for(confidence, (0.5, 0.25, 0.25)), np.float32),
    ).exit_index
    assert exits.tolist() == [1, 2, 0, 0]


# cuda-pipeline


def test_cuda_pipeline_keeps_the_order_of_frames(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import pipeline

    monkeypatch.setattr(pipeline, "FRAMES", 60)
    pipeline.run_pipeline(tmp_path / "pipeline.json")
    result = json.loads((tmp_path / "pipeline.json").read_text())
    assert result["level"] == "graph"
    timed = result["timed_kernels"]
    assert timed["speed_up"] == pytest.approx(timed["frames_per_s"] / timed["one_slot_frames_per_s"])
    assert (timed["same_exits"], timed["waits_a_frame"]) == (1, 1)


def pipeline_with_exits(exits: list[int], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    """Return the report with made-up runs, in which one slot takes these exits, and the arguments of several slots."""
    from benchmarks.gpu import pipeline

    arguments = []

    def run_pipelined(runtime: Any, workload: Any, frames: list[str], interval_s: float = 0.0) -> dict[str, Any]:
        arguments.append((frames, interval_s))
        return {"frames_per_s": 2000.0, "latency_ms": {"p50": 2.0, "p99": 3.0}, "exits": [1, 0] + [2] * 98}

    single = {"frames_per_s": 500.0, "exits": exits, "waits_a_frame": 1.0}
    monkeypatch.setattr(pipeline, "run_pipelined", run_pipelined)
    monkeypatch.setattr(pipeline, "run_single", lambda *_: single)
    return pipeline, arguments


def test_latency_is_measured_on_one_exits_frames_at_a_share_of_the_throughput(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, arguments = pipeline_with_exits([1, 0] + [2] * 97 + [1], monkeypatch)
    frames = ["one", "zero"] + ["two"] * 98
    assert pipeline.measure(None, None, frames) == {
        "waits_a_frame": 1,
        "one_slot_frames_per_s": 500,
        "frames_per_s": 2000,
        "speed_up": 4,
        "same_exits": 0.99,
        "latency_ms": {"p50": 2.0, "p99": 3.0},
        "p99_over_p50": 1.5,
    }
    assert arguments == [(frames, 0), (["zero"] * 100, pytest.approx(1 / (0.6 * 2000)))]


def test_a_pipeline_that_takes_other_exits_than_one_slot_is_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, _ = pipeline_with_exits([1, 0] + [2] * 96 + [1, 1], monkeypatch)
    with pytest.raises(EngineError, match=r"only 98\.0% of the frames take the same exit as with one slot"):
        pipeline.measure(None, None, ["any"] * 100)


def test_frames_come_at_their_interval(world: World) -> None:
    from benchmarks.gpu.pipeline import PacedSource

    names: Any = "abc"
    started, source = perf_counter(), PacedSource(names, 0.01)
    for index, frame in enumerate(names):
        assert source.read(None) == frame
        assert perf_counter() - started >= 0.01 * (index + 1)


# Recorded results and command lines


def missing_keys(recorded: Any, written: Any, path: str = "") -> list[str]:
    """Return the keys of a recorded result, at any depth, that the report does not write."""
    if isinstance(recorded, list) and isinstance(written, list):
        return [key for entry in recorded for key in missing_keys(entry, written[0], f"{path}[]")]
    if not isinstance(recorded, dict) or not isinstance(written, dict):  # a value, or "not run"
        return []
    return [
        key
        for name, value in recorded.items()
        for key in (missing_keys(value, written[name], f"{path}.{name}") if name in written else [f"{path}.{name}"])
    ]


def test_the_reports_write_every_key_of_the_recorded_results(
    world: World, torch_on_the_stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.gpu import chain, networks, pipeline

    few_frames(chain, monkeypatch)
    few_frames(networks, monkeypatch)
    monkeypatch.setattr(pipeline, "FRAMES", 60)
    for name, run in (
        ("cuda_chain", chain.run_chain),
        ("cuda_pipeline", pipeline.run_pipeline),
        ("cuda_torch", networks.run_torch),
    ):
        run(tmp_path / f"{name}.json")
        folders = (tmp_path, PACKAGE / "results")
        written, recorded = (json.loads((folder / f"{name}.json").read_text()) for folder in folders)
        assert set(recorded) == set(written)
        del recorded["conditions"]  # its keys depend on the machine
        assert missing_keys(recorded, written) == []


def test_without_a_gpu_the_reports_end_in_one_line(world: World, tmp_path: Path) -> None:
    world.failing["device"] = DriverError("no CUDA-capable device is detected")
    for report in REPORTS:
        message = error_line(call(main, report, "--output", tmp_path / "result.json"), UNAVAILABLE)
        assert message.startswith("no NVIDIA GPU can be used here: no CUDA-capable device is detected; ")
    assert not list(tmp_path.glob("result*"))


def test_without_pycuda_the_reports_end_in_one_line_that_names_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "edge.cuda.runtime", raising=False)
    for report in REPORTS:
        message = error_line(call(main, report, "--output", tmp_path / "result.json"), UNAVAILABLE)
        assert f"which pycuda is built with, then {pip_install('cuda13')}" in message
    assert not list(tmp_path.iterdir())


# Timed segments


@pytest.mark.parametrize("arch", ["sm_87", "sm_90", "sm_110", "sm_121"])
def test_timed_segments_compile_for_each_architecture(arch: str) -> None:
    from cuda.core import Program, ProgramOptions

    source = PACKAGE / "gpu" / "segments.cu"
    program = Program(source.read_text(), "c++", ProgramOptions(std="c++17", arch=arch))
    cubin = bytes(program.compile("cubin").code)
    program.close()
    assert cubin.startswith(b"\x7fELF")
    assert b"timed_segment\0" in cubin


def test_timed_segments_count_their_runs(world: World) -> None:
    from benchmarks.gpu.segments import frame_for, timed_engines, timed_workload

    runtime = edge.cuda.get_runtime()
    engines = timed_engines(runtime, [20.0, 20.0, 20.0])
    workload = timed_workload(engines)
    classify = workload.predictor(workload.slot(runtime, "graph"))
    classify(frame_for(0, 3))
    with runtime.activate("counting"):
        before = [engine.runs() for engine in engines]
        for exit_index in (0, 1, 1, 2, 0):
            assert classify(frame_for(exit_index, 3)).exit_index == exit_index
        assert [engine.runs() - start for engine, start in zip(engines, before, strict=True)] == [5, 3, 1]
