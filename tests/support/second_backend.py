"""A second backend for machines that have only one: ONNX Runtime under another name, with a fault on request.

As a pytest plugin (`-p tests.support.second_backend`) it replaces tensorrt, with exit 1 wrong.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import edge.engines
from edge.bundle import tensors
from edge.bundle.manifest import SegmentSpec
from edge.engines import backend_named
from edge.engines.base import Backend
from edge.engines.onnxruntime import OnnxRuntime, OnnxRuntimeEngine


class SecondBackend(OnnxRuntime):
    """ONNX Runtime that counts frames; the logits and labels of one exit may be wrong."""

    def __init__(self, name: str = "tensorrt", wrong_exit: int | None = None) -> None:
        super().__init__()
        self.name = name
        self.wrong_exit = wrong_exit
        self.frames = 0

    def load(self, engine: Path, spec: SegmentSpec) -> Any:
        return _Engine(self, super().load(engine, spec), spec.exit_index)


class _Engine:
    def __init__(self, backend: SecondBackend, engine: OnnxRuntimeEngine, exit_index: int) -> None:
        self._backend, self._engine, self._exit_index = backend, engine, exit_index

    def bind(self, arrays: Mapping[str, Any]) -> Callable[[], None]:
        run = self._engine.bind(arrays)

        def run_with_fault() -> None:
            run()
            self._backend.frames += self._exit_index == 0
            if self._exit_index == self._backend.wrong_exit:
                logits, label = arrays[tensors.logits(self._exit_index)], arrays[tensors.label(self._exit_index)]
                logits += 0.5
                label[...] = (label + 1) % logits.shape[-1]

        return run_with_fault


def pytest_configure() -> None:
    def replacement(name: str, **options: Any) -> Backend:
        return SecondBackend(wrong_exit=1) if name == "tensorrt" else backend_named(name, **options)

    edge.engines.backend_named = replacement
