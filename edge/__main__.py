"""`edge`: a bundle on this machine."""

import argparse
import dataclasses
from collections.abc import Callable

from edge import arguments as arguments_of
from edge.bundle import Bundle
from edge.console import FAILED, PASSED, print_json, run_main, tracked
from edge.engines import backend_named
from edge.protocols import Backend

Verb = Callable[[argparse.Namespace], int]


def main() -> int:
    """Do what the command line says."""
    arguments = parser().parse_args()
    verb: Verb = arguments.verb
    return verb(arguments)


def info(arguments: argparse.Namespace) -> int:
    """Print what a bundle holds, and how its exits would be decided here."""
    from edge.doctor import exits_on_the_gpu
    from edge.report import print_bundle

    bundle = Bundle.open(arguments.bundle)
    if arguments.json:
        print_json(dataclasses.asdict(bundle.manifest))
    else:
        print_bundle(bundle)
        print(f"exits on the GPU: {exits_on_the_gpu().found}")
    return PASSED


def build(arguments: argparse.Namespace) -> int:
    """Build every segment's engine into this user's cache."""
    from edge.building import build_bundle
    from edge.report import print_builds

    bundle = Bundle.open(arguments.bundle)
    builds = build_bundle(bundle, chosen_backend(arguments), precisions=arguments.precision, batches=arguments.batches)
    if arguments.json:
        print_json([dataclasses.asdict(item) for item in builds])
    else:
        print_builds(builds)
    return PASSED


def run(arguments: argparse.Namespace) -> int:
    """Classify frames of a camera, video or folder."""
    from edge.running import run_source

    bundle, backend = Bundle.open(arguments.bundle), chosen_backend(arguments)
    return run_source(
        bundle,
        precision=arguments.precision or default_precision(bundle, backend),
        backend=backend,
        source=arguments.source,
        thresholds=arguments.threshold,
        policy=arguments.policy,
        frames=arguments.frames,
        json_lines=arguments.json,
        output=arguments.output,
    )


def verify(arguments: argparse.Namespace) -> int:
    """Compare engines with the trained network, and backends with one another, exit by exit."""
    from edge.files import write_file
    from edge.parity import verify as verify_precision
    from edge.parity_report import markdown, print_parity

    bundle = Bundle.open(arguments.bundle)
    backends = [backend_named(name, threads=arguments.threads) for name in arguments.backend or ["onnxruntime"]]
    names = arguments.precision or bundle.manifest.precisions
    results = [found for name in names for found in verify_precision(bundle, name, backends, arguments.references)]
    if arguments.report is not None:
        write_file(arguments.report, markdown(bundle, results))
    passed = all(result.passed for result in results)
    if arguments.json:
        rows = [{**dataclasses.asdict(result), "first_diverging": result.first_diverging} for result in results]
        print_json({"passed": passed, "precisions": rows})
    else:
        print_parity(results)
    return PASSED if passed else FAILED


def record(arguments: argparse.Namespace) -> int:
    """Write every exit's scores for labelled images, to refit thresholds from."""
    from edge.labelled import record_folder

    bundle = Bundle.open(arguments.bundle)
    backend = chosen_backend(arguments)
    precision = arguments.precision or default_precision(bundle, backend)
    count = record_folder(bundle, precision, backend, arguments.images, arguments.output)
    if arguments.json:
        print_json({"scores": str(arguments.output), "precision": precision, "samples": count})
    else:
        print(f"wrote {arguments.output} with {count} samples; to refit thresholds:")
        print(f"  python -m calibration {bundle.path} --scores {arguments.output} --precision {precision}")
    return PASSED


def bench(arguments: argparse.Namespace) -> int:
    """Measure each exit, the real mix, and the whole network."""
    from edge.bench import measure_precision
    from edge.machine import conditions
    from edge.report import print_bench

    bundle = Bundle.open(arguments.bundle)
    backend = chosen_backend(arguments)
    reference = bundle.reference()
    names = arguments.precision or list(bundle.manifest.precisions)
    before = conditions()
    labels = reference.labels.tolist()
    results = {
        name: measure_precision(bundle, name, backend, tracked(reference.frames, f"measuring {name}"), labels)
        for name in names
    }
    if arguments.json:
        measured = {
            name: {key: dataclasses.asdict(value) for key, value in result.items()} for name, result in results.items()
        }
        segments = {name: bundle.segments_digest(name) for name in names}
        ran = {"backend": backend.name, "threads": arguments.threads, "segments": segments}
        print_json(ran | {"conditions": before, "precisions": measured})
    else:
        print_bench(results)
        print(
            f"on {before['cpu']}, {before['cores']} cores, load {before['load_average']}, {arguments.threads} threads"
        )
    return PASSED


def doctor(arguments: argparse.Namespace) -> int:
    """Say what this machine has and lacks."""
    from edge.doctor import examine
    from edge.report import print_findings

    findings = examine()
    if arguments.json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        print_findings(findings)
    return PASSED if all(finding.is_well for finding in findings) else FAILED


def chosen_backend(arguments: argparse.Namespace) -> Backend:
    """Return the backend the command line names."""
    return backend_named(arguments.backend, threads=arguments.threads, target=getattr(arguments, "target", None))


def default_precision(bundle: Bundle, backend: Backend) -> str:
    """Return what is fastest on a backend, where the bundle has it: ONNX Runtime emulates this int8 in float."""
    fastest = "fp32" if backend.name == "onnxruntime" else "int8"
    return fastest if fastest in bundle.manifest.precisions else next(iter(bundle.manifest.precisions))


def parser() -> argparse.ArgumentParser:
    """Return the command line of all verbs."""
    new = argparse.ArgumentParser(
        prog="edge", description="Run an early-exit bundle on this machine. Make one with `python -m compile`."
    )
    verbs = new.add_subparsers(required=True, metavar="VERB")
    for verb, add in VERBS.items():
        add(verbs).set_defaults(verb=verb)
    return new


VERBS = {
    info: arguments_of.info,
    build: arguments_of.build,
    run: arguments_of.run,
    verify: arguments_of.verify,
    record: arguments_of.record,
    bench: arguments_of.bench,
    doctor: arguments_of.doctor,
}
"""What `edge` can do, and what it has to be told for it."""


def command() -> None:
    """Entry point of the installed command."""
    run_main(main)


if __name__ == "__main__":
    command()
