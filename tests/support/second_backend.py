"""A second inference library where there is only one: ONNX Runtime under another name, at fault where told so.

As a pytest plugin (`-p second_backend`) it puts itself in the place of tensorrt, its exit 1 at fault.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import edge.engines
from edge.bundle.manifest import SegmentSpec
from edge.engines import backend_named
from edge.engines.base import Backend
from edge.engines.onnxruntime import OnnxRuntime, OnnxRuntimeEngine


class SecondBackend(OnnxRuntime):
    """Computes what ONNX Runtime does; counts frames; one exit may say another class and be off in its logits."""

    def __init__(self, name: str = "tensorrt", wrong_exit: int | None = None) -> None:
        super().__init__()
        self.name = name
        self.wrong_exit = wrong_exit
        self.frames = 0

    def load(self, engine: Path, spec: SegmentSpec) -> Any:
        return _Engine(self, super().load(engine, spec), [tensor.name for tensor in spec.outputs])


class _Engine:
    def __init__(self, backend: SecondBackend, honest: OnnxRuntimeEngine, outputs: list[str]) -> None:
        self._backend, self._honest, self._outputs = backend, honest, outputs

    def bind(self, tensors: Mapping[str, Any]) -> Callable[[], None]:
        run = self._honest.bind(tensors)

        def run_with_fault() -> None:
            run()
            self._backend.frames += "logits_0" in self._outputs
            if f"logits_{self._backend.wrong_exit}" in self._outputs:
                logits, label = (tensors[f"{what}_{self._backend.wrong_exit}"] for what in ("logits", "label"))
                logits += 0.5
                label[...] = (label + 1) % logits.shape[-1]

        return run_with_fault


def pytest_configure() -> None:
    def named(name: str, **options: Any) -> Backend:
        return SecondBackend(wrong_exit=1) if name == "tensorrt" else backend_named(name, **options)

    edge.engines.backend_named = named
