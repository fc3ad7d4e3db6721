"""The cache returns an engine only for exactly the segment, backend, batch and device that it was built for."""

import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.bundle.bundle import Bundle
from edge.engines.base import BuildOrder, OnPhase
from edge.engines.cache import ENGINE, ENTRY, EngineCache, load_engines
from edge.engines.onnxruntime import OnnxRuntime
from edge.engines.prune import DAY_S, prune
from edge.errors import EngineError
from edge.progress import Progress
from edge.storage import locked_dir, locked_file


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


# Trust


class KilledBackend(OnnxRuntime):
    """Leaves half-written files beside each of its files, as a build that is killed while it saves them."""

    def build(self, order: BuildOrder, on_phase: OnPhase) -> None:
        for path in (order.engine, order.layers, order.timing_cache):
            path.with_name(f".{path.name}.partial").write_bytes(b"half")
        raise EngineError("killed")


def test_no_file_of_a_killed_build_is_left(cache: EngineCache, segment: Path) -> None:
    with pytest.raises(EngineError, match="killed"):
        cache.get(segment, KilledBackend(), 1)
    assert list(cache.root.iterdir()) == []


def test_a_new_cache_is_this_users_only(tmp_path: Path, segment: Path) -> None:
    cache = EngineCache(tmp_path / "new" / "cache")
    before = os.umask(0)
    try:
        engine = cache.get(segment, OnnxRuntime(), 1).path
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (cache.root, engine.parent, engine)] == [0o700, 0o700, 0o600]


@pytest.mark.parametrize("part", ["", ENGINE, ENTRY])
@pytest.mark.parametrize("fault", ["writable", "of another user", "a link"])
def test_an_entry_that_another_user_may_have_written_is_not_loaded(
    part: str, fault: str, cache: EngineCache, segment: Path, tmp_path: Path
) -> None:
    path = cache.get(segment, OnnxRuntime(), 1).path.parent / part
    if fault == "writable":
        path.chmod(0o777)
    elif fault == "a link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif os.getuid():
        pytest.skip("only root can give files away")
    else:
        os.chown(path, 12345, 12345)
    expected = {"writable": "may be written by other users", "of another user": "belongs to", "a link": "is a link"}
    with pytest.raises(EngineError, match=f"in the engine cache {expected[fault]}.*; remove it or {cache.root}"):
        cache.get(segment, OnnxRuntime(), 1)


# Several processes


@contextmanager
def being_built(cache: EngineCache, segment: Path) -> Iterator[None]:
    """Hold the lock of an entry as a process does that builds it."""
    name = cache.get(segment, OnnxRuntime(), 1).path.parent.name
    shutil.rmtree(cache.root / name)
    with locked_file(cache.root / f".{name}.lock", lambda seconds: None):
        yield


def test_a_wait_for_another_process_names_it_and_can_be_limited(
    cache: EngineCache, segment: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reports: list[Progress] = []
    monkeypatch.setenv("EDGE_CACHE_WAIT", "0.3")
    monkeypatch.setattr("edge.engines.cache.LOG_AFTER_S", 0.1)
    with (
        being_built(cache, segment),
        pytest.raises(EngineError, match=rf"waited 0\.3 s for another process \({os.getpid()}"),
    ):
        cache.get(segment, OnnxRuntime(), 1, reports.append)
    assert {report.note for report in reports} == {f"waiting for another process ({os.getpid()}), which builds it"}
    assert len(caplog.records) == 1
    assert not cache.get(segment, OnnxRuntime(), 1).was_cached


def test_a_build_does_not_hold_up_the_builds_of_other_engines(
    cache: EngineCache, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE_WAIT", "0")
    with being_built(cache, segment):
        assert not cache.get(segment, OnnxRuntime(), None).was_cached


@pytest.mark.parametrize("limit", ["soon", "-1", "nan"])
def test_a_limit_that_is_no_number_of_seconds_is_refused(
    limit: str, cache: EngineCache, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE_WAIT", limit)
    with pytest.raises(EngineError, match=f"EDGE_CACHE_WAIT is '{limit}', expected seconds"):
        cache.get(segment, OnnxRuntime(), 1)


def test_an_engine_wanted_by_several_at_once_is_built_once(cache: EngineCache, segment: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        built = list(threads.map(lambda _: cache.get(segment, OnnxRuntime(), 1), range(4)))
    assert sorted(engine.was_cached for engine in built) == [False, True, True, True]
    assert [path.name for path in cache.root.iterdir()] == [built[0].path.parent.name]


def test_a_segment_that_changed_since_it_was_hashed_is_not_built(cache: EngineCache, segment: Path) -> None:
    with pytest.raises(EngineError, match=r"segment_0\.onnx was replaced while it was in use"):
        cache.get(segment, OnnxRuntime(), 1, sha256="0" * 64)
    assert list(cache.root.iterdir()) == []


# Pruning


def used(entry: Path, days_ago: float) -> Path:
    os.utime(entry, (time.time() - days_ago * DAY_S,) * 2)
    return entry


def test_a_build_removes_engines_that_were_unused_for_long(
    cache: EngineCache, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, recent = (cache.get(segment, OnnxRuntime(), batch).path.parent for batch in (None, 1))
    used(old, 91)
    used(recent, 89)
    (cache.root / ".0123abcd.0123abcd.partial").mkdir()
    monkeypatch.setattr("edge.engines.onnxruntime.cpu_identity", lambda: "another processor")
    new = cache.get(segment, OnnxRuntime(), 1).path.parent
    assert sorted(cache.root.iterdir()) == sorted([recent, new])


def test_engines_in_use_are_kept(cache: EngineCache, segment: Path) -> None:
    entry = used(cache.get(segment, OnnxRuntime(), 1).path.parent, 91)
    assert cache.get(segment, OnnxRuntime(), 1).was_cached
    assert prune(cache.root) == []
    with locked_dir(used(entry, 91)):
        assert prune(cache.root) == []
    assert prune(cache.root) == [entry]


def test_a_large_cache_loses_the_engines_unused_for_longest(
    cache: EngineCache, segment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = []
    for days_ago in (5, 3, 0):
        monkeypatch.setattr("edge.engines.onnxruntime.cpu_identity", lambda days_ago=days_ago: f"processor {days_ago}")
        entries.append(used(cache.get(segment, OnnxRuntime(), 1).path.parent, days_ago))
    size = sum(file.stat().st_size for file in entries[0].iterdir())
    monkeypatch.setattr("edge.engines.prune.MAX_BYTES", 2.5 * size)
    assert prune(cache.root) == entries[:1]
    monkeypatch.setattr("edge.engines.prune.MAX_BYTES", 0)
    assert prune(cache.root) == entries[1:2], "the last one was used today"
