"""Simulated audits: false alarms at the bound, and audited frames until a change is detected.

`python -m benchmarks alarms BUNDLE` also plants shifts in the test images of Fashion-MNIST.
"""

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.results import add_output, command_line, write_result
from benchmarks.view.shifts import planted_shifts
from benchmarks.view.streams import first_alarms
from edge.bundle.bundle import Bundle
from edge.console import PASSED, log, print_table
from edge.live.drift import FALSE_ALARM_RATE, exit_bounds, exit_values
from edge.system import conditions

STREAMS, FRAMES, LATE_FRAMES, SHARE_FRAMES = 1_000, 100_000, 50_000, 20_000
BOUND = 0.02
FRAMES_TO_DETECT_TWICE = round(40 / BOUND)
"""Audited frames in which a disagreement of twice the bound is to be detected in 95 % of the streams."""
EXIT_SHARES, FARTHEST_SHARES = (0.6, 0.3, 0.1), (0.7, 0.2, 0.1)
"""Expected shares, and the shares that are farthest from them without being an alarm."""
SCENE_FRAMES, AUDIT_SHARE = 30.0, 0.01
"""Frames after which the correlation of a video has fallen to 1/e: a second at 30 frames per second."""

COLUMNS = ("shift", "accuracy", "disagreement", "exit 0", "disagreement alarms", "exit share alarms", "frames, p95")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the report."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle of Fashion-MNIST with a guarantee")
    parser.add_argument("--precision", default="fp32", help="precision to test (default: %(default)s)")
    add_output(parser, "runs/alarms.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Simulate, plant shifts, print and record.

    Raises:
        EdgeError: the bundle cannot be used or has no bound, or Fashion-MNIST is missing.
    """
    log(f"{STREAMS} streams of {FRAMES} audited frames")
    result = alarms()
    log("planted shifts")
    shifts = planted_shifts(Bundle.open(arguments.bundle), arguments.precision)
    recorded = {"command": command_line(), "conditions": conditions(), **result, "shifts": shifts}
    write_result(arguments.output, recorded)
    print_table("alarms", ("figure", "value"), [(name, f"{value:g}") for name, value in result.items()])
    print_table("planted shifts", COLUMNS, [table_row(row) for row in shifts])
    print(f"wrote {arguments.output}")
    return PASSED


def alarms() -> dict[str, float]:
    """Return the rates of false alarms and of detections, and the frames that these took."""
    at_bound = first_alarms(independent(BOUND, FRAMES), BOUND)
    at_twice = first_alarms(independent(2 * BOUND, 2 * FRAMES_TO_DETECT_TWICE), BOUND)
    late = chain(independent(BOUND / 2, LATE_FRAMES), independent(2 * BOUND, 5 * FRAMES_TO_DETECT_TWICE))
    late_alarms = first_alarms(late, BOUND)
    return {
        "streams": STREAMS,
        "audited_frames": FRAMES,
        "bound": BOUND,
        "false_alarm_rate": _rate(at_bound),
        "false_alarm_rate_stated": FALSE_ALARM_RATE,
        "exit_shares_false_alarm_rate": _rate(first_alarms(exits(FARTHEST_SHARES), exit_bounds(EXIT_SHARES))),
        "detection_rate_at_twice": _rate(at_twice, FRAMES_TO_DETECT_TWICE),
        "detection_frames": FRAMES_TO_DETECT_TWICE,
        "detection_frames_p50": float(np.quantile(at_twice, 0.5)),
        "detection_frames_p95": float(np.quantile(at_twice, 0.95)),
        "late_change_after_frames": LATE_FRAMES,
        "late_change_frames_p50": float(np.quantile(late_alarms, 0.5)) - LATE_FRAMES,
        "late_change_frames_p95": float(np.quantile(late_alarms, 0.95)) - LATE_FRAMES,
        **autocorrelated_alarms(),
    }


def autocorrelated_alarms() -> dict[str, float]:
    """Return rates of alarms where frames depend on each other, on average at the bound or at half of it."""
    return {
        "autocorrelated_scene_frames": SCENE_FRAMES,
        "autocorrelated_false_alarm_rate": _rate(first_alarms(autocorrelated(BOUND, AUDIT_SHARE), BOUND)),
        "autocorrelated_half_false_alarm_rate": _rate(first_alarms(autocorrelated(BOUND / 2, AUDIT_SHARE), BOUND)),
        "autocorrelated_every_frame_false_alarm_rate": _rate(first_alarms(autocorrelated(BOUND, 1.0), BOUND)),
    }


def independent(mean: float, frames: int) -> Iterator[NDArray[np.bool_]]:
    """Yield values of independent frames."""
    generator = np.random.default_rng(0)
    for _ in range(frames):
        yield generator.random(STREAMS) < mean


def exits(shares: ArrayLike) -> Iterator[NDArray[np.bool_]]:
    """Yield the exits of independent frames, as the test of exit shares reads them."""
    generator, upper = np.random.default_rng(1), np.cumsum(shares)
    for _ in range(SHARE_FRAMES):
        yield exit_values(np.searchsorted(upper[:-1], generator.random(STREAMS)), len(upper))


def autocorrelated(mean: float, share: float) -> Iterator[NDArray[np.bool_]]:
    """Yield values of the audited frames of videos, which form a two-state Markov chain.

    Over `g` frames its correlation falls to `exp(-g / SCENE_FRAMES)`; `g` is geometric where frames are audited at
    random.
    """
    generator = np.random.default_rng(2)
    value = generator.random(STREAMS) < mean
    for _ in range(FRAMES):
        yield value
        correlation = np.exp(-generator.geometric(share, STREAMS) / SCENE_FRAMES)
        value = generator.random(STREAMS) < mean + correlation * (value - mean)


def _rate(found: NDArray[np.float64], within: float = np.inf) -> float:
    return float((np.isfinite(found) & (found <= within)).mean())


def table_row(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a recorded shift as cells of the printed table."""
    shares = ("accuracy", "disagreement", "exit_0_share", "disagreement_alarms", "exit_shares_alarms")
    frames = row["first_alarm_frames_p95"]
    return (row["shift"], *(f"{row[name]:.1%}" for name in shares), "-" if frames is None else f"{frames:.0f}")
