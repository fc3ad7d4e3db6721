"""`python -m benchmarks.picture`: the README's picture, drawn from a recorded `make demo` report.

The colours have enough contrast on white and on black, so one file serves light and dark pages.
"""

from edge.entry import start_process

start_process(__name__)  # before the imports below, which take a moment

import argparse
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.cli.parser import CommandParser
from edge.console import PASSED, run_main
from edge.errors import DataError
from edge.storage import write_file

REPORT = Path(__file__).with_name("results") / "fashion_mnist.json"
PICTURE = Path("docs/speed-up.svg")
PRECISION = "fp32"
NAMES = {"digits": "digits", "fashion-mnist": "Fashion-MNIST"}

TEXT, BLUE, ORANGE, GREY = "#7a8490", "#3b82f6", "#ea580c", "#94a3b8"
WIDTH, HEIGHT = 840, 190
BAR_HEIGHT, ROW, FIRST_ROW = 24, 38, 50
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


def main() -> int:
    """Draw the picture."""
    arguments = parser().parse_args()
    write_file(arguments.output, draw(read_report(arguments.report)))
    print(f"wrote {arguments.output}")
    return PASSED


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="python -m benchmarks.picture",
        description="Draw the exit shares and the speed-up of a recorded report as SVG.",
    )
    parser.add_argument("--report", type=Path, default=REPORT, metavar="FILE", help="report.json of `make demo`")
    parser.add_argument("--output", type=Path, default=PICTURE, metavar="FILE", help="default: %(default)s")
    return parser


def read_report(path: Path) -> dict[str, Any]:
    """Return a report of `make demo`.

    Raises:
        DataError: the file is missing or is not a report.
    """
    try:
        report = json.loads(path.read_text())
        report["precisions"][PRECISION]["speedup_mean"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a report of `make demo` ({error!r}); give its report.json") from error
    return dict(report)


def draw(report: dict[str, Any]) -> str:
    """Return the picture of a report as SVG text."""
    measured = report["precisions"][PRECISION]
    title = f"Early exits on {NAMES[report['dataset']]}: {measured['speedup_mean']:.2f} times as fast"
    parts = [*share_panel(measured), *latency_panel(measured), caption(report)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" role="img" font-family="{FONT}" font-size="14">',
            f"<title>{html.escape(title)}</title>",
            *parts,
            "</svg>",
            "",
        ]
    )


def share_panel(measured: dict[str, Any]) -> list[str]:
    """Draw the share of images that leave at each exit."""
    frames = measured["latency_ms"]["early_exit"]["frames"]
    rows = [(f"exit {index}", share, percent(share, 1), BLUE) for index, share in enumerate(measured["exit_shares"])]
    return panel(f"Exit taken by {frames:,} test images", rows, left=0, label_width=56, bar_width=220)


def latency_panel(measured: dict[str, Any]) -> list[str]:
    """Draw mean latency and accuracy with and without early exits."""
    latency, accuracy = measured["latency_ms"], measured["accuracy"]
    rows = []
    for key, name, colour in (("whole", "whole network", GREY), ("early_exit", "early exits", ORANGE)):
        mean = latency[key]["mean"]
        rows.append((name, mean / latency["whole"]["mean"], f"{mean:.3f} ms, {percent(accuracy[key], 2)}", colour))
    left, label_width, bar_width = 400, 112, 160
    shown = panel("Mean latency and accuracy", rows, left=left, label_width=label_width, bar_width=bar_width)
    speedup = f"{measured['speedup_mean']:.2f}x as fast"
    return [*shown, text(left + label_width, FIRST_ROW + 2 * ROW + 20, speedup, size=20, weight=700, colour=ORANGE)]


def panel(
    title: str, rows: Sequence[tuple[str, float, str, str]], *, left: int, label_width: int, bar_width: int
) -> list[str]:
    """Draw a title and one horizontal bar per row of label, fraction of the full width, value and colour."""
    parts = [text(left, 24, title, weight=600)]
    for index, (label, fraction, value, colour) in enumerate(rows):
        top = FIRST_ROW + index * ROW
        start, length = left + label_width, max(fraction * bar_width, 2)
        parts.append(text(left, top + 17, label))
        parts.append(f'<rect x="{start}" y="{top}" width="{length:.1f}" height="{BAR_HEIGHT}" rx="3" fill="{colour}"/>')
        parts.append(text(round(start + length + 8), top + 17, value))
    return parts


def caption(report: dict[str, Any]) -> str:
    """Return a line with the conditions of the measurement."""
    conditions, exits = report["conditions"], len(report["exit_shares"])
    network = f"{NAMES[report['dataset']]}, CNN with {exits} exits, {PRECISION}"
    words = f"{network}; ONNX Runtime {conditions['libraries']['onnxruntime']}, one thread, {conditions['cpu']}"
    return text(0, HEIGHT - 10, words, size=12)


def percent(fraction: float, digits: int) -> str:
    """Return a fraction in percent."""
    return f"{100 * fraction:.{digits}f} %"


def text(x: int, y: int, words: str, *, size: int = 14, weight: int = 400, colour: str = TEXT) -> str:
    """Return a line of text with its baseline at `y`."""
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}">{html.escape(words)}</text>'
    )


if __name__ == "__main__":
    run_main(main)
