"""The bundle that runs, how it is loaded, and the choice among its certified thresholds."""

import platform
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from numpy.typing import ArrayLike

from edge.bundle.bundle import Bundle
from edge.bundle.manifest import Candidate
from edge.cuda.base import Sync
from edge.decision import validate_thresholds
from edge.errors import ThresholdError
from edge.inference.classifier import Classifier
from edge.inference.load import load_classifier
from edge.inference.selection import Selection, Threads, default_precision, select
from edge.progress import OnProgress, ignore_progress
from edge.system import board_model, cpu_name, gpu_names


@dataclass(frozen=True, slots=True)
class Deployment:
    """A bundle in one precision, and the classifier that runs it."""

    bundle: Bundle
    precision: str
    classifier: Classifier
    digest: str = ""
    """Digest of the bundle in a registry, where its tag is followed; else empty."""

    @property
    def name(self) -> str:
        """The digest as results show it: twelve digits."""
        return short_digest(self.digest)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Certified thresholds, from the costliest to the cheapest."""
        return self.bundle.precision(self.precision).thresholds.candidates

    @property
    def candidate_index(self) -> int | None:
        """Index of the candidate in force; None for thresholds that are no candidate."""
        exits, in_force = self.classifier.chain.exits, self.classifier.thresholds
        for index, candidate in enumerate(self.candidates):
            if tuple(validate_thresholds(candidate.values, exits).tolist()) == in_force:
                return index
        return None

    def choose(self, index: int) -> None:
        """Put a candidate into force, from the next frame on.

        Raises:
            ThresholdError: there is no such candidate.
        """
        if not self.candidates:
            raise ThresholdError("the bundle has no certified thresholds to choose; calibrate it with a guarantee")
        if not 0 <= index < len(self.candidates):
            raise ThresholdError(
                f"there is no candidate {index}; choose one from 0 to {len(self.candidates) - 1}: thresholds between "
                "candidates have no guarantee"
            )
        self.classifier.thresholds = self.candidates[index].values

    def to_json(self) -> dict[str, Any]:
        """Return bundle, device and candidates as a JSON object."""
        manifest, spec = self.bundle.manifest, self.bundle.precision(self.precision)
        thresholds = spec.thresholds
        return {
            "bundle": {
                "name": manifest.name,
                "precision": self.precision,
                "digest": self.digest,
                "labels": manifest.labels,
                "input": manifest.input.shape,
                "exit_macs": [exit_.macs for exit_ in manifest.exits],
                "has_attention": any(exit_.attention for exit_ in manifest.exits),
            },
            "guarantee": {
                "target_metric": thresholds.target_metric,
                "limit": thresholds.limit,
                "method": thresholds.method,
                "confidence_level": thresholds.confidence_level,
                "samples": thresholds.samples,
            },
            "candidates": [asdict(candidate) for candidate in self.candidates],
            "rejection": None if spec.rejection is None else asdict(spec.rejection),
            "device": {
                "board": board_model(),
                "cpu": cpu_name(),
                "gpus": gpu_names(),
                "system": f"{platform.system()} {platform.machine()}",
            },
        }


class Deployer:
    """Loads bundles that follow one another, all on the backend of the first.

    Thus a swap changes neither backend nor threads, nor the precision if the new bundle has it.
    """

    def __init__(
        self,
        backend: str = "auto",
        precision: str = "auto",
        threads: Threads = 1,
        thresholds: ArrayLike | None = None,
        *,
        gpu_sync: Sync | None = None,
    ) -> None:
        """Keep the options of `edge.load`."""
        self._precision, self._thresholds = precision, thresholds
        self._select = partial(select, backend=backend, precision=precision, threads=threads, gpu_sync=gpu_sync)
        self._first: Selection | None = None

    def select(self, bundle: Bundle) -> Selection:
        """Return the way to run a bundle.

        Raises:
            EngineError: the backend is unknown or not installed, or does not have an option.
        """
        self._first = self._first or self._select(bundle)
        if self._precision != "auto" or self._first.precision in bundle.manifest.precisions:
            return self._first
        return self._first._replace(precision=default_precision(bundle, self._first.backend.name))

    def __call__(self, bundle: Bundle, digest: str = "", on_progress: OnProgress = ignore_progress) -> Deployment:
        """Load a bundle with a digest; its engines are built if they are missing.

        Raises:
            EdgeError: it cannot be loaded on this machine.
        """
        backend, precision, _ = self.select(bundle)
        classifier = load_classifier(bundle, precision, backend, self._thresholds, on_progress)
        return Deployment(bundle, precision, classifier, digest)


def short_digest(digest: str) -> str:
    """Return the first twelve digits of a digest such as `sha256:9f86…`."""
    return digest.removeprefix("sha256:")[:12]
