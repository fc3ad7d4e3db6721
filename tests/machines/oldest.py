"""The runtime's tests with the oldest libraries that `pyproject.toml` allows."""

import subprocess
from pathlib import Path
from typing import Any

from tests.machines.suite import REQUIREMENTS, TEST_LIBRARIES, counts, digits_bundle, pytest_words, run, uv
from tests.support.commands import ROOT

SHOWN = ("av", "cryptography", "numpy", "onnxruntime", "opencv-python-headless", "rich", "starlette", "websockets")
VERSIONS = "import sys, importlib.metadata as m; print(*(f'{n}=={m.version(n)}' for n in sys.argv[1:]))"


def oldest(python: str, folder: Path, rooms: list[str]) -> dict[str, Any]:
    """Install the oldest libraries into an environment of their own, and run the tests there."""
    environment, junit = folder.resolve() / "oldest", folder.resolve() / "oldest.xml"
    interpreter = environment / "bin" / "python"
    uv("venv", "--clear", "--python", python, environment)
    uv("pip", "install", "--python", interpreter, "--resolution", "lowest-direct", *REQUIREMENTS)
    uv("pip", "install", "--python", interpreter, *TEST_LIBRARIES)
    uv("pip", "install", "--python", interpreter, "--no-deps", "--editable", ".")  # for its entry points
    variables = {"PYTHONPATH": str(ROOT), "EDGE_TEST_BUNDLE": str(digits_bundle(folder)), "OMP_NUM_THREADS": "1"}
    run([str(interpreter), *pytest_words(str(junit), rooms, timeout_s=300)], **variables)
    printed = subprocess.run([interpreter, "-c", VERSIONS, *SHOWN], capture_output=True, text=True, check=True)
    version = subprocess.run([interpreter, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {"python": version.removeprefix("Python "), "libraries": printed.stdout.split(), **counts(junit)}
