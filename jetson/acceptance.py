"""Acceptance of a bundle on a board: diagnose, build, verify, measure, run live, and write a page to sign.

    python jetson/acceptance.py BUNDLE --source csi://0 --output runs/acceptance

Each step is a subcommand of `edge` in a process of its own. `acceptance.json` has their whole results, `acceptance.md`
the page. The exit code is 0 if every step passed, else 1.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from edge.bundle.bundle import MANIFEST, Bundle
from edge.cli.arguments import add_backend
from edge.console import FAILED, PASSED, TERMINATED, at_least, log, print_table, run_main, status
from edge.engines import default_backend
from edge.storage import sha256_of, write_file
from edge.system import conditions

MAX_PAUSE_S = 2.0
"""Longest time between two results of a live run that passes."""
STOP_S = 30
"""Seconds for a run to end after SIGTERM."""


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step."""

    name: str
    passed: bool
    findings: tuple[str, ...]
    result: Any
    """JSON that the subcommand printed; None if it failed."""


def main() -> int:
    """Run all steps and write the page."""
    arguments = parser().parse_args()
    Bundle.open(arguments.bundle)
    backend = default_backend() if arguments.backend == "auto" else arguments.backend
    engine = ("--backend", backend)
    job = "gpu" if backend.startswith("tensorrt") else "cpu"
    energy = ("--energy",) if arguments.energy else ()
    before = conditions()
    steps = [
        run_step("doctor", ("doctor", "--for", job), judge_doctor),
        run_step("build", ("build", arguments.bundle, *engine), judge_build),
        run_step("verify", ("verify", arguments.bundle, *engine), judge_verify),
        run_step("bench", ("bench", arguments.bundle, *engine, *energy), judge_bench),
        run_live(arguments.bundle, (*engine, "--source", arguments.source), arguments.seconds),
    ]
    write_report(arguments.output, arguments.bundle, before, steps)
    print_table("acceptance", ("verdict", "step", "findings"), [_row(step) for step in steps])
    return PASSED if all(step.passed for step in steps) else FAILED


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="acceptance.py", description="Accept a bundle on this board.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder made by `python -m compile`")
    parser.add_argument("--source", default="csi://0", metavar="NAME", help="source of the live run (%(default)s)")
    parser.add_argument("--seconds", type=at_least(1), default=60, metavar="N", help="length of it (%(default)s)")
    parser.add_argument("--energy", action="store_true", help="also measure energy, which takes minutes")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/acceptance"), metavar="FOLDER", help="folder of the page"
    )
    add_backend(parser)
    return parser


def run_step(name: str, words: tuple[Any, ...], judge: Callable[[Any], tuple[bool, list[str]]]) -> Step:
    """Run a subcommand with `--json` and judge its result."""
    command = [sys.executable, "-m", "edge", *map(str, words), "--json"]
    with status(name):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        result = json.loads(done.stdout)
    except ValueError:
        return Step(name, False, (last_line(done.stderr),), None)
    passed, findings = judge(result)
    log(f"{name}: {'passed' if passed and not done.returncode else 'FAILED'}")
    return Step(name, passed and not done.returncode, tuple(findings), result)


def judge_doctor(result: Any) -> tuple[bool, list[str]]:
    """Judge if the board is ready, and name whatever could be improved."""
    (job,) = result["jobs"].values()
    checks = [check for check in (*result["machine"], *job["needs"], *job["profits"]) if check["state"] != "ok"]
    return job["is_ready"], [f"{check['name']}: {check['value']} ({check['remedy']})" for check in checks]


def judge_build(result: Any) -> tuple[bool, list[str]]:
    """Report the engines."""
    seconds = sum(build["seconds"] for build in result if not build["was_cached"])
    cached = sum(build["was_cached"] for build in result)
    return True, [f"{len(result)} engines, {cached} of them cached; the others took {seconds:.0f} s"]


def judge_verify(result: Any) -> tuple[bool, list[str]]:
    """Report the agreement with the trained network."""
    findings = [
        f"{parity['precision']}: same exit on {parity['exit_index_agreement']:.2%} of {parity['samples']} samples"
        for parity in result["precisions"]
    ]
    return result["passed"], findings + [text for parity in result["precisions"] for text in parity["failures"]]


def judge_bench(result: Any) -> tuple[bool, list[str]]:
    """Report latency and energy; a measurement during which the machine throttled, or changed, fails."""
    findings, faults = [], [f"throttled: {reason}" for reason in result["conditions"]["throttling"]]
    for name, precision in result["precisions"].items():
        early, whole = precision["early_exit"]["latency_ms"], precision["whole"]["latency_ms"]
        findings.append(f"{name}: early exits {early['mean']:.3f} ms on average, p99 {early['p99']:.3f} ms")
        findings.append(f"{name}: {whole['mean'] / early['mean']:.2f}x as fast as the whole network")
        if "energy" in precision:
            workload = precision["energy"]["energy"]["workloads"]["early_exit"]
            findings += [f"{name}, {rail}: {_energy(energy)}" for rail, energy in workload["rails"].items()]
            faults += [f"{name}, energy is not valid: {problem}" for problem in workload["problems"]]
    return not faults, findings + faults


def run_live(bundle: Path, words: tuple[str, ...], seconds: int) -> Step:
    """Run live for some seconds; the run is stopped as systemd does, by SIGTERM."""
    command = [sys.executable, "-m", "edge", "run", str(bundle), *words, "--json"]
    with (
        status(f"live, {seconds} s"),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                output, errors = process.communicate(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return Step("live", False, (f"the run did not end within {STOP_S} s of SIGTERM",), [])
    lines = [json.loads(line) for line in output.splitlines()]
    if process.returncode not in (PASSED, TERMINATED):
        return Step("live", False, (last_line(errors),), lines[-1:])
    passed, findings = judge_live(lines)
    log(f"live: {'passed' if passed else 'FAILED'}")
    return Step("live", passed, tuple(findings), lines[-1:])


def judge_live(lines: list[dict[str, Any]]) -> tuple[bool, list[str]]:
    """Report rate, drops, latency and exits; pauses and lost cameras fail."""
    frames = [line for line in lines if "frame" in line]
    faults = [f"{line['status']}: {line['reason']}" for line in lines if line.get("status") in ("lost", "stalled")]
    if not frames:
        return False, faults or ["no frame was classified"]
    times_s = np.array([datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp() for line in frames])
    span_s, pause_s = np.ptp(times_s), np.diff(times_s).max(initial=0)
    p50_ms, p99_ms = np.percentile([line["latency_ms"] for line in frames], (50, 99))
    exits, counts = np.unique([line["exit_index"] for line in frames], return_counts=True)
    if pause_s > MAX_PAUSE_S:
        faults.append(f"a pause of {pause_s:.1f} s")
    findings = [
        f"{len(frames)} frames in {span_s:.0f} s, {frames[-1]['dropped']} dropped",
        f"latency p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms",
        *(f"exit {index} {count / len(frames):.1%}" for index, count in zip(exits, counts, strict=True)),
    ]
    return not faults, findings + faults


def write_report(folder: Path, bundle: Path, before: dict[str, Any], steps: list[Step]) -> None:
    """Write the page and all results."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"bundle": str(bundle), "conditions": before, "steps": [asdict(step) for step in steps]}
    write_file(folder / "acceptance.json", json.dumps(data, indent=2))
    write_file(folder / "acceptance.md", page(bundle, before, steps))


def page(bundle: Path, before: dict[str, Any], steps: list[Step]) -> str:
    """Return the page to sign."""
    verdict = "accepted" if all(step.passed for step in steps) else "NOT accepted"
    board = before["board"] or before["cpu"]
    facts = [
        ("board", board),
        ("system", before["l4t"] or before["system"]),
        ("power mode", before["power_mode"] or "unknown"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in before["libraries"].items())),
        ("revision", before["revision"] or "unknown"),
        ("bundle", f"{bundle.resolve()}, manifest {sha256_of(bundle / MANIFEST)}"),
    ]
    rows = [f"| {' | '.join(_cell(cell) for cell in _row(step))} |" for step in steps]
    return "\n".join(
        [
            f"# {bundle.resolve().name} on {board}: {verdict}",
            "",
            f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
            "",
            *(f"* {name}: {value}" for name, value in facts),
            "",
            "| verdict | step | findings |",
            "|---|---|---|",
            *rows,
            "",
            "Signed off by: ______________________  Date: ______________",
            "",
        ]
    )


def last_line(text: str) -> str:
    """Return the last line of a command's errors."""
    return text.strip().rpartition("\n")[2]


def _energy(energy: dict[str, Any]) -> str:
    """Return the energy of a frame on a rail, with the reasons why it is not valid."""
    value = f"{energy['gross_mj']['mean']:.3g} ± {energy['gross_mj']['plus_minus']:.2g} mJ a frame"
    return ", not valid: ".join([value, *energy["problems"]])


def _row(step: Step) -> tuple[str, str, str]:
    return "passed" if step.passed else "FAILED", step.name, "; ".join(step.findings)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    run_main(main)
