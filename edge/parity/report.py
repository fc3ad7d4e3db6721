"""Parity as tables, and as a release sign-off report in Markdown."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from edge.bundle.bundle import Bundle
from edge.parity.compare import REFERENCE, TOLERANCES, ExitParity, Parity
from edge.system import conditions

LIMITS = {
    "max_abs_logit_error": "largest logit error",
    "top1_agreement": "top-1 agreement, at least",
    "exit_index_agreement": "same exit, at least",
    "exit_share_drift": "exit share drift",
    "accuracy_loss": "accuracy loss",
}


REPORT_START = re.compile(rb"# [^\n]*: engines (DO NOT )?match [^\n]*\n\n\d+ reference samples, ")
MAX_LINE_BYTES = 4096


def group_by_reference(results: Sequence[Parity]) -> dict[str, list[Parity]]:
    """Return the results compared with each reference."""
    references = _unique(result.reference for result in results)
    return {name: [result for result in results if result.reference == name] for name in references}


def exit_columns(reference: str) -> tuple[str, ...]:
    """Return the column titles of a table of exits."""
    name = "trained" if reference == REFERENCE else reference
    return ("exit", "accuracy", name, "top-1 agrees", "exit agrees", "share", "drift", "logit error")


def exit_cells(exit_index: int, parity: ExitParity) -> tuple[str, ...]:
    """Return one exit's cells."""
    return (
        str(exit_index),
        f"{parity.accuracy:.2%}",
        f"{parity.reference_accuracy:.2%}",
        f"{parity.top1_agreement:.2%}",
        f"{parity.exit_index_agreement:.2%}",
        f"{parity.exit_share:.1%}",
        f"{parity.exit_share_drift:.2%}",
        f"{parity.max_abs_logit_error:.2g}",
    )


def verdict(result: Parity) -> str:
    """Return a result's verdict in one line."""
    failures = "; ".join(map(str, result.failures))
    outcome = "passed" if result.passed else f"FAILED, first in segment {result.first_diverging}: {failures}"
    agreement = f"same exit as {result.reference} on {result.exit_index_agreement:.2%} of samples"
    return f"{result.precision} on {result.backend}: {agreement}; {outcome}"


def is_report(path: Path) -> bool:
    """Check that a file begins as a report does.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return REPORT_START.match(file.read(MAX_LINE_BYTES)) is not None


def markdown(bundle: Bundle, results: Sequence[Parity]) -> str:
    """Return the report: the verdict first, then its evidence."""
    manifest, machine = bundle.manifest, conditions()
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    where = machine["board"] or machine["cpu"]
    when = datetime.now(timezone.utc)
    precisions = _unique(result.precision for result in results)
    return "\n".join(
        [
            f"# {manifest.name}: engines {_title(results)}",
            "",
            f"{results[0].samples} reference samples, {when:%Y-%m-%d %H:%M} UTC, on {where}. {libraries}.",
            "",
            *(line for result in results for line in _section(result)),
            "## Tolerances",
            "",
            *_table(["", *LIMITS.values()], [_limits(name) for name in precisions]),
            "",
            "## Files",
            "",
            *(f"- `{name}` {digest}" for name, digest in sorted(manifest.files.items())),
            "",
        ]
    )


def _title(results: Sequence[Parity]) -> str:
    """Return the references that engines do not match; if there are none, those they match."""
    if failed := _unique(result.reference for result in results if not result.passed):
        return f"DO NOT match {' and '.join(failed)}"
    return f"match {' and '.join(_unique(result.reference for result in results))}"


def _section(result: Parity) -> list[str]:
    rows = [exit_cells(k, exit_) for k, exit_ in enumerate(result.exits)]
    outcome = "Within tolerance" if result.passed else f"BEYOND tolerance, first in segment {result.first_diverging}"
    agreement = f"{result.exit_index_agreement:.2%} of samples take the same exit"
    failures = [f"- {failure}" for failure in result.failures]
    title = f"## {result.precision} on {result.backend} against {result.reference}"
    table = _table(exit_columns(result.reference), rows)
    return [title, "", f"{outcome}: {agreement}.", "", *failures, *[""][: len(failures)], *table, ""]


def _limits(precision: str) -> list[str]:
    tolerance = TOLERANCES[precision]
    return [precision, *(f"{getattr(tolerance, name):g}" for name in LIMITS)]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows)]
