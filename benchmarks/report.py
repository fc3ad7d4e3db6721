"""One self-contained page of all recorded results, with the conditions of each."""

import argparse
import html
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.page import BLUE, GREY, ORANGE, inline_svg, table, write_page
from benchmarks.papers.evaluation import Row
from benchmarks.papers.rows import select
from benchmarks.papers.tables import COLUMNS, lines_of
from benchmarks.published import published_for
from benchmarks.recorded_runs import Cost, Energy, Run, run_of
from benchmarks.results import add_output
from edge.console import PASSED
from edge.errors import DataError

RESULTS = Path(__file__).with_name("results")
COLOURS = {"exit": BLUE, "early exits": ORANGE, "whole": GREY, "truncated": "black"}
MARKERS = {"exit": "o", "early exits": "*", "whole": "D", "truncated": "s"}
Results = Mapping[str, Mapping[str, Any]]
"""Parsed files by their names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="folder of recorded JSON")
    add_output(parser, "runs/report.html", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Write the page.

    Raises:
        DataError: there are no results, or a file is not one.
    """
    results = read_results(arguments.results)
    write_page(arguments.output, "Recorded results", sections(results))
    print(f"wrote {arguments.output}: {len(results)} results of {arguments.results}")
    return PASSED


def read_results(folder: Path) -> Results:
    """Return every recorded result of a folder.

    Raises:
        DataError: there are none, or a file is not one.
    """
    results = {}
    for path in sorted(folder.glob("*.json")):
        try:
            results[path.name] = json.loads(path.read_text())
            results[path.name].keys()
        except (ValueError, AttributeError) as error:
            raise DataError(f"{path} is not a recorded result ({error}); record it again, or remove it") from error
    if not results:
        raise DataError(f"{folder} has no recorded results; name a folder of JSON that `python -m benchmarks` wrote")
    return results


def sections(results: Results) -> Iterator[str]:
    """Yield the page's HTML.

    Raises:
        DataError: a file has the form of a known result, but lacks some of it.
    """
    for name, recorded in results.items():
        try:
            run = run_of(Path(name).stem, recorded)
            if run is not None:
                yield from run_section(name, run)
            elif "claims" in recorded:
                yield from regimes_section(name, recorded["rows"])
            elif "detection" in recorded:
                yield from harness_section(name, recorded)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"{name} lacks a part of its results ({error!r}); record it again, or remove it") from error
    yield "<h2>Conditions</h2>"
    yield from (conditions_details(name, recorded) for name, recorded in results.items())


def run_section(name: str, run: Run) -> Iterator[str]:
    """Yield the costs of a recorded run."""
    yield f"<h2>{html.escape(run.title)}</h2><p>{html.escape(name)}</p>"
    yield inline_svg(run_figure(run))
    columns = ("precision", "classifier", "mean ms", "p50", "IQR", "p99", "accuracy")
    yield table(columns, (cost_cells(cost) for cost in run.costs))
    if not run.energies:
        yield "<p>Energy: not measured in this run.</p>"
        return
    yield "<p>Energy per inference, gross and without the power of the idle machine:</p>"
    rows = [energy_cells(energy) for energy in run.energies]
    yield table(
        ("precision", "classifier", "rail or source", "gross mJ", "net mJ", "valid"), [*rows, *published_rows(run)]
    )


def cost_cells(cost: Cost) -> tuple[str, ...]:
    """Return the cells of a classifier's latency and accuracy; older files lack some statistics."""
    times = (f"{cost.latency_ms[key]:.3f}" if key in cost.latency_ms else "" for key in ("mean", "p50", "iqr", "p99"))
    return (cost.precision, cost.name, *times, "" if cost.accuracy is None else f"{cost.accuracy:.2%}")


def energy_cells(energy: Energy) -> tuple[str, ...]:
    """Return the cells of a classifier's energy on one rail."""
    gross, net = (f"{values['mean']:.3g} ±{values['plus_minus']:.2g}" for values in (energy.gross_mj, energy.net_mj))
    return (energy.precision, energy.name, energy.rail, gross, net, "; ".join(energy.problems) or "yes")


def published_rows(run: Run) -> list[tuple[str, ...]]:
    """Return the published energies for the board of a run, as rows of the table of energies."""
    return [
        ("int8", "ResNet-50, published", figure.source, f"{figure.energy_mj:.3g}", "", figure.note)
        for figure in published_for(run.board)
    ]


def run_figure(run: Run) -> Figure:
    """Draw latency by classifier, and accuracy against latency, for each precision."""
    precisions = run.precisions()
    has_accuracy = any(cost.accuracy is not None for cost in run.costs)
    figure = Figure(figsize=(4 * len(precisions), 6 if has_accuracy else 3), layout="constrained")
    panels = figure.subplots(1 + has_accuracy, len(precisions), squeeze=False)
    for column, precision in enumerate(precisions):
        costs = [cost for cost in run.costs if cost.precision == precision]
        draw_latency(panels[0][column], precision, costs)
        if has_accuracy:
            draw_accuracy(panels[1][column], costs)
    return figure


def draw_latency(axes: Axes, precision: str, costs: list[Cost]) -> None:
    """Draw the mean latency of each classifier as a bar."""
    names = [cost.name.replace(", trained alone", "") for cost in costs]
    axes.barh(names, [cost.latency_ms["mean"] for cost in costs], color=[COLOURS[cost.kind] for cost in costs])
    axes.set(title=precision, xlabel="mean latency, ms")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def draw_accuracy(axes: Axes, costs: list[Cost]) -> None:
    """Draw accuracy against mean latency, with a marker for each kind of classifier."""
    for kind, marker in MARKERS.items():
        points = [(cost.latency_ms["mean"], cost.accuracy) for cost in costs if cost.kind == kind]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=COLOURS[kind], label=kind)
    axes.set(xlabel="mean latency, ms", ylabel="accuracy")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def regimes_section(name: str, rows: list[Row]) -> Iterator[str]:
    """Yield the accuracy of every training method at several budgets of computation."""
    yield f"<h2>Rival training methods</h2><p>{html.escape(name)}: means over seeds.</p>"
    for task, split in dict.fromkeys((row["task"], row["split"]) for row in rows):
        yield f"<h3>{html.escape(task)}, accuracy on the {html.escape(split)} split</h3>"
        yield table(COLUMNS, lines_of(select(rows, task=task, split=split)))


def harness_section(name: str, recorded: Mapping[str, Any]) -> Iterator[str]:
    """Yield how far the measurements can be trusted."""
    detection = recorded["detection"]
    yield f"<h2>The measurements themselves</h2><p>{html.escape(name)}</p>"
    rows = [
        (f"slow-down of {detection['slow_down']:.0%} found", f"{recorded['found']:.1%}"),
        ("false alarms", f"{recorded['false_alarms']:.1%}"),
        ("noise floor of a comparison, median", f"{detection['noise_floor_p50']:.2%}"),
        ("range of repeated runs of edge bench", f"{recorded['bench_range']:.1%}"),
        ("overhead of a timed call", f"{recorded['overhead_us']:.2f} us"),
    ]
    yield table(("figure", "value"), rows)


def conditions_details(name: str, recorded: Mapping[str, Any]) -> str:
    """Return a result's command and conditions, folded."""
    shown = {key: recorded.get(key, "not recorded") for key in ("command", "conditions")}
    text = html.escape(json.dumps(shown, indent=2))
    return f"<details><summary>{html.escape(name)}</summary><pre>{text}</pre></details>"
