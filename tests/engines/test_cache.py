"""The cache returns an engine only for exactly the segment, backend, batch and device that it was built for."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge.bundle.bundle import Bundle
from edge.engines.base import BuildOrder, OnPhase
from edge.engines.cache import ENGINE, ENTRY, EngineCache, load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.errors import EngineError
from edge.progress import Progress


class PhasedBackend(OnnxRuntime):
    """ONNX Runtime with phases before the build; it may refuse every segment."""

    def __init__(self, phases: Sequence[str] = (), refusal: str = "") -> None:
        super().__init__()
        self.phases, self.refusal = phases, refusal

    def build(self, order: BuildOrder, on_phase: OnPhase) -> None:
        for phase in self.phases:
            on_phase(phase)
        if self.refusal:
            raise EngineError(self.refusal)
        super().build(order, on_phase)


@pytest.fixture
def segment(digits_bundle: Bundle) -> Path:
    return digits_bundle.path / digits_bundle.precision("fp32").segments[0].file


def test_the_second_build_returns_the_first_engine(cache: EngineCache, segment: Path) -> None:
    first, second = (cache.get(segment, OnnxRuntime(), batch=1) for _ in range(2))
    assert (first.was_cached, second.was_cached) == (False, True)
    assert first.path == second.path


def test_another_batch_is_another_engine(cache: EngineCache, segment: Path) -> None:
    assert cache.get(segment, OnnxRuntime(), batch=1).path != cache.get(segment, OnnxRuntime(), batch=None).path


def test_another_processor_is_another_engine(
    cache: EngineCache, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cache.get(segment, OnnxRuntime(), batch=1)
    monkeypatch.setattr("edge.engines.onnxruntime.cpu_identity", lambda: "another processor")
    assert cache.get(segment, OnnxRuntime(), batch=1).path != first.path


@pytest.mark.parametrize("damage", ["truncated engine", "garbage entry", "foreign key", "no engine"])
def test_a_damaged_or_foreign_entry_is_built_again(cache: EngineCache, segment: Path, damage: str) -> None:
    engine = cache.get(segment, OnnxRuntime(), batch=1).path
    content, entry = engine.read_bytes(), engine.with_name(ENTRY)
    if damage == "truncated engine":
        engine.write_bytes(content[: len(content) // 2])
    elif damage == "no engine":
        engine.unlink()
    elif damage == "garbage entry":
        entry.write_text("{")
    else:
        fields = json.loads(entry.read_text())
        fields["key"]["version"] = "0.1"
        entry.write_text(json.dumps(fields))
    rebuilt = cache.get(segment, OnnxRuntime(), batch=1)
    assert not rebuilt.was_cached
    assert rebuilt.path.read_bytes()
    assert cache.get(segment, OnnxRuntime(), batch=1).was_cached
    assert sorted(path.name for path in rebuilt.path.parent.iterdir()) == [ENGINE, ENTRY]


def test_a_folder_of_another_user_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(EngineError, match="belongs to another user; set EDGE_CACHE"):
        EngineCache(tmp_path)


def test_a_build_reports_its_start_its_phases_and_its_end(cache: EngineCache, segment: Path) -> None:
    reports: list[Progress] = []
    cache.get(segment, PhasedBackend(["parsing", "timing 1/2", "timing 2/2"]), 1, reports.append)
    assert len({report.task for report in reports}) == 1
    assert reports[0].task == "building fp32/segment_0.onnx for onnxruntime"
    assert [report.note for report in reports] == ["", "parsing", "timing 1/2", "timing 2/2", ""]
    assert [(report.done, report.total) for report in reports] == [(0, None)] * 4 + [(1, 1)]


def test_a_cached_engine_reports_no_progress(cache: EngineCache, segment: Path) -> None:
    reports: list[Progress] = []
    cache.get(segment, OnnxRuntime(), 1)
    cache.get(segment, OnnxRuntime(), 1, reports.append)
    assert reports == []


def test_loading_a_bundle_reports_the_build_of_each_segment(cache: EngineCache, digits_bundle: Bundle) -> None:
    reports: list[Progress] = []
    segments = digits_bundle.precision("fp32").segments
    engines = load_engines(digits_bundle.path, segments, OnnxRuntime(), on_progress=reports.append)
    assert len(engines) == len(segments)
    tasks = list(dict.fromkeys(report.task for report in reports))
    assert tasks == [f"building {segment.file} for onnxruntime" for segment in segments]


def test_a_refused_build_raises_the_backends_error_and_leaves_no_entry(cache: EngineCache, segment: Path) -> None:
    reports: list[Progress] = []
    with pytest.raises(EngineError, match=r"^no kernel for Conv; compile the bundle again$"):
        cache.get(
            segment, PhasedBackend(["parsing"], "no kernel for Conv; compile the bundle again"), 1, reports.append
        )
    assert [report.note for report in reports] == ["", "parsing"]
    assert list(cache.root.iterdir()) == []
    assert not cache.get(segment, PhasedBackend(), 1).was_cached
