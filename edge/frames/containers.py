"""Size of a video file according to the headers of its container; a truncated file is smaller."""

from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
TS_SYNC, TS_PACKET = b"\x47", 188
"""First byte and size of the packets of an MPEG transport stream, whose headers have no total size."""
MAX_BOXES = 10_000
"""Largest number of top-level boxes read from an MP4 file; fragmented recordings have many."""


def missing_bytes(path: Path) -> int:
    """Return the number of bytes missing from a video according to its container's headers; 0 if that is unknown."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        head = file.read(TS_PACKET + 1)
        file.seek(0)
        if head.startswith(EBML):
            end = _matroska_end(head)
        elif head.startswith(b"RIFF") and head[8:12] == b"AVI ":
            size = int.from_bytes(head[4:8], "little")
            end = 8 + size if size else 0  # 0 in a recording that was never finished
        elif head[4:8] in (b"ftyp", b"styp", b"moov", b"mdat"):
            end = _mp4_end(file)
        elif head[:1] == head[TS_PACKET:] == TS_SYNC:
            return -path.stat().st_size % TS_PACKET
        else:
            return 0
    return max(0, end - path.stat().st_size)


def _matroska_end(head: bytes) -> int:
    """Return the end of the segment, which follows the EBML header and contains everything else."""
    end = 0
    for element in (EBML, SEGMENT):
        if head[end : end + 4] != element or len(head) <= end + 4:
            return 0
        start = end + 4
        length = 9 - head[start].bit_length()
        size = int.from_bytes(head[start : start + length], "big") & ((1 << 7 * length) - 1)
        if size == (1 << 7 * length) - 1:  # unknown, as in a recording that was never finished
            return 0
        end = start + length + size
    return end


def _mp4_end(file: BinaryIO) -> int:
    """Return the end of the last box that begins in the file."""
    end = 0
    for _ in range(MAX_BOXES):
        file.seek(end)
        header = file.read(16)
        if len(header) < 8:
            return end
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:  # 0: up to the end of the file; any other is not a box
            return 0
        end += size
    return 0
