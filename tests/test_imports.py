"""What a device must not need, and what travels to it."""

import ast
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.support.commands import ROOT

HEAVY = (
    "torch", "cv2", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "cuda", "sklearn", "matplotlib",
    "rich", "lightning_fabric", "modelopt", "scipy",
)  # fmt: skip
LIGHT = (
    "edge", "edge.errors", "edge.manifest", "edge.decision", "edge.bundle", "edge.protocols", "edge.files",
    "edge.machine", "edge.scores", "edge.statistics", "calibration", "calibration.thresholds", "calibration.samples",
    "calibration.risk", "calibration.operating_points", "calibration.budget", "calibration.temperature",
    "calibration.origin", "calibration.arguments",
)  # fmt: skip
NEEDS_FRAMES_AND_ENGINES = (
    "edge.__main__", "edge.console", "edge.classifier", "edge.pipeline", "edge.running", "edge.building", "edge.bench",
    "edge.parity", "edge.labelled", "edge.doctor", "edge.engines.onnxruntime", "calibration.__main__",
)  # fmt: skip
FOLDERS = ("edge", "calibration", "compile", "benchmarks", "tests")

WITHOUT = """
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
for name in {modules!r}:
    importlib.import_module(name)
"""


def imported_without(missing: tuple[str, ...], modules: tuple[str, ...]) -> str:
    """Import modules where others are not installed; return what was complained of."""
    script = WITHOUT.format(missing=missing, modules=modules)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.stderr


def test_bundles_decisions_and_calibration_need_numpy_only() -> None:
    assert imported_without(HEAVY, LIGHT) == ""


def test_what_runs_on_the_device_needs_nothing_that_trains_or_compiles() -> None:
    training = ("torch", "onnx", "sklearn", "matplotlib", "lightning_fabric", "modelopt", "scipy", "tensorrt_rtx")
    assert imported_without(training, NEEDS_FRAMES_AND_ENGINES) == ""


def test_a_blocked_module_is_missed() -> None:
    assert "No module named 'cv2'" in imported_without(HEAVY, ("edge.sources",))


def takes_the_name_of_the_builtin(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return "compile" in {name.asname or name.name.split(".")[0] for name in node.names}
    return isinstance(node, ast.ImportFrom) and "compile" in {name.asname or name.name for name in node.names}


def test_no_import_takes_the_name_of_the_builtin_compile() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    assert [
        path for path in files if any(map(takes_the_name_of_the_builtin, ast.walk(ast.parse(path.read_text()))))
    ] == []


@pytest.mark.parametrize(
    "line", ["import compile.cut", "import compile", "from x import compile", "import x as compile"]
)
def test_such_an_import_is_noticed(line: str) -> None:
    assert any(map(takes_the_name_of_the_builtin, ast.walk(ast.parse(line))))


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What lies in a wheel built from a copy of the checkout, without looking anything up in an index."""
    if importlib.util.find_spec("pip") is None or importlib.util.find_spec("setuptools") is None:
        pytest.skip("pip or setuptools is not installed")
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("setuptools is older than pyproject.toml asks for")
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "checkout", ignore=left_out)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--wheel-dir", folder, folder / "checkout"],
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_all_of_edge_calibration_and_compile(wheel_files: set[str]) -> None:
    parts = [path for folder in ("edge", "calibration", "compile") for path in (ROOT / folder).rglob("*.py")]
    assert {path.relative_to(ROOT).as_posix() for path in parts} <= wheel_files


def test_the_wheel_holds_nothing_else(wheel_files: set[str]) -> None:
    packages = {name.split("/")[0] for name in wheel_files if ".dist-info/" not in name}
    assert packages == {"edge", "calibration", "compile"}


def test_the_wheel_installs_the_command_and_the_parity_checks(wheel_files: set[str]) -> None:
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel_files)
    assert "edge/parity_checks.py" in wheel_files


def test_types_travel_with_the_wheel(wheel_files: set[str]) -> None:
    assert "edge/py.typed" in wheel_files
