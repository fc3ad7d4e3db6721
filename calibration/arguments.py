"""What a user may ask of thresholds, on the command line of whatever fits them."""

import argparse
from typing import Any, get_args, get_type_hints

from calibration.thresholds import RiskGuarantee

ASKED = get_type_hints(RiskGuarantee)
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "--risk": (
        "risk",
        {
            "choices": get_args(ASKED["risk"]),
            "help": "accuracy_gap: share of answers lost against the last exit answering everything; disagreement: "
            "share of answers that are not the last exit's",
        },
    ),
    "--limit": ("limit", {"type": float, "metavar": "FRACTION", "help": "the most of it"}),
    "--method": (
        "method",
        {
            "choices": get_args(ASKED["method"]),
            "help": "how that is shown: betting and hoeffding-bentkus with a confidence, expectation on average, none "
            "only for the images fitted to",
        },
    ),
    "--confidence": (
        "confidence_level",
        {"type": float, "metavar": "LEVEL", "help": "probability with which it holds, for methods that have one"},
    ),
    "--shared": ("shared", {"action": "store_true", "help": "one threshold for all exits: all images prove it"}),
}
"""Each with the field of `Promise` it sets; what is not given is not there after parsing."""


def add_guarantee_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `promise_of` reads."""
    group = parser.add_argument_group("what early exits may cost, on images the thresholds were not fitted to")
    usual = RiskGuarantee()
    for option, (field, settings) in OPTIONS.items():
        default = "" if field == "shared" else f" (default: {getattr(usual, field)})"
        described = settings | {"help": settings["help"] + default}
        group.add_argument(option, dest=field, default=argparse.SUPPRESS, **described)


def guarantee_from_arguments(arguments: argparse.Namespace) -> RiskGuarantee:
    """Return what the user asked for."""
    given = vars(arguments)
    return RiskGuarantee(**{field: given[field] for field, _ in OPTIONS.values() if field in given})


def guarantee_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options the user gave."""
    return [option for option, (field, _) in OPTIONS.items() if field in vars(arguments)]
