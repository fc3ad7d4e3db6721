"""Pipelines for a Jetson, as text: decoders, image processor, quoting, and where this machine cannot run them."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from edge.errors import AddressError, UnavailableError
from edge.frames import elements, jetson
from edge.frames.address import parse_address
from edge.frames.jetson import csi_pipeline, file_pipeline, file_text, stream_pipeline, stream_text
from edge.frames.open import open_source
from tests.support.videos import pictures, write_encoded

CSI = "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),format=NV12,width=1280,height=720,framerate=30/1"
SINK = "appsink drop=true max-buffers=1 sync=false"


@pytest.mark.parametrize(
    ("address", "pipeline"),
    [
        (
            "csi://0",
            f"{CSI} ! nvvidconv ! video/x-raw,format=NV12 ! {SINK}",
        ),
        (
            "csi://1?size=1920x1080&rate=59.94&rotate=180",
            "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),format=NV12,width=1920,height=1080,"
            f"framerate=2997/50 ! nvvidconv flip-method=2 ! video/x-raw,format=NV12 ! {SINK}",
        ),
        (
            "csi://0?crop=320,0,640,720",
            f"{CSI} ! "
            f"nvvidconv left=320 right=960 top=0 bottom=720 ! video/x-raw,format=NV12,width=640,height=720 ! {SINK}",
        ),
        (
            "csi://0?rotate=90&crop=0,640,720,640",
            f"{CSI} ! "
            "nvvidconv flip-method=3 ! video/x-raw(memory:NVMM),format=NV12 ! "
            "nvvidconv left=0 right=720 top=640 bottom=1280 ! video/x-raw,format=NV12,width=720,height=640 ! " + SINK,
        ),
    ],
)
def test_a_csi_camera_is_rotated_and_cropped_by_the_image_processor(address: str, pipeline: str) -> None:
    assert csi_pipeline(parse_address(address)) == pipeline


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "csi://0?crop=0,0,1280,722",
            "csi://0.* gives frames of 1280x720, and crop=0,0,1280,722 reaches to 1280x722",
        ),
        ("csi://0?rotate=90&crop=0,0,722,2", "gives frames of 720x1280"),
        ("csi://0?crop=0,0,5,5", "is odd; choose even numbers"),
    ],
)
def test_a_crop_outside_of_a_csi_camera_s_picture_is_refused(address: str, message: str) -> None:
    with pytest.raises(AddressError, match=message):
        csi_pipeline(parse_address(address))


def test_an_rtsp_stream_is_decoded_in_hardware() -> None:
    address = parse_address('rtsp://admin:p"w\\@camera/live?channel=1&rotate=270&timeout=3&transport=udp')
    assert stream_text(address, "h265") == (
        'rtspsrc location="rtsp://admin:p\\"w\\\\@camera/live?channel=1" protocols=udp latency=100 tcp-timeout=3000000 '
        "timeout=3000000 ! application/x-rtp,media=video ! rtph265depay ! h265parse ! nvv4l2decoder ! "
        f"nvvidconv flip-method=1 ! video/x-raw,format=NV12 ! {SINK}"
    )
    assert "protocols=tcp latency=100 tcp-timeout=8000000" in stream_text(parse_address("rtsp://camera/live"), "h264")


def test_mjpeg_over_http_is_decoded_in_hardware() -> None:
    address = parse_address("http://admin:a%20b@camera:81/stream?x=1")
    assert stream_text(address, "mjpeg") == (
        'souphttpsrc location="http://camera:81/stream?x=1" user-id="admin" user-pw="a b" is-live=true timeout=8 ! '
        "multipartdemux ! image/jpeg ! nvjpegdec ! video/x-raw ! nvvidconv ! video/x-raw,format=NV12 ! " + SINK
    )


def test_a_password_that_breaks_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(
        AddressError, match="http://camera/stream is not the address of a server; percent-enc"
    ) as caught:
        stream_text(parse_address("http://admin:secret\u2100@camera/stream"), "mjpeg")
    assert "secret" not in str(caught.value)


def test_a_file_gives_every_frame() -> None:
    assert file_text(Path("/a b/clip.MP4"), "h264", 90) == (
        'filesrc location="/a b/clip.MP4" ! qtdemux ! h264parse ! nvv4l2decoder ! nvvidconv flip-method=3 ! '
        "video/x-raw,format=NV12 ! appsink max-buffers=4 sync=false"
    )


# Which of them this machine can run


@pytest.fixture
def jetson_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A stand-in for a Jetson: a file for each element that its GStreamer has, in a folder that is returned."""
    folder, programs = tmp_path / "elements", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    inspect = programs / "gst-inspect-1.0"
    inspect.write_text(f'#!/bin/sh\n[ "$1" = --exists ] && [ -e "{folder}/$2" ]\n')
    inspect.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: True)
    for module in (jetson, elements):
        monkeypatch.setattr(module, "l4t_release", lambda: "# R36 (release), REVISION: 4.0")
    elements.has_element.cache_clear()
    elements._log_once.cache_clear()
    jetson._codecs.clear()
    yield folder
    elements.has_element.cache_clear()
    jetson._codecs.clear()


def install(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


RTSP_ELEMENTS = ("rtspsrc", "rtph264depay", "h264parse", "nvv4l2decoder", "nvvidconv", "appsink")


def test_a_stream_is_decoded_in_hardware_only_where_every_element_exists(
    jetson_with: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = parse_address("rtsp://camera/live")
    install(jetson_with, *RTSP_ELEMENTS[:3], "appsink")
    for _ in range(3):
        assert stream_pipeline(address, "h264") is None
    assert [record.message for record in caplog.records] == [
        "videos are decoded on the CPU: GStreamer has no nvv4l2decoder, nvvidconv; "
        "sudo apt install nvidia-l4t-gstreamer"
    ]
    elements.has_element.cache_clear()
    install(jetson_with, *RTSP_ELEMENTS)
    assert stream_pipeline(address, "h264") == stream_text(address, "h264")


def test_the_codec_of_a_stream_is_remembered(jetson_with: Path) -> None:
    address = parse_address("rtsp://camera/live")
    install(jetson_with, *RTSP_ELEMENTS)
    assert stream_pipeline(address, None) is None
    assert stream_pipeline(address, "h264") is not None
    assert stream_pipeline(address, None) == stream_text(address, "h264")


def test_streams_that_the_decoders_cannot_read_are_left_to_the_cpu(jetson_with: Path) -> None:
    install(jetson_with, *RTSP_ELEMENTS, "souphttpsrc", "multipartdemux", "nvjpegdec")
    assert stream_pipeline(parse_address("http://camera/video.m3u8"), "h264") is None
    assert stream_pipeline(parse_address("srt://camera"), "h264") is None
    assert stream_pipeline(parse_address("http://camera/live"), "mjpeg") is not None


def test_an_opencv_without_gstreamer_is_named_with_the_remedy(
    jetson_with: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: False)
    install(jetson_with, *RTSP_ELEMENTS)
    assert stream_pipeline(parse_address("rtsp://camera/live"), "h264") is None
    assert "has no GStreamer; use JetPack's (pip uninstall -y opencv-python" in caplog.text


def test_other_machines_decode_on_the_cpu_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    assert stream_pipeline(parse_address("rtsp://camera/live"), "h264") is None
    assert not caplog.records


def test_a_csi_camera_names_what_is_missing(jetson_with: Path) -> None:
    install(jetson_with, "nvvidconv", "appsink")
    with pytest.raises(
        UnavailableError, match=r"csi://0 cannot be opened: GStreamer has no nvarguscamerasrc; sudo apt"
    ):
        open_source("csi://0")


@pytest.mark.parametrize(
    ("name", "codec", "suits"),
    [("clip.mp4", "libx264", True), ("clip.avi", "mjpeg", True), ("clip.mkv", "ffv1", False), ("clip.y4m", "", False)],
)
def test_files_that_the_decoders_cannot_read_are_left_to_the_cpu(
    name: str, codec: str, suits: bool, jetson_with: Path, tmp_path: Path
) -> None:
    names = ("filesrc", "qtdemux", "matroskademux", "avidemux", "h264parse", "nvjpegdec", "nvv4l2decoder", "nvvidconv")
    install(jetson_with, *names, "appsink")
    path = tmp_path / name
    if codec:
        write_encoded(path, pictures(3), codec)
    assert (file_pipeline(parse_address(str(path))) is not None) is suits


def test_a_video_that_was_held_upright_is_left_to_the_cpu_which_turns_it(jetson_with: Path, tmp_path: Path) -> None:
    install(jetson_with, "filesrc", "qtdemux", "h264parse", "nvv4l2decoder", "nvvidconv", "appsink")
    path = write_encoded(tmp_path / "clip.mp4", pictures(3))
    content = path.read_bytes()
    identity = b"".join(value.to_bytes(4, "big") for value in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    turned = b"".join(value.to_bytes(4, "big") for value in (0, 1 << 16, 0, (1 << 32) - (1 << 16), 0, 0, 0, 0, 1 << 30))
    track = content.index(identity, content.index(b"tkhd"))
    path.write_bytes(content[:track] + turned + content[track + len(identity) :])
    assert file_pipeline(parse_address(str(path))) is None
