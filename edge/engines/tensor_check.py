"""Tensors of an engine on the CPU, compared with the manifest."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import SegmentSpec, TensorSpec
from edge.errors import EngineError

DTYPES = ("float32", "float16", "int8", "int32", "bool")
"""NumPy's names of the element types of a segment's tensors."""


class EngineTensor(NamedTuple):
    """An input or output of an engine, as its library describes it."""

    name: str
    dtype: str
    """One of `DTYPES`, or the library's name of another element type."""
    shape: tuple[int | None, ...]
    """Sizes; None where the engine takes any."""

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {list(self.shape)}"


def check_tensors(spec: SegmentSpec, expected: Sequence[TensorSpec], actual: Sequence[EngineTensor], kind: str) -> None:
    """Compare an engine's inputs or outputs with the manifest: names, types and known sizes.

    Raises:
        EngineError: they differ.
    """
    named = {tensor.name: tensor for tensor in actual}
    if named.keys() == {tensor.name for tensor in expected} and all(_fits(t, named[t.name]) for t in expected):
        return
    has = ", ".join(map(str, sorted(actual)))
    required = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in sorted(expected, key=lambda t: t.name))
    raise EngineError(
        f"{spec.file} is not the segment that its manifest describes: it has the {kind} {has}, expected {required}; "
        "compile the bundle again"
    )


def zeros(tensor: EngineTensor) -> NDArray[Any]:
    """Return zeros for an input of an engine, batch 1.

    Raises:
        EngineError: a segment has no tensors of this element type.
    """
    if tensor.dtype not in DTYPES:
        raise EngineError(f"input {tensor.name} is of type {tensor.dtype}, expected one of {', '.join(DTYPES)}")
    return np.zeros([1 if size is None else size for size in tensor.shape], dtype=tensor.dtype)


def _fits(spec: TensorSpec, tensor: EngineTensor) -> bool:
    if tensor.dtype != spec.dtype or len(tensor.shape) != len(spec.shape):
        return False
    sizes = zip(tensor.shape, spec.shape, strict=True)
    return all(size is None or required in (None, size) for size, required in sizes)
