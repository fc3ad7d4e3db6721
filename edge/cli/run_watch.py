"""Audits and the deadline of `edge run`, from its command line."""

import argparse

from edge.console import above_zero, zero_or_more
from edge.errors import ThresholdError
from edge.live.audit import DEFAULT_SHARE, Auditor
from edge.live.deadline import Deadline
from edge.live.deployment import Deployment
from edge.live.drift import expectations


def add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--audit` and `--deadline`."""
    parser.add_argument(
        "--audit",
        type=_share,
        metavar="SHARE",
        help="share of the frames that also run to the last exit, to test the bundle's bound on disagreement; 0 for "
        f"none (default: {DEFAULT_SHARE:g} for cameras and streams, if the bundle has a bound)",
    )
    parser.add_argument(
        "--deadline",
        type=above_zero,
        metavar="MS",
        help="latency that 95 %% of the frames must keep; chooses among the bundle's certified thresholds, from the "
        "costliest to cheaper ones",
    )


def make_auditor(arguments: argparse.Namespace, deployment: Deployment) -> Auditor | None:
    """Return the auditor of the command line, or None for no audits.

    Raises:
        ThresholdError: audits were requested for thresholds that have no bound.
    """
    classifier = deployment.classifier
    is_live = not all(address.is_finite for address in arguments.source)
    share = arguments.audit if arguments.audit is not None else DEFAULT_SHARE * is_live
    if share == 0 or classifier.chain.exits == 1:
        return None
    expected = expectations(deployment.bundle, deployment.precision)
    if classifier.thresholds in expected:
        return Auditor(classifier, expected, share=share, deadline_ms=arguments.deadline, bundle=deployment.name)
    if arguments.audit is None:
        return None
    remedy = (
        "remove --threshold" if arguments.threshold else "compile or refit with a guarantee, such as --method exact"
    )
    raise ThresholdError(
        f"--audit {share:g} tests a bound on disagreement, and the thresholds {classifier.thresholds} have none; "
        f"{remedy}, or give --audit 0"
    )


def make_deadline(arguments: argparse.Namespace, deployment: Deployment) -> Deadline | None:
    """Return the deadline of the command line, or None if there is none.

    Raises:
        ThresholdError: thresholds were given as well.
    """
    if arguments.deadline is None:
        return None
    if arguments.threshold is not None:
        raise ThresholdError("--deadline chooses the thresholds, and --threshold gives them; remove one of the two")
    candidates = [candidate.values for candidate in deployment.candidates]
    return Deadline(deployment.classifier, candidates, arguments.deadline)


def _share(text: str) -> float:
    value = zero_or_more(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{value:g} is more than all frames; give a share such as {DEFAULT_SHARE:g}")
    return value
