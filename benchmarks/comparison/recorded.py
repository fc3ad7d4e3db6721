"""Two recorded runs of `edge bench --json`, as ratios to their control loops.

They ran at different times, so that their difference has no noise floor, and there is no verdict.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edge.console import print_table
from edge.errors import DataError
from edge.measure.bench import classifier_name, workloads


class Recorded(NamedTuple):
    """Medians of a recorded run as ratios to its control loop, by precision and classifier."""

    name: str
    ratios: Mapping[str, float]


def read_recorded(path: Path) -> Recorded:
    """Read a recorded run.

    Raises:
        DataError: the file is not the output of `edge bench --json`, or is older than the control loop.
    """
    try:
        return recorded_run(path.name, json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise DataError(
            f"{path} is not a recorded run with a control loop ({error!r}); record it again: edge bench BUNDLE --json"
        ) from error


def recorded_run(name: str, output: Mapping[str, Any]) -> Recorded:
    """Return the ratios in the parsed output of `edge bench --json`."""
    ratios = {}
    for precision, result in output["precisions"].items():
        beside = result.get("beside", {})
        names = workloads(len(result["per_exit"]), beside)
        measured = (result["whole"], result["early_exit"], *result["per_exit"], *beside.values())
        for name, values in zip(names, measured, strict=True):
            ratios[f"{precision} {classifier_name(name)}"] = values["latency_ms"]["p50"] / result["control_ms"]["p50"]
    return Recorded(name, ratios)


def print_recorded(a: Recorded, b: Recorded) -> None:
    """Print two runs side by side.

    Raises:
        DataError: they have no classifier in common.
    """
    common = [name for name in a.ratios if name in b.ratios]
    if not common:
        raise DataError(f"{a.name} and {b.name} have no precision in common; record both with the same --precision")
    rows = [
        (name, f"{a.ratios[name]:.3f}", f"{b.ratios[name]:.3f}", f"{b.ratios[name] / a.ratios[name]:.3f}")
        for name in common
    ]
    print_table("p50 over that of the control loop", ("classifier", f"A: {a.name}", f"B: {b.name}", "B over A"), rows)
    print("no verdict: these runs did not take turns; compare two bundles, backends or checkouts for a verdict")
