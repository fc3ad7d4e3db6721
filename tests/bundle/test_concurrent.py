"""Several processes on one bundle: no result is lost, and nobody sees a mixture of two bundles."""

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from edge.bundle.bundle import MANIFEST, Bundle, Reference, bundle_writer, file_hashes, write_reference
from edge.bundle.manifest import manifest_to_json
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import BundleError, EngineError
from edge.inference.load import load_classifier
from tests.support.commands import start_command


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))


@pytest.fixture
def other(bundle: Path, tmp_path: Path) -> Path:
    """Return a bundle with other labels, other reference samples and a changed segment."""
    path = Path(shutil.copytree(bundle, tmp_path / "other"))
    opened = Bundle.open(bundle)
    few = Reference(*(array[:5] for array in opened.reference()[:2]), opened.reference().logits[:, :5])
    write_reference(path / opened.manifest.reference, few)
    segment = path / opened.precision("fp32").segments[0].file
    segment.write_bytes(segment.read_bytes() + b"\xf2\x01\x00")  # an unknown field, which protobuf skips
    labels = tuple(f"digit {label}" for label in opened.manifest.labels)
    manifest = dataclasses.replace(opened.manifest, labels=labels, files=file_hashes(path))
    (path / MANIFEST).write_text(manifest_to_json(manifest))
    return path


def replace(path: Path, content: Path) -> None:
    with bundle_writer(path) as folder:
        shutil.copytree(content, folder, dirs_exist_ok=True)


def test_two_commands_that_refit_different_precisions_both_count(bundle: Path) -> None:
    before = Bundle.open(bundle).manifest.precisions
    words = ("calibration", bundle, "--mean-macs", 0.6, "--precision")
    with start_command(*words, "fp32") as first, start_command(*words, "int8") as second:
        assert (first.wait(), second.wait()) == (0, 0)
    after = Bundle.open(bundle).manifest.precisions
    assert {name: spec.thresholds.target_metric for name, spec in after.items()} == {
        "fp32": "mean_macs",
        "int8": "mean_macs",
    }
    assert after.keys() == before.keys()


def test_a_precision_that_another_process_refitted_keeps_its_result(bundle: Path) -> None:
    first, second = Bundle.open(bundle), Bundle.open(bundle)
    fp32, int8 = first.precision("fp32"), first.precision("int8")
    first.with_precisions({"fp32": dataclasses.replace(fp32, temperatures=(2.0, 2.0, 2.0))})
    updated = second.with_precisions({"int8": dataclasses.replace(int8, temperatures=(3.0, 3.0, 3.0))})
    assert updated.manifest == Bundle.open(bundle).manifest
    assert updated.precision("fp32").temperatures == (2.0, 2.0, 2.0)
    assert updated.precision("int8").temperatures == (3.0, 3.0, 3.0)


@pytest.mark.parametrize("through_link", [False, True])
def test_a_bundle_that_was_replaced_is_not_given_the_old_manifest(
    through_link: bool, bundle: Path, other: Path, tmp_path: Path
) -> None:
    path = tmp_path / "link" if through_link else bundle
    if through_link:
        path.symlink_to(bundle)
    opened = Bundle.open(path)
    replace(path, other)
    with pytest.raises(BundleError, match="was replaced by another bundle meanwhile and is unchanged"):
        opened.with_precisions({})
    assert Bundle.open(path).manifest == Bundle.open(other).manifest


def test_files_of_a_bundle_that_was_replaced_are_not_read_with_the_old_manifest(
    bundle: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    opened = Bundle.open(bundle)
    loaded = load_classifier(opened, "int8", OnnxRuntime())
    replace(bundle, other)
    with pytest.raises(BundleError, match=r"reference\.npz changed while the bundle was in use"):
        opened.reference()
    with pytest.raises(EngineError, match=r"segment_0\.onnx was replaced while it was in use"):
        load_classifier(opened, "fp32", OnnxRuntime())
    again = load_classifier(opened, "int8", OnnxRuntime())
    assert again.chain == loaded.chain, "engines in the cache are those of the bundle that was opened"


def test_a_bundle_that_is_replaced_all_the_time_opens_as_one_or_the_other(bundle: Path, other: Path) -> None:
    end, sources = Event(), (Path(shutil.copytree(bundle, bundle.with_name("copy"))), other)
    labels = {Bundle.open(source).manifest.labels for source in sources}

    def keep_replacing() -> int:
        count = 0
        while not end.is_set():
            replace(bundle, sources[count % 2])
            count += 1
        return count

    with ThreadPoolExecutor() as threads:
        writers = [threads.submit(keep_replacing) for _ in range(2)]
        try:
            assert {Bundle.open(bundle).manifest.labels for _ in range(40)} <= labels
        finally:
            end.set()
        assert all(writer.result() for writer in writers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r._replace(labels=np.full_like(r.labels, 10)), "has labels 10 to 10, not 0 to 9"),
        (
            lambda r: r._replace(frames=r.frames[..., None].repeat(3, -1)),
            r"has frames of uint8 and shape \(16, 16, 3\)",
        ),
        (lambda r: r._replace(frames=r.frames.astype(np.float32)), "has frames of float32"),
        (lambda r: r._replace(logits=r.logits[:2]), r"logits of shape \(2, \d+, 10\)"),
    ],
    ids=["labels", "colour", "type", "exits"],
)
def test_reference_samples_that_do_not_fit_the_manifest_are_refused(
    change: object, message: str, bundle: Path, tmp_path: Path
) -> None:
    opened = Bundle.open(bundle)
    write_reference(tmp_path / "reference.npz", change(opened.reference()))  # type: ignore[operator]
    with pytest.raises(BundleError, match=rf"reference\.npz .*{message}.*write it with `python -m compile"):
        opened.reference(tmp_path / "reference.npz")
