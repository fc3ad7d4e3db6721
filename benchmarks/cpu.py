"""int8 in integers on a CPU: bundles on OpenVINO and ONNX Runtime, with and without early exits, in turns."""

import argparse
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.results import add_output, command_line, write_result
from edge.bundle.bundle import Bundle
from edge.cli.arguments import add_threads
from edge.console import PASSED, ProgressDisplay, print_table
from edge.engines import backend_named
from edge.frames.base import frame_from_array
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier, load_whole_network
from edge.measure.bench import Measurement, measure
from edge.measure.latency import LATENCY_COLUMNS, Latency, latency_cells
from edge.parity.compare import Parity, verify
from edge.progress import OnProgress, track
from edge.system import conditions, with_end


class Variant(NamedTuple):
    """A way to run a network."""

    precision: str
    network: str
    """`whole`, or `exits` for the chain with its thresholds."""
    backend: str

    def __str__(self) -> str:
        return " ".join(self)


FP32_WHOLE_ORT = Variant("fp32", "whole", "onnxruntime")
FP32_WHOLE_OV = Variant("fp32", "whole", "openvino")
INT8_WHOLE_OV = Variant("int8", "whole", "openvino")
INT8_EXITS_OV = Variant("int8", "exits", "openvino")
VARIANTS = (
    FP32_WHOLE_ORT,
    Variant("int8", "whole", "onnxruntime"),
    FP32_WHOLE_OV,
    INT8_WHOLE_OV,
    Variant("fp32", "exits", "onnxruntime"),
    INT8_EXITS_OV,
)
RATIOS = {
    "int8 exits openvino / fp32 whole onnxruntime": (INT8_EXITS_OV, FP32_WHOLE_ORT),
    "int8 exits openvino / int8 whole openvino": (INT8_EXITS_OV, INT8_WHOLE_OV),
    "int8 whole / fp32 whole, openvino": (INT8_WHOLE_OV, FP32_WHOLE_OV),
}
"""Speeds of the first over the second: how many times as fast it is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the benchmark."""
    parser.add_argument(
        "bundles",
        nargs="+",
        type=named_bundle,
        metavar="NAME=BUNDLE",
        help="bundle in fp32 and int8, with the name of its network: cnn=runs/demo-fashion-mnist/bundle",
    )
    add_threads(parser)
    add_output(parser, "runs/cpu.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Measure, print and record.

    Raises:
        EdgeError: a bundle lacks a precision, or an engine cannot be built or run here.
    """
    before = conditions()
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    integers: dict[str, Any] = {}
    with ProgressDisplay() as display:
        for name, path in arguments.bundles:
            bundle = Bundle.open(path)
            measured = measure_variants(bundle, arguments.threads, display)
            rows += [row(name, *pair) for pair in measured.items()]
            ratios |= speed_ratios(name, measured)
            integers[name] = asdict(integers_against_emulation(bundle, display))
    result = {"ratios": ratios, "rows": rows, "integers_against_emulation": integers, "threads": arguments.threads}
    write_result(arguments.output, result | {"command": command_line(), "conditions": with_end(before)})
    print_rows(rows, ratios)
    print(f"wrote {arguments.output}")
    return PASSED


def named_bundle(text: str) -> tuple[str, Path]:
    """Parse `NAME=BUNDLE`, for argparse."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=BUNDLE, such as cnn=runs/demo-fashion-mnist/bundle")
    return name, Path(path)


def measure_variants(bundle: Bundle, threads: int, on_progress: OnProgress) -> dict[Variant, Measurement]:
    """Measure every variant on the bundle's reference samples; they take turns on each frame."""
    reference, kind = bundle.reference(), bundle.manifest.input.kind
    frames = [frame_from_array(pixels, kind) for pixels in reference.frames]
    with ExitStack() as stack:
        classifiers = [stack.enter_context(load_variant(bundle, v, threads, on_progress)) for v in VARIANTS]
        task = f"measuring {bundle.manifest.name}"
        measured = measure(classifiers, track(frames, task, on_progress), reference.labels.tolist())
    return dict(zip(VARIANTS, measured.classifiers, strict=True))


def load_variant(bundle: Bundle, variant: Variant, threads: int, on_progress: OnProgress) -> Classifier:
    """Return a variant as a classifier; the caller closes it."""
    backend = backend_named(variant.backend, threads=threads)
    if variant.network == "whole":
        return load_whole_network(bundle, variant.precision, backend, on_progress)
    return load_classifier(bundle, variant.precision, backend, on_progress=on_progress)


def speed_ratios(name: str, measured: dict[Variant, Measurement]) -> dict[str, float]:
    """Return `RATIOS` of a network, from mean latencies."""
    mean_ms = {variant: measurement.latency_ms.mean for variant, measurement in measured.items()}
    return {f"{name}: {ratio}": mean_ms[slow] / mean_ms[fast] for ratio, (fast, slow) in RATIOS.items()}


def integers_against_emulation(bundle: Bundle, on_progress: OnProgress) -> Parity:
    """Compare int8 on OpenVINO with its emulation by ONNX Runtime, exit by exit."""
    backends = [backend_named("onnxruntime"), backend_named("openvino")]
    return verify(bundle, "int8", backends, on_progress=on_progress)[-1]


def row(name: str, variant: Variant, measurement: Measurement) -> dict[str, Any]:
    """Return a row of the record."""
    return {"name": name, **variant._asdict(), **asdict(measurement)}


def print_rows(rows: Sequence[dict[str, Any]], ratios: dict[str, float]) -> None:
    """Print latency and accuracy of every variant, and the ratios."""
    cells = []
    for values in rows:
        variant = Variant(values["precision"], values["network"], values["backend"])
        accuracy = math.nan if values["accuracy"] is None else values["accuracy"]
        shares = " / ".join(f"{share:.0%}" for share in values["exit_shares"])
        latency = latency_cells(Latency(**values["latency_ms"]))
        cells.append((values["name"], str(variant), *latency, f"{accuracy:.2%}", shares))
    columns = ("network", "variant", *LATENCY_COLUMNS, "accuracy", "exit shares")
    print_table("time from available frame to known decision, in turns in one process", columns, cells)
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}x as fast")
