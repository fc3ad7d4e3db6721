"""Engines are built by the real libraries, and a cache never gives out one that was made for something else."""

import json
import os
from pathlib import Path

import pytest

from edge.building import build_bundle
from edge.bundle import Bundle
from edge.engines import backend_named
from edge.engines.cache import ENGINE, ENTRY, EngineCache
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import EngineError


@pytest.mark.parametrize("target", ["sm89", "sm120"])
def test_tensorrt_rtx_builds_every_segment_of_every_precision_without_a_gpu(digits_bundle: Bundle, target: str) -> None:
    builds = build_bundle(digits_bundle, backend_named("tensorrt-rtx", target=target))
    manifest = digits_bundle.manifest
    assert len(builds) == len(manifest.precisions) * (len(manifest.exits) + 1)
    assert all(Path(build.path).stat().st_size > 10_000 for build in builds)


def test_tensorrt_rtx_refuses_a_gpu_it_does_not_build_for() -> None:
    with pytest.raises(EngineError, match="does not build for 'sm87'; it builds for sm75, sm80"):
        backend_named("tensorrt-rtx", target="sm87")


def test_tensorrt_rtx_says_which_file_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "segment_0.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineError, match=r"cannot read .*segment_0\.onnx"):
        backend_named("tensorrt-rtx", target="sm89").build(tmp_path / "segment_0.onnx", batch=1)


def test_tensorrt_rtx_engines_are_not_run_without_a_gpu(digits_bundle: Bundle) -> None:
    backend = backend_named("tensorrt-rtx", target="sm89")
    with pytest.raises(EngineError, match=r"needs an NVIDIA GPU.*--backend onnxruntime"):
        backend.load(Path("engine"), digits_bundle.precision("fp32").segments[0])


def test_onnxruntime_builds_for_this_processor_only() -> None:
    with pytest.raises(EngineError, match="this processor only"):
        backend_named("onnxruntime", target="sm89")


def test_unknown_backends_are_refused_with_what_there_is() -> None:
    with pytest.raises(EngineError, match="unknown backend 'openvino'; there are onnxruntime, tensorrt-rtx"):
        backend_named("openvino")


def test_onnxruntime_says_which_file_it_refuses(tmp_path: Path) -> None:
    (tmp_path / "segment.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineError, match=r"refuses .*segment\.onnx"):
        OnnxRuntime().build(tmp_path / "segment.onnx", batch=1)


class TestCache:
    @pytest.fixture
    def cache(self, tmp_path: Path) -> EngineCache:
        return EngineCache(tmp_path / "engines")

    @pytest.fixture
    def segment(self, digits_bundle: Bundle) -> Path:
        return digits_bundle.path / digits_bundle.precision("fp32").segments[0].file

    def test_the_second_build_is_the_first_ones_engine(self, cache: EngineCache, segment: Path) -> None:
        first, second = (cache.built(segment, OnnxRuntime(), batch=1) for _ in range(2))
        assert (first.was_cached, second.was_cached) == (False, True)
        assert first.path == second.path

    def test_another_batch_is_another_engine(self, cache: EngineCache, segment: Path) -> None:
        assert cache.built(segment, OnnxRuntime(), batch=1).path != cache.built(segment, OnnxRuntime(), batch=None).path

    def test_another_processor_is_another_engine(
        self, cache: EngineCache, segment: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = cache.built(segment, OnnxRuntime(), batch=1)
        monkeypatch.setattr("edge.engines.onnxruntime.cpu_identity", lambda: "another processor")
        assert cache.built(segment, OnnxRuntime(), batch=1).path != first.path

    @pytest.mark.parametrize("damage", ["truncated engine", "garbage entry", "foreign key", "no engine"])
    def test_a_damaged_or_foreign_entry_is_built_again(self, cache: EngineCache, segment: Path, damage: str) -> None:
        good = cache.built(segment, OnnxRuntime(), batch=1).path
        content = good.read_bytes()
        entry = good.with_name(ENTRY)
        if damage == "truncated engine":
            good.write_bytes(content[: len(content) // 2])
        elif damage == "no engine":
            good.unlink()
        elif damage == "garbage entry":
            entry.write_text("{")
        else:
            found = json.loads(entry.read_text())
            found["key"]["version"] = "0.1"
            entry.write_text(json.dumps(found))
        rebuilt = cache.built(segment, OnnxRuntime(), batch=1)
        assert not rebuilt.was_cached
        assert rebuilt.path.read_bytes()
        assert cache.built(segment, OnnxRuntime(), batch=1).was_cached
        assert sorted(path.name for path in rebuilt.path.parent.iterdir()) == [ENGINE, ENTRY]

    def test_a_folder_of_another_user_is_not_trusted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        owner = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
        with pytest.raises(EngineError, match="belongs to another user; set EDGE_CACHE"):
            EngineCache(tmp_path)
