"""The grammar of addresses: kinds of sources, options, the part for a server, and refusals with their remedies."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from edge.errors import AddressError
from edge.frames.address import Kind, parse_address, public_address
from edge.frames.open import open_source
from edge.frames.options import Crop, SourceOptions


@pytest.mark.parametrize(
    ("text", "kind", "location", "options"),
    [
        ("0", "camera", "0", {}),
        ("12?rate=29.97", "camera", "12", {"rate": 29.97}),
        ("/dev/video99?size=1280x720", "camera", "/dev/video99", {"size": (1280, 720)}),
        ("/dev/null", "camera", "/dev/null", {}),
        ("v4l2:///dev/v4l/by-id/x?codec=mjpeg", "camera", "/dev/v4l/by-id/x", {"codec": "mjpeg"}),
        ("csi://1?size=640x480&rotate=180&timeout=3", "csi", "1", {"size": (640, 480), "rotate": 180, "timeout_s": 3}),
        ("RTSP://camera/live", "network", "RTSP://camera/live", {}),
        ("rtsps://camera/live?transport=udp", "network", "rtsps://camera/live", {"transport": "udp"}),
        ("srt://camera:9000?codec=h265&mode=caller", "network", "srt://camera:9000?mode=caller", {"codec": "h265"}),
        ("http://camera/video?crop=8,0,100,50", "network", "http://camera/video", {"crop": Crop(8, 0, 100, 50)}),
        ("https://camera/a?timeout=2.5", "network", "https://camera/a", {"timeout_s": 2.5}),
        ("folder/clip.mp4?rotate=90", "file", "folder/clip.mp4", {"rotate": 90}),
        ("file:///tmp/a%20clip.mp4?crop=0%2C0%2C4%2C4", "file", "/tmp/a clip.mp4", {"crop": Crop(0, 0, 4, 4)}),
        ("is this a name?", "file", "is this a name?", {}),
        ("test://", "test", "test://", {}),
        ("test://?size=64x48&rate=0&frames=3", "test", "test://", {"size": (64, 48), "rate": 0, "frames": 3}),
        ("videotestsrc ! appsink", "pipeline", "videotestsrc ! appsink", {}),
        ("filesrc location=a?rotate=90 ! appsink", "pipeline", "filesrc location=a?rotate=90 ! appsink", {}),
    ],
)  # fmt: skip
def test_an_address_has_a_kind_a_location_and_options(
    text: str, kind: Kind, location: str, options: dict[str, object]
) -> None:
    address = parse_address(text)
    assert (address.kind, address.location, address.options) == (kind, location, SourceOptions(**options))


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("rtsp://a:b@camera/live?channel=1&rotate=90&subtype=0", "rtsp://a:b@camera/live?channel=1&subtype=0"),
        ("rtsp://camera/live?rotate=90&channel=1", "rtsp://camera/live?channel=1"),
        ("rtsp://camera/user=a_password=b?real_stream", "rtsp://camera/user=a_password=b?real_stream"),
        ("http://camera/stream.cgi?size=1&rate=0&pwd=x&rotate=90", "http://camera/stream.cgi?size=1&rate=0&pwd=x"),
        ("http://camera/?rotation=5&Rotate=6", "http://camera/?rotation=5&Rotate=6"),
        ("rtsp://a:b?rotate=90@camera/live", "rtsp://a:b?rotate=90@camera/live"),
        ("rtsp://camera/a%20b?x=%3F&rotate=0", "rtsp://camera/a%20b?x=%3F"),
        ("rtsp://camera/live?frames=5&timeout=3", "rtsp://camera/live?frames=5"),
    ],
)
def test_parameters_that_are_not_ours_go_to_the_server_unchanged(text: str, location: str) -> None:
    assert parse_address(text).location == location


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0?transport=tcp", "has no option 'transport'; leave it out (options of such a source: size, rate, "),
        ("0?colour=red", "no option 'colour'"),
        ("csi://0?rotate", "has the option rotate; give 0, 90, 180 or 270"),
        ("0?rotate=45", "has the option rotate=45; give 0, 90, 180 or 270"),
        ("0?rotate=90&rotate=90", "two values of rotate; leave one out"),
        ("0?size=640", "has the option size=640; give WIDTHxHEIGHT, such as 1280x720"),
        ("0?size=0x480", "give WIDTHxHEIGHT"),
        ("0?size=99999x480", "give WIDTHxHEIGHT"),
        ("0?size=64\u0660x480", "give WIDTHxHEIGHT"),
        ("0?rate=-1", "give frames a second"),
        ("0?rate=nan", "give frames a second"),
        ("0?rate=0", "has the option rate=0; give a number of frames per second"),
        ("0?rate=1e3", "give frames a second"),
        ("0?crop=1,2,3", "give LEFT,TOP,WIDTH,HEIGHT in pixels"),
        ("0?crop=0,0,0,5", "give LEFT,TOP,WIDTH,HEIGHT in pixels"),
        ("0?crop=-1,0,5,5", "give LEFT,TOP,WIDTH,HEIGHT in pixels"),
        ("0?timeout=0", "give seconds, up to 3600"),
        ("0?frames=5", "no option 'frames'"),
        ("csi://0?codec=h264", "no option 'codec'"),
        ("csi://first", "does not name a sensor; write csi://0"),
        ("rtsp://camera/?size=640x480", "no option 'size'"),
        ("rtsp://camera/?codec=vp9", "has the option codec=vp9; give h264, h265 or mjpeg"),
        ("http://camera/?transport=tcp", "no option 'transport'"),
        ("rtsp://camera/?transport=http", "has the option transport=http; give tcp or udp"),
        ("clip.mp4?rate=5", "no option 'rate'"),
        ("test://pattern", "is not a test pattern; write test://"),
        ("test://?frames=0", "give a number of frames, 1 or more"),
        ("v4l2://0", "does not name a device; write v4l2:///dev/video0"),
        ("file://folder/clip.mp4", "has no absolute path; write file:///folder/file"),
    ],
)  # fmt: skip
def test_an_ill_formed_address_is_refused_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith(text.partition("?")[0])


def test_a_file_may_have_a_name_that_looks_like_options(tmp_path: Path) -> None:
    path = tmp_path / "clip?rotate=90"
    assert parse_address(str(path)).options.rotate == 90
    path.write_bytes(b"")
    assert parse_address(str(path)).path == path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://a:b@camera/live?rotate=90&transport=udp", "rtsp://camera/live?rotate=90&transport=udp"),
        ("rtsp://a:b@camera/live?key=hunter2&crop=0,0,8,8", "rtsp://camera/live…?crop=0,0,8,8"),
        ("http://camera/live?rate=12345&size=1x1", "http://camera/live…"),
        ("rtsp://camera/live?timeout=hunter2", "rtsp://camera/live…"),
        ("test://?rate=5", "test://?rate=5"),
    ],
)
def test_sources_that_differ_in_options_have_different_names_without_secrets(text: str, shown: str) -> None:
    assert public_address(text) == shown


def test_neither_the_text_of_an_address_nor_an_error_shows_a_password() -> None:
    address = parse_address("rtsp://admin:hunter2@camera/live?key=hunter2&rotate=90")
    assert "hunter2" in address.location
    assert "hunter2" not in repr(address)
    with pytest.raises(AddressError) as caught:
        parse_address("rtsp://admin:hunter2@camera/live?key=hunter2&rotate=45")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["0?rotate=45", "test://?size=5"])
def test_a_source_is_not_opened_with_an_ill_formed_option(text: str) -> None:
    with pytest.raises(AddressError):
        open_source(text)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("0", "0?crop=8,0,100,50"),
        ("csi://0?rotate=90", "csi://0?rotate=90&crop=8,0,100,50"),
        ("rtsp://user:p?w@camera/live", "rtsp://camera/live?crop=8,0,100,50"),
        ("rtsp://camera/live?channel=1", "rtsp://camera/live…?crop=8,0,100,50"),
        ("what?.mp4", "what…?crop=8,0,100,50"),
    ],
)
def test_a_crop_changes_nothing_else_of_an_address(text: str, public: str) -> None:
    plain, cropped = parse_address(text), parse_address(text).with_crop("8,0,100,50")
    assert cropped == replace(plain, options=replace(plain.options, crop=Crop(8, 0, 100, 50)), public=public)


@pytest.mark.parametrize(
    ("text", "crop", "message"),
    [
        ("0", "8,0,100", "0 has the option crop=8,0,100; give LEFT,TOP,WIDTH,HEIGHT in pixels"),
        ("0", "0,0,8,8&rotate=90", "0 has no option 'rotate'; leave it out"),
        ("0?crop=0,0,8,8", "8,0,100,50", "0?crop=0,0,8,8 has two values of crop; leave one out"),
        ("a ! appsink", "8,0,100,50", "a GStreamer pipeline has no option crop=8,0,100,50; add an element such as"),
    ],
)
def test_an_impossible_crop_is_refused_with_the_remedy(text: str, crop: str, message: str) -> None:
    with pytest.raises(AddressError, match=f"^{re.escape(message)}"):
        parse_address(text).with_crop(crop)
