"""Code blocks of the documents: read, parsed as commands, and compared with printed output."""

import argparse
import doctest
import importlib
import itertools
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"(?:^<!-- test: (?P<mark>\w+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)
ACCEPTANCE = "jetson/acceptance.py"
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)#]+)(?:#[^)]*)?\)")
COMMAND_LANGUAGES = ("sh", "console")
MEASURED = re.compile(r"(?<![\w'])-?\d+(?:\.\d+(?:e[-+]?\d+)?|(?=%)|(?= a second))")
"""Numbers that differ from run to run: those with a decimal point, percentages and frame rates."""
TABLE_LINE = re.compile(r"[━─]+")
PARSE_PYTEST = "import sys; from _pytest.config import _prepareconfig; _prepareconfig(sys.argv[1:])"
ELLIPSIS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A fenced block of a document."""

    mark: str | None
    """Word of the comment `<!-- test: ... -->` above it: `run`, `parse` or `output`."""
    language: str
    text: str


class Command(NamedTuple):
    """A command line with the output that the document shows below it."""

    line: str
    output: str | None


def blocks(document: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown file."""
    return [Block(match["mark"], match["language"], match["text"]) for match in BLOCK.finditer(document.read_text())]


def commands(block: Block) -> list[Command]:
    """Return the commands of a `sh` block, one per line, or of a `console` block, whose commands begin with `$ `."""
    text = block.text.replace("\\\n", "")
    if block.language == "sh":
        return [Command(line, None) for line in text.splitlines() if line.strip()]
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    return [Command(*part.split("\n", maxsplit=1)) for part in parts]


def scripts(document: Path) -> list[Command]:
    """Return the Python blocks to run with the output shown below each, in the next block, marked `output`."""
    found = blocks(document)
    return [
        Command(block.text, following.text if following is not None and following.mark == "output" else None)
        for block, following in zip(found, [*found[1:], None], strict=True)
        if block.language == "python" and block.mark == "run"
    ]


def links(document: Path) -> list[str]:
    """Return the targets of a document's links to files."""
    targets = [match["target"] for match in LINK.finditer(document.read_text())]
    return [target for target in targets if "://" not in target]


def matches(expected: str, printed: str) -> bool:
    """Compare output: `...` stands for any text, measured numbers and the widths of tables may differ."""
    return doctest.OutputChecker().check_output(_comparable(expected), _comparable(printed), ELLIPSIS)


def check_command(line: str) -> None:
    """Parse a command with the parser of its program, without running it.

    Raises:
        AssertionError: the program is unknown, or has no such subcommand, option, choice or target.
    """
    words = shlex.split(line, comments=True)
    if ">" in words:
        words = words[: words.index(">")]
    while words and (re.fullmatch(r"\w+=.*", words[0]) or words[0] == "sudo"):
        words = words[3:] if words[1:2] == ["-u"] else words[1:]
    program = Path(words[0]).name
    assert program in _CHECKS, f"{line}: unknown program {program}"
    _CHECKS[program](words[1:])


def _comparable(text: str) -> str:
    return TABLE_LINE.sub("─", MEASURED.sub("#", text)).strip() + "\n"


class _Parsed(Exception):  # noqa: N818 - parsing succeeded
    """Ends a command's main function once its arguments are parsed."""


def _parse_only(main: Callable[[], object], words: Sequence[str]) -> None:
    """Call a main function up to the end of argument parsing; abbreviated options are errors."""
    parse_args, parse_known_args = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args

    def parse_and_stop(parser: argparse.ArgumentParser, *arguments: Any) -> None:
        parse_args(parser, *arguments)
        raise _Parsed

    def parse_exactly(parser: argparse.ArgumentParser, *arguments: Any, **keywords: Any) -> Any:
        parser.allow_abbrev = False
        return parse_known_args(parser, *arguments, **keywords)

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop),
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", parse_exactly),
        mock.patch.object(sys, "argv", ["command", *words]),
    ):
        try:
            main()
        except _Parsed:
            return
        except SystemExit as refused:
            raise AssertionError(f"{shlex.join(words)}: see stderr") from refused
    raise AssertionError(f"{shlex.join(words)}: the arguments were never parsed")


def _check_edge(words: Sequence[str]) -> None:
    _parse_only(importlib.import_module("edge.cli.main").main, words)


def _check_module(words: Sequence[str]) -> None:
    if words[0] == ACCEPTANCE:
        _parse_only(runpy.run_path(str(ROOT / ACCEPTANCE))["main"], words[1:])
        return
    assert words[0] == "-m", f"documents run modules, not {words[0]}"
    name = words[1]
    if name == "pip":
        _check_pip(words[2:])
    elif name != "venv":
        module = importlib.import_module(name)
        main = module if hasattr(module, "main") else importlib.import_module(f"{name}.__main__")
        _parse_only(main.main, words[2:])


def _check_provision(words: Sequence[str]) -> None:
    assert list(words) in ([], ["--dry-run"]), f"provision.sh has no {words}"


def _check_steady(words: Sequence[str]) -> None:
    """Check the command that is run with fixed clocks."""
    while words[0] in ("--mode", "--user"):
        words = words[2:]
    check_command(shlex.join(words))


def _check_torchrun(words: Sequence[str]) -> None:
    from torch.distributed.run import get_args_parser

    arguments = get_args_parser().parse_args(list(words))
    assert arguments.module, "documents start modules with torchrun"
    _check_module(["-m", arguments.training_script, *arguments.training_script_args])


def _check_pytest(words: Sequence[str]) -> None:
    """Let pytest parse its options, including those of our plugin, in a process of its own."""
    for option, value in itertools.pairwise(words):
        assert option != "-m" or value in _markers(), f"there is no marker {value}"
    command = [sys.executable, "-c", PARSE_PYTEST, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def _check_pip(words: Sequence[str]) -> None:
    """Check that a requirement such as `.[cuda13]` names extras that are declared."""
    extras = [extra for word in words for extra in _extras_of(word)]
    project = (ROOT / "pyproject.toml").read_text()
    for extra in extras:
        assert re.search(rf"^{re.escape(extra)} = \[", project, re.MULTILINE), f"there is no extra {extra}"


def _check_make(words: Sequence[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words[0] in targets, f"the Makefile has no target {words[0]}"


def _markers() -> list[str]:
    return re.findall(r'^    "(\w+): ', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def _extras_of(requirement: str) -> Iterator[str]:
    match = re.fullmatch(r"\.\[(?P<extras>[^\]]+)\]", requirement)
    yield from (match["extras"].split(",") if match else ())


def _ignore(words: Sequence[str]) -> None:
    """Programs of the system: their options are not ours."""


_CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "edge": _check_edge,
    "python": _check_module,
    "python3": _check_module,
    "torchrun": _check_torchrun,
    "pytest": _check_pytest,
    "pip": _check_pip,
    "make": _check_make,
    "apt-get": _ignore,
    "cat": _ignore,
    "cd": _ignore,
    "cp": _ignore,
    "docker": _ignore,
    "jetson_clocks": _ignore,
    "journalctl": _ignore,
    "nano": _ignore,
    "nvpmodel": _ignore,
    "provision.sh": _check_provision,
    "ray": _ignore,
    "steady.sh": _check_steady,
    "systemctl": _ignore,
    "tensorboard": _ignore,
}
