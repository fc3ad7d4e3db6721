"""`python -m tests.support.house`: structure and language of the tree, as numbers with limits. Part of `make check`."""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import grimp

ROOT = Path(__file__).parents[2]
PACKAGES = ("edge", "calibration", "compile", "benchmarks")
MAX_MODULE_LINES, MAX_TEST_LINES, MAX_FUNCTION_LINES, MAX_README_LINES = 300, 600, 45, 120
MAX_WHAT_SHARE = 0.01
"""Share of summary lines that may contain "what"."""
FORMER_NAMES = (
    "coldness", "spoken_for", "vouch", "fit_alike", "why_not_graph", "why_not_captured", "file_aside", "folder_aside",
    "contradictions", "borders_of", "as_sized", "crop_of", "levels_of",
)  # fmt: skip
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module


class Module(NamedTuple):
    """A source file and its syntax tree."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def is_test(self) -> bool:
        return self.name.startswith("tests/")


def modules() -> list[Module]:
    paths = sorted(path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py"))
    return [Module(path, text := path.read_text(), ast.parse(text)) for path in paths]


def import_cycles() -> Iterator[str]:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    try:
        TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()
    except CycleError as error:
        yield f"import cycle: {' -> '.join(error.args[1])}"


def long_modules(tree: list[Module]) -> Iterator[str]:
    for module in tree:
        limit, lines = MAX_TEST_LINES if module.is_test else MAX_MODULE_LINES, len(module.text.splitlines())
        if lines > limit:
            yield f"{module.name} has {lines} lines, at most {limit}"


def long_functions(tree: list[Module]) -> Iterator[str]:
    for module in tree:
        for node in ast.walk(module.tree):
            if module.is_test or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            lines = (
                (node.end_lineno or 0)
                - node.lineno
                + 1
                - len((ast.get_docstring(node, clean=False) or "").splitlines())
            )
            if lines > MAX_FUNCTION_LINES:
                yield f"{module.name}:{node.lineno} {node.name} has {lines} lines, at most {MAX_FUNCTION_LINES}"


def summary_lines(tree: list[Module]) -> list[tuple[str, str]]:
    """Return the place and text of every docstring's first line."""
    found = []
    for module in tree:
        for node in ast.walk(module.tree):
            if isinstance(node, DEFINITIONS) and (docstring := ast.get_docstring(node)):
                found.append((f"{module.name}:{getattr(node, 'lineno', 1)}", docstring.splitlines()[0]))
    return found


def vague_summaries(tree: list[Module]) -> Iterator[str]:
    lines = summary_lines(tree)
    vague = [f"{place} {line}" for place, line in lines if re.search(r"\bwhat\b", line, re.IGNORECASE)]
    if len(vague) > MAX_WHAT_SHARE * len(lines):
        yield f'{len(vague)} of {len(lines)} summary lines contain "what": {"; ".join(vague)}'


def former_names(tree: list[Module]) -> Iterator[str]:
    names = re.compile(rf"\b({'|'.join(FORMER_NAMES)})\b")
    for module in tree:
        if module.path == Path(__file__):
            continue
        for name in sorted(set(names.findall(module.text))):
            yield f"{module.name} uses the former name {name}"


def long_readme() -> Iterator[str]:
    lines = len((ROOT / "README.md").read_text().splitlines())
    if lines > MAX_README_LINES:
        yield f"README.md has {lines} lines, at most {MAX_README_LINES}"


def main() -> int:
    """Print every violation and return 1 where there is one."""
    tree = modules()
    violations = [
        *import_cycles(),
        *long_modules(tree),
        *long_functions(tree),
        *vague_summaries(tree),
        *former_names(tree),
        *long_readme(),
    ]
    for violation in violations:
        print(violation)
    print(f"house: {len(tree)} modules, {len(summary_lines(tree))} docstrings, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
