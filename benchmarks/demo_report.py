"""The demo's report as one self-contained page."""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.page import BLUE, GREY, ORANGE, image_tag, table, write_page
from calibration.operating_points import operating_point_of, operating_points
from edge.bundle import tensors
from edge.bundle.bundle import Bundle
from edge.cli.bench import ONNXRUNTIME_NOTE
from edge.decision import NEVER, Scores, validate_thresholds
from edge.engines.onnxruntime import OnnxRuntime
from edge.frames.base import Frame, PixelFormat
from edge.inference.load import load_classifier

CPU_NOTES = {"fp16": "computed in fp32 here", "int8": "emulated in float here"}
SAMPLES_PER_EXIT = 4


def write_report(
    path: Path, report: dict[str, Any], bundle: Bundle, frames: Sequence[Frame], labels: Sequence[int], scores: Scores
) -> None:
    """Write the page; `scores` are those of the test set in the report's precision."""
    whole, early = report["accuracy"]["whole"], report["accuracy"]["early_exit"]
    lead = (
        f"With early exits, the {html.escape(report['precision'])} network is "
        f"<b>{report['speedup_mean']:.2f} times as fast</b> as the whole network on {len(labels)} test images, "
        f"at {early:.2%} accuracy against {whole:.2%}. Segments after the exit do not run."
    )
    shares, trade_off = exit_share_figure(report), trade_off_figure(report, bundle, labels, scores)
    body = [
        f'<p class="lead">{lead}</p>',
        items_list("About the images", report["notes"]),
        items_list("Advice on these exits", report["advice"]),
        "<h2>Share and cost of each exit</h2>",
        f'<div class="row">{image_tag(shares)}{image_tag(trade_off)}</div>',
        "<h2>Latency of each exit</h2>",
        image_tag(latency_figure(report)),
        comparison_table(report),
        "<h2>Engines against the trained network</h2>",
        parity_table(report),
        "<h2>Attention of each exit</h2>",
        "<p>Test images that leave at each exit; beside each image, the attention map of every exit.</p>",
        image_tag(attention_figure(report, bundle, frames, labels)),
        "<h2>Conditions</h2>",
        f"<pre>{html.escape(json.dumps(report_conditions(report), indent=2))}</pre>",
    ]
    write_page(path, f"Early exits on {report['dataset']}", body)


def exit_share_figure(report: dict[str, Any]) -> Figure:
    """Draw the share of test images that leave at each exit."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar([f"exit {k}" for k in range(len(report["exit_shares"]))], report["exit_shares"], color=BLUE)
    axes.bar_label(bars, labels=[f"{share:.1%}" for share in report["exit_shares"]])
    axes.set(title="share of test images that leave", ylim=(0, 1.1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def trade_off_figure(report: dict[str, Any], bundle: Bundle, labels: Sequence[int], scores: Scores) -> Figure:
    """Draw test accuracy over mean MACs: thresholds from the fitting split, the chosen point, truncated networks."""
    precision = report["precision"]
    macs = [exit_.macs for exit_ in bundle.manifest.exits]
    truth = np.array(labels)
    recorded = bundle.scores(precision)
    fitted = operating_points(recorded.scores, recorded.truth, macs)
    curve = [
        operating_point_of(scores, truth, macs, validate_thresholds(point.thresholds, len(macs))) for point in fitted
    ]
    curve.sort(key=lambda point: point.cost_ratio)
    chosen = operating_point_of(scores, truth, macs, validate_thresholds(report["thresholds"], len(macs)))
    chain = report["exit_macs_ratio"][-1]  # more than the whole network, which has no heads of early exits
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    costs = [chain * point.cost_ratio for point in curve]
    axes.plot(costs, [point.accuracy for point in curve], ".-", color=BLUE, label="early exits")
    axes.plot(chain * chosen.cost_ratio, chosen.accuracy, "o", color=ORANGE, markersize=10, label="chosen thresholds")
    if truncated := [(row["macs_ratio"], row["accuracy"]) for row in report["truncated"]]:
        axes.plot(*zip(*truncated, strict=True), "s", color=GREY, label="truncated, trained alone")
    axes.set(
        xlabel="mean MACs, share of the whole network", ylabel="test accuracy", title="accuracy against computation"
    )
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def latency_figure(report: dict[str, Any]) -> Figure:
    """Draw the mean and p95 of each exit forced, of early exiting and of the whole network."""
    latency = report["latency_ms"]
    named = {f"exit {k} forced": value for k, value in enumerate(latency["exits"])}
    named |= {"early exits": latency["early_exit"], "whole network": latency["whole"]}
    colours = [BLUE] * len(latency["exits"]) + [ORANGE, GREY]
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots()
    means = [value["mean"] for value in named.values()]
    tails = [value["p95"] for value in named.values()]
    bars = axes.barh(list(named), means, color=colours)
    axes.bar_label(bars, labels=[f" {mean:.3f} ms (p95 {tail:.3f})" for mean, tail in zip(means, tails, strict=True)])
    axes.set(xlabel="mean milliseconds, frame available to decision known", xlim=(0, 1.3 * max(means)))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def attention_figure(report: dict[str, Any], bundle: Bundle, frames: Sequence[Frame], labels: Sequence[int]) -> Figure:
    """Draw test images that leave at each exit, with every exit's attention map."""
    exits = len(bundle.manifest.exits)
    classifier = load_classifier(bundle, report["precision"], OnnxRuntime())
    chosen: list[tuple[int, int]] = []
    for wanted in range(exits):
        taken = (index for index, frame in enumerate(frames) if classifier.predict(frame).exit_index == wanted)
        chosen += [(wanted, index) for index, _ in zip(taken, range(SAMPLES_PER_EXIT), strict=False)]
    slot, never = classifier.new_slot(), np.full(exits - 1, NEVER, dtype=np.float32)
    columns = SAMPLES_PER_EXIT
    figure = Figure(figsize=(10, 1.0 * exits), layout="constrained")
    grid = figure.subplots(exits, columns * (exits + 1), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    drawn = dict.fromkeys(range(exits), 0)
    for taken_exit, index in chosen:
        slot.start(frames[index], never)
        slot.result()
        outputs = slot.tensors()
        row, start = grid[taken_exit], drawn[taken_exit] * (exits + 1)
        drawn[taken_exit] += 1
        row[start].imshow(to_rgb(frames[index]), cmap="gray")
        row[start].set_title(f"{bundle.manifest.labels[labels[index]]}", fontsize=7, pad=2)
        for k in range(exits):
            row[start + 1 + k].imshow(outputs[tensors.attention(k)][0, 0], cmap="magma", vmin=0)
            row[start + 1 + k].set_title(f"exit {k}", fontsize=6, pad=2, color=ORANGE if k == taken_exit else "black")
    return figure


def to_rgb(frame: Frame) -> NDArray[Any]:
    """Return a frame's pixels in gray or RGB, as matplotlib reads them."""
    return frame.pixels if frame.format is PixelFormat.GRAY else cv2.cvtColor(frame.pixels, cv2.COLOR_BGR2RGB)


def comparison_table(report: dict[str, Any]) -> str:
    """Return truncated networks beside early exits, in every precision; empty if none were trained."""
    columns = ("precision", "truncated at exit", "accuracy", "mean ms", "early exits", "mean ms", "speed-up")
    rows = []
    for name, precision in report["precisions"].items():
        for row in precision["truncated"]:
            rival = (f"{row['accuracy']:.2%}", f"{row['latency_ms_mean']:.3f}")
            ours = (f"{row['early_exit_accuracy']:.2%}", f"{row['early_exit_latency_ms_mean']:.3f}")
            rows.append((precision_label(name), row["exit"], *rival, *ours, f"{row['early_exit_speedup']:.2f}x"))
    if not rows:
        return ""
    note = (
        "Each network on the left was trained alone. Early exits beside it use the cheapest thresholds that are two "
        "standard errors more accurate on the threshold-fitting split and cost no more there, else the most accurate "
        "that cost no more. The network truncated at "
        "exit 0 is also the first segment of the chain: early exits can be more accurate, but not faster."
    )
    title = "<h2>Compared with networks truncated at an exit</h2>"
    return f"{title}<p>{note}</p>{table(columns, rows)}<p>{ONNXRUNTIME_NOTE}</p>"


def precision_label(precision: str) -> str:
    """Return a precision's name with a note about its speed on a CPU."""
    return f"{precision} ({CPU_NOTES[precision]})" if precision in CPU_NOTES else precision


def items_list(title: str, lines: Sequence[str]) -> str:
    """Return a titled list; empty if there are no lines."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if items else ""


def parity_table(report: dict[str, Any]) -> str:
    """Return the parity of every exit."""
    columns = ("exit", "accuracy", "trained network", "top-1 agrees", "exit decision agrees", "largest logit error")
    shares = ("accuracy", "reference_accuracy", "top1_agreement", "exit_index_agreement")
    rows = [
        (k, *(f"{figures[name]:.2%}" for name in shares), f"{figures['max_abs_logit_error']:.3g}")
        for k, figures in enumerate(report["verify"]["exits"])
    ]
    return table(columns, rows)


def report_conditions(report: dict[str, Any]) -> dict[str, Any]:
    """Return the conditions of the figures."""
    return {
        key: report[key] for key in ("conditions", "command", "memory", "chain_overhead", "thresholds") if key in report
    }
