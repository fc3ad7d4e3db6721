"""GStreamer pipelines with the hardware decoders and the image processor of a Jetson.

Frames are NV12, the decoders' own format. `nvvidconv` rotates them, and crops them if their size is known beforehand.
"""

from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edge.errors import AddressError
from edge.frames.address import HTTP_SCHEMES, RTSP_SCHEMES, SourceAddress
from edge.frames.elements import is_available
from edge.frames.options import Codec, Crop
from edge.frames.video import TIMEOUT_S, VideoSource
from edge.system import l4t_release

CSI_SIZE, CSI_RATE = (1280, 720), 30.0
"""Default mode of a camera: every sensor with an NVIDIA driver has it, or a larger mode, which is scaled."""
LATENCY_MS = 100
"""Jitter buffer."""
FLIP_METHODS = {0: 0, 90: 3, 180: 2, 270: 1}
"""Values of the `flip-method` of `nvvidconv`, by degrees clockwise."""
DEPAYLOADERS: dict[Codec, str] = {"h264": "rtph264depay", "h265": "rtph265depay", "mjpeg": "rtpjpegdepay"}
DECODERS: dict[Codec, str] = {
    "h264": "h264parse ! nvv4l2decoder",
    "h265": "h265parse ! nvv4l2decoder",
    "mjpeg": "nvjpegdec ! video/x-raw",
}
PIXEL_FORMATS = ("yuv420p", "yuvj420p", "yuvj422p")
"""FFmpeg's names of the pixel formats that the decoders read."""
DEMUXERS = {
    ".mp4": "qtdemux", ".mov": "qtdemux", ".m4v": "qtdemux", ".mkv": "matroskademux", ".webm": "matroskademux",
    ".avi": "avidemux", ".ts": "tsdemux", ".mts": "tsdemux",
}  # fmt: skip
"""Demuxers by the suffix of a file."""
NEWEST = "appsink drop=true max-buffers=1 sync=false"
EVERY = "appsink max-buffers=4 sync=false"

_codecs: dict[str, Codec] = {}
"""Codecs of the streams that this process opened, by address."""


def csi_pipeline(address: SourceAddress) -> str:
    """Return the pipeline of a CSI camera.

    Raises:
        AddressError: the crop exceeds the image.
    """
    options = address.options
    width, height = size = options.size or CSI_SIZE
    rate = Fraction(options.rate or CSI_RATE).limit_denominator(1001)
    caps = (
        f"video/x-raw(memory:NVMM),format=NV12,width={width},height={height},"
        f"framerate={rate.numerator}/{rate.denominator}"
    )
    conversion = _conversion(options.rotate, options.crop, size, address.public)
    return f"nvarguscamerasrc sensor-id={address.location} ! {caps} ! {conversion} ! {NEWEST}"


def stream_pipeline(address: SourceAddress, codec: Codec | None) -> str | None:
    """Return the pipeline of an RTSP stream, or of MJPEG over HTTP; None if this machine cannot decode it in hardware.

    The codec of a stream is kept, so that it is known after an outage.
    """
    codec = codec or _codecs.get(address.location)
    if codec is None or not (address.scheme in RTSP_SCHEMES or (address.scheme in HTTP_SCHEMES and codec == "mjpeg")):
        return None
    pipeline = stream_text(address, codec)
    if not is_available(pipeline):
        return None
    _codecs[address.location] = codec
    return pipeline


def file_pipeline(address: SourceAddress) -> str | None:
    """Return the pipeline of a video file; None if this machine or the decoder cannot read it.

    Raises:
        SourceError: the file holds no video.
    """
    path = Path(address.location)
    if l4t_release() is None or path.suffix.lower() not in DEMUXERS:
        return None
    video = VideoSource(address)
    codec, is_upright = decodable_codec(video), video.first_rotation() == 0
    video.close()
    pipeline = file_text(path, codec, address.options.rotate) if codec and is_upright else None
    return pipeline if pipeline and is_available(pipeline) else None


def decodable_codec(video: VideoSource) -> Codec | None:
    """Return the codec of a video if the hardware decoders can read it, else None."""
    return video.codec if video.pixel_format in PIXEL_FORMATS else None


def stream_text(address: SourceAddress, codec: Codec) -> str:
    """Return the pipeline of a stream, which outputs the newest frame."""
    options = address.options
    timeout_s = options.timeout_s or TIMEOUT_S
    if address.scheme in RTSP_SCHEMES:
        source = (
            f"rtspsrc location={_quoted(address.location)} protocols={options.transport or 'tcp'} "
            f"latency={LATENCY_MS} tcp-timeout={timeout_s * 1e6:.0f} timeout={timeout_s * 1e6:.0f} ! "
            f"application/x-rtp,media=video ! {DEPAYLOADERS[codec]}"
        )
    else:
        source = f"{_http_source(address, timeout_s)} ! multipartdemux ! image/jpeg"
    return f"{source} ! {DECODERS[codec]} ! {_conversion(options.rotate)} ! {NEWEST}"


def file_text(path: Path, codec: Codec, rotate: int) -> str:
    """Return the pipeline of a video file, which outputs every frame."""
    demuxer = DEMUXERS[path.suffix.lower()]
    return f"filesrc location={_quoted(str(path))} ! {demuxer} ! {DECODERS[codec]} ! {_conversion(rotate)} ! {EVERY}"


def _conversion(rotate: int, crop: Crop | None = None, size: tuple[int, int] = (0, 0), name: str = "") -> str:
    """Return the elements that convert a decoder's frames to upright NV12 in host memory."""
    flip = f"nvvidconv flip-method={FLIP_METHODS[rotate]}" if rotate else "nvvidconv"
    if crop is None:
        return f"{flip} ! video/x-raw,format=NV12"
    width, height = size if rotate % 180 == 0 else size[::-1]
    crop.check_inside(width, height, name, is_nv12=True)
    before = f"{flip} ! video/x-raw(memory:NVMM),format=NV12 ! " if rotate else ""
    edges = f"left={crop.left} right={crop.left + crop.width} top={crop.top} bottom={crop.top + crop.height}"
    return f"{before}nvvidconv {edges} ! video/x-raw,format=NV12,width={crop.width},height={crop.height}"


def _http_source(address: SourceAddress, timeout_s: float) -> str:
    """Return the element that reads from an HTTP server; user and password are properties of their own.

    Raises:
        AddressError: they have characters that end the address.
    """
    try:
        parts = urlsplit(address.location)
    except ValueError:  # its text may hold a part of the password
        raise AddressError(
            f"{address.public} is not the address of a server; percent-encode special characters of user and password"
        ) from None
    host = parts.netloc.rpartition("@")[2]
    user = f" user-id={_quoted(unquote(parts.username))}" if parts.username else ""
    password = f" user-pw={_quoted(unquote(parts.password))}" if parts.password else ""
    location = _quoted(parts._replace(netloc=host).geturl())
    return f"souphttpsrc location={location}{user}{password} is-live=true timeout={max(1, round(timeout_s))}"


def _quoted(text: str) -> str:
    """Return text as the value of a property."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
