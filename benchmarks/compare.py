"""Two bundles, backends or checkouts that take turns in one run, with a verdict; or two recorded runs, without."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.comparison.recorded import print_recorded, read_recorded
from benchmarks.comparison.sides import Side
from benchmarks.comparison.turns import LAUNCHES, ROUNDS, compare
from benchmarks.comparison.verdict import Comparison, Verdict, confirmed
from benchmarks.results import add_output, command_line, write_result
from edge.cli.arguments import add_backend, add_precision
from edge.console import FAILED, PASSED, ProgressDisplay, print_table
from edge.engines import BACKENDS
from edge.errors import DataError
from edge.measure.statistics import Estimate, Quartiles
from edge.system import conditions, git_revision, with_end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the comparison."""
    kinds = f"bundle, checkout of this repository, backend ({', '.join(BACKENDS)}) or output of `edge bench --json`"
    parser.add_argument("a", metavar="A", help=kinds)
    parser.add_argument("b", metavar="B", help="another of the same kind; a regression of B is exit code 1")
    parser.add_argument("--bundle", type=Path, metavar="BUNDLE", help="bundle that backends or checkouts run")
    add_precision(parser, "compare")
    add_backend(parser)
    add_output(parser, "runs/compare.json", "FILE")


def main(arguments: argparse.Namespace) -> int:
    """Compare, print and record; fail where B is slower.

    Raises:
        EdgeError: a side cannot be loaded, or its process ended.
        DataError: A and B are not of the same kind.
    """
    if all(Path(word).is_file() for word in (arguments.a, arguments.b)):
        print_recorded(*(read_recorded(Path(word)) for word in (arguments.a, arguments.b)))
        return PASSED
    before = conditions()
    with TemporaryDirectory() as caches, ProgressDisplay() as display:
        a, b = parse_sides(arguments, Path(caches))
        passes = compare(a, b, display)
    verdict = confirmed(passes)
    result = {
        "command": command_line(),
        "verdict": verdict,
        "sides": [side_record(side) for side in (a, b)],
        "passes": [pass_record(one_pass) for one_pass in passes],
        "conditions": with_end(before),
    }
    write_result(arguments.output, result)
    print_passes(passes)
    print(sentence(passes, verdict))
    return FAILED if verdict == "slower" else PASSED


def parse_sides(arguments: argparse.Namespace, caches: Path) -> tuple[Side, Side]:
    """Return the sides of a command line.

    Args:
        arguments: The parsed arguments.
        caches: Folder for the engines of checkouts.

    Raises:
        DataError: A and B are not of the same kind, or `--bundle` is missing or unnecessary.
    """
    words = {"A": arguments.a, "B": arguments.b}
    kinds = {kind_of(word) for word in words.values()}
    if len(kinds) > 1:
        raise DataError(
            f"{arguments.a} is a {kind_of(arguments.a)}, {arguments.b} a {kind_of(arguments.b)}; name two of a kind"
        )
    [kind] = kinds
    if (arguments.bundle is None) != (kind == "bundle"):
        remedy = "leave out --bundle" if kind == "bundle" else f"add --bundle: the bundle that both {kind}s run"
        raise DataError(f"A and B are {kind}s; {remedy}")
    bundle = arguments.bundle or Path(arguments.a)
    common = Side("", bundle, bundle, arguments.backend, arguments.precision or "auto", arguments.threads)
    a, b = (replace(common, name=name, **side_fields(kind, word, caches / name)) for name, word in words.items())
    return a, b


def side_fields(kind: str, word: str, cache: Path) -> dict[str, Any]:
    """Return the fields in which a side differs from the other."""
    if kind == "backend":
        return {"backend": word}
    path = Path(word).resolve()
    return {"bundle": path} if kind == "bundle" else {"checkout": path, "cache": cache}


def kind_of(word: str) -> str:
    """Return `bundle`, `checkout`, `backend` or `recorded file`.

    Raises:
        DataError: it is none of them.
    """
    path = Path(word)
    if word in BACKENDS:
        return "backend"
    if (path / "manifest.json").is_file():
        return "bundle"
    if (path / "edge" / "__init__.py").is_file():
        return "checkout"
    if path.is_file():
        return "recorded file"
    raise DataError(
        f"{word} is not a bundle, checkout, backend or recorded file; name a folder made by `python -m compile`, a "
        f"checkout of this repository, one of {', '.join(BACKENDS)}, or the output of `edge bench --json`"
    )


def side_record(side: Side) -> dict[str, Any]:
    """Return a side as it is recorded, with the commit of its checkout."""
    return {
        "name": side.name,
        "bundle": str(side.bundle),
        "backend": side.backend,
        "precision": side.precision,
        "threads": side.threads,
        "checkout": str(side.checkout),
        "revision": git_revision(side.checkout),
    }


def pass_record(one_pass: Comparison) -> dict[str, Any]:
    """Return a pass as it is recorded."""
    return asdict(one_pass) | {"noise_floor": one_pass.noise_floor, "verdict": one_pass.verdict}


def print_passes(passes: Sequence[Comparison]) -> None:
    """Print the sides and the noise floor of each pass."""
    rows = []
    for number, measured in enumerate(passes, start=1):
        for name, times in (("A", measured.a_ms), ("B", measured.b_ms), ("control loop", measured.control_ms)):
            ratio = {"A": measured.a_over_itself, "B": measured.b_over_a}.get(name)
            over_control = f"{times.median / measured.control_ms.median:.3f}"
            rows.append((f"pass {number}: {name}", *quartile_cells(times), over_control, estimate_cell(ratio)))
        rows.append((f"pass {number}: noise floor", "", "", "", f"±{measured.noise_floor:.2%}"))
    columns = ("side", "median ms", "IQR", "over control", "over A, 95 % interval")
    title = f"mean time of a frame in each turn, over {LAUNCHES} launches of {ROUNDS} turns; A over A is A loaded twice"
    print_table(title, columns, rows)


def quartile_cells(times: Quartiles) -> tuple[str, str]:
    """Return the cells of a median and its interquartile range."""
    return f"{times.median:.4f}", f"{times.iqr:.4f}"


def estimate_cell(ratio: Estimate | None) -> str:
    """Return the cell of a ratio and its interval."""
    return "" if ratio is None else f"{ratio.value:.4f} ({ratio.low:.4f} to {ratio.high:.4f})"


def sentence(passes: Sequence[Comparison], verdict: Verdict) -> str:
    """Return the verdict in a sentence."""
    last = passes[-1]
    if verdict != "level":
        change = abs(last.b_over_a.value - 1)
        return f"B is {change:.1%} {verdict} than A; a second pass with newly loaded sides confirms it"
    if len(passes) > 1:
        return f"no verdict: one pass found B {passes[0].verdict}, the next did not; compare again on an idle machine"
    return f"no difference beyond the noise floor of {last.noise_floor:.2%}"
