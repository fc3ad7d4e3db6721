"""GStreamer pipelines with the hardware decoders and the image processor of a Jetson.

Frames reach the program as NV12, the decoders' own format. `nvvidconv` rotates them on the way, and crops them where
the size of the picture is known beforehand.
"""

from fractions import Fraction
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edge.frames.address import HTTP_SCHEMES, RTSP_SCHEMES, SourceAddress
from edge.frames.elements import is_available
from edge.frames.options import Codec, Crop
from edge.frames.video import TIMEOUT_S, VideoSource
from edge.system import l4t_release

CSI_SIZE, CSI_RATE = (1280, 720), 30.0
"""Defaults of a camera: every sensor with a driver of NVIDIA has this mode or a larger one that is scaled."""
LATENCY_MS = 100
"""Buffer against jitter of the network."""
FLIP_METHODS = {0: 0, 90: 3, 180: 2, 270: 1}
"""Values of `nvvidconv` by degrees clockwise."""
DEPAYLOADERS: dict[Codec, str] = {"h264": "rtph264depay", "h265": "rtph265depay", "mjpeg": "rtpjpegdepay"}
DECODERS: dict[Codec, str] = {
    "h264": "h264parse ! nvv4l2decoder",
    "h265": "h265parse ! nvv4l2decoder",
    "mjpeg": "nvjpegdec ! video/x-raw",
}
PIXEL_FORMATS = ("yuv420p", "yuvj420p", "yuvj422p")
"""Pixel formats of FFmpeg that these decode."""
DEMUXERS = {
    ".mp4": "qtdemux", ".mov": "qtdemux", ".m4v": "qtdemux", ".mkv": "matroskademux", ".webm": "matroskademux",
    ".avi": "avidemux", ".ts": "tsdemux", ".mts": "tsdemux",
}  # fmt: skip
"""Elements that read a container, by the suffix of its file."""
NEWEST = "appsink drop=true max-buffers=1 sync=false"
EVERY = "appsink max-buffers=4 sync=false"

_codecs: dict[str, Codec] = {}
"""Codecs of streams that this process has opened, by their address."""


def csi_pipeline(address: SourceAddress) -> str:
    """Return the pipeline of a camera at the camera connector.

    Raises:
        AddressError: the crop does not fit into the picture.
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
    """Return the pipeline of an RTSP stream, or of MJPEG over HTTP; None where this machine cannot decode it so.

    The codec of a stream is remembered: it need not be found out again after an outage.
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
    """Return the pipeline of a video file; None where this machine or the decoder cannot read it.

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
    """Return the codec of a video that the hardware decoders can read; None for others."""
    return video.codec if video.pixel_format in PIXEL_FORMATS else None


def stream_text(address: SourceAddress, codec: Codec) -> str:
    """Return the pipeline of a stream, which gives the newest frame."""
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
    """Return the pipeline of a video file, which gives every frame."""
    demuxer = DEMUXERS[path.suffix.lower()]
    return f"filesrc location={_quoted(str(path))} ! {demuxer} ! {DECODERS[codec]} ! {_conversion(rotate)} ! {EVERY}"


def _conversion(rotate: int, crop: Crop | None = None, size: tuple[int, int] = (0, 0), name: str = "") -> str:
    """Return the elements from a decoder's frames to upright NV12 in memory of the program."""
    flip = f"nvvidconv flip-method={FLIP_METHODS[rotate]}" if rotate else "nvvidconv"
    if crop is None:
        return f"{flip} ! video/x-raw,format=NV12"
    width, height = size if rotate % 180 == 0 else size[::-1]
    crop.check_inside(width, height, name, is_nv12=True)
    before = f"{flip} ! video/x-raw(memory:NVMM),format=NV12 ! " if rotate else ""
    edges = f"left={crop.left} right={crop.left + crop.width} top={crop.top} bottom={crop.top + crop.height}"
    return f"{before}nvvidconv {edges} ! video/x-raw,format=NV12,width={crop.width},height={crop.height}"


def _http_source(address: SourceAddress, timeout_s: float) -> str:
    """Return the element that reads from a server over HTTP, which takes user and password apart from the address."""
    parts = urlsplit(address.location)
    host = parts.netloc.rpartition("@")[2]
    user = f" user-id={_quoted(unquote(parts.username))}" if parts.username else ""
    password = f" user-pw={_quoted(unquote(parts.password))}" if parts.password else ""
    location = _quoted(parts._replace(netloc=host).geturl())
    return f"souphttpsrc location={location}{user}{password} is-live=true timeout={max(1, round(timeout_s))}"


def _quoted(text: str) -> str:
    """Return a text as the value of a property."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
