"""What `edge` has to be told for each of its verbs: one short function each."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edge.console import at_least
from edge.engines import BACKENDS

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def info(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `edge info`."""
    return _of_a_bundle(verbs, "info", "what a bundle holds: exits, cost, precisions, thresholds")


def build(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `edge build`."""
    one = _of_a_bundle(verbs, "build", "build every segment's engine, kept in this user's cache")
    _add_backend(one)
    one.add_argument(
        "--target", metavar="SM", help="GPU to build for, such as sm89 (tensorrt-rtx; default: all from Ampere on)"
    )
    one.add_argument("--precision", action="append", help="precision to build; repeatable (default: all)")
    one.add_argument("--batches", action="store_true", help="also build engines for many images at once")
    return one


def run(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `edge run`."""
    one = _of_a_bundle(verbs, "run", "classify a camera, video or folder")
    one.add_argument(
        "--source",
        required=True,
        help="camera index, video file, folder of images, rtsp:// address, or GStreamer pipeline (... ! appsink)",
    )
    one.add_argument("--precision", help="precision to run (default: the fastest on the backend)")
    one.add_argument(
        "--threshold",
        type=float,
        action="append",
        metavar="T",
        help="confidence that is enough at an early exit; repeat for each in order; 0: always, above 1: never "
        "(default: the fitted ones)",
    )
    one.add_argument(
        "--policy",
        choices=("latest", "all"),
        help="latest: skip frames when late; all: skip none (default: latest for cameras, all for files)",
    )
    one.add_argument("--frames", type=at_least(1), metavar="N", help="stop after N frames")
    one.add_argument("--output", type=Path, metavar="FILE", help="write one JSON line a frame to FILE")
    _add_backend(one)
    return one


def verify(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `edge verify`."""
    summary = "compare engines with the trained network, exit by exit; exit code 1 if they differ"
    one = _of_a_bundle(verbs, "verify", summary)
    one.add_argument("--precision", action="append", help="precision to verify; repeatable (default: all)")
    one.add_argument(
        "--references",
        type=Path,
        metavar="FILE",
        help="samples of `python -m compile --references` (default: the bundle's)",
    )
    one.add_argument("--report", type=Path, metavar="FILE", help="write the comparison as a Markdown page, too")
    one.add_argument(
        "--backend",
        action="append",
        choices=BACKENDS,
        help="inference library; repeatable: later ones are also compared with the first (default: onnxruntime)",
    )
    _add_threads(one)
    return one


def record(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `edge record`."""
    one = _of_a_bundle(verbs, "record", "write every exit's scores for labelled images, to refit thresholds from")
    one.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="one subfolder per class, named like the bundle's labels",
    )
    one.add_argument("--output", type=Path, required=True, metavar="FILE", help="scores file (.npz)")
    one.add_argument("--precision", help="precision to record (default: the fastest on the backend)")
    _add_backend(one)
    return one


def bench(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `edge bench`."""
    one = _of_a_bundle(verbs, "bench", "latency of each exit, the real mix, and the whole network as one engine")
    one.add_argument("--precision", action="append", help="precision to measure; repeatable (default: all)")
    _add_backend(one)
    return one


def doctor(verbs: "Verbs") -> argparse.ArgumentParser:
    """Add `edge doctor`."""
    return _new(verbs, "doctor", "say what this machine has and lacks")


def _of_a_bundle(verbs: "Verbs", name: str, summary: str) -> argparse.ArgumentParser:
    one = _new(verbs, name, summary)
    one.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by `python -m compile`")
    return one


def _new(verbs: "Verbs", name: str, summary: str) -> argparse.ArgumentParser:
    one = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    one.add_argument("--json", action="store_true", help="print the result as JSON")
    return one


def _add_backend(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--backend", choices=BACKENDS, default="onnxruntime", help="inference library (default: %(default)s)"
    )
    _add_threads(one)


def _add_threads(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--threads",
        type=at_least(0),
        default=1,
        metavar="N",
        help="CPU threads a segment runs on, 0: all (default: %(default)s)",
    )
