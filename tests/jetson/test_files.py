"""Files for a Jetson, without one: container files, the unit, and scripts with stand-ins for the board's commands."""

import os
import pwd
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.frames.guarded import START_LIMIT_S
from edge.live.reconnect import MAX_LATE_DELAY_S
from tests.support.commands import ROOT, TIMEOUT_S, wait_until
from tests.support.documents import blocks, commands

JETSON = ROOT / "jetson"
DOCKERFILE = JETSON / "Dockerfile"
INSTRUCTIONS = {"FROM", "ARG", "RUN", "COPY", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the container file with their arguments."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(words[0], words[1]) for line in joined.splitlines() if (words := line.split(maxsplit=1))]


def arguments(name: str) -> list[str]:
    """Return the arguments of each instruction of this name."""
    return [words for found, words in instructions() if found == name]


# Containers


def test_the_container_file_ends_without_root_and_its_scripts_parse() -> None:
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    assert arguments("USER") == ["edge"]
    assert all(subprocess.run(["bash", "-n", "-c", script]).returncode == 0 for script in arguments("RUN"))


def test_each_jetpack_has_a_documented_base_and_its_extra_of_cuda() -> None:
    *bases, final = arguments("FROM")
    assert final == "${JETPACK}"
    extras = set(re.findall(r"^(cuda\d+) = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert {words.removeprefix("CUDA_EXTRA=") for words in arguments("ENV") if "CUDA_EXTRA" in words} == extras
    for base, version in zip(bases, (6, 7), strict=True):
        image, name = base.split(" AS ")
        assert name == f"jetpack{version}"
        assert re.fullmatch(r"nvcr\.io/nvidia/[\w-]+:[\w.-]+", image)
        assert image in (ROOT / "docs/jetson.md").read_text()


def test_the_wheel_in_a_container_is_built_from_everything_that_it_needs() -> None:
    packages = re.search(r"include = \[(.*)\]", (ROOT / "pyproject.toml").read_text())
    assert packages is not None
    folders = set(re.findall(r"\"(\w+)\*\"", packages[1]))
    copied = {word for words in arguments("COPY") for word in words.split()[:-1]}
    assert folders | {"pyproject.toml", "README.md", "LICENSE"} == copied
    assert all((ROOT / source).exists() for source in copied)


def test_the_composition_runs_the_container_file_with_argus_and_without_privileges() -> None:
    service: dict[str, Any] = yaml.safe_load((JETSON / "compose.yaml").read_text())["services"]["classify"]
    assert ROOT / service["build"]["dockerfile"] == DOCKERFILE
    assert service["build"]["args"] == {"JETPACK": "${JETPACK:-jetpack6}"}
    binds = [volume for volume in service["volumes"] if isinstance(volume, dict)]
    assert {volume["target"] for volume in binds} == {"/tmp/argus_socket", "/etc/nv_tegra_release"}
    assert all(volume["bind"] == {"create_host_path": False} for volume in binds)
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


# The service


def test_the_watchdog_waits_for_an_attempt_to_open_a_camera() -> None:
    unit = (JETSON / "early-exit.service").read_text()
    seconds = int(re.findall(r"^WatchdogSec=(\d+)min$", unit, re.MULTILINE)[0]) * 60
    assert seconds > 1.5 * (MAX_LATE_DELAY_S + START_LIMIT_S)


# Power mode and clocks

NVPMODEL = """#!/bin/sh
# Mode 3 needs a reboot, which is asked for and declined: the mode then stays.
case $1 in
-q) echo "NV Power Mode: MODE"; cat {state}/mode ;;
-m) if [ "$2" = 3 ]; then read answer; exit 0; fi; echo "$2" > {state}/mode ;;
esac
"""
JETSON_CLOCKS = """#!/bin/sh
case $1 in
--store) [ ! -e "$2" ] || exit 1; cp {state}/clocks "$2" ;;
--restore) cp "$2" {state}/clocks ;;
"") echo fixed > {state}/clocks ;;
esac
"""
ID = "#!/bin/sh\necho 0\n"
RUNUSER = """#!/bin/sh
[ "$1 $3" = "--user --" ] || exit 1
echo "$2" > {state}/user
shift 3
exec "$@"
"""


class Board:
    """A board's commands with their state, and `steady.sh` run on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        scripts = {"nvpmodel": NVPMODEL, "jetson_clocks": JETSON_CLOCKS, "id": ID, "runuser": RUNUSER}
        for name, script in scripts.items():
            file = folder / name
            file.write_text(script.replace("{state}", str(folder)))
            file.chmod(0o755)
        (folder / "mode").write_text("2\n")
        (folder / "clocks").write_text("as they were\n")

    @property
    def state(self) -> tuple[str, str]:
        return (self.folder / "mode").read_text().strip(), (self.folder / "clocks").read_text().strip()

    @property
    def env(self) -> Mapping[str, str]:
        return {"PATH": f"{self.folder}:/usr/bin:/bin", "TMPDIR": str(self.folder)}

    def run(self, *words: str, **variables: str) -> Any:
        command, env = [JETSON / "steady.sh", *words], {**self.env, **variables}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


@pytest.mark.parametrize("code", [0, 7])
def test_mode_and_clocks_are_set_for_a_command_and_restored(code: int, board: Board) -> None:
    script = f"cat {board.folder}/mode {board.folder}/clocks; exit {code}"
    done = board.run("--mode", "0", "sh", "-c", script)
    assert (done.returncode, done.stdout.split()) == (code, ["0", "fixed"])
    assert board.state == ("2", "as they were")


@pytest.mark.parametrize(
    ("words", "user"),
    [((), "daemon"), (("--user", "nobody"), "nobody"), (("--user", "nobody", "--mode", "0"), "nobody")],
)
def test_a_command_runs_as_the_caller_or_as_a_named_user_with_the_users_home(
    words: tuple[str, ...], user: str, board: Board
) -> None:
    show = ("sh", "-c", 'echo "$HOME $EDGE_CACHE"')
    done = board.run(*words, *show, SUDO_USER="daemon", HOME="/root", EDGE_CACHE="/cache")
    assert done.stdout == f"{pwd.getpwnam(user).pw_dir} /cache\n"
    assert (board.folder / "user").read_text() == f"{user}\n"
    assert board.state == ("2", "as they were")


def test_a_failed_restoration_of_clocks_is_reported_and_the_mode_is_restored_all_the_same(board: Board) -> None:
    clocks = board.folder / "jetson_clocks"
    clocks.write_text(clocks.read_text().replace("#!/bin/sh\n", '#!/bin/sh\n[ "$1" != --restore ] || exit 1\n', 1))
    done = board.run("--mode", "0", "sh", "-c", "exit 5")
    assert done.returncode == 5
    assert "the clocks were not restored" in done.stderr
    assert board.state == ("2", "fixed")


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_mode_and_clocks_are_restored_after_a_signal(signal_number: signal.Signals, board: Board) -> None:
    command = [JETSON / "steady.sh", "--mode", "0", "sh", "-c", f"touch {board.folder}/started; exec sleep 60"]
    with subprocess.Popen(command, env=board.env, start_new_session=True) as process:
        wait_until((board.folder / "started").exists, "the command")
        time.sleep(0.1)
        os.killpg(process.pid, signal_number)  # as a terminal does
        assert process.wait(TIMEOUT_S) != 0
    assert board.state == ("2", "as they were")


def test_a_mode_that_needs_a_reboot_is_refused_and_nothing_changes(board: Board) -> None:
    done = board.run("--mode", "3", "touch", str(board.folder / "ran"))
    assert done.returncode == 2
    assert done.stderr == "error: mode 3 needs a reboot; run: sudo nvpmodel -m 3, reboot, and run this again\n"
    assert board.state == ("2", "as they were")
    assert not (board.folder / "ran").exists()


WRONG = [(), ("--mode",), ("--mode", "fast", "true"), ("--mode", "0"), ("--user",), ("--user", "no-such-user", "true")]


@pytest.mark.parametrize("words", [*WRONG, ("--fast", "true")])
def test_wrong_arguments_are_refused_in_a_line(words: tuple[str, ...], board: Board) -> None:
    done = board.run(*words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert board.state == ("2", "as they were")


def documented(word: str) -> list[str]:
    """Return the words of the command that contains a word, of the only one on the page about Jetsons."""
    shell = [block for block in blocks(ROOT / "docs/jetson.md") if block.language == "sh"]
    lines = [shlex.split(command.line, comments=True) for block in shell for command in commands(block)]
    (words,) = (words for words in lines if word in words)
    return words


def test_the_documented_acceptance_builds_the_engines_that_the_service_runs() -> None:
    unit, settings = (JETSON / "early-exit.service").read_text(), (JETSON / "early-exit.env").read_text()
    words = documented("jetson/steady.sh")
    assert re.findall(r"\bEDGE_CACHE=\S+", unit) == [word for word in words if word.startswith("EDGE_CACHE=")]
    assert re.findall(r"^User=(\S+)", unit, re.MULTILINE) == [words[words.index("--user") + 1]]
    assert re.findall(r"^EDGE_RUN=(\S+)", settings, re.MULTILINE)[0] in words


# Provisioning


def test_provisioning_prints_its_commands_without_running_them() -> None:
    done = subprocess.run([JETSON / "provision.sh", "--dry-run"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert any("early-exit.service" in command for command in lines)
    assert any(f"{JETSON}' '{documented('cd')[1]}'" in command for command in lines)  # with acceptance.py
    assert f"{len(lines)} commands would run; nothing was changed" in done.stdout
    assert not Path("/opt/early-exit/installed").exists()


def test_an_installation_by_hand_and_a_container_have_the_packages_of_provisioning() -> None:
    arrays = re.findall(r"^(?:JETSON_)?PACKAGES=\((.+)\)$", (JETSON / "provision.sh").read_text(), re.MULTILINE)
    both, jetson = (array.split() for array in arrays)
    words = documented("apt-get")
    assert sorted(words[words.index("install") + 1 :]) == sorted([*both, *jetson])
    assert any({*both, "python3-dev", "g++"} < set(words.split()) for words in arguments("RUN"))


def test_provisioning_refuses_other_arguments() -> None:
    done = subprocess.run([JETSON / "provision.sh", "--force"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (2, "error: unknown argument --force; give --dry-run or nothing\n")
