"""A page's server without a run, and a deployment with candidates."""

from collections.abc import Iterator

import pytest

import edge
from edge.bundle.bundle import Bundle
from edge.live.deployment import Deployment
from edge.live.view.output import View
from tests.support.outputs import opened
from tests.support.view import with_candidates


@pytest.fixture
def deployment(digits_bundle: Bundle) -> Iterator[Deployment]:
    with edge.load(digits_bundle.path, backend="onnxruntime", precision="fp32") as classifier:
        yield Deployment(with_candidates(digits_bundle), "fp32", classifier)


@pytest.fixture
def view(deployment: Deployment) -> Iterator[View]:
    with opened(View("127.0.0.1", 0, timeout_s=5, deployment=deployment)) as view:
        yield view
