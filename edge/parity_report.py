"""The comparison of engines with what they are held to: on the terminal, and as a page to sign a release by."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

from edge.bundle import Bundle
from edge.console import print_table
from edge.machine import conditions
from edge.parity import TOLERANCES, TRAINED, ExitParity, Parity

LIMITS = {
    "max_abs_logit_error": "largest logit error",
    "top1_agreement": "top-1 agreement, at least",
    "exit_index_agreement": "same exit, at least",
    "exit_share_drift": "exit share drift",
    "accuracy_loss": "accuracy loss",
}


def print_parity(results: Sequence[Parity]) -> None:
    """Print a table for each thing that engines were compared with, and what is beyond tolerance."""
    for against in _unique(result.against for result in results):
        _print_against(against, [result for result in results if result.against == against])


def _print_against(against: str, results: Sequence[Parity]) -> None:
    rows = [
        (f"{result.precision} on {result.backend}", *_cells(k, found))
        for result in results
        for k, found in enumerate(result.exits)
    ]
    print_table(f"engines against {against}, {results[0].samples} samples", ("precision", *_columns(against)), rows)
    for result in results:
        failed = f"FAILED, first in segment {result.first_diverging}: " + "; ".join(result.failures)
        verdict = "passed" if result.passed else failed
        same = f"same exit as {against} on {result.exit_index_agreement:.2%} of samples"
        print(f"{result.precision} on {result.backend}: {same}; {verdict}")


def markdown(bundle: Bundle, results: Sequence[Parity]) -> str:
    """Return the report: the verdict first, then what it rests on."""
    manifest, machine = bundle.manifest, conditions()
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    where = machine["board"] or machine["cpu"]
    when = datetime.now(timezone.utc)
    lines = [
        f"# {manifest.name}: engines {_verdict(results)}",
        "",
        f"{results[0].samples} reference samples, {when:%Y-%m-%d %H:%M} UTC, on {where}. {libraries}.",
        "",
    ]
    for result in results:
        lines += _section(result)
    lines += [
        "## Tolerances",
        "",
        *_table(["", *LIMITS.values()], [_limits(name) for name in _unique(result.precision for result in results)]),
        "",
    ]
    lines += ["## Files", "", *(f"- `{name}` {digest}" for name, digest in sorted(manifest.files.items())), ""]
    return "\n".join(lines)


def _verdict(results: Sequence[Parity]) -> str:
    """Say what engines do not match; where there is no such thing, what they do."""
    if differ := _unique(result.against for result in results if not result.passed):
        return f"DO NOT match {' and '.join(differ)}"
    return f"match {' and '.join(_unique(result.against for result in results))}"


def _section(result: Parity) -> list[str]:
    rows = [_cells(k, found) for k, found in enumerate(result.exits)]
    verdict = "Within tolerance" if result.passed else f"BEYOND tolerance, first in segment {result.first_diverging}"
    same = f"{result.exit_index_agreement:.2%} of samples leave at the same exit"
    found = [f"- {failure}" for failure in result.failures]
    title = f"## {result.precision} on {result.backend} against {result.against}"
    table = _table(_columns(result.against), rows)
    return [title, "", f"{verdict}: {same}.", "", *found, *[""][: len(found)], *table, ""]


def _columns(against: str) -> tuple[str, ...]:
    reference = "trained" if against == TRAINED else against
    return ("exit", "accuracy", reference, "top-1 agrees", "exit agrees", "share", "drift", "logit error")


def _cells(k: int, found: ExitParity) -> tuple[str, ...]:
    return (
        str(k),
        f"{found.accuracy:.2%}",
        f"{found.reference_accuracy:.2%}",
        f"{found.top1_agreement:.2%}",
        f"{found.exit_index_agreement:.2%}",
        f"{found.exit_share:.1%}",
        f"{found.exit_share_drift:.2%}",
        f"{found.max_abs_logit_error:.2g}",
    )


def _limits(precision: str) -> list[str]:
    tolerance = TOLERANCES[precision]
    return [precision, *(f"{getattr(tolerance, name):g}" for name in LIMITS)]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
