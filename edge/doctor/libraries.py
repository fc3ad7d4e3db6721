"""Checks of libraries: imported, since one that is installed may still not load."""

import importlib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from edge.doctor.check import Check
from edge.engines import INSTALL
from edge.errors import one_line
from edge.machine_state import ROOT
from edge.system import EXTRAS, pip_install

OPENCV = "pip install opencv-python-headless (on a Jetson: sudo apt-get install python3-opencv)"
SYSTEM_PACKAGES = ("usr/lib/python3/dist-packages", "usr/lib/python3.*/dist-packages")
"""Folders of the libraries that the system's package manager installed."""
MODULES = {
    "view, metrics and MQTT": ("aiomqtt", "prometheus_client", "starlette", "uvicorn", "websockets"),
    "training": ("torch", "lightning_fabric", "sklearn", "tensorly", "tensorboard"),
    "compiling": ("onnx", "onnxscript", "modelopt", "onnx_graphsurgeon", "onnxslim", "polygraphy", "matplotlib"),
}
"""Modules of a capability, the one with the shown version first. They are looked for: importing them takes seconds."""


def check_numpy() -> Check:
    """Check NumPy."""
    return check_library("numpy", "pip install numpy")


def check_opencv(root: Path = ROOT) -> Check:
    """Check OpenCV."""
    return check_library("cv2", OPENCV, root)


def check_onnxruntime() -> Check:
    """Check ONNX Runtime."""
    return check_library("onnxruntime", INSTALL["onnxruntime"])


def check_video_decoder() -> Check:
    """Check the library that decodes videos and network streams."""
    return check_library("av", "pip install 'av>=14', to read videos and network streams")


def check_jpeg_decoder() -> Check:
    """Check the library that decodes JPEG files."""
    return check_library("simplejpeg", "pip install simplejpeg, to read JPEG files faster")


def check_library(name: str, remedy: str, root: Path = ROOT) -> Check:
    """Import a library, and report its version or the reason why it cannot be imported."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return _not_installed(name, remedy, root)
        return Check(name, "problem", f"installed, but it needs {error.name}", f"pip install {error.name}")
    except Exception as error:  # libraries raise many exceptions, for missing system libraries and wrong versions
        reason = one_line(str(error))
        if "numpy" in reason.lower():  # built for NumPy 1, as JetPack 6's libraries are
            return Check(name, "problem", f"installed, but cannot be loaded: {reason}", "pip install 'numpy<2'")
        return Check(name, "problem", f"installed, but cannot be loaded: {reason}", f"reinstall: {remedy}")
    return Check(name, "ok", str(getattr(module, "__version__", "unknown version")))


def check_modules(name: str) -> Check:
    """Look for the modules of a capability in `MODULES`."""
    modules = MODULES[name]
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        remedy = pip_install(EXTRAS.get(missing[0], "compile"))
        return Check(name, "absent", f"not installed: {', '.join(missing)}", remedy)
    return Check(name, "ok", f"{modules[0]} {metadata.version(modules[0])}")


def system_package(name: str, root: Path = ROOT) -> Path | None:
    """Return the folder of a library that the system's package manager installed; None if there is none."""
    folders = (folder for pattern in SYSTEM_PACKAGES for folder in root.glob(pattern))
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def _not_installed(name: str, remedy: str, root: Path) -> Check:
    if (hidden := system_package(name, root)) is not None:
        value = f"in {hidden}, which this environment does not see"
        return Check(name, "problem", value, "/usr/bin/python3 -m venv --system-site-packages, and install there")
    return Check(name, "absent", "not installed", remedy)
