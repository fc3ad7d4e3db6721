"""Detection of ONNX external data: weights in files beside the model, which a bundle's hashes do not cover.

The device has no onnx package, so this walks the protobuf messages that can contain a tensor. A model that cannot be
parsed is refused as if it had external data.
"""

from collections.abc import Iterator

NEEDLE = b"location"
"""Key of each external data entry; a file without these bytes has no external data."""
CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Fields of each message that lead to tensors."""
EXTERNAL_DATA, DATA_LOCATION = 13, 14
"""Fields of a tensor."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_DEPTH = 64


def has_external_data(model: bytes) -> bool:
    """Check an ONNX model for tensors in other files. Damaged models count as having external data."""
    if NEEDLE not in model:
        return False
    try:
        return _has_external_data(memoryview(model), "model", 0)
    except (ValueError, IndexError):
        return True


def _has_external_data(message: memoryview, kind: str, depth: int) -> bool:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    if kind == "tensor":
        fields = list(_fields(message))
        return any(number == EXTERNAL_DATA or (number == DATA_LOCATION and value) for number, value in fields)
    children = CHILDREN[kind]
    return any(
        _has_external_data(value, children[number], depth + 1)
        for number, value in _fields(message)
        if number in children and isinstance(value, memoryview)
    )


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield the number and value of each field.

    Raises:
        ValueError, IndexError: the bytes are not a protobuf message.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(wire)
        if wire == BYTES:
            size, position = _varint(message, position)
        if size is None or position + size > len(message):
            raise ValueError("not a protobuf message")
        yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("not a protobuf number")
