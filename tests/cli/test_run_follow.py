"""Command lines of `edge run --follow` that are refused."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from edge.bundle.bundle import Bundle
from edge.bundle.manifest import Manifest
from edge.bundle.signing import PUBLIC_KEY
from edge.cli.main import main as edge
from edge.cli.run import _deploy_followed, _deployer, add_arguments
from edge.errors import EdgeError
from edge.progress import ignore_progress
from tests.support.commands import call, error_line
from tests.support.follow import variant
from tests.support.outputs import free_port

TAG = "oci://127.0.0.1/a:stable"


def without_bounds(folder: Path, manifest: Manifest) -> Manifest:
    precisions = {}
    for name, spec in manifest.precisions.items():
        candidates = tuple(dataclasses.replace(each, disagreement_bound=None) for each in spec.thresholds.candidates)
        thresholds = dataclasses.replace(spec.thresholds, candidates=candidates)
        precisions[name] = dataclasses.replace(spec, thresholds=thresholds)
    return dataclasses.replace(manifest, precisions=precisions)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "add --require-signature public.pem"),
        (("--require-signature", PUBLIC_KEY, "--threshold", "1", "1"), "--threshold fits one bundle"),
        (("--require-signature", PUBLIC_KEY, "--follow", f"oci://127.0.0.1/a@sha256:{'0' * 64}"), "follow a tag"),
        (("--require-signature", PUBLIC_KEY, "--follow", "127.0.0.1/a:stable"), "is no address in a registry"),
    ],
)
def test_a_tag_is_not_followed(words: tuple[str, ...], reason: str, signed: Path, keys: Path) -> None:
    follow = () if "--follow" in words else ("--follow", TAG)
    given = [keys / word if word == PUBLIC_KEY else word for word in words]
    assert reason in error_line(call(edge, "run", signed, "--source", "test://", *follow, *given))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--audit", "0.1"), "tests a bound on disagreement"),
        (("--events", "3/5", "--ignore", "none"), "the bundle has no such label"),
    ],
)
def test_a_bundle_that_the_command_line_does_not_fit_is_not_deployed(
    words: tuple[str, ...], reason: str, signed: Path, keys: Path, tmp_path: Path
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(["digits", "--source", "test://", "--backend", "onnxruntime", *words])
    bundle = Bundle.open(variant(signed, keys, tmp_path / "next", without_bounds))
    with pytest.raises(EdgeError, match=reason):
        _deploy_followed(arguments, _deployer(arguments), bundle, "", ignore_progress)


def test_without_a_bundle_and_without_the_registry_nothing_runs(keys: Path, tmp_path: Path) -> None:
    words = ("--follow", f"oci://127.0.0.1:{free_port()}/a:stable", "--require-signature", keys / PUBLIC_KEY)
    refused = call(edge, "run", tmp_path / "device", "--source", "test://", *words)
    assert "Connection refused" in error_line(refused)
