"""The documents: marked blocks run and print the shown output, every command line parses, links lead to files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.picture import PICTURE, REPORT, draw, read_report
from tests.support.documents import (
    COMMAND_LANGUAGES,
    ROOT,
    Command,
    blocks,
    check_command,
    commands,
    links,
    matches,
    scripts,
)

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [README, *PAGES, ROOT / "jetson" / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
MARKS = ("run", "parse")


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a checkout, in which README's blocks have run: `runs/digits/bundle` is there."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("benchmarks", "docs"):
        (folder / name).symlink_to(ROOT / name)
    run_document(README, folder)
    return folder


def run_document(document: Path, folder: Path) -> None:
    """Run a document's marked commands, then its Python, and compare the printed output with the shown one."""
    for block in blocks(document):
        if block.language in COMMAND_LANGUAGES and block.mark == "run":
            for command in commands(block):
                check_output(command, execute(command.line, folder))
    for script in scripts(document):
        check_output(script, execute([sys.executable, "-c", script.line], folder))


def execute(command: str | list[str], folder: Path) -> str:
    """Run a shell command line, or a program with its arguments, and return its stdout."""
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EDGE_CACHE": str(folder / "engines"),
    }
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def check_output(command: Command, printed: str) -> None:
    if command.output:
        assert matches(command.output, printed), f"$ {command.line}\nshown:\n{command.output}\nprinted:\n{printed}"


def test_readme_runs_and_prints_its_output(workspace: Path) -> None:
    assert (workspace / "runs/digits/bundle/manifest.json").is_file()


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_page_runs_and_prints_its_output(page: Path, workspace: Path) -> None:
    run_document(page, workspace)


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_code_block_is_run_or_parsed(document: Path) -> None:
    for block in blocks(document):
        if block.language in (*COMMAND_LANGUAGES, "python"):
            assert block.mark in MARKS, f"mark this block with <!-- test: run --> or <!-- test: parse -->\n{block.text}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_command_line_parses(document: Path) -> None:
    for block in blocks(document):
        if block.language in COMMAND_LANGUAGES:
            for command in commands(block):
                check_command(command.line)
        elif block.language == "python":
            compile(block.text, str(document), "exec")


@pytest.mark.parametrize(
    "line",
    [
        "edge run BUNDLE --source 0 --prec int8",
        "edge run BUNDLE --source 0 --backend cuda",
        "edge run BUNDLE",
        "edge walk BUNDLE",
        "python -m edge.training --output runs/mine --data-set digits",
        "python -m benchmarks demo --dat PICTURES",
        "torchrun --nproc-per-node 2 -m edge.training --epoch 3 --output runs/mine",
        "pytest benchmarks --bundel BUNDLE",
        "pytest -m gpus",
        "pip install '.[cuda14]'",
        "make coffee",
    ],
)
def test_a_wrong_command_line_is_refused(line: str) -> None:
    with pytest.raises(AssertionError):
        check_command(line)


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_links_lead_to_files(document: Path) -> None:
    missing = [target for target in links(document) if not (document.parent / target).exists()]
    assert not missing


def test_output_is_compared_but_for_measured_numbers() -> None:
    assert matches("exit 0 84.0%, 979 a second", "exit 0  12.5%, 1203 a second\n")
    assert matches("first\n...\nlast 0.25", "first\nmore\nlast 1e-05".replace("1e-05", "1.5e-05"))
    assert not matches("label='7', exit_index=0", "label='1', exit_index=0")
    assert not matches("label='7', exit_index=0", "label='7', exit_index=1")
    assert not matches("269 samples; passed", "269 samples; FAILED")


def test_picture_is_the_one_drawn_from_recorded_results() -> None:
    assert (ROOT / PICTURE).read_text() == draw(read_report(REPORT))
