"""Advice on a bundle's exits, in every command that shows one."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from calibration.__main__ import main as calibration
from edge.bundle.bundle import MANIFEST, Bundle, file_hashes
from edge.bundle.manifest import manifest_to_json
from edge.bundle.scores import write_scores
from edge.cli.main import main as edge
from tests.support.commands import call


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.open(Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle")))


def always_exit_first(bundle: Bundle) -> None:
    """Set every threshold to 0."""
    specs = {}
    for name, spec in bundle.manifest.precisions.items():
        values = (0.0,) * len(spec.thresholds.values)
        candidates = (dataclasses.replace(spec.thresholds.candidates[-1], values=values),)
        thresholds = dataclasses.replace(spec.thresholds, values=values, candidates=candidates)
        specs[name] = dataclasses.replace(spec, thresholds=thresholds)
    bundle.with_precisions(specs)


def shuffle_truth(bundle: Bundle) -> None:
    """Record true classes that the network cannot know."""
    for name, spec in bundle.manifest.precisions.items():
        recorded = bundle.scores(name)
        truth = np.random.default_rng(0).permutation(recorded.truth)
        write_scores(bundle.path / spec.scores, recorded._replace(truth=truth))
    manifest = dataclasses.replace(bundle.manifest, files=file_hashes(bundle.path))
    (bundle.path / MANIFEST).write_text(manifest_to_json(manifest))


def test_info_advises_to_truncate_where_the_first_exit_answers_everything(bundle: Bundle) -> None:
    always_exit_first(bundle)
    samples = bundle.manifest.splits["thresholds"].samples
    stdout = call(edge, "info", bundle.path).stdout
    assert f"advice: fp32, likewise int8: exit 0 answers 100.0% of {samples} samples" in stdout
    assert "--truncated-at 0" in stdout


def test_json_stays_json_and_advice_goes_to_stderr(bundle: Bundle) -> None:
    always_exit_first(bundle)
    result = call(edge, "info", bundle.path, "--json")
    assert json.loads(result.stdout)["name"] == bundle.manifest.name
    assert "advice: fp32, likewise int8: exit 0" in result.stderr


def test_calibration_advises_on_the_thresholds_it_has_fitted(bundle: Bundle) -> None:
    result = call(calibration, bundle.path, "--method", "none", "--limit", 0.9)
    assert "exit 0 answers 100.0%" in result.stdout
    assert "lower the limit (--limit)" in result.stdout
    budget = call(calibration, bundle.path, "--mean-macs", 0.2)
    assert "lower the limit" not in budget.stdout


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_network_no_better_than_chance_is_named(bundle: Bundle, command: str) -> None:
    shuffle_truth(bundle)
    result = call(edge, command, bundle.path)
    assert result.code == 0
    assert "fp32, likewise int8: the network is no better than chance" in result.stdout + result.stderr


def test_verify_has_nothing_to_say_about_a_network_that_has_learnt(bundle: Bundle) -> None:
    always_exit_first(bundle)
    assert "warning" not in call(edge, "verify", bundle.path).stderr
