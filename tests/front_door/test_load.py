"""`edge.load`: bundle, backend, precision and thresholds."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edge
from edge.bundle.bundle import Bundle
from edge.bundle.manifest import SegmentSpec
from edge.decision import NEVER
from edge.engines import default_backend
from edge.engines.base import Backend, BuildOrder, DeviceKind, OnPhase
from edge.errors import BundleError, EngineError, SignatureError, ThresholdError, UnavailableError
from edge.inference.load import load_classifier, load_whole_network
from tests.support.front_door import SlotLog


@pytest.mark.parametrize("kind", [str, Path])
def test_a_bundle_is_loaded_from_a_string_or_a_path(kind: type, digits_bundle: Bundle, picture: NDArray[Any]) -> None:
    with edge.load(kind(digits_bundle.path), backend="onnxruntime", precision="fp32") as classifier:
        assert classifier.predict(picture).label in digits_bundle.manifest.labels
        fitted = digits_bundle.precision("fp32").thresholds.values
        assert classifier.thresholds == pytest.approx(fitted)


def test_thresholds_can_be_given_to_load(digits_bundle: Bundle) -> None:
    with edge.load(digits_bundle.path, backend="onnxruntime", thresholds=[0.25, 0.75]) as classifier:
        assert classifier.thresholds == (0.25, 0.75)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"precision": "fp4"}, BundleError, "has no precision 'fp4'; choose one of fp32, int8"),
        ({"precision": ["int8"]}, BundleError, r"has no precision \['int8'\]; choose one of fp32, int8"),
        ({"backend": ["openvino"]}, EngineError, r"unknown backend \['openvino'\]; choose one of auto, onnxruntime"),
        ({"require_signature": 5}, SignatureError, r"int is not a path; give public\.pem"),
        ({"backend": "coral"}, EngineError, "unknown backend 'coral'; choose one of auto, onnxruntime"),
        ({"thresholds": [0.5]}, ThresholdError, "got 1 thresholds for 3 exits; give 2"),
        ({"thresholds": [0.5, -1]}, ThresholdError, "threshold 1 is -1"),
        ({"threads": -1}, EngineError, "threads is -1; give 0 for all cores, or a number from 1 to"),
        ({"threads": 10**6}, EngineError, "threads is 1000000; give 0 for all cores"),
        ({"threads": "2"}, EngineError, "threads is '2'; give 0 for all cores"),
        ({"threads": True}, EngineError, "threads is True; give 0 for all cores"),
    ],
)
def test_wrong_arguments_of_load_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str, digits_bundle: Bundle
) -> None:
    with pytest.raises(error, match=message):
        edge.load(digits_bundle.path, **{"backend": "onnxruntime", **arguments})


def test_thresholds_are_checked_before_engines_are_built(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ThresholdError):
        edge.load(digits_bundle.path, backend="onnxruntime", thresholds=[-1, 0.5])
    assert not (tmp_path / "cache").exists()


class BackendWithoutGpu:
    """A backend on a GPU that this machine does not have; building for it is an error."""

    name = "tensorrt-rtx"
    device: DeviceKind = "cuda"

    def device_key(self) -> dict[str, str]:
        return {}

    def build(self, order: BuildOrder, on_phase: OnPhase) -> None:
        pytest.fail("an engine was built that cannot run")

    def load(self, engine: Path, spec: SegmentSpec) -> Any:
        pytest.fail("an engine was loaded that cannot run")


@pytest.mark.parametrize("load", [load_classifier, load_whole_network])
def test_the_gpu_is_opened_before_engines_are_built_for_it(
    load: Callable[[Bundle, str, Backend], object], digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu() -> None:
        raise UnavailableError("no NVIDIA GPU can be used here")

    monkeypatch.setattr("edge.cuda.get_runtime", no_gpu)
    with pytest.raises(UnavailableError, match="no NVIDIA GPU"):
        load(digits_bundle, "fp32", BackendWithoutGpu())


@pytest.mark.parametrize("bundle", [None, 3, ["runs/digits/bundle"], b"bundle"])
def test_a_bundle_that_is_not_a_path_is_refused(bundle: Any) -> None:
    with pytest.raises(BundleError, match=f"{type(bundle).__name__} is not a path; give a folder made by"):
        edge.load(bundle)


@pytest.mark.parametrize("name", ["nowhere", "no\0where", "nowhere/bundle", "n" * 300])
def test_a_missing_bundle_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(edge.EdgeError, match=r"(there is no bundle at|cannot be read .File name too long)"):
        edge.load(tmp_path / name)


def load_and_log(bundle: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, **arguments: Any) -> tuple[str, str]:
    """Load a bundle and return the precision and the backend for which engines were built."""
    monkeypatch.setenv("EDGE_CACHE", str(cache))
    tasks: list[str] = []
    edge.load(bundle, on_progress=lambda progress: tasks.append(progress.task), **arguments).close()
    [(precision, backend)] = {(task.split()[1].split("/")[0], task.split()[-1]) for task in tasks}
    return precision, backend


def test_automatic_precision_is_fp32_on_onnxruntime(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_and_log(digits_bundle.path, monkeypatch, tmp_path / "cache", backend="onnxruntime")
    assert loaded == ("fp32", "onnxruntime")


def test_automatic_precision_is_the_mixed_set_of_a_bundle_that_has_one(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))
    mixed = digits_bundle.precision("int8")  # its segments may be of any precision
    Bundle.open(path).with_precisions({"auto": mixed})
    loaded = load_and_log(path, monkeypatch, tmp_path / "cache", backend="onnxruntime")
    assert loaded == ("int8", "onnxruntime")


@pytest.mark.parametrize(
    ("has_gpu", "libraries", "backend"),
    [
        (False, {"tensorrt", "pycuda"}, "onnxruntime"),
        (True, {"tensorrt"}, "onnxruntime"),
        (True, {"pycuda"}, "onnxruntime"),
        (True, {"tensorrt", "pycuda"}, "tensorrt"),
    ],
)
def test_the_automatic_backend_is_tensorrt_where_gpu_and_libraries_are_present(
    has_gpu: bool, libraries: set[str], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.engines.has_nvidia_gpu", lambda: has_gpu)
    monkeypatch.setattr("edge.engines.find_spec", lambda name: object() if name in libraries else None)
    assert default_backend() == backend


def test_automatic_backend_is_onnxruntime_without_a_gpu(
    digits_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.engines.has_nvidia_gpu", lambda: False)
    assert load_and_log(digits_bundle.path, monkeypatch, tmp_path / "cache") == ("fp32", "onnxruntime")


@pytest.mark.parametrize(("thresholds", "exit_index"), [((0.0, 0.0), 0), ((2.0, 0.0), 1), ((2.0, 2.0), 2)])
def test_thresholds_select_the_exit(
    thresholds: tuple[float, float], exit_index: int, classifier: edge.Classifier, digits: NDArray[np.uint8]
) -> None:
    forced = classifier.with_thresholds(thresholds)
    assert forced.thresholds == thresholds
    with forced:
        assert {forced.predict(pixels).exit_index for pixels in digits[:20]} == {exit_index}
        assert {prediction.exit_index for prediction in forced.predict_batch(digits[:20])} == {exit_index}


def test_thresholds_can_be_changed_between_calls(digits_bundle: Bundle, digits: NDArray[np.uint8]) -> None:
    with edge.load(digits_bundle.path, backend="onnxruntime") as classifier:
        for thresholds, exit_index in (((0, 0), 0), ((NEVER, NEVER), 2), ([NEVER, 0], 1), (np.zeros(2), 0)):
            classifier.thresholds = thresholds
            assert classifier.predict(digits[0]).exit_index == exit_index
            assert classifier.predict_batch(digits[:1])[0].exit_index == exit_index


def test_thresholds_of_one_classifier_are_not_those_of_another(classifier: edge.Classifier) -> None:
    before = classifier.thresholds
    other = classifier.with_thresholds([0.125, 0.5])
    other.thresholds = [0.25, 0.5]
    assert (classifier.thresholds, other.thresholds) == (before, (0.25, 0.5))


def test_an_array_of_thresholds_may_be_reused_by_the_caller(classifier: edge.Classifier) -> None:
    thresholds = np.array([0.25, 0.5], dtype=np.float32)
    other = classifier.with_thresholds(thresholds)
    thresholds[:] = 0
    assert other.thresholds == (0.25, 0.5)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([0.5], "got 1 thresholds for 3 exits; give 2, one for each exit but the last"),
        ([], "got 0 thresholds for 3 exits"),
        (0.5, "got 1 thresholds for 3 exits"),
        ([0.5, 0.5, 0.5], "got 3 thresholds for 3 exits"),
        ([float("nan"), 0.5], "threshold 0 is nan; give a confidence from 0 to 1"),
        ([0.5, float("inf")], "threshold 1 is inf"),
        ([0.5, 1e39], "threshold 1 is inf"),
        ([-0.1, 0.5], "threshold 0 is -0.1"),
        (None, "got 1 thresholds for 3 exits"),
        (["high", "low"], r"thresholds are \['high', 'low'\]; give 2 numbers"),
        ([[0.5], [0.5, 0.5]], r"thresholds are .*; give 2 numbers"),
    ],
)
def test_invalid_thresholds_are_refused_and_the_old_ones_stay(
    thresholds: Any, message: str, classifier: edge.Classifier
) -> None:
    before = classifier.thresholds
    with pytest.raises(ThresholdError, match=message):
        classifier.thresholds = thresholds
    with pytest.raises(ThresholdError, match=message):
        classifier.with_thresholds(thresholds)
    assert classifier.thresholds == before


def test_a_context_manager_closes_the_slots(digits_bundle: Bundle, digits: NDArray[np.uint8], slots: SlotLog) -> None:
    with edge.load(digits_bundle.path, backend="onnxruntime") as classifier:
        for pixels in digits[:5]:
            classifier.predict(pixels)
        assert (len(slots.made), slots.closed) == (1, [])
    assert slots.closed == slots.made


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda classifier, path: classifier.predict(path), id="predict"),
        pytest.param(lambda classifier, path: classifier.predict_batch([path]), id="predict_batch"),
        pytest.param(lambda classifier, path: next(classifier.stream(path)), id="stream"),
        pytest.param(lambda classifier, path: classifier.new_slot(), id="new_slot"),
    ],
)
def test_a_closed_classifier_cannot_be_used(
    use: Callable[[edge.Classifier, Path], object], digits_bundle: Bundle, folder: Path
) -> None:
    classifier = edge.load(digits_bundle.path, backend="onnxruntime")
    use(classifier, folder / "00.png")
    classifier.close()
    classifier.close()  # idempotent
    with pytest.raises(EngineError, match="the classifier was closed; load it again"):
        use(classifier, folder / "00.png")
