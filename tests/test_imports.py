"""Libraries that each room needs to be imported, and the contents of the wheel."""

import ast
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.commands import ROOT

FOLDERS = ("edge", "calibration", "compile", "benchmarks", "tests")
RICH = {"rich", "pygments", "markdown_it", "mdurl"}

IMPORT_WITH_ONLY = """
import importlib, sys

allowed = {allowed!r} | {{"edge", "calibration"}} | sys.stdlib_module_names

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in allowed and not top.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
for name in {modules!r}:
    importlib.import_module(name)
"""


def modules_in(*rooms: str) -> list[str]:
    """Return every module of the rooms: names of packages, which are searched, or of modules."""
    return [name for room in rooms for name in _modules_below(ROOT / room.replace(".", "/"))]


def _modules_below(path: Path) -> list[str]:
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    assert names, f"no modules in {path}"
    return [name.removesuffix(".__init__") for name in names]


def import_with_only(allowed: Iterable[str], modules: Iterable[str]) -> str:
    """Import modules where only some libraries are installed, in a process of its own; return its stderr."""
    script = IMPORT_WITH_ONLY.format(allowed=set(allowed), modules=list(modules))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.stderr


CORE = ("edge.errors", "edge.decision", "edge.risk", "edge.storage", "edge.system", "edge.progress", "edge.bundle")
ENGINES = ("edge.engines", "edge.engines.base", "edge.engines.cache")
PYTEST = {"edge.parity.checks", "edge.parity.pytest_plugin"}
LIBRARY = modules_in("edge.frames", "edge.inference", "edge.measure", "edge.doctor", "edge.parity")


@pytest.mark.parametrize(
    ("allowed", "modules"),
    [
        pytest.param({"numpy"}, ["edge", *modules_in(*CORE), *ENGINES], id="bundle and decision"),
        pytest.param({"numpy"}, sorted({*modules_in("calibration")} - {"calibration.__main__"}), id="calibration"),
        pytest.param({"numpy", "cv2"}, sorted({*LIBRARY} - PYTEST), id="frames, inference, measure, doctor, parity"),
        pytest.param({"numpy", "cv2"}, ["edge.cuda", "edge.engines.tensorrt"], id="GPU"),
        pytest.param({"numpy", "onnxruntime"}, ["edge.engines.onnxruntime"], id="onnxruntime"),
        pytest.param(
            {"numpy", "cv2", *RICH},
            modules_in("edge.cli", "edge.console", "edge.__main__", "calibration"),
            id="command lines",
        ),
    ],
)
def test_a_room_is_imported_with_its_own_libraries_only(allowed: set[str], modules: list[str]) -> None:
    assert import_with_only(allowed, modules) == ""


def test_the_parity_checks_need_pytest_but_no_training_and_no_terminal() -> None:
    imports = "import sys, edge.parity.checks, edge.parity.pytest_plugin, edge.parity_checks"
    script = f"{imports}; print(*{{'torch', 'onnx', 'sklearn', 'matplotlib', 'rich'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_a_library_that_is_not_allowed_is_missing() -> None:
    assert "No module named 'cv2'" in import_with_only({"numpy"}, ["edge.frames.files"])


def imported_names(file: Path) -> set[str]:
    """Return the modules that a file imports anywhere, absolute names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_only_command_lines_draw_on_the_terminal() -> None:
    files = [file for file in (ROOT / "edge").rglob("*.py") if "training" not in file.parts]
    draws = {
        file.relative_to(ROOT).as_posix()
        for file in files
        if "rich" in {name.split(".")[0] for name in imported_names(file)}
    }
    assert draws == {"edge/console.py"}
    users = {file.relative_to(ROOT).parts[1] for file in files if "edge.console" in imported_names(file)}
    assert users == {"cli"}


def test_the_library_has_no_print_calls() -> None:
    rooms = ("bundle", "registry", "frames", "engines", "cuda", "inference", "measure", "parity", "doctor")
    files = [file for room in rooms for file in (ROOT / "edge" / room).rglob("*.py")]
    printing = [
        file.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []


def binds_compile(node: ast.AST) -> bool:
    """Check for an import that binds the name of the builtin `compile`."""
    if isinstance(node, ast.Import):
        return "compile" in {name.asname or name.name.split(".")[0] for name in node.names}
    return isinstance(node, ast.ImportFrom) and "compile" in {name.asname or name.name for name in node.names}


def test_no_import_rebinds_the_builtin_compile() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    assert [path for path in files if any(map(binds_compile, ast.walk(ast.parse(path.read_text()))))] == []


@pytest.mark.parametrize(
    "line", ["import compile.cut", "import compile", "from x import compile", "import x as compile"]
)
def test_an_import_that_rebinds_compile_is_detected(line: str) -> None:
    assert any(map(binds_compile, ast.walk(ast.parse(line))))


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the files of a wheel built from a copy of the checkout, without access to a package index."""
    if importlib.util.find_spec("pip") is None or importlib.util.find_spec("setuptools") is None:
        pytest.skip("pip or setuptools is not installed")
    if int(importlib.metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("setuptools is older than pyproject.toml asks for")
    folder = tmp_path_factory.mktemp("wheel")
    excluded = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "checkout", ignore=excluded)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--wheel-dir", folder, folder / "checkout"],
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_all_modules_of_edge_calibration_and_compile(wheel_files: set[str]) -> None:
    parts = [path for folder in ("edge", "calibration", "compile") for path in (ROOT / folder).rglob("*.py")]
    assert {path.relative_to(ROOT).as_posix() for path in parts} <= wheel_files


def test_the_wheel_holds_no_other_packages(wheel_files: set[str]) -> None:
    packages = {name.split("/")[0] for name in wheel_files if ".dist-info/" not in name}
    assert packages == {"edge", "calibration", "compile"}


def test_the_wheel_installs_the_command_and_the_parity_checks(wheel_files: set[str]) -> None:
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel_files)
    assert {"edge/parity/checks.py", "edge/parity_checks.py"} <= wheel_files


def test_the_wheel_holds_the_source_of_the_kernels(wheel_files: set[str]) -> None:
    assert "edge/cuda/kernels.cu" in wheel_files


def test_the_wheel_is_marked_as_typed(wheel_files: set[str]) -> None:
    assert "edge/py.typed" in wheel_files
