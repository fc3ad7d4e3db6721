"""A stand-in for a second inference library: ONNX Runtime under another name, with an exit that can be wrong.

As a pytest plugin (`-p tests.support.second_backend`) it replaces tensorrt by such a backend whose exit 1 is wrong.
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
    """ONNX Runtime that counts frames. Its wrong exit gives another label and logits with an offset."""

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
        run, k = self._engine.bind(arrays), self._exit_index

        def run_with_fault() -> None:
            run()
            self._backend.frames += k == 0
            if k == self._backend.wrong_exit:
                logits, label = arrays[tensors.logits(k)], arrays[tensors.label(k)]
                logits += 0.5
                label[...] = (label + 1) % logits.shape[-1]

        return run_with_fault


def pytest_configure() -> None:
    def with_stand_in(name: str, **options: Any) -> Backend:
        return SecondBackend(wrong_exit=1) if name == "tensorrt" else backend_named(name, **options)

    edge.engines.backend_named = with_stand_in
