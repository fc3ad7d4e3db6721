"""Clean Debian systems in a folder, also of another architecture; as root, with debootstrap and qemu-user-static."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.machines.suite import run
from tests.support.commands import ROOT

RELEASE, MIRROR = "bookworm", "http://deb.debian.org/debian"
BINFMT = Path("/proc/sys/fs/binfmt_misc")
CHECKOUT, SHARED = "/src", "/machines"
"""Where a system sees the checkout, and the folder beside its own."""
ENTER = f"""
set -e
mount --types proc proc "$SYSTEM/proc"
for folder in dev sys etc/ssl/certs; do mount --rbind "/$folder" "$SYSTEM/$folder"; done
mount --types tmpfs tmpfs "$SYSTEM/tmp"
if [ -e "$SYSTEM/cpuinfo" ]; then mount --bind "$SYSTEM/cpuinfo" "$SYSTEM/proc/cpuinfo"; fi
mount --bind "$CHECKOUT" "$SYSTEM{CHECKOUT}"
mount --bind "$SYSTEM/.." "$SYSTEM{SHARED}"
cp /etc/resolv.conf "$SYSTEM/etc/resolv.conf"
exec chroot "$SYSTEM" env --chdir={CHECKOUT} HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
"""
"""Mounts of a process of its own, which vanish with it."""


def make_system(folder: Path, architecture: str, packages: tuple[str, ...], release: str = RELEASE) -> Path:
    """Install a minimal Debian into a folder, unless it is there."""
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        include = f"--include={','.join(('ca-certificates', *packages))}"
        run(["debootstrap", f"--arch={architecture}", "--variant=minbase", include, release, folder, MIRROR])
        for place in (CHECKOUT, SHARED):
            (folder / place.strip("/")).mkdir()
        (folder / "complete").touch()
    return folder.resolve()


def emulate_arm64() -> None:
    """Let the kernel run programs for arm64, as Debian's systemd does when it starts."""
    if not (BINFMT / "register").exists():
        run(["mount", "--types", "binfmt_misc", "binfmt_misc", BINFMT])
    if not (BINFMT / "qemu-aarch64").exists():
        (BINFMT / "register").write_text(Path("/usr/lib/binfmt.d/qemu-aarch64.conf").read_text().strip())


def enter(system: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a system, in the checkout; its output is shown and returned."""
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", ENTER, "enter", *words]
    env = {**os.environ, "SYSTEM": str(system), "CHECKOUT": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return subprocess.CompletedProcess(command, process.returncode, "".join(lines))
