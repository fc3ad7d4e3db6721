"""Pictures for viewers: a JPEG of a frame, and a header with its prediction and its attention map."""

import json
import struct
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import InputSpec
from edge.frames.base import Frame
from edge.frames.colour import bgr_pixels
from edge.frames.preprocess import center_crop
from edge.live.messages import Observation, record

SIZES = (320, 640, 1280)
"""Longest sides of pictures, in pixels, among which viewers choose; smaller frames stay as they are."""
DEFAULT_SIZE = 640
QUALITY = 80
HEADER_LENGTH = struct.Struct(">I")
"""Length of the header, ahead of header and JPEG."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame encoded once for all viewers of a size."""

    jpeg: bytes
    message: bytes
    """Length of the header, the header as JSON, and the JPEG."""


def encode_pictures(
    observation: Observation, source_index: int, sizes: Sequence[int], spec: InputSpec | None
) -> dict[int, Picture]:
    """Return pictures of an observation's frame by size; sizes that do not shrink it share a JPEG.

    Args:
        observation: An observation with its frame.
        source_index: Index of the source in messages.
        sizes: Some of `SIZES`.
        spec: Input of the network, to place the attention map on the frame; None for no map.
    """
    frame = observation.frame
    assert frame is not None, "an observation without its frame"  # noqa: S101 - the caller checked it
    header = {"picture": source_index, **record(observation)}
    if spec is not None and observation.attention is not None:
        header["attention"] = attention_fields(observation.attention, frame, spec)
    encoded = json.dumps(header).encode()
    opening = HEADER_LENGTH.pack(len(encoded)) + encoded
    pixels, longest = bgr_pixels(frame), max(frame.size)
    by_side: dict[int, Picture] = {}
    for side in {min(size, longest) for size in sizes}:
        jpeg = encode_jpeg(pixels, side)
        by_side[side] = Picture(jpeg, opening + jpeg)
    return {size: by_side[min(size, longest)] for size in sizes}


def encode_jpeg(pixels: NDArray[Any], longest_side: int) -> bytes:
    """Return a BGR picture as JPEG, shrunk to a longest side."""
    height, width = pixels.shape[:2]
    scale = longest_side / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))[1].tobytes()


def attention_fields(attention: NDArray[np.float32], frame: Frame, spec: InputSpec) -> dict[str, Any]:
    """Return an attention map for a header: its values from 0 to 255, and the part of the frame that it covers.

    The values are scaled to the map's own range, since its units mean nothing to a viewer.
    """
    low, high = float(attention.min()), float(attention.max())
    scaled = (attention - low) / (high - low) * 255 if high > low else np.zeros_like(attention)
    top, left, height, width = center_crop(frame.size, spec)
    rows, columns = frame.size
    return {
        "height": attention.shape[0],
        "width": attention.shape[1],
        "values": b64encode(scaled.astype(np.uint8).tobytes()).decode(),
        "region": [left / columns, top / rows, width / columns, height / rows],
    }
