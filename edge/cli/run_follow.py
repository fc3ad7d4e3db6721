"""`--follow` of `edge run`."""

import argparse
from typing import TYPE_CHECKING

from edge.errors import SignatureError, ThresholdError

if TYPE_CHECKING:
    from edge.live.follow import Deploy, Follower


def make_follower(arguments: argparse.Namespace, deploy: "Deploy") -> "Follower | None":
    """Return the follower of the command line, with the bundle to begin with; None without `--follow`.

    Raises:
        SignatureError: no signature is required.
        ThresholdError: thresholds were given, which belong to one bundle.
        EdgeError: there is no bundle to begin with, or it cannot be used.
    """
    if arguments.follow is None:
        return None
    if arguments.require_signature is None:
        raise SignatureError(
            "--follow lets whoever can write to the registry choose the network; add --require-signature public.pem"
        )
    if arguments.threshold is not None:
        raise ThresholdError("--threshold fits one bundle, and --follow changes it; remove one of the two")
    from edge.live.follow import Follower

    return Follower(arguments.follow, arguments.bundle, arguments.require_signature, deploy)
