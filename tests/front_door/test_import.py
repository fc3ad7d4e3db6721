"""`import edge`: its public names, its libraries, and that it never prints."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import edge
from edge.bundle.bundle import Bundle
from tests.support.commands import ROOT


def run_python(script: str, *words: object) -> Any:
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_import_edge_needs_numpy_only() -> None:
    blocked = ("cv2", "onnxruntime", "rich", "torch", "onnx", "tensorrt", "pycuda", "PIL", "av", "simplejpeg")
    script = f"""
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import edge
assert set(edge.__all__) <= set(dir(edge))
assert issubclass(edge.EdgeError, Exception)
assert edge.Prediction("7", 7, 0.9, 0, 0.8).label == "7"
print(*(name for name in sys.modules if name.split(".")[0] in {blocked!r} and sys.modules[name]))
"""
    done = run_python(script)
    assert (done.stderr, done.stdout.strip()) == ("", "")


def test_every_public_name_is_found_lazily_and_once() -> None:
    assert len(set(edge.__all__)) == len(edge.__all__)
    assert set(edge.__all__) <= set(dir(edge))
    for name in edge.__all__:
        assert getattr(edge, name) is getattr(edge, name)
    assert {"load", "Classifier", "Prediction", "Result", "open_source", "EdgeError"} <= set(edge.__all__)


def test_all_public_names_can_be_imported_with_a_star() -> None:
    names: dict[str, Any] = {}
    exec("from edge import *", names)  # a star import is allowed at module level only
    assert set(edge.__all__) <= set(names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edge' has no attribute 'lod'"):
        edge.lod  # noqa: B018
    assert not hasattr(edge, "_MODULE")


SILENT = """
import sys
from pathlib import Path
import numpy as np
import edge
from edge.bundle.bundle import Bundle
from edge.engines import backend_named
from edge.frames.base import frame_from_array
from edge.inference.record import record
from edge.measure.bench import bench
from edge.parity.compare import verify

path, damaged, folder = sys.argv[1:]
with edge.load(path) as classifier:
    images = list(Bundle.open(Path(path)).reference().frames)
    classifier.predict(images[0])
    classifier.predict_batch(images)
    list(classifier.stream(folder))
    record(classifier, [frame_from_array(pixels, "image") for pixels in images])
    for image in (damaged, None, "nowhere.png"):
        try:
            classifier.predict(image)
        except edge.EdgeError:
            continue
        raise AssertionError(image)
    for source in ("nowhere", "99", damaged):
        try:
            list(classifier.stream(source))
        except edge.EdgeError:
            continue
        raise AssertionError(source)
bundle, backend = Bundle.open(Path(path)), backend_named("onnxruntime")
verify(bundle, "int8", [backend])
bench(bundle, "fp32", backend, [frame_from_array(pixels, "image") for pixels in images[:30]], None)
"""


def test_the_library_never_prints(digits_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    """Engines are built into an empty cache, and images are damaged: nothing appears on stdout or stderr."""
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes((folder / "00.png").read_bytes()[:-40])
    command = [sys.executable, "-c", SILENT, str(digits_bundle.path), str(damaged), str(folder)]
    environment = {**os.environ, "EDGE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stderr.splitlines() if not line.startswith("libpng error")]  # by OpenCV 4 itself
    assert (done.stdout, printed) == ("", [])
