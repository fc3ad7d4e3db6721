"""`python -m benchmarks view`: the cost of viewers and of audits, and the alarms, recorded in one file."""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.live.networks import large_workload
from benchmarks.live.stages import read_frames
from benchmarks.results import add_output, command_line, write_result
from benchmarks.view.alarms import alarms
from benchmarks.view.audit import audit_cost, mixed_thresholds
from benchmarks.view.viewers import page_readable_s, viewers_cost
from edge.console import PASSED, at_least, log, print_table
from edge.inference.load import load
from edge.live.deployment import Deployment
from edge.system import conditions

VIEWERS = (1, 50)
FRAMES, CAMERA_RATE = 300, 30.0
"""Frames of a run, and frames a second of its camera."""
SATURATED_FRAMES, AUDITED_FRAMES, SATURATED_RATE = 2_000, 10_000, 2_000.0
"""The same where the camera gives more frames than are inferred."""
SATURATED_COST = "saturated_cost_50_viewers"
TARGETS = {
    "throughput_cost_1_viewer": "<= 0.03",
    "throughput_cost_50_viewers": "<= 0.1",
    SATURATED_COST: "reported",
    "page_readable_s": "<= 1",
    "audit_cost": "<= 0.02",
    "false_alarm_rate": "<= stated",
    "false_alarm_rate_stated": "stated",
    "detection_rate_at_twice": ">= 0.95",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    parser.add_argument("--folder", type=Path, default=Path("runs/live"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--frames", type=at_least(30), default=FRAMES, metavar="N", help="of each run (%(default)s)")
    add_output(parser, "runs/view.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Measure, simulate, print and record.

    Raises:
        EdgeError: a stage failed.
    """
    started, workload = conditions(), large_workload(arguments.folder)
    pictures = read_frames(workload.video)
    costs: dict[str, dict[str, Any]] = {}
    thresholds = workload.thresholds or None
    with load(workload.bundle.path, backend="onnxruntime", precision="fp32", thresholds=thresholds) as classifier:
        deployment = Deployment(workload.bundle, "fp32", classifier)
        readable_s = page_readable_s(deployment, pictures)
        for viewers in VIEWERS:
            log(f"throughput with viewers: {viewers}")
            name = f"throughput_cost_{viewers}_viewer{'s' if viewers > 1 else ''}"
            costs[name] = viewers_cost(name, deployment, pictures, viewers, arguments.frames, CAMERA_RATE)
        log(f"throughput with viewers: {VIEWERS[-1]}, of a saturated classifier")
        costs[SATURATED_COST] = viewers_cost(
            SATURATED_COST, deployment, pictures, VIEWERS[-1], SATURATED_FRAMES, SATURATED_RATE
        )
        log("throughput with audits")
        with classifier.with_thresholds(mixed_thresholds(classifier, pictures)) as mixed:
            costs["audit_cost"] = audit_cost(mixed, pictures, AUDITED_FRAMES, SATURATED_RATE)
    log("simulated alarms")
    simulated = alarms()
    figures = {"page_readable_s": readable_s, **simulated, **{name: cost[name] for name, cost in costs.items()}}
    summary = {name: figures[name] for name in TARGETS}
    recorded = {
        "command": command_line(),
        "conditions": started,
        "network": workload.name,
        **costs,
        "alarms": simulated,
    }
    write_result(arguments.output, summary | recorded)
    print_table("page and audits", ("figure", "value", "target"),
                [(name, f"{value:.4f}", TARGETS[name]) for name, value in summary.items()])  # fmt: skip
    print(f"wrote {arguments.output}")
    return PASSED
