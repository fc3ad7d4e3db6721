"""`python -m benchmarks live`: live classification measured, and recorded in one file."""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.live.cameras import cameras
from benchmarks.live.endurance import endurance
from benchmarks.live.freshness import freshness
from benchmarks.live.networks import large_workload, small_workload
from benchmarks.live.outputs import outputs_cost
from benchmarks.live.recovery import recovery
from benchmarks.live.stages import read_frames
from benchmarks.live.throughput import added_latency, throughput
from benchmarks.results import command_line, write_result
from edge.console import PASSED, at_least, log, print_table
from edge.inference.load import load
from edge.live.outputs.open import open_output
from edge.system import conditions

ENDURANCE_FRAMES, COST_FRAMES, CAMERA_FRAMES = 200_000, 3_000, 2_000
CAMERA_LEAD = 1.2
"""Frames of the camera for each that is inferred, where the cost of outputs is measured."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    parser.add_argument("--folder", type=Path, default=Path("runs/live"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/live.json"), metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument(
        "--frames", type=at_least(100), default=ENDURANCE_FRAMES, metavar="N", help="of the long run (%(default)s)"
    )


def main(arguments: argparse.Namespace) -> int:
    """Measure, print and record.

    Raises:
        EdgeError: a stage failed, or there is no MQTT broker.
    """
    started = conditions()
    small, large = small_workload(arguments.folder), large_workload(arguments.folder)
    result: dict[str, Any] = {}
    with load(small.bundle.path, backend="onnxruntime", precision="fp32") as classifier:
        pictures = read_frames(small.video)
        log("throughput of the pipeline and its stages")
        result["small"] = throughput(small, classifier) | {"latency": added_latency(small, classifier)}
        log("freshness under `latest`")
        result["freshness"] = freshness(classifier, pictures)
        log("recovery after outages")
        result["recovery"] = recovery(classifier, pictures[:30])
        log(f"a run of {arguments.frames} frames")
        lines = open_output(str(arguments.folder / "endurance.jsonl"), overwrite=True)
        metrics = open_output("http://127.0.0.1:0")
        result["endurance"] = endurance(classifier, pictures, arguments.frames, [lines, metrics])
    with load(large.bundle.path, backend="onnxruntime", precision="fp32", thresholds=large.thresholds) as classifier:
        log("throughput of a larger network")
        result["large"] = throughput(large, classifier)
        log("cost of outputs")
        rate = CAMERA_LEAD * result["large"]["frames_per_s"]["inference"]
        pictures = read_frames(large.video)
        result["outputs"] = outputs_cost(classifier, pictures, COST_FRAMES, rate, arguments.folder / "outputs")
    log("four cameras in one process and in four")
    result["cameras"] = cameras(large, CAMERA_FRAMES, arguments.folder)
    summary = summarise(result)
    write_result(arguments.output, summary | result | {"command": command_line(), "conditions": started})
    print_table("live classification", ("figure", "value", "target"), rows(summary))
    print(f"wrote {arguments.output}")
    return PASSED


TARGETS = {
    "frame_age_p95_frames": "<= 1.5",
    "result_age_over_inference_p95_frames": "<= 2",
    "recovery_s": "<= 2",
    "pipeline_ratio": ">= 0.95",
    "pipeline_ratio_to_two_processes": ">= 0.95",
    "small_pipeline_ratio": ">= 0.8",
    "small_pipeline_ratio_to_two_processes": ">= 0.8",
    "small_added_ms": "<= 0.1",
    "outputs_cost": "<= 0.05",
    "rss_growth_mb": "<= 5",
    "cameras_throughput_ratio": ">= 0.9",
    "cameras_memory_ratio": "< 0.5",
}


def summarise(result: dict[str, Any]) -> dict[str, float]:
    """Return the figures that have a target."""
    return {
        "frame_age_p95_frames": result["freshness"]["frame_age_p95_frames"],
        "result_age_over_inference_p95_frames": result["freshness"]["result_age_over_inference_p95_frames"],
        "recovery_s": result["recovery"]["recovery_s"],
        "pipeline_ratio": result["large"]["pipeline_ratio"],
        "pipeline_ratio_to_two_processes": result["large"]["pipeline_ratio_to_two_processes"],
        "small_pipeline_ratio": result["small"]["pipeline_ratio"],
        "small_pipeline_ratio_to_two_processes": result["small"]["pipeline_ratio_to_two_processes"],
        "small_added_ms": result["small"]["latency"]["added_p50_ms"],
        "outputs_cost": result["outputs"]["outputs_cost"],
        "rss_growth_mb": result["endurance"]["rss_mb_growth"],
        "cameras_throughput_ratio": result["cameras"]["throughput_ratio"],
        "cameras_memory_ratio": result["cameras"]["memory_ratio"],
    }


def rows(summary: dict[str, float]) -> list[tuple[str, str, str]]:
    """Return the table of figures beside their targets."""
    return [(name, f"{value:.3f}", TARGETS[name]) for name, value in summary.items()]
