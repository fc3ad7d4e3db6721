"""Conditions that a bundle from a registry must fulfil before it answers."""

from edge.bundle.manifest import Manifest
from edge.live.deployment import Deployment
from edge.parity.compare import verify_classifier
from edge.parity.guarantee import broken_guarantee
from edge.parity.report import verdict

REMEDY = "to change that, start the run with a new BUNDLE name, which begins with the bundle of the tag"


def incompatibility(present: Manifest, new: Manifest) -> str | None:
    """Return the reason for which a bundle cannot take the place of another; None if it can.

    Receivers of results rely on the labels and their indices. Size, colour and scaling of the input may differ: each
    bundle preprocesses frames for itself.
    """
    if new.labels != present.labels:
        return (
            f"its labels are {', '.join(new.labels)}, those in use {', '.join(present.labels)}; receivers rely on "
            f"them: {REMEDY}"
        )
    if new.input.kind != present.input.kind:
        return f"it reads frames of the kind {new.input.kind}, the one in use {present.input.kind}"
    return None


def changed_rejection(present: Deployment, new: Deployment) -> str | None:
    """Return an objection if only one of two loaded bundles rejects: `none` is a label, too."""
    if (present.classifier.rejection is None) == (new.classifier.rejection is None):
        return None
    if new.classifier.rejection is None:
        return f"it never answers none, as the one in use may; {REMEDY}"
    return f"it may answer none, as the one in use never does; {REMEDY}"


def objection(deployment: Deployment) -> str | None:
    """Return the reason for which a loaded bundle may not answer on this device; None if there is none.

    Raises:
        BundleError: its reference samples or scores are damaged.
        EngineError: an engine fails.
    """
    bundle, precision = deployment.bundle, deployment.precision
    parity = verify_classifier(bundle, precision, deployment.classifier, "this device")
    return broken_guarantee(bundle, precision) if parity.passed else verdict(parity)
