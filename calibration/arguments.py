"""Command-line arguments of a guarantee, for the commands that fit thresholds."""

import argparse
from functools import partial

from calibration.rejection import RejectGuarantee
from calibration.thresholds import RiskGuarantee
from edge.risk import PROCEDURES, RISKS

FIELDS = {
    "--risk": "risk",
    "--limit": "limit",
    "--method": "method",
    "--confidence": "confidence_level",
    "--shared": "shared",
}
"""Field of `RiskGuarantee` that each option sets. Options that are not given are absent after parsing."""


def add_guarantee_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `guarantee_from_arguments` and `reject_guarantee_from_arguments` read."""
    group = parser.add_argument_group("guarantee for images that the thresholds were not fitted to")
    default = RiskGuarantee()
    add = partial(group.add_argument, default=argparse.SUPPRESS)
    add(
        "--risk",
        choices=tuple(RISKS),
        help="risk of early exits to limit. accuracy_gap: accuracy lost against the last exit; disagreement: share of "
        f"predictions that differ from the last exit's (default: {default.risk})",
    )
    add("--limit", type=float, metavar="FRACTION", help=f"largest risk you allow (default: {default.limit})")
    add(
        "--method",
        choices=tuple(PROCEDURES),
        help="exact, betting and hoeffding-bentkus keep the limit with the confidence you ask for; expectation keeps "
        f"it on average; none keeps it only for the images you fit to (default: {default.method})",
    )
    add(
        "--confidence",
        dest=FIELDS["--confidence"],
        type=float,
        metavar="LEVEL",
        help="probability that exact, betting and hoeffding-bentkus keep the limit "
        f"(default: {default.confidence_level})",
    )
    add("--shared", action="store_true", help="use one threshold for all exits, so that fewer images are enough")
    group = parser.add_argument_group("rejection of images that even the last exit is unsure of, labelled `none`")
    group.add_argument(
        "--reject-limit",
        type=float,
        metavar="FRACTION",
        help="largest error you allow among the predictions that are not `none`, with the confidence above; a third of "
        "the images certifies it (default: no image is rejected)",
    )


def guarantee_from_arguments(arguments: argparse.Namespace) -> RiskGuarantee:
    """Return the guarantee that the user asked for."""
    given = vars(arguments)
    return RiskGuarantee(**{field: given[field] for field in FIELDS.values() if field in given})


def reject_guarantee_from_arguments(arguments: argparse.Namespace) -> RejectGuarantee | None:
    """Return the guarantee on accepted predictions that the user asked for; by betting, unless the method has one."""
    if arguments.reject_limit is None:
        return None
    guarantee = guarantee_from_arguments(arguments)
    method = guarantee.method if guarantee.method == "hoeffding-bentkus" else "betting"
    return RejectGuarantee(arguments.reject_limit, method, guarantee.confidence_level)


def guarantee_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options of a guarantee that the user gave."""
    return [option for option, field in FIELDS.items() if field in vars(arguments)]
