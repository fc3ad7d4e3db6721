"""GStreamer pipelines as sources, run in a Python whose OpenCV has GStreamer: that of Debian or JetPack, not PyPI."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import pytest

from edge.doctor.cameras import check_gstreamer
from edge.errors import SourceError, SourceLostError, UnavailableError
from edge.frames.gstreamer import with_fixed_format
from edge.frames.open import open_source
from tests.support.commands import ROOT, random_frames, write_video

HAS_GSTREAMER = "import cv2, sys; sys.exit(not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))"
READ = """
import json, sys
import numpy as np
from edge.errors import SourceError
from edge.bundle.manifest import InputSpec
from edge.frames.preprocess import preprocess_for
from edge.frames.open import open_source

report = {"frames": [], "input": None, "reused": None, "error": "", "code": 0}
source = None
try:
    source, previous = open_source(sys.argv[1]), None
    report["is_live"] = source.is_live
    while (frame := source.read(previous)) is not None:
        report["reused"] = previous is not None and np.shares_memory(frame.pixels, previous.pixels)
        report["frames"].append([frame.format.name, list(frame.pixels.shape)])
        previous, out = frame, np.empty((3, 24, 32), np.float32)
        preprocess_for(InputSpec("image", "rgb", 3, 24, 32, (0.0,) * 3, (1.0,) * 3))(frame, out)
        report["input"] = [round(float(out[c].mean()), 4) for c in range(3)]
except SourceError as error:
    report["error"], report["code"] = str(error), error.exit_code
finally:
    if source is not None:
        source.close()
print(json.dumps(report))
"""
"""Reads a pipeline to its end and prints the frames' formats and shapes, and the last one as network input."""


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


FRAMES = {
    "NV12": ["NV12", [75, 66]],
    "BGRx": ["BGRX", [50, 66, 4]],
    "BGR": ["BGR", [50, 66, 3]],
    "GRAY8": ["GRAY", [50, 66]],
}
"""Format and shape of frames of 66 x 50 pixels, by the last caps of the pipeline."""


@with_gstreamer
@pytest.mark.parametrize("caps_format", FRAMES)
def test_frames_have_the_format_of_the_last_caps_and_give_the_same_network_input(caps_format: str) -> None:
    report = read_all(red(f"video/x-raw,format={caps_format},width=66,height=50"))
    assert report["frames"] == [FRAMES[caps_format]] * 3
    assert report["is_live"]
    assert report["reused"]
    if caps_format == "GRAY8":
        assert len(set(report["input"])) == 1
    else:
        assert report["input"] == pytest.approx([1, 0, 0], abs=0.02)
    assert report["error"] == "the GStreamer pipeline stopped giving frames after 3; check the cable or the stream"
    assert report["code"] == SourceLostError.exit_code


@with_gstreamer
def test_nv12_in_hd_has_the_requested_colours() -> None:
    report = read_all(red("video/x-raw,format=NV12,colorimetry=bt601,width=1280,height=720"))
    assert report["frames"] == [["NV12", [1080, 1280]]] * 3
    assert report["input"] == pytest.approx([1, 0, 0], abs=0.01)


@with_gstreamer
def test_the_last_format_in_a_pipeline_counts() -> None:
    size = "width=66,height=50"
    bgr = read_all(red(f"video/x-raw,format=NV12,{size} ! videoconvert ! video/x-raw,format=(string)BGR,{size}"))
    assert bgr["frames"] == [FRAMES["BGR"]] * 3
    nv12 = read_all(red(f'video/x-raw,format=BGR,{size} ! videoconvert ! video/x-raw, format = (string) "NV12",{size}'))
    assert nv12["frames"] == [FRAMES["NV12"]] * 3


@with_gstreamer
@pytest.mark.parametrize("ending", ["I420,width=66,height=50", "YUY2,width=66,height=50 ! queue"])
def test_frames_of_another_format_are_converted_and_their_planes_not_read_as_gray(ending: str) -> None:
    report = read_all(red(f"video/x-raw,format={ending}"))
    assert report["frames"] == [FRAMES["BGR"]] * 3
    assert report["input"] == pytest.approx([1, 0, 0], abs=0.02)


@with_gstreamer
def test_the_error_of_a_pipeline_that_does_not_start_names_gst_launch() -> None:
    report = read_all("nosuchelement ! appsink")
    assert report["error"].startswith(
        "the GStreamer pipeline cannot be opened: it has not started in 10 s; check that it runs"
    )


@with_gstreamer
@pytest.mark.parametrize(
    ("ending", "frame"),
    [
        ("video/x-raw,width=66,height=50", ["BGR", [50, 66, 3]]),
        ("video/x-raw,format=YUY2,width=66,height=50 ! videoconvert ! video/x-raw,format=BGR", ["BGR", [50, 66, 3]]),
        ("video/x-raw,format=GRAY8,width=66,height=50 ! queue", ["GRAY", [50, 66]]),
        ("video/x-bayer,width=64,height=48", None),
        ("video/x-raw,width=64,height=48 ! jpegenc", None),
    ],
    ids=["no format", "converted", "element after the caps", "Bayer", "JPEG"],
)
def test_a_pipeline_gives_its_named_format_or_does_not_start(ending: str, frame: list[Any] | None) -> None:
    report = read_all(red(ending))
    assert report["frames"] == ([] if frame is None else [frame] * 3)
    assert ("cannot be opened" in report["error"]) == (frame is None)


@with_gstreamer
@pytest.mark.parametrize("caps_format", ["NV12", "GRAY8", "BGR"])
def test_frames_keep_their_format_when_the_stream_changes_its_size(caps_format: str) -> None:
    """The height that OpenCV reports stays that of the first frame: 48 is also the height of NV12 at 32 rows."""
    sizes = [(48, 64), (32, 128), (72, 128)]
    parts = [f"videotestsrc num-buffers=3 ! video/x-raw,width={width},height={height} ! c." for height, width in sizes]
    ending = f"videoconvert ! video/x-raw,format={caps_format} ! appsink sync=false"
    report = read_all(f"concat name=c ! {ending} {' '.join(parts)}")
    factor, channels = {"NV12": (1.5, []), "GRAY8": (1, []), "BGR": (1, [3])}[caps_format]
    name = "GRAY" if caps_format == "GRAY8" else caps_format
    assert report["frames"] == [
        [name, [int(height * factor), width, *channels]] for height, width in sizes for _ in "123"
    ]


@with_gstreamer
@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_pipeline_of_known_length_is_finite_and_just_ends(suffix: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"video{suffix}", random_frames(20, 48, 64))
    report = read_all(f"filesrc location={path} ! decodebin ! videoconvert ! appsink sync=false")
    assert report["frames"] == [["BGR", [48, 64, 3]]] * 20
    assert (report["is_live"], report["error"], report["code"]) == (False, "", 0)


@pytest.mark.parametrize(
    ("pipeline", "before", "fixed"),
    [
        ("a ! appsink", "a ! videoconvert ", "BGR"),
        ("a ! video/x-raw,format=NV12 ! appsink", "a ! video/x-raw,format=NV12 ", "NV12"),
        (
            'a ! "video/x-raw(memory:NVMM), format=NV12" ! b ! appsink',
            'a ! "video/x-raw(memory:NVMM), format=NV12" ! b ',
            "NV12",
        ),
        (
            "a ! capsfilter caps=video/x-raw,format=GRAY8 ! appsink",
            "a ! capsfilter caps=video/x-raw,format=GRAY8 ",
            "GRAY8",
        ),
        (
            "a ! video/x-h264,stream-format=byte-stream ! b ! appsink",
            "a ! video/x-h264,stream-format=byte-stream ! b ! videoconvert ",
            "BGR",
        ),
        (
            'a location="http://cam/v?format=mjpeg" ! b ! appsink',
            'a location="http://cam/v?format=mjpeg" ! b ! videoconvert ',
            "BGR",
        ),
        (
            "a ! video/x-raw,width=8 ! b format=time ! appsink",
            "a ! video/x-raw,width=8 ! b format=time ! videoconvert ",
            "BGR",
        ),
        ("a ! video/x-raw,format=RGBA ! appsink", "a ! video/x-raw,format=RGBA ! videoconvert ", "BGR"),
        ("t ! appsink t. ! appsink", "t ! appsink t. ! videoconvert ", "BGR"),
    ],
)
def test_a_caps_filter_before_the_last_appsink_fixes_the_format(pipeline: str, before: str, fixed: str) -> None:
    assert with_fixed_format(f"{pipeline} drop=1")[0] == (
        f"{before}! capsfilter caps=video/x-raw,format={fixed} ! appsink drop=1"
    )


def test_a_pipeline_without_appsink_is_refused() -> None:
    with pytest.raises(SourceError, match='has no appsink; end it in "! appsink"'):
        open_source("videotestsrc ! fakesink")


@pytest.mark.skipif(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV has GStreamer")
def test_the_error_of_an_opencv_without_gstreamer_names_one_that_has_it() -> None:
    with pytest.raises(
        UnavailableError, match="this OpenCV was built without GStreamer; use the python3-opencv of JetPack"
    ):
        open_source("videotestsrc ! appsink")


@pytest.mark.parametrize(
    ("is_supported", "value"),
    [(True, "in OpenCV"), (False, "not in this OpenCV, which cannot read CSI cameras and pipelines")],
)
def test_doctor_reports_the_gstreamer_support_of_opencv(
    is_supported: bool, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda api: is_supported and api == cv2.CAP_GSTREAMER)
    assert check_gstreamer().value == value
