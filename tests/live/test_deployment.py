"""Bundles that follow one another run in the same way."""

from dataclasses import replace
from pathlib import Path

import pytest

from edge.bundle.bundle import Bundle
from edge.errors import BundleError
from edge.inference.selection import Timing, write_timings
from edge.live.deployment import Deployer

DEFAULT = Timing("onnxruntime", "fp32", 1, 0.4)


@pytest.fixture(autouse=True)
def timings(tmp_path: Path, digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "engines"))
    write_timings(digits_bundle, [DEFAULT, Timing("openvino", "int8", 1, 0.2)])


@pytest.fixture
def without_int8(digits_bundle: Bundle) -> Bundle:
    manifest = digits_bundle.manifest
    return replace(digits_bundle, manifest=replace(manifest, precisions={"fp32": manifest.precisions["fp32"]}))


def test_a_swap_keeps_backend_and_precision_whatever_was_measured_since(digits_bundle: Bundle) -> None:
    deploy = Deployer()
    first = deploy.select(digits_bundle)
    write_timings(digits_bundle, [DEFAULT])
    assert str(first) == str(deploy.select(digits_bundle)) == "int8 on openvino"
    assert str(Deployer().select(digits_bundle)) == "fp32 on onnxruntime"


def test_a_bundle_without_the_precision_of_the_first_runs_in_its_own_on_the_same_backend(
    digits_bundle: Bundle, without_int8: Bundle
) -> None:
    deploy = Deployer()
    ways = [str(deploy.select(bundle)) for bundle in (digits_bundle, without_int8, digits_bundle)]
    assert ways == ["int8 on openvino", "fp32 on openvino", "int8 on openvino"]


def test_a_bundle_without_the_precision_that_was_asked_for_is_refused(
    digits_bundle: Bundle, without_int8: Bundle
) -> None:
    deploy = Deployer(precision="int8")
    assert deploy.select(digits_bundle).precision == "int8"
    with pytest.raises(BundleError, match="int8"):
        deploy(without_int8)
