"""`jetson/provision.sh` in clean Debians: dry run, run, second run, and a bundle accepted in the result."""

import shutil
from pathlib import Path
from typing import Any

from tests.machines.suite import digits_bundle, run
from tests.machines.userland import CHECKOUT, SHARED, enter, make_system

SCRIPT = f"{CHECKOUT}/jetson/provision.sh"
RELEASES = ("bookworm", "trixie")
"""Python 3.11 with NumPy 1, and Python 3.13 with NumPy 2."""
VENV = "/opt/early-exit"
AS_EDGE = (
    "setpriv",
    "--reuid=edge",
    "--regid=edge",
    "--init-groups",
    "env",
    f"--chdir={VENV}/source",
    "HOME=/var/lib/early-exit",
    "EDGE_CACHE=/var/cache/early-exit/engines",
)
ACCEPT = (
    f"{VENV}/bin/python",
    "jetson/acceptance.py",
    "--backend",
    "onnxruntime",
    "--output",
    "/var/lib/early-exit/page",
)
LIVE = ("--source", "test://?size=64x64&rate=30", "--seconds", "3")


def provision(folder: Path) -> dict[str, Any]:
    """Provision a new system of each release; each step has the text that its output must contain."""
    bundle = f"{SHARED}/{digits_bundle(folder).name}"
    steps = {
        "dry run": ((SCRIPT, "--dry-run"), "nothing was changed"),
        "run": ((SCRIPT,), "commands ran"),
        "second run": ((SCRIPT,), "nothing to change"),
        "doctor": ((*AS_EDGE, f"{VENV}/bin/edge", "doctor", "--for", "cpu"), "ready"),
        "acceptance": ((*AS_EDGE, *ACCEPT, *LIVE, bundle), ""),
    }
    failed = []
    for release in RELEASES:
        shutil.rmtree(folder / release, ignore_errors=True)
        system = make_system(folder / release, "amd64", (), release)
        failed += [f"{release}: {name}" for name, (words, text) in steps.items() if not passes(system, words, text)]
        if run(["systemd-analyze", "verify", f"--root={system}", "/etc/systemd/system/early-exit.service"]):
            failed.append(f"{release}: unit")
    return {"passed": len(RELEASES) * (len(steps) + 1) - len(failed), "failed": failed}


def passes(system: Path, words: tuple[str, ...], text: str) -> bool:
    """Run a step in the system."""
    done = enter(system, *words)
    return done.returncode == 0 and text in done.stdout
