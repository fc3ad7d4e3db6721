"""Frames from video files, pipes and network streams, through PyAV.

Damage is detected if the container or the decoder reports it: truncated packets, frames marked as corrupt, data that
cannot be decoded, and a file that is shorter than its container's headers announce. The announced number of frames is
an estimate and is not used. A finite source fails at the first damaged frame, or leaves out damaged frames with
`skip_bad`; a live source always leaves them out. The frames after a damaged frame up to the next key frame are left
out, too, since they are decoded from it. `damaged` counts all of them.
"""

import threading
from collections.abc import Generator, Iterator
from functools import cache
from time import monotonic
from typing import Any, cast

import numpy as np

from edge.errors import AddressError, SourceError, SourceLostError, UnavailableError
from edge.frames.address import RTSP_SCHEMES, SourceAddress
from edge.frames.base import Frame, PixelFormat
from edge.frames.blocking import call_interruptibly
from edge.frames.containers import missing_bytes
from edge.frames.images import flatten
from edge.frames.options import Codec
from edge.frames.positions import Positions
from edge.frames.stream_properties import LIVE_SCHEMES, estimated_frames, is_endless, thread_type

TIMEOUT_S = 8.0
"""Seconds to wait for a server's reply, and for the next data of a stream."""
SAFE_TO_EXPLODE = ("mjpeg", "png")
"""Codecs without dependencies between frames, whose decoders hide damage by default."""
CODECS: dict[str, Codec] = {"h264": "h264", "hevc": "h265", "mjpeg": "mjpeg"}
"""Names of codecs in options, by FFmpeg's names."""
MAX_STREAM_PIXELS = 1 << 26
"""Larger frames of a stream are left out as damaged: each takes more than 200 MB, and 8K has half as many pixels."""


class VideoSource:
    """A video file, pipe or network stream."""

    def __init__(self, address: SourceAddress, *, skip_bad: bool = False) -> None:
        """Open a file, a pipe or a server's stream. Rotation and crop are left to others.

        Raises:
            AddressError: the scheme is unknown, user or password is wrong, or the codec is another one.
            SourceError: the source cannot be opened or holds no video; the message has the system's reason.
            UnavailableError: PyAV is not installed.
        """
        self._av = _import_av()
        self._name, self._skip_bad = address.public, skip_bad
        self._path, self._is_network = address.path, address.kind == "network"
        self._timeout_s = address.options.timeout_s or TIMEOUT_S
        self._container = self._open(address)
        self._reading = threading.Lock()
        stream: Any = self._container.streams.best("video")
        if stream is None:
            self._container.close()
            raise SourceError(f"{self._name} holds no video stream; give a video")
        if stream.codec_context is None:
            self._container.close()
            raise SourceError(f"{self._name} is encoded in a format that FFmpeg does not know; convert it to H.264")
        self._stream = stream
        self._check_codec(address.options.codec)
        self.is_live = self._is_network and is_endless(address.scheme, self._container, stream)
        self.frames = None if self.is_live else estimated_frames(self._container, stream)
        stream.thread_type = thread_type(stream, is_live=self.is_live)
        options = {"max_pixels": str(MAX_STREAM_PIXELS)} if self.is_live else {}
        if stream.codec_context.name in SAFE_TO_EXPLODE:
            options["err_detect"] = "explode"
        stream.codec_context.options = options
        self._positions = Positions(self._container, stream)
        # Joined files have a gap in the counters of MPEG transport streams, which FFmpeg marks as a damaged packet.
        self._trusts_packets = self._container.format.name != "mpegts"
        self.damaged = 0
        self._frames_read, self._last_good = 0, monotonic()
        self._awaits_key_frame = False
        self._decoded = self._decode()

    @property
    def codec(self) -> Codec | None:
        """Name of the codec in options; None if it has none."""
        return CODECS.get(self._stream.codec_context.name)

    @property
    def pixel_format(self) -> str | None:
        """FFmpeg's name of the decoder's pixel format; None if it is unknown."""
        return cast("str | None", self._stream.codec_context.pix_fmt)

    def first_rotation(self) -> int:
        """Return the rotation in the metadata of the next frame, which is discarded."""
        frame = next(self._decoded, None)
        return 0 if frame is None else int(frame.rotation)

    def read(self, out: Frame | None) -> Frame | None:
        """Return the next frame, BGR, whose size may differ; None at the end of a finite source.

        Raises:
            SourceError: the source is damaged.
            SourceLostError: a stream stopped.
        """
        with self._reading:
            frame = next(self._decoded, None)
        return None if frame is None else self._as_bgr(frame)

    def close(self) -> None:
        """Release the file or connection; a hanging read keeps it open until it times out or the process ends."""
        if self._reading.acquire(timeout=1):
            self._decoded.close()
            self._container.close()
            self._reading.release()

    def _open(self, address: SourceAddress) -> Any:
        # A colon in the name of a file starts no scheme.
        location = address.location if self._path is None else f"file:{self._path}"
        timeout = self._timeout_s if self._is_network else None
        options = _stream_options(address)
        started = monotonic()
        try:
            return call_interruptibly(
                lambda: self._av.open(location, timeout=timeout, options=options, metadata_errors="replace"),
                lambda container: container.close(),
                # Resolving a host name has no time limit; opening has two phases with a limit each.
                None if timeout is None else 2 * timeout + 1,
            )
        except (self._av.FFmpegError, TimeoutError, MemoryError) as error:
            waited = self._is_network and monotonic() - started >= self._timeout_s
            why = f"no reply within {self._timeout_s:g} s" if waited else _reason(error)
            kind, remedy = self._kind_and_remedy(error)
        # Not chained: FFmpeg's error holds the whole address, with the password.
        raise kind(f"{self._name} cannot be opened: {why}; {remedy}") from None

    def _kind_and_remedy(self, error: BaseException) -> tuple[type[SourceError], str]:
        if not self._is_network:
            is_denied = isinstance(error, PermissionError)
            return SourceError, "change its permissions" if is_denied else "give a video, image or folder"
        errors = self._av.error
        if isinstance(error, errors.HTTPUnauthorizedError | errors.HTTPForbiddenError):
            return AddressError, "check user name and password (scheme://user:password@host/…)"
        if isinstance(error, errors.ProtocolNotFoundError):
            return AddressError, "check its scheme (rtsp://, http://, …)"
        return SourceError, "check the address, and that the server is sending"

    def _check_codec(self, codec: Codec | None) -> None:
        if codec is not None and codec != self.codec:
            self._container.close()
            raise AddressError(
                f"{self._name} is encoded in {self._stream.codec_context.name}, not in {codec}; leave codec out"
            )

    def _decode(self) -> Generator[Any, None, None]:
        """Yield good frames; raise at the end of a live source and at damage."""
        try:
            for packet in self._container.demux(self._stream):
                yield from self._good_frames(packet)
        except self._av.FFmpegError as error:
            yield from self._drain()
            why = (
                _reason(error)
                if monotonic() - self._last_good < self._timeout_s
                else f"nothing for {self._timeout_s:g} s"
            )
            raise self._stopped(why) from None
        if self.is_live:
            raise self._stopped("the server ended the stream")
        if not self._frames_read:
            raise SourceError(f"{self._name} holds no frame that can be decoded; give an undamaged video")
        if self._path is not None and (missing := missing_bytes(self._path)):
            raise SourceError(
                f"{self._name} was cut off after {self._frames_read} frames: the last {missing} bytes are missing; "
                "copy it again"
            )

    def _good_frames(self, packet: Any) -> Iterator[Any]:
        if packet.is_corrupt and self._trusts_packets:
            if not (self.is_live or self._skip_bad):
                yield from self._drain()
            self._skip()
            return
        try:
            frames = packet.decode()
        except self._av.FFmpegError:
            # A stream that is joined between two key frames cannot be decoded before the second.
            if self._frames_read or packet.is_keyframe:
                self._skip()
            return
        yield from self._checked(frames)

    def _checked(self, frames: list[Any]) -> Iterator[Any]:
        for frame in frames:
            if frame.is_corrupt and not frame.key_frame and not self._frames_read:
                continue
            if frame.is_corrupt or (self._awaits_key_frame and not frame.key_frame):
                self._skip()
                continue
            self._awaits_key_frame = False
            self._frames_read += 1
            self._last_good = monotonic()
            yield frame

    def _drain(self) -> Iterator[Any]:
        """Yield the frames that the decoder still holds."""
        try:
            frames = self._stream.codec_context.decode(None)
        except self._av.FFmpegError:
            return
        yield from self._checked(frames)

    def _skip(self) -> None:
        """Count a damaged frame.

        Raises:
            SourceError: the source is finite, and damaged frames are not left out.
            SourceLostError: a live source sent only damaged frames for `TIMEOUT_S`.
        """
        if not (self.is_live or self._skip_bad):
            raise SourceError(
                f"{self._name} is damaged or was cut off after {self._frames_read} frames; "
                "repair it, or leave out damaged frames (--skip-bad)"
            )
        self.damaged += 1
        self._awaits_key_frame = True
        if self.is_live and monotonic() - self._last_good > self._timeout_s:
            raise self._stopped(f"only damaged frames for {self._timeout_s:g} s")

    def _stopped(self, why: str) -> SourceError:
        kind = SourceLostError if self._is_network and self._frames_read else SourceError
        return kind(
            f"{self._name} stopped after {self._frames_read} frames ({why}); "
            f"check the {'camera, the server and the network' if self._is_network else 'file and the disk'}"
        )

    def _as_bgr(self, frame: Any) -> Frame:
        if _has_alpha(frame.format.name):
            pixels = flatten(frame.to_ndarray(format="bgra"))
        else:
            pixels = frame.to_ndarray(format="bgr24")
        if frame.rotation % 360:  # orientation of the camera
            pixels = np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
        position = None if self.is_live else self._positions.of(frame, is_after_damage=self.damaged > 0)
        return Frame(pixels, PixelFormat.BGR, position)


def _import_av() -> Any:
    try:
        import av
        import av.logging
    except ImportError as error:
        raise UnavailableError(
            f"videos and network streams are read with PyAV, which cannot be imported ({error}); pip install 'av>=14'"
        ) from error
    av.logging.set_level(None)  # failures are reported once, by an exception
    return av


def _reason(error: BaseException) -> str:
    """Return the system's reason for an error, without the address."""
    if isinstance(error, MemoryError):
        return "out of memory"
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _stream_options(address: SourceAddress) -> dict[str, str]:
    if address.scheme not in LIVE_SCHEMES:
        return {}
    options = {"fpsprobesize": "0"}  # nobody asks for the rate of a live stream, which takes a second to find out
    if address.scheme in RTSP_SCHEMES:
        transport = address.options.transport
        options |= {"rtsp_transport": transport} if transport else {"rtsp_flags": "prefer_tcp"}
    return options


@cache
def _has_alpha(pixel_format: str) -> bool:
    import av

    return any(component.is_alpha for component in av.VideoFormat(pixel_format).components)
