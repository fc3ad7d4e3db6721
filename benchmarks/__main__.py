"""`python -m benchmarks`: comparisons and reports."""

from edge.entry import start_process

start_process(__name__)  # before the imports below, which take a moment

from edge.cli.parser import CommandParser, SubcommandSpec, run_subcommand
from edge.console import run_main

REPORTS = {
    "demo": SubcommandSpec("the whole pipeline on real images, with a report", "benchmarks.demo"),
    "demo-seeds": SubcommandSpec(
        "the demo's network with several seeds: early exits must pay with each", "benchmarks.demo_seeds"
    ),
    "real-size": SubcommandSpec("ResNet-18 at 224x224, fed from a 1080p video", "benchmarks.real_size"),
    "cpu": SubcommandSpec(
        "int8 in integers on OpenVINO against ONNX Runtime, with and without early exits", "benchmarks.cpu.report"
    ),
    "compare": SubcommandSpec(
        "two bundles, backends or checkouts that take turns, with a verdict; two recorded runs, without",
        "benchmarks.compare",
    ),
    "harness": SubcommandSpec(
        "the measurements themselves: planted slow-downs, repeated runs, overhead", "benchmarks.harness"
    ),
    "trust": SubcommandSpec("the time to verify a signed bundle, and of `edge doctor`", "benchmarks.trust"),
    "report": SubcommandSpec("a page of all recorded results", "benchmarks.report"),
    "papers": SubcommandSpec(
        "the claims of Confidence-Gated and Explanation-Guided Training, beside rival methods", "benchmarks.papers"
    ),
    "elpv": SubcommandSpec(
        "photographs of solar cells: a pretrained network with three exits, without EGT, and alone",
        "benchmarks.elpv.report",
    ),
    "quantisation": SubcommandSpec(
        "accuracy and agreement of trained networks in each precision", "benchmarks.quantisation"
    ),
    "live": SubcommandSpec(
        "live classification: freshness, throughput, outputs, cameras, recovery", "benchmarks.live.report"
    ),
    "risk": SubcommandSpec("violations of risk guarantees, over many re-splits", "benchmarks.risk"),
    "rejection": SubcommandSpec(
        "violations of the limit on accepted predictions, and letters that digits networks reject",
        "benchmarks.rejection",
    ),
    "peers": SubcommandSpec(
        "early exits beside every other way to run a demo's network on a CPU, at equal accuracy",
        "benchmarks.peers.report",
    ),
    "scale": SubcommandSpec(
        "growth of cost over exits, pixels, threads, cameras and nodes of a Ray cluster", "benchmarks.scale.report"
    ),
    "energy-meter": SubcommandSpec(
        "the energy measurement against a simulated sensor whose load is known", "benchmarks.energy_meter"
    ),
    "alarms": SubcommandSpec(
        "false alarms and detections of audits, simulated and on real images", "benchmarks.view.alarms"
    ),
    "view": SubcommandSpec(
        "the web page and audits: throughput with viewers and audits, false alarms", "benchmarks.view.report"
    ),
    "gpu": SubcommandSpec(
        "all checks and benchmarks of a GPU, each in its own process; at most eight minutes", "benchmarks.gpu_suite"
    ),
    "cuda-chain": SubcommandSpec(
        "exit decisions on the GPU against decisions on the host; needs a GPU", "benchmarks.cuda_chain"
    ),
    "cuda-pipeline": SubcommandSpec(
        "overlapping frames on the GPU against one frame at a time; needs a GPU", "benchmarks.cuda_pipeline"
    ),
    "cuda-torch": SubcommandSpec(
        "networks in torch as a chain against plain torch code; needs a GPU and torch for it", "benchmarks.cuda_torch"
    ),
}


def main() -> int:
    """Run the report of the command line."""
    parser = CommandParser(prog="python -m benchmarks", description="Comparisons and reports.")
    return run_subcommand(parser, REPORTS)


if __name__ == "__main__":
    run_main(main)
