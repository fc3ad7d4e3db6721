"""GStreamer pipelines as sources, in a Python whose OpenCV has GStreamer: Debian's and JetPack's, not PyPI's."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import pytest

from edge.doctor.checks import examine
from edge.errors import SourceError
from edge.frames.open import open_source

ROOT = Path(__file__).parent.parent
HAS_GSTREAMER = "import cv2, sys; sys.exit(not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))"
READ = """
import json, sys
import cv2, numpy as np
from edge.errors import SourceError
from edge.bundle.manifest import InputSpec
from edge.frames.base import Nv12
from edge.frames.preprocess import preprocess_for
from edge.frames.open import open_source

said = {"kinds": [], "input": None, "reused": None, "error": ""}
source = None
try:
    source, frame = open_source(sys.argv[1]), None
    said["is_live"] = source.is_live
    while True:
        found = source.read(frame)
        said["reused"], frame = found is frame, found
        said["kinds"].append([type(frame).__name__, list(frame.shape)])
        out = np.empty((3, 24, 32), np.float32)
        preprocess_for(InputSpec("image", "rgb", 3, 24, 32, (0.0,) * 3, (1.0,) * 3))(frame, out)
        said["input"] = [round(float(out[c].mean()), 4) for c in range(3)]
except SourceError as error:
    said["error"] = str(error)
finally:
    if source is not None:
        source.close()
print(json.dumps(said))
"""


@cache
def python_with_gstreamer() -> str | None:
    for python in (sys.executable, "/usr/bin/python3"):
        if Path(python).exists() and subprocess.run([python, "-c", HAS_GSTREAMER], capture_output=True).returncode == 0:
            return python
    return None


with_gstreamer = pytest.mark.skipif(
    python_with_gstreamer() is None, reason="no OpenCV with GStreamer: apt-get install python3-opencv"
)


def read_all(pipeline: str) -> dict[str, Any]:
    """Read a pipeline to its end in the other Python, with this checkout."""
    python = python_with_gstreamer()
    assert python is not None
    done = subprocess.run([python, "-c", READ, pipeline], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def red(ending: str) -> str:
    return f"videotestsrc num-buffers=3 pattern=red ! {ending} ! appsink sync=false"


KINDS = {"NV12": ["Nv12", [75, 66]], "BGRx": ["ndarray", [50, 66, 4]], "BGR": ["ndarray", [50, 66, 3]]}


@with_gstreamer
@pytest.mark.parametrize("kind", [*KINDS, "GRAY8"])
def test_frames_come_as_the_pipeline_ends_and_look_alike_to_the_network(kind: str) -> None:
    said = read_all(red(f"video/x-raw,format={kind},width=66,height=50"))
    assert said["kinds"] == [KINDS.get(kind, ["ndarray", [50, 66]])] * 3
    assert said["is_live"]
    assert said["reused"]
    if kind == "GRAY8":
        assert len(set(said["input"])) == 1
    else:
        assert said["input"] == pytest.approx([1, 0, 0], abs=0.02)
    assert said["error"] == "the GStreamer pipeline stopped giving frames after 3; check the cable or the stream"


@with_gstreamer
def test_nv12_of_hd_has_the_colours_that_were_asked_for() -> None:
    said = read_all(red("video/x-raw,format=NV12,colorimetry=bt601,width=1280,height=720"))
    assert said["kinds"] == [["Nv12", [1080, 1280]]] * 3
    assert said["input"] == pytest.approx([1, 0, 0], abs=0.01)


@with_gstreamer
def test_the_last_format_of_a_pipeline_counts() -> None:
    size = "width=66,height=50"
    bgr = read_all(red(f"video/x-raw,format=NV12,{size} ! videoconvert ! video/x-raw,format=(string)BGR,{size}"))
    assert bgr["kinds"] == [KINDS["BGR"]] * 3
    nv12 = read_all(red(f'video/x-raw,format=BGR,{size} ! videoconvert ! video/x-raw, format = (string) "NV12",{size}'))
    assert nv12["kinds"] == [KINDS["NV12"]] * 3


@with_gstreamer
def test_planes_that_are_not_nv12_are_not_taken_for_gray() -> None:
    said = read_all(red("video/x-raw,format=I420,width=64,height=48"))
    assert said["kinds"] == []
    assert said["error"].startswith(
        "the last format of the GStreamer pipeline is I420; end it in video/x-raw,format=NV12"
    )


@pytest.mark.parametrize("last", ["RGBA", "RGBx", "rggb", "I420"])
def test_a_format_that_would_be_read_in_wrong_colours_is_refused_before_it_starts(last: str) -> None:
    with pytest.raises(SourceError, match=f"the last format of the GStreamer pipeline is {last}; end it in"):
        open_source(f"camera ! video/x-raw,format=NV12 ! convert ! video/x-raw,format={last} ! appsink")


@with_gstreamer
def test_a_pipeline_that_does_not_start_says_how_to_try_it() -> None:
    said = read_all("nosuchelement ! appsink")
    assert said["error"].startswith("the GStreamer pipeline cannot be opened; does it run with gst-launch-1.0")


@pytest.mark.skipif(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV has GStreamer")
def test_an_opencv_without_gstreamer_says_where_there_is_one() -> None:
    with pytest.raises(SourceError, match="this OpenCV was built without GStreamer; the python3-opencv of JetPack"):
        open_source("videotestsrc ! appsink")


def test_doctor_knows_whether_opencv_has_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, found in ((True, "in OpenCV"), (False, "not in this OpenCV; CSI cameras and pipelines cannot be read")):
        monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda api, has=has: has and api == cv2.CAP_GSTREAMER)
        assert {one.what: one for one in examine()}["GStreamer"].found == found
