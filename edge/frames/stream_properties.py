"""Properties of an opened video stream, as PyAV reports them."""

from typing import Any

LIVE_SCHEMES = ("rtsp", "rtsps", "rtp", "udp", "udplite", "srt", "rtmp", "rtmps", "rtmpt", "mms", "mmsh", "mmst")
PLAYLISTS = ("hls", "dash", "applehttp")
"""Containers whose file size is not the video's."""
SMALL_PIXELS = 1 << 12


def is_endless(scheme: str, container: Any, stream: Any) -> bool:
    """Check for a network stream without an end: a live protocol, or neither a duration nor a size."""
    if scheme in LIVE_SCHEMES:
        return True
    has_size = container.size > 0 and container.format.name.split(",")[0] not in PLAYLISTS
    return not (has_size or container.duration is not None or stream.duration is not None)


def thread_type(stream: Any, *, is_live: bool) -> str:
    """Return FFmpeg's kind of threads: decoding a small frame is less work than passing it between threads."""
    if stream.codec_context.width * stream.codec_context.height <= SMALL_PIXELS:
        return "NONE"
    return "SLICE" if is_live else "AUTO"  # threads that decode a frame each would delay a live stream by as many


def estimated_frames(container: Any, stream: Any) -> int | None:
    """Estimate the number of frames from duration and rate, for progress; None if they are unknown."""
    seconds = None
    if stream.duration is not None and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        seconds = container.duration / 1e6
    if seconds is None or not stream.average_rate:
        return int(stream.frames) or None
    return round(seconds * float(stream.average_rate)) or None
