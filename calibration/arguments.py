"""What a user may ask of thresholds, on the command line of whatever fits them."""

import argparse
from typing import get_args, get_type_hints

from calibration.thresholds import Promise

ASKED = get_type_hints(Promise)


def add_promise_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `promise_of` reads."""
    group = parser.add_argument_group("what early exits may cost, on images the thresholds were not fitted to")
    default = Promise()
    group.add_argument(
        "--risk",
        choices=get_args(ASKED["risk"]),
        default=default.risk,
        help="accuracy_gap: share of answers lost against the last exit answering everything; disagreement: share of "
        "answers that are not the last exit's (default: %(default)s)",
    )
    group.add_argument(
        "--limit", type=float, default=default.limit, metavar="FRACTION", help="the most of it (default: %(default)s)"
    )
    group.add_argument(
        "--method",
        choices=get_args(ASKED["method"]),
        default=default.method,
        help="how that is shown: betting and hoeffding-bentkus with a confidence, expectation on average, none only "
        "for the images fitted to (default: %(default)s)",
    )
    group.add_argument(
        "--confidence",
        type=float,
        default=default.confidence_level,
        metavar="LEVEL",
        help="probability with which it holds, for methods that have one (default: %(default)s)",
    )
    group.add_argument("--shared", action="store_true", help="one threshold for all exits: all images prove it")


def promise_of(arguments: argparse.Namespace) -> Promise:
    """Return what the user asked for."""
    return Promise(arguments.risk, arguments.limit, arguments.method, arguments.confidence, arguments.shared)
