"""Outputs of `edge run`, from its command line."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from edge.bundle.bundle import Bundle
from edge.cli.output import check_output, check_outside
from edge.console import log
from edge.errors import OutputError
from edge.live.deployment import Deployment
from edge.live.outputs.base import Output
from edge.live.outputs.collect import Collector
from edge.live.outputs.heartbeat import Heartbeat
from edge.live.outputs.lines_file import parse_rotation
from edge.live.outputs.open import STDOUT_NAMES, is_video_name, open_output, output_path
from edge.live.outputs.systemd import systemd_from
from edge.live.outputs.terminal import Terminal


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of outputs."""
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="NAME",
        help="file that a JSON line per frame is appended to, - for stdout, VIDEO.mp4, mqtt://HOST/TOPIC, or "
        "http://HOST:PORT for a web page, metrics and health; repeatable",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files of --output instead")
    parser.add_argument(
        "--rotate-lines", metavar="LIMIT", help="start a new file of JSON lines after a size or time: 100MB, 1d"
    )
    parser.add_argument(
        "--collect", type=Path, metavar="FOLDER", help="keep the frames nearest to a threshold, for you to label"
    )


def writes_stdout(arguments: argparse.Namespace) -> bool:
    """Check that JSON lines are printed to stdout instead of the summary."""
    return arguments.json or any(name in STDOUT_NAMES for name in arguments.output)


def check_outputs(arguments: argparse.Namespace, bundle: Bundle) -> None:
    """Check that outputs destroy neither an input nor another file.

    Raises:
        OutputError: an output is an input or another file that exists, or an argument has no effect.
    """
    has_lines = any(output_path(name) is not None and not is_video_name(name) for name in arguments.output)
    inputs = [address.path for address in arguments.source if address.path is not None]
    if arguments.overwrite and not has_lines:
        raise OutputError("--overwrite was given without a file; add --output FILE, or remove --overwrite")
    if arguments.rotate_lines and not has_lines:
        raise OutputError("--rotate-lines was given without a file; add --output FILE, or remove --rotate-lines")
    if len(set(arguments.output)) < len(arguments.output):
        raise OutputError("an --output is given twice; give each once")
    if arguments.collect is not None:
        check_outside(arguments.collect, inputs, bundle)
    for name in arguments.output:
        check_output(name, inputs, bundle, overwrite=arguments.overwrite)


def make_outputs(arguments: argparse.Namespace, deployment: Deployment, on_request: Callable[[], None]) -> list[Output]:
    """Return the outputs of the command line, and those of a service.

    Args:
        arguments: The command line, checked by `check_outputs`.
        deployment: Bundle and classifier to show.
        on_request: Called when a message requests a frame.

    Raises:
        OutputError: the output is unknown.
        UnavailableError: a library for an output is missing.
    """
    logging.getLogger("edge.live.outputs").setLevel(logging.INFO)  # to show the heartbeat
    rotation = parse_rotation(arguments.rotate_lines) if arguments.rotate_lines else None
    names = [*arguments.output]
    if arguments.json and not any(name in STDOUT_NAMES for name in names):
        names.append("-")
    outputs = [
        open_output(
            name, overwrite=arguments.overwrite, rotation=rotation, on_request=on_request, deployment=deployment
        )
        for name in names
    ]
    if arguments.collect is not None:
        outputs.append(Collector(arguments.collect))
    if (systemd := systemd_from()) is not None:
        outputs.append(systemd)
    if arguments.events and not writes_stdout(arguments):
        outputs.append(Terminal(log))
    return [*outputs, Heartbeat()]
