"""`python -m calibration`: what a user may ask of thresholds, of which scores, and what becomes of the bundle."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnx
import pytest

from calibration.__main__ import main as calibration
from calibration.operating_points import OperatingPoint, describe
from calibration.temperature import fit_temperatures
from edge.bundle.bundle import MANIFEST, Bundle, file_hashes
from edge.bundle.manifest import Thresholds, manifest_to_json
from edge.bundle.sample_ids import content_digest, samples_fingerprint, short_digests
from edge.bundle.scores import read_scores
from edge.cli.main import main as edge
from tests.support.commands import FEW_IMAGES, call, class_folder, complaint, contents, random_frames, run_command

DIGITS = tuple("0123456789")
SPOKEN_FOR = ("test", "calibration", "validation", "train")


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy to refit."""
    return Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))


def refitted(bundle: Path, *words: object) -> dict[str, Thresholds]:
    """Refit, and return what was printed of each precision, which is what the bundle says now."""
    result = call(calibration, bundle, *words, "--json")
    assert result.code == 0, result.stderr
    printed = json.loads(result.stdout)
    found = {name: Bundle.open(bundle).precision(name).thresholds for name in printed}
    assert printed == json.loads(json.dumps({name: dataclasses.asdict(one) for name, one in found.items()}))
    return found


def refused(bundle: Path, *words: object) -> str:
    """Return why a refit is refused, which leaves everything as it was."""
    before = contents(bundle)
    message = complaint(call(calibration, bundle, *words))
    assert contents(bundle) == before
    return message


def point_of(bundle: Path, precision: str, costs: list[float] | None = None) -> OperatingPoint:
    """Return what the thresholds of a bundle do to the scores it was compiled with."""
    get_runtime = Bundle.open(bundle)
    found, values = get_runtime.scores(precision), get_runtime.precision(precision).thresholds.values
    macs = [float(exit_.macs) for exit_ in get_runtime.manifest.exits]
    return describe(found.scores, found.truth, costs or macs, np.array(values, dtype=np.float32))


# Promises


@pytest.mark.parametrize("risk", ["accuracy_gap", "disagreement"])
@pytest.mark.parametrize("shared", [[], ["--shared"]], ids=["per exit", "shared"])
@pytest.mark.parametrize(
    ("method", "level"), [("betting", 0.8), ("hoeffding-bentkus", 0.8), ("expectation", None), ("none", None)]
)
def test_a_promise_asked_for_is_the_one_that_is_kept_in_the_manifest(
    method: str, level: float | None, shared: list[str], risk: str, bundle: Path
) -> None:
    words = ("--risk", risk, "--limit", 0.1, "--method", method, "--confidence", 0.8, *shared)
    found = refitted(bundle, *words)
    manifest = Bundle.open(bundle).manifest
    split = manifest.splits["thresholds"]
    assert list(found) == ["fp32", "int8"]
    for name, thresholds in found.items():
        expected = Thresholds(thresholds.values, risk, 0.1, method, level, split.samples, split.fingerprint)  # type: ignore[arg-type]
        assert thresholds == expected
        assert (len(set(thresholds.values)) == 1) == bool(shared)
        assert point_of(bundle, name).accuracy_gap <= 0.1
        assert point_of(bundle, name).cost_ratio < 1


def test_without_options_the_default_promise_says_how_many_samples_it_takes(bundle: Path) -> None:
    message = refused(bundle)
    samples = Bundle.open(bundle).manifest.splits["thresholds"].samples
    assert message.startswith(
        f"{samples} samples are too few to promise a risk of at most 0.005 by 'betting': it takes"
    )
    assert message.endswith("or promise less (--method expectation or none)")


def test_one_precision_is_refitted_where_one_is_named(bundle: Path, digits_bundle: Bundle) -> None:
    assert list(refitted(bundle, *FEW_IMAGES, "--limit", "0.2", "--precision", "int8")) == ["int8"]
    after = Bundle.open(bundle)
    assert after.precision("fp32") == digits_bundle.precision("fp32")
    assert after.precision("int8").thresholds.limit == 0.2


def test_a_table_says_what_the_thresholds_do(bundle: Path) -> None:
    done = run_command("calibration", bundle, "--limit", 0.2, "--method", "none")
    assert done.returncode == 0, done.stderr
    assert "on the samples they were fitted to" in done.stdout
    for name in ("fp32", "int8"):
        point = point_of(bundle, name)
        [row] = [line for line in done.stdout.splitlines() if name in line]
        for cell in (f"{point.accuracy:.2%}", f"{point.accuracy_gap:.2%}", f"{point.cost_ratio:.1%}"):
            assert cell in row


def test_refitting_touches_nothing_but_the_manifest_and_no_engine(bundle: Path) -> None:
    assert call(edge, "build", bundle).code == 0
    before = contents(bundle)
    times = {path: path.stat().st_mtime_ns for path in bundle.rglob("*") if path.is_file() and path.name != MANIFEST}
    refitted(bundle, "--limit", 0.2, "--method", "none")
    after = contents(bundle)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == [MANIFEST]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert all(build["was_cached"] for build in json.loads(call(edge, "build", bundle, "--json").stdout))


def test_of_the_manifest_only_thresholds_and_temperatures_change(bundle: Path, digits_bundle: Bundle) -> None:
    refitted(bundle, "--limit", 0.2, "--method", "none")
    before, after = digits_bundle.manifest, Bundle.open(bundle).manifest
    kept = {
        name: dataclasses.replace(
            spec, thresholds=before.precisions[name].thresholds, temperatures=before.precisions[name].temperatures
        )
        for name, spec in after.precisions.items()
    }
    assert after != before == dataclasses.replace(after, precisions=kept)


@pytest.mark.parametrize("words", [["--method", "hope"], ["--risk", "regret"], ["--limit", "little"]])
def test_words_that_are_none_are_refused(words: list[str], bundle: Path) -> None:
    result = call(calibration, bundle, *words)
    assert result.code == 2
    assert words[0] in result.stderr.splitlines()[-1]


# Budgets


def test_a_budget_of_macs_is_kept(bundle: Path) -> None:
    """Halfway between the first exit's cost and that of the most accurate thresholds there are."""
    refitted(bundle, "--mean-macs", 1)
    at_will, exits = point_of(bundle, "fp32"), Bundle.open(bundle).manifest.exits
    share = (at_will.cost_ratio + exits[0].macs / sum(exit_.macs for exit_ in exits)) / 2
    for name, thresholds in refitted(bundle, "--mean-macs", share).items():
        assert (thresholds.target_metric, thresholds.limit, thresholds.method) == ("mean_macs", share, "none")
        assert thresholds.confidence_level is None
        assert point_of(bundle, name).cost_ratio <= share + 1e-9
    assert point_of(bundle, "fp32").accuracy < at_will.accuracy


def test_a_budget_below_the_first_exit_is_refused(bundle: Path) -> None:
    assert "a budget of 1% of the whole network's cost is too small" in refused(bundle, "--mean-macs", 0.01)


@pytest.mark.parametrize("option", ["--mean-macs", "--mean-ms"])
@pytest.mark.parametrize("budget", ["nan", "inf", "-inf", "-0.1", "0"])
def test_a_budget_that_is_none_is_refused(option: str, budget: str, bundle: Path, tmp_path: Path) -> None:
    if option == "--mean-macs":
        assert "budget" in refused(bundle, f"{option}={budget}")
        return
    measured = bench_like(bundle, tmp_path / "bench.json", [1.0, 2.0, 3.0])
    assert "budget" in refused(bundle, f"{option}={budget}", "--bench", measured)


def bench_like(bundle: Path, path: Path, means: list[float]) -> Path:
    """Write what `edge bench` would say of both precisions."""
    forced = {f"exit {k} forced": {"latency_ms": {"mean": mean}} for k, mean in enumerate(means)}
    segments = {name: Bundle.open(bundle).segments_digest(name) for name in ("fp32", "int8")}
    path.write_text(json.dumps({"precisions": {"fp32": forced, "int8": forced}, "segments": segments}))
    return path


@pytest.fixture(scope="module")
def bench(digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `edge bench --json` printed of fp32, on a machine that was idle enough."""
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    for _ in range(10):
        path.write_text(call(edge, "bench", digits_bundle.path, "--precision", "fp32", "--json").stdout)
        if (np.diff(forced_ms(path), prepend=0) > 0).all():
            break
    return path


def forced_ms(bench: Path) -> list[float]:
    measured = json.loads(bench.read_text())["precisions"]["fp32"]
    return [measured[f"exit {k} forced"]["latency_ms"]["mean"] for k in range(3)]


def test_a_budget_of_milliseconds_is_kept_by_what_was_measured(bench: Path, bundle: Path) -> None:
    first, *_, last = forced_ms(bench)
    budget = (first + last) / 2
    found = refitted(bundle, "--mean-ms", budget, "--bench", bench, "--precision", "fp32")["fp32"]
    assert (found.target_metric, found.limit, found.method) == ("mean_ms", budget, "none")
    shares = point_of(bundle, "fp32").exit_shares
    assert first < float(np.dot(shares, forced_ms(bench))) <= budget * (1 + 1e-9)


def test_a_budget_of_milliseconds_needs_a_bench(bundle: Path) -> None:
    assert "needs --bench FILE, what `edge bench BUNDLE --json` printed" in refused(bundle, "--mean-ms", 1)


def test_a_bench_without_one_of_the_precisions_refits_none(bench: Path, bundle: Path) -> None:
    message = refused(bundle, "--mean-ms", 1e9, "--bench", bench)
    assert f"{bench} does not say how long each of the 3 exits of int8 takes" in message


@pytest.mark.parametrize(
    "content", [None, "", "no JSON", '{"precisions": {}}', '{"precisions": {"fp32": {"exit 0 forced": {}}}}', "[1, 2]"]
)
def test_a_file_that_is_no_bench_is_refused_by_name(content: str | None, bundle: Path, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "bench.json").write_text(content)
    message = refused(bundle, "--mean-ms", 1, "--bench", tmp_path / "bench.json")
    assert f"{tmp_path / 'bench.json'} does not say how long each of the 3 exits of fp32 takes" in message
    assert "write it with `edge bench BUNDLE --json`" in message


def test_a_bench_of_another_network_is_refused(bundle: Path, tmp_path: Path) -> None:
    with_four_exits = bench_like(bundle, tmp_path / "bench.json", [1.0, 2.0, 3.0, 4.0])
    assert str(with_four_exits) in refused(bundle, "--mean-ms", 2, "--bench", with_four_exits)


def test_a_bench_of_another_bundle_with_as_many_exits_is_refused(bundle: Path, tmp_path: Path) -> None:
    measured = bench_like(bundle, tmp_path / "bench.json", [1.0, 2.0, 3.0])
    other = measured.read_text().replace(Bundle.open(bundle).segments_digest("fp32"), "of another")
    measured.write_text(other)
    assert "measured with other segments than fp32 has now" in refused(bundle, "--mean-ms", 2, "--bench", measured)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        pytest.param(("--limit", 0.01), "leave out --limit", id="limit"),
        pytest.param(("--confidence", 0.9, "--shared"), "leave out --confidence, --shared", id="two"),
        pytest.param(("--method", "betting"), "leave out --method", id="the usual method"),
        pytest.param(("--bench", "bench.json"), "add --mean-ms, or leave it out", id="bench"),
    ],
)
def test_what_a_budget_of_computation_has_no_use_for_is_refused(
    words: tuple[object, ...], complaint: str, bundle: Path
) -> None:
    assert complaint in refused(bundle, "--mean-macs", 0.5, *words)


def test_two_budgets_at_once_are_refused(bench: Path, bundle: Path) -> None:
    result = call(calibration, bundle, "--mean-macs", 0.5, "--mean-ms", 1, "--bench", bench)
    assert result.code == 2
    assert "not allowed with" in result.stderr.splitlines()[-1]


# Recorded scores


@pytest.fixture
def recorded(bundle: Path, tmp_path: Path) -> Path:
    """Scores that int8 gave new images, of noise."""
    return record(bundle, class_folder(tmp_path / "images", DIGITS, each=3), "int8")


def record(bundle: Path, images: Path, precision: str) -> Path:
    output = images.with_suffix(".npz")
    assert call(edge, "record", bundle, "--images", images, "--precision", precision, "--output", output).code == 0
    return output


def test_recorded_scores_find_their_precision_by_themselves(
    recorded: Path, bundle: Path, digits_bundle: Bundle
) -> None:
    found = refitted(bundle, "--scores", recorded, "--method", "none", "--limit", 0.05)
    assert list(found) == ["int8"]
    after, scores = Bundle.open(bundle), read_scores(recorded)
    assert (found["int8"].samples, found["int8"].split) == (30, samples_fingerprint(scores.samples))
    assert after.precision("fp32") == digits_bundle.precision("fp32")
    assert after.precision("int8").temperatures == fit_temperatures(scores.logits, scores.truth)
    assert after.precision("int8").temperatures != digits_bundle.precision("int8").temperatures


def test_after_scores_were_recorded_elsewhere_the_bundles_own_can_be_fitted_to_again(
    recorded: Path, bundle: Path, digits_bundle: Bundle
) -> None:
    refitted(bundle, "--scores", recorded, *FEW_IMAGES)
    assert refitted(bundle, *FEW_IMAGES)["int8"] == digits_bundle.precision("int8").thresholds
    assert Bundle.open(bundle).manifest == digits_bundle.manifest


def test_where_two_precisions_are_the_same_segments_both_are_refitted(recorded: Path, bundle: Path) -> None:
    """As `auto` and int8 are where int8 will do everywhere."""
    manifest = json_manifest(bundle)
    both = {**manifest.precisions, "auto": manifest.precisions["int8"]}
    (bundle / MANIFEST).write_text(manifest_to_json(dataclasses.replace(manifest, precisions=both)))
    found = refitted(bundle, "--scores", recorded, *FEW_IMAGES)
    assert list(found) == ["int8", "auto"]
    assert found["int8"] == found["auto"]


def test_scores_are_not_taken_for_another_precision(recorded: Path, bundle: Path) -> None:
    message = refused(bundle, "--scores", recorded, "--precision", "fp32", *FEW_IMAGES)
    assert f"{recorded} was recorded with other segments than those of fp32 in {bundle}" in message


def test_scores_of_segments_that_changed_are_refused(recorded: Path, bundle: Path) -> None:
    """Were it only one of them, and by a word in its description."""
    segment = bundle / "int8/segment_2.onnx"
    model = onnx.load(segment)
    model.doc_string = "another"
    onnx.save(model, segment)
    manifest = dataclasses.replace(json_manifest(bundle), files=file_hashes(bundle))
    (bundle / MANIFEST).write_text(manifest_to_json(manifest))
    message = refused(bundle, "--scores", recorded, *FEW_IMAGES)
    assert f"recorded with other segments than those of fp32 or int8 in {bundle}; record it again" in message


def json_manifest(bundle: Path) -> Any:
    from edge.bundle.manifest import manifest_from_json

    return manifest_from_json((bundle / MANIFEST).read_text(), bundle)


def test_a_promise_can_be_fitted_to_recorded_scores(bundle: Path, tmp_path: Path) -> None:
    recorded = record(bundle, class_folder(tmp_path / "images", DIGITS, each=13), "fp32")
    words = ("--scores", recorded, "--limit", 0.05, "--shared", "--risk", "disagreement")
    found = refitted(bundle, *words)["fp32"]
    assert (found.method, found.confidence_level, found.samples) == ("betting", 0.95, 130)


# Images that were used for something else


class Trained(NamedTuple):
    """A bundle compiled from a folder of images."""

    bundle: Path
    images: Path

    def of_split(self, split: str) -> list[Path]:
        """Return the images of a split that thresholds must not be fitted to, of `thresholds` the others."""
        used_samples = Bundle.open(self.bundle).used_samples()
        wanted = np.concatenate([used_samples[name] for name in SPOKEN_FOR if split in (name, "thresholds")])
        paths = sorted(self.images.rglob("*.png"))
        inside = np.isin(short_digests(content_digest(path.read_bytes()) for path in paths), wanted)
        return [path for path, is_in in zip(paths, inside, strict=True) if is_in == (split != "thresholds")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from compile.__main__ import main as compile_main
    from edge.training.__main__ import main as training

    folder = tmp_path_factory.mktemp("trained")
    images = class_folder(folder / "images", ("cat", "dog"), each=40)
    small = ("--image-size", 16, "--epochs", 1, "--batch-size", 8)
    assert call(training, "--dataset", "folder", "--data", images, *small, "--output", folder / "run").code == 0
    guarantee = ("--risk", "disagreement", "--limit", 0.2, "--method", "expectation", "--shared")
    words = (folder / "run/checkpoint.pt", "--output", folder / "bundle", "--precision", "fp32", *guarantee)
    assert call(compile_main, *words).code == 0
    return Trained(folder / "bundle", images)


def copied(paths: list[Path], folder: Path) -> Path:
    """Put images into a folder of their classes, under other names."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(paths):
        shutil.copy(path, folder / path.parent.name / f"copy-{index}.png")
    return folder


def test_compiling_keeps_the_promise_it_was_asked_for(trained: Trained) -> None:
    manifest = Bundle.open(trained.bundle).manifest
    found, split = manifest.precisions["fp32"].thresholds, manifest.splits["thresholds"]
    assert found.values[0] == found.values[1]
    expected = ("disagreement", 0.2, "expectation", None, split.samples, split.fingerprint)
    assert dataclasses.astuple(found)[1:] == expected


def test_a_bundle_knows_the_samples_of_every_split_but_the_one_thresholds_are_fitted_to(trained: Trained) -> None:
    bundle = Bundle.open(trained.bundle)
    found = bundle.used_samples()
    assert sorted(found) == sorted(SPOKEN_FOR)
    for name, digests in found.items():
        assert len(np.unique(digests)) == len(digests) == bundle.manifest.splits[name].samples
        assert len(trained.of_split(name)) == len(digests)


@pytest.mark.parametrize("split", SPOKEN_FOR)
def test_scores_of_a_split_that_was_used_for_something_else_are_refused_with_its_name(
    split: str, trained: Trained, tmp_path: Path
) -> None:
    paths = trained.of_split(split)
    recorded = record(trained.bundle, copied(paths, tmp_path / "images"), "fp32")
    message = refused(trained.bundle, "--scores", recorded, *FEW_IMAGES)
    assert f"{len(paths)} of the {len(paths)} samples in {recorded} are of the bundle's {split} split" in message
    assert "record other images" in message


def test_the_folder_a_bundle_was_trained_on_is_refused(trained: Trained, tmp_path: Path) -> None:
    recorded = record(trained.bundle, copied(list(trained.images.rglob("*.png")), tmp_path / "images"), "fp32")
    assert "of the 80 samples" in refused(trained.bundle, "--scores", recorded, *FEW_IMAGES)


def test_one_image_that_was_trained_on_among_others_is_found(trained: Trained, tmp_path: Path) -> None:
    images = class_folder(tmp_path / "images", ("cat", "dog"), each=10, seed=9)
    recorded = record(trained.bundle, copied(trained.of_split("train")[:1], images), "fp32")
    message = refused(trained.bundle, "--scores", recorded, *FEW_IMAGES)
    assert f"1 of the 21 samples in {recorded} are of the bundle's train split" in message


def test_images_of_a_dataset_that_is_no_folder_are_known_by_what_the_network_reads(
    digits_bundle: Bundle, tmp_path: Path
) -> None:
    from edge.training.datasets import load_dataset

    images = load_dataset("digits", image_size=digits_bundle.manifest.input.height)
    for index in range(40):
        folder = tmp_path / "images" / images.classes[images.labels[index]]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), images.frames[index])
    recorded = record(digits_bundle.path, tmp_path / "images", "fp32")
    message = refused(digits_bundle.path, "--scores", recorded, *FEW_IMAGES)
    assert re.search(r"\d+ of the 40 samples in .* are of the bundle's \w+ split", message)


def test_the_same_picture_in_two_files_is_a_copy(bundle: Path, tmp_path: Path) -> None:
    images = class_folder(tmp_path / "images", DIGITS, each=2)
    [first, *_] = sorted(images.rglob("*.png"))
    cv2.imwrite(str(first.with_suffix(".bmp")), cv2.imread(str(first)))
    recorded = record(bundle, images, "int8")
    assert "1 of the 21 samples in" in refused(bundle, "--scores", recorded, *FEW_IMAGES)


def test_new_images_and_those_of_the_threshold_fitting_split_are_taken(trained: Trained, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(trained.bundle, tmp_path / "bundle"))
    own = trained.of_split("thresholds")
    images = class_folder(tmp_path / "images", ("cat", "dog"), each=10, seed=9)
    cv2.imwrite(str(images / "cat" / "large.png"), random_frames(1, 64, 48, seed=10)[0])
    recorded = record(bundle, copied(own, images), "fp32")
    found = refitted(bundle, "--scores", recorded, *FEW_IMAGES)
    assert found["fp32"].samples == 21 + len(own) == 21 + Bundle.open(bundle).manifest.splits["thresholds"].samples
