"""`python -m calibration`: guarantees, budgets, recorded scores, and the changes to the bundle."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import onnx
import pytest

from calibration.__main__ import main as calibration
from calibration.operating_points import OperatingPoint, operating_point_of
from calibration.temperature import fit_temperatures
from edge.bundle.bundle import MANIFEST, Bundle, file_hashes
from edge.bundle.manifest import Manifest, Thresholds, manifest_from_json, manifest_to_json
from edge.bundle.sample_ids import content_digest, samples_fingerprint, short_digests
from edge.bundle.scores import read_scores
from edge.cli.main import main as edge
from tests.support.commands import NO_GUARANTEE, call, class_folder, contents, error_line, random_frames, run_command

DIGITS = tuple("0123456789")
USED_SPLITS = ("test", "calibration", "validation", "train")


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy to refit."""
    return Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))


def refitted(bundle: Path, *words: object) -> dict[str, Thresholds]:
    """Refit, and return the new thresholds of each precision, which are printed and in the bundle."""
    result = call(calibration, bundle, *words, "--json")
    assert result.code == 0, result.stderr
    printed = json.loads(result.stdout)
    written = {name: Bundle.open(bundle).precision(name).thresholds for name in printed}
    specs = {name: dataclasses.asdict(Bundle.open(bundle).precision(name)) for name in printed}
    expected = {name: {**spec["thresholds"], "rejection": spec["rejection"]} for name, spec in specs.items()}
    assert printed == json.loads(json.dumps(expected))
    return written


def refused(bundle: Path, *words: object) -> str:
    """Return the error message of a refit, which must leave the bundle unchanged."""
    before = contents(bundle)
    message = error_line(call(calibration, bundle, *words))
    assert contents(bundle) == before
    return message


def point_of(bundle: Path, precision: str) -> OperatingPoint:
    """Return the operating point of a bundle's thresholds on the scores it was compiled with."""
    opened = Bundle.open(bundle)
    recorded, values = opened.scores(precision), opened.precision(precision).thresholds.values
    macs = [exit_.macs for exit_ in opened.manifest.exits]
    return operating_point_of(recorded.scores, recorded.truth, macs, np.array(values, dtype=np.float32))


# Guarantees


@pytest.mark.parametrize("risk", ["accuracy_gap", "disagreement"])
@pytest.mark.parametrize("shared", [[], ["--shared"]], ids=["per exit", "shared"])
@pytest.mark.parametrize(
    ("method", "level"),
    [("exact", 0.8), ("betting", 0.8), ("hoeffding-bentkus", 0.8), ("expectation", None), ("none", None)],
)
def test_the_manifest_records_the_requested_guarantee(
    method: str, level: float | None, shared: list[str], risk: str, bundle: Path
) -> None:
    words = ("--risk", risk, "--limit", 0.1, "--method", method, "--confidence", 0.8, *shared)
    fitted = refitted(bundle, *words)
    split = Bundle.open(bundle).manifest.splits["thresholds"]
    assert list(fitted) == ["fp32", "int8"]
    for name, thresholds in fitted.items():
        fit = (risk, 0.1, method, level, split.samples, split.fingerprint)
        assert thresholds == Thresholds(thresholds.values, *fit, thresholds.candidates)  # type: ignore[arg-type]
        assert len(set(thresholds.values)) == 1 or not shared
        assert point_of(bundle, name).accuracy_gap <= 0.1
        assert point_of(bundle, name).cost_ratio < 1


def test_the_error_of_the_default_guarantee_names_the_samples_needed(bundle: Path) -> None:
    message = refused(bundle)
    samples = Bundle.open(bundle).manifest.splits["thresholds"].samples
    assert message.startswith(
        f"{samples} samples are too few to guarantee a risk of at most 0.005 with the method 'exact', which needs"
    )
    assert message.endswith("or choose a weaker guarantee (--method expectation or none)")


def test_only_the_named_precision_is_refitted(bundle: Path, digits_bundle: Bundle) -> None:
    assert list(refitted(bundle, "--method", "none", "--limit", "0.2", "--precision", "int8")) == ["int8"]
    after = Bundle.open(bundle)
    assert after.precision("fp32") == digits_bundle.precision("fp32")
    assert after.precision("int8").thresholds.limit == 0.2


def test_the_table_shows_accuracy_drop_and_cost(bundle: Path) -> None:
    result = run_command("calibration", bundle, "--limit", 0.2, "--method", "none")
    assert result.returncode == 0, result.stderr
    assert "on the samples they were fitted to" in result.stdout
    for name in ("fp32", "int8"):
        point = point_of(bundle, name)
        [row] = [line for line in result.stdout.splitlines() if line.startswith(f"│ {name}")]
        for cell in (f"{point.accuracy:.2%}", f"{point.accuracy_gap:.2%}", f"{point.cost_ratio:.1%}"):
            assert cell in row


def test_refitting_changes_only_the_manifest_and_no_engine(bundle: Path) -> None:
    assert call(edge, "build", bundle).code == 0
    before = contents(bundle)
    times = {path: path.stat().st_mtime_ns for path in bundle.rglob("*") if path.is_file() and path.name != MANIFEST}
    refitted(bundle, "--limit", 0.2, "--method", "none")
    after = contents(bundle)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == [MANIFEST]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert all(build["was_cached"] for build in json.loads(call(edge, "build", bundle, "--json").stdout))


def test_refitting_changes_only_thresholds_and_temperatures_in_the_manifest(
    bundle: Path, digits_bundle: Bundle
) -> None:
    refitted(bundle, "--limit", 0.2, "--method", "none")
    before, after = digits_bundle.manifest, Bundle.open(bundle).manifest
    reverted = {
        name: dataclasses.replace(
            spec, thresholds=before.precisions[name].thresholds, temperatures=before.precisions[name].temperatures
        )
        for name, spec in after.precisions.items()
    }
    assert after != before == dataclasses.replace(after, precisions=reverted)


@pytest.mark.parametrize("words", [["--method", "hope"], ["--risk", "regret"], ["--limit", "little"]])
def test_invalid_option_values_are_refused(words: list[str], bundle: Path) -> None:
    result = call(calibration, bundle, *words)
    assert result.code == 2
    assert words[0] in result.stderr.splitlines()[-1]


# Rejection


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(("--confidence", 0.8), ("betting", 0.8), id="the guarantee's confidence"),
        pytest.param(("--method", "hoeffding-bentkus", "--limit", 0.2), ("hoeffding-bentkus", 0.95), id="its method"),
        pytest.param(("--method", "expectation", "--limit", 0.1), ("betting", 0.95), id="betting beside expectation"),
        pytest.param(("--mean-macs", 0.9), ("betting", 0.95), id="beside a budget"),
    ],
)
def test_a_rejection_is_fitted_to_samples_of_its_own(
    words: tuple[object, ...], expected: tuple[str, float], bundle: Path
) -> None:
    limit = () if "--mean-macs" in words or "--limit" in words else ("--limit", 0.2)
    fitted = refitted(bundle, *words, *limit, "--reject-limit", 0.25)
    split = Bundle.open(bundle).manifest.splits["thresholds"]
    for name, thresholds in fitted.items():
        rejection = Bundle.open(bundle).precision(name).rejection
        assert rejection is not None
        assert (rejection.method, rejection.confidence_level) == expected
        assert (rejection.limit, rejection.split) == (0.25, split.fingerprint)
        assert rejection.samples + thresholds.samples == split.samples


def test_refitting_without_a_reject_limit_removes_the_rejection_and_says_so(bundle: Path) -> None:
    call(calibration, bundle, *NO_GUARANTEE, "--reject-limit", 0.25, "--precision", "int8")
    printed = call(edge, "info", bundle).stdout
    rejection = Bundle.open(bundle).precision("int8").rejection
    assert rejection is not None
    assert f"accepts {rejection.coverage:.1%}, error among them at most 25% by betting with confidence 95%" in printed
    result = call(calibration, bundle, *NO_GUARANTEE)
    assert Bundle.open(bundle).precision("int8").rejection is None
    assert "int8 accepts every prediction from now on; to fit its rejection again, add --reject-limit" in result.stderr
    assert "fp32 accepts" not in result.stderr


def test_a_reject_limit_that_cannot_be_certified_leaves_the_bundle_unchanged(bundle: Path) -> None:
    assert "samples do not certify an error of at most 0.001" in refused(bundle, *NO_GUARANTEE, "--reject-limit", 0.001)


# Budgets


def test_thresholds_are_within_a_budget_of_macs(bundle: Path) -> None:
    """The budget is halfway between the first exit's cost and that of the most accurate thresholds."""
    refitted(bundle, "--mean-macs", 1)
    unlimited, exits = point_of(bundle, "fp32"), Bundle.open(bundle).manifest.exits
    share = (unlimited.cost_ratio + exits[0].macs / sum(exit_.macs for exit_ in exits)) / 2
    for name, thresholds in refitted(bundle, "--mean-macs", share).items():
        assert (thresholds.target_metric, thresholds.limit, thresholds.method) == ("mean_macs", share, "none")
        assert thresholds.confidence_level is None
        assert point_of(bundle, name).cost_ratio <= share + 1e-9
    assert point_of(bundle, "fp32").accuracy < unlimited.accuracy


def test_a_budget_below_the_first_exit_is_refused(bundle: Path) -> None:
    assert "a budget of 1% of the whole network's cost is too small" in refused(bundle, "--mean-macs", 0.01)


@pytest.mark.parametrize("option", ["--mean-macs", "--mean-ms"])
@pytest.mark.parametrize("budget", ["nan", "inf", "-inf", "-0.1", "0"])
def test_an_invalid_budget_is_refused(option: str, budget: str, bundle: Path, tmp_path: Path) -> None:
    if option == "--mean-macs":
        assert "budget" in refused(bundle, f"{option}={budget}")
        return
    measured = write_bench(bundle, tmp_path / "bench.json", [1.0, 2.0, 3.0])
    assert "budget" in refused(bundle, f"{option}={budget}", "--bench", measured)


def write_bench(bundle: Path, path: Path, means: list[float]) -> Path:
    """Write the output of `edge bench --json` for both precisions, with these mean latencies of the exits."""
    result = {"per_exit": [{"latency_ms": {"mean": mean}} for mean in means]}
    segments = {name: Bundle.open(bundle).segments_digest(name) for name in ("fp32", "int8")}
    path.write_text(json.dumps({"precisions": {"fp32": result, "int8": result}, "segments": segments}))
    return path


@pytest.fixture(scope="module")
def bench(digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of `edge bench --json` for fp32, repeated until deeper exits take longer."""
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge.measure.bench.LAUNCHES", 1)
        for _ in range(10):
            path.write_text(call(edge, "bench", digits_bundle.path, "--precision", "fp32", "--json").stdout)
            if (np.diff(exit_latencies_ms(path), prepend=0) > 0).all():
                break
    return path


def exit_latencies_ms(bench: Path) -> list[float]:
    result = json.loads(bench.read_text())["precisions"]["fp32"]
    return [measurement["latency_ms"]["mean"] for measurement in result["per_exit"]]


def test_thresholds_are_within_a_budget_of_milliseconds(bench: Path, bundle: Path) -> None:
    first, *_, last = exit_latencies_ms(bench)
    budget = (first + last) / 2
    fitted = refitted(bundle, "--mean-ms", budget, "--bench", bench, "--precision", "fp32")["fp32"]
    assert (fitted.target_metric, fitted.limit, fitted.method) == ("mean_ms", budget, "none")
    shares = point_of(bundle, "fp32").exit_shares
    assert first < float(np.dot(shares, exit_latencies_ms(bench))) <= budget * (1 + 1e-9)


def test_a_budget_of_milliseconds_needs_a_bench(bundle: Path) -> None:
    assert "needs --bench FILE, the output of `edge bench BUNDLE --json`" in refused(bundle, "--mean-ms", 1)


def test_a_bench_that_lacks_a_precision_is_refused(bench: Path, bundle: Path) -> None:
    message = refused(bundle, "--mean-ms", 1e9, "--bench", bench)
    assert f"{bench} lacks the latency of one of the 3 exits of int8" in message


@pytest.mark.parametrize(
    "content", [None, "", "no JSON", '{"precisions": {}}', '{"precisions": {"fp32": {"per_exit": [{}]}}}', "[1, 2]"]
)
def test_a_file_that_is_not_a_bench_is_refused_by_name(content: str | None, bundle: Path, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "bench.json").write_text(content)
    message = refused(bundle, "--mean-ms", 1, "--bench", tmp_path / "bench.json")
    reason = "cannot be read" if content is None else "lacks the latency of one of the 3 exits of fp32"
    assert f"{tmp_path / 'bench.json'} {reason}" in message
    assert "write it with `edge bench BUNDLE --json`" in message


def test_a_bench_of_another_network_is_refused(bundle: Path, tmp_path: Path) -> None:
    measured = write_bench(bundle, tmp_path / "bench.json", [1.0, 2.0, 3.0, 4.0])
    assert str(measured) in refused(bundle, "--mean-ms", 2, "--bench", measured)


def test_a_bench_of_other_segments_is_refused(bundle: Path, tmp_path: Path) -> None:
    measured = write_bench(bundle, tmp_path / "bench.json", [1.0, 2.0, 3.0])
    measured.write_text(measured.read_text().replace(Bundle.open(bundle).segments_digest("fp32"), "of another"))
    assert "measured with segments that differ from those of fp32" in refused(
        bundle, "--mean-ms", 2, "--bench", measured
    )


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        pytest.param(("--limit", 0.01), "leave out --limit", id="limit"),
        pytest.param(("--confidence", 0.9, "--shared"), "leave out --confidence, --shared", id="two"),
        pytest.param(("--method", "betting"), "leave out --method", id="default method"),
        pytest.param(("--bench", "bench.json"), "add --mean-ms, or leave it out", id="bench"),
    ],
)
def test_options_without_effect_on_a_budget_are_refused(words: tuple[object, ...], remedy: str, bundle: Path) -> None:
    assert remedy in refused(bundle, "--mean-macs", 0.5, *words)


def test_two_budgets_at_once_are_refused(bench: Path, bundle: Path) -> None:
    result = call(calibration, bundle, "--mean-macs", 0.5, "--mean-ms", 1, "--bench", bench)
    assert result.code == 2
    assert "not allowed with" in result.stderr.splitlines()[-1]


# Recorded scores


@pytest.fixture
def recorded(bundle: Path, tmp_path: Path) -> Path:
    """Scores of int8 on new images of noise."""
    return record(bundle, class_folder(tmp_path / "images", DIGITS, each=3), "int8")


def record(bundle: Path, images: Path, precision: str) -> Path:
    output = images.with_suffix(".npz")
    assert call(edge, "record", bundle, "--images", images, "--precision", precision, "--output", output).code == 0
    return output


def test_recorded_scores_refit_the_precision_they_were_recorded_with(
    recorded: Path, bundle: Path, digits_bundle: Bundle
) -> None:
    fitted = refitted(bundle, "--scores", recorded, "--method", "none", "--limit", 0.05)
    assert list(fitted) == ["int8"]
    after, scores = Bundle.open(bundle), read_scores(recorded)
    assert (fitted["int8"].samples, fitted["int8"].split) == (30, samples_fingerprint(scores.samples))
    assert after.precision("fp32") == digits_bundle.precision("fp32")
    assert after.precision("int8").temperatures == fit_temperatures(scores.logits, scores.truth)
    assert after.precision("int8").temperatures != digits_bundle.precision("int8").temperatures


def test_refitting_to_the_bundles_own_scores_restores_its_manifest(
    recorded: Path, bundle: Path, digits_bundle: Bundle
) -> None:
    refitted(bundle, "--scores", recorded, *NO_GUARANTEE)
    assert refitted(bundle, *NO_GUARANTEE)["int8"] == digits_bundle.precision("int8").thresholds
    assert Bundle.open(bundle).manifest == digits_bundle.manifest


def test_precisions_with_the_same_segments_are_both_refitted(recorded: Path, bundle: Path) -> None:
    """As `auto` and `int8` if every layer of `auto` is int8."""
    manifest = unchecked_manifest(bundle)
    both = {**manifest.precisions, "auto": manifest.precisions["int8"]}
    (bundle / MANIFEST).write_text(manifest_to_json(dataclasses.replace(manifest, precisions=both)))
    fitted = refitted(bundle, "--scores", recorded, *NO_GUARANTEE)
    assert list(fitted) == ["int8", "auto"]
    assert fitted["int8"] == fitted["auto"]


@pytest.mark.parametrize("named", [["fp32"], ["fp32", "int8"]])
def test_scores_of_another_precision_are_refused(named: list[str], recorded: Path, bundle: Path) -> None:
    message = refused(bundle, "--scores", recorded, "--precision", *named, *NO_GUARANTEE)
    assert f"{recorded} was recorded with other segments than those of fp32 in {bundle}" in message


def test_scores_of_changed_segments_are_refused(recorded: Path, bundle: Path) -> None:
    """Even if only the description of a single segment changed."""
    segment = bundle / "int8/segment_2.onnx"
    model = onnx.load(segment)
    model.doc_string = "another"
    onnx.save(model, segment)
    manifest = dataclasses.replace(unchecked_manifest(bundle), files=file_hashes(bundle))
    (bundle / MANIFEST).write_text(manifest_to_json(manifest))
    message = refused(bundle, "--scores", recorded, *NO_GUARANTEE)
    assert f"recorded with other segments than those of fp32 or int8 in {bundle}; record it again" in message


def unchecked_manifest(bundle: Path) -> Manifest:
    """Read a bundle's manifest without checking its files."""
    return manifest_from_json((bundle / MANIFEST).read_text(), bundle)


def test_a_guarantee_can_be_fitted_to_recorded_scores(bundle: Path, tmp_path: Path) -> None:
    recorded = record(bundle, class_folder(tmp_path / "images", DIGITS, each=13), "fp32")
    words = ("--scores", recorded, "--limit", 0.05, "--shared", "--risk", "disagreement")
    fitted = refitted(bundle, *words)["fp32"]
    assert (fitted.method, fitted.confidence_level, fitted.samples) == ("exact", 0.95, 130)


# Images of other splits


class Trained(NamedTuple):
    """A bundle compiled from a folder of images."""

    bundle: Path
    images: Path

    def of_split(self, split: str) -> list[Path]:
        """Return the images of a split; for `thresholds`, those of no other split."""
        used_samples = Bundle.open(self.bundle).used_samples()
        wanted = np.concatenate([used_samples[name] for name in USED_SPLITS if split in (name, "thresholds")])
        paths = sorted(self.images.rglob("*.png"))
        inside = np.isin(short_digests(content_digest(path.read_bytes()) for path in paths), wanted)
        return [path for path, is_in in zip(paths, inside, strict=True) if is_in == (split != "thresholds")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from compile.__main__ import main as compile_main
    from edge.training.__main__ import main as training

    folder = tmp_path_factory.mktemp("trained")
    images = class_folder(folder / "images", ("cat", "dog"), each=40)
    quick = ("--image-size", 16, "--epochs", 1, "--batch-size", 8)
    assert call(training, "--dataset", "folder", "--data", images, *quick, "--output", folder / "run").code == 0
    guarantee = ("--risk", "disagreement", "--limit", 0.2, "--method", "expectation", "--shared")
    words = (folder / "run/checkpoint.pt", "--output", folder / "bundle", "--precision", "fp32", *guarantee)
    assert call(compile_main, *words).code == 0
    return Trained(folder / "bundle", images)


def copied(paths: list[Path], folder: Path) -> Path:
    """Copy images into a folder per class, under other names."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(paths):
        shutil.copy(path, folder / path.parent.name / f"copy-{index}.png")
    return folder


def test_compile_fits_the_requested_guarantee(trained: Trained) -> None:
    manifest = Bundle.open(trained.bundle).manifest
    thresholds, split = manifest.precisions["fp32"].thresholds, manifest.splits["thresholds"]
    assert thresholds.values[0] == thresholds.values[1]
    expected = ("disagreement", 0.2, "expectation", None, split.samples, split.fingerprint)
    assert dataclasses.astuple(thresholds)[1:-1] == expected
    assert thresholds.candidates[-1].risk_bound == 0.2


def test_a_bundle_lists_the_samples_of_every_split_except_thresholds(trained: Trained) -> None:
    bundle = Bundle.open(trained.bundle)
    used_samples = bundle.used_samples()
    assert sorted(used_samples) == sorted(USED_SPLITS)
    for name, digests in used_samples.items():
        assert len(np.unique(digests)) == len(digests) == bundle.manifest.splits[name].samples
        assert len(trained.of_split(name)) == len(digests)


@pytest.mark.parametrize("split", USED_SPLITS)
def test_scores_of_another_split_are_refused_with_its_name(split: str, trained: Trained, tmp_path: Path) -> None:
    paths = trained.of_split(split)
    recorded = record(trained.bundle, copied(paths, tmp_path / "images"), "fp32")
    message = refused(trained.bundle, "--scores", recorded, *NO_GUARANTEE)
    assert f"{len(paths)} of the {len(paths)} samples in {recorded} belong to the bundle's {split} split" in message
    assert "record other images" in message


def test_scores_of_the_whole_training_folder_are_refused(trained: Trained, tmp_path: Path) -> None:
    recorded = record(trained.bundle, copied(list(trained.images.rglob("*.png")), tmp_path / "images"), "fp32")
    assert "of the 80 samples" in refused(trained.bundle, "--scores", recorded, *NO_GUARANTEE)


def test_a_single_training_image_among_others_is_refused(trained: Trained, tmp_path: Path) -> None:
    images = class_folder(tmp_path / "images", ("cat", "dog"), each=10, seed=9)
    recorded = record(trained.bundle, copied(trained.of_split("train")[:1], images), "fp32")
    message = refused(trained.bundle, "--scores", recorded, *NO_GUARANTEE)
    assert f"1 of the 21 samples in {recorded} belong to the bundle's train split" in message


def test_images_of_a_built_in_dataset_are_recognised_by_their_network_input(
    digits_bundle: Bundle, tmp_path: Path
) -> None:
    from edge.training.datasets import load_dataset

    images = load_dataset("digits", image_size=digits_bundle.manifest.input.height)
    for index in range(40):
        folder = tmp_path / "images" / images.classes[images.labels[index]]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), images.frames[index])
    recorded = record(digits_bundle.path, tmp_path / "images", "fp32")
    message = refused(digits_bundle.path, "--scores", recorded, *NO_GUARANTEE)
    assert re.search(r"\d+ of the 40 samples in .* belong to the bundle's \w+ split", message)


def test_the_same_image_in_two_file_formats_is_a_duplicate(bundle: Path, tmp_path: Path) -> None:
    images = class_folder(tmp_path / "images", DIGITS, each=2)
    [first, *_] = sorted(images.rglob("*.png"))
    cv2.imwrite(str(first.with_suffix(".bmp")), cv2.imread(str(first)))
    recorded = record(bundle, images, "int8")
    assert "1 of the 21 samples in" in refused(bundle, "--scores", recorded, *NO_GUARANTEE)


def test_new_images_and_those_of_the_thresholds_split_are_accepted(trained: Trained, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(trained.bundle, tmp_path / "bundle"))
    own = trained.of_split("thresholds")
    images = class_folder(tmp_path / "images", ("cat", "dog"), each=10, seed=9)
    cv2.imwrite(str(images / "cat" / "large.png"), random_frames(1, 64, 48, seed=10)[0])
    recorded = record(bundle, copied(own, images), "fp32")
    fitted = refitted(bundle, "--scores", recorded, *NO_GUARANTEE)
    assert fitted["fp32"].samples == 21 + len(own) == 21 + Bundle.open(bundle).manifest.splits["thresholds"].samples
