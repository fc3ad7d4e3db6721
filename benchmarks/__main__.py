"""`python -m benchmarks`: comparisons and reports."""

from edge.entry import start_process

start_process(__name__)  # before the imports below, which take a moment

from edge.cli.parser import CommandParser, SubcommandSpec, run_subcommand
from edge.console import run_main

REPORTS = {
    "demo": SubcommandSpec("the whole pipeline on real images, with a report", "benchmarks.demo"),
    "demo-seeds": SubcommandSpec(
        "the demo's network with several seeds: do exits pay with each?", "benchmarks.demo_seeds"
    ),
    "real-size": SubcommandSpec("ResNet-18 at 224x224, fed from a 1080p video", "benchmarks.real_size"),
    "papers": SubcommandSpec(
        "Confidence-Gated and Explanation-Guided Training against their rivals, claim by claim", "benchmarks.papers"
    ),
    "quantisation": SubcommandSpec(
        "accuracy and agreement of trained networks in each precision", "benchmarks.quantisation"
    ),
    "risk": SubcommandSpec("coverage of risk guarantees, in a simulation", "benchmarks.risk"),
    "live": SubcommandSpec(
        "live classification: freshness, throughput, outputs, cameras, recovery", "benchmarks.live.report"
    ),
    "cuda-chain": SubcommandSpec(
        "exits decided on the GPU against exits decided by the host; needs a GPU", "benchmarks.cuda_chain"
    ),
    "cuda-pipeline": SubcommandSpec(
        "frames overlapping on the GPU against one at a time; needs a GPU", "benchmarks.cuda_pipeline"
    ),
}


def main() -> int:
    """Run the report of the command line."""
    parser = CommandParser(prog="python -m benchmarks", description="Comparisons and reports.")
    return run_subcommand(parser, REPORTS)


if __name__ == "__main__":
    run_main(main)
