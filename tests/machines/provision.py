"""`jetson/provision.sh` in a clean Debian: dry run, run, second run, and the CPU runtime that it leaves."""

import shutil
from pathlib import Path
from typing import Any

from tests.machines.suite import digits_bundle, run
from tests.machines.userland import CHECKOUT, SHARED, enter, make_system

SCRIPT = f"{CHECKOUT}/jetson/provision.sh"
EDGE = "/opt/early-exit/bin/edge"
AS_EDGE = (
    "setpriv",
    "--reuid=edge",
    "--regid=edge",
    "--init-groups",
    "env",
    "EDGE_CACHE=/var/cache/early-exit/engines",
)


def provision(folder: Path) -> dict[str, Any]:
    """Provision a new system; each step has the text that its output must contain."""
    shutil.rmtree(folder / "provisioned", ignore_errors=True)
    system, bundle = make_system(folder / "provisioned", "amd64", ()), f"{SHARED}/{digits_bundle(folder).name}"
    steps = {
        "dry run": ((SCRIPT, "--dry-run"), "nothing was changed"),
        "run": ((SCRIPT,), "commands ran"),
        "second run": ((SCRIPT,), "nothing to change"),
        "doctor": ((*AS_EDGE, EDGE, "doctor", "--for", "cpu"), "ready"),
        "build": ((*AS_EDGE, EDGE, "build", bundle), ""),
        "verify": ((*AS_EDGE, EDGE, "verify", bundle), ""),
    }
    failed = [name for name, (words, text) in steps.items() if not passes(system, words, text)]
    if run(["systemd-analyze", "verify", f"--root={system}", "/etc/systemd/system/early-exit.service"]):
        failed.append("unit")
    return {"passed": len(steps) + 1 - len(failed), "failed": failed}


def passes(system: Path, words: tuple[str, ...], text: str) -> bool:
    """Run a step in the system."""
    done = enter(system, *words)
    return done.returncode == 0 and text in done.stdout
